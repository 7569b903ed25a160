"""What is said of folders that cannot be opened: models of other kinds, other formats, files that are missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.layouts import LLAVA, MOLMO2, Layout
from tests.checkpoints.test_opening import copied

Folder = Callable[[Layout], Path]

#: What other folders hold, and what is said of them.
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "llama": (
        {"config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}},
        r"is a language model that sees no pictures \(LlamaForCausalLM, model_type 'llama'\); mmlens opens models that read",
    ),
    "bert": (
        {"config.json": {"architectures": ["BertForMaskedLM"], "model_type": "bert"}},
        r"is a language model that sees no pictures \(BertForMaskedLM",
    ),
    "align": (
        {"config.json": {"architectures": ["AlignModel"], "model_type": "align"}},
        r"is a dual encoder of a kind that no family covers \(AlignModel, model_type 'align'\)",
    ),
    "clip_vision": (
        {"config.json": {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"}},
        "is one tower of a dual encoder .* which scores nothing by itself",
    ),
    "vit": (
        {"config.json": {"architectures": ["ViTForImageClassification"], "model_type": "vit"}},
        "is a vision encoder without a language model",
    ),
    "whisper": (
        {"config.json": {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}},
        "is a model of speech",
    ),
    "llava_mistral": (
        {
            "config.json": {
                "architectures": ["LlavaMistralForCausalLM"],
                "model_type": "llava_mistral",
                "mm_vision_tower": "clip",
            }
        },
        r"is an original LLaVA checkpoint \(LlavaMistralForCausalLM, model_type 'llava_mistral'\), whose code is not part of",
    ),
    # of a type that transformers has, of another meaning: it would open with fresh weights
    "liuhaotian": (
        {"config.json": {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_vision_tower": "clip"}},
        r"is an original LLaVA checkpoint .* Open the converted one \(for liuhaotian/llava-v1\.5-7b that is llava-hf/",
    ),
    "newer": (
        {"config.json": {"architectures": ["NewVlm"], "model_type": "llava_newer"}},
        r"transformers [\d.]+ knows no model_type 'llava_newer', which config\.json of .* gives \(NewVlm\), and no code comes",
    ),
    "nameless": ({"config.json": {"model_type": "llava"}}, r"does not name the model's class: architectures is empty"),
    "mlx": (
        {
            "config.json": {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "quantization": {"group_size": 64, "bits": 4},
            }
        },
        r"holds weights for MLX \(LlavaForConditionalGeneration, model_type 'llava'\), whose codes torch does not read",
    ),
    "packed": (
        {
            "config.json": {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "quantization_config": {"quant_method": "compressed-tensors"},
            }
        },
        r"cannot be read without a package that is not installed: compressed-tensors",
    ),
    "gguf beside its configuration": (
        {"llava.gguf": {}, "config.json": {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}},
        r"holds weights for llama\.cpp \(GGUF\)",
    ),
    "gguf": ({"llava-q4_k_m.gguf": {}}, r"holds weights for llama\.cpp \(GGUF\), which have no modules to hook"),
    "pipeline": ({"model_index.json": {}}, "is a pipeline of diffusers, which makes pictures"),
    "meta": (
        {"params.json": {}, "consolidated.00.pth": {}},
        r"holds weights as their authors trained them \(params\.json",
    ),
    "empty": ({"notes.txt": {}}, r"There is no checkpoint at .*: the folder has no config\.json; it holds notes\.txt"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_refused_by_their_names(name: str, tmp_path: Path) -> None:
    files, message = OTHERS[name]
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(tmp_path)


def test_files_are_no_checkpoints(folder_of: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is a file; pass the folder that it lies in"):
        HookedMultimodal.from_pretrained(folder_of(LLAVA) / "config.json")
    with pytest.raises(InputError, match=r"There is no checkpoint at .*nowhere: there is no such folder"):
        HookedMultimodal.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match=r"model\.gguf holds weights for llama\.cpp"):
        HookedMultimodal.from_pretrained(tmp_path / "model.gguf")
    broken = copied(folder_of(LLAVA), tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match=r"config\.json of .*broken is no valid JSON"):
        HookedMultimodal.from_pretrained(broken)


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json"])
def test_a_folder_without_a_preprocessor_says_what_is_missing(missing: str, folder_of: Folder, tmp_path: Path) -> None:
    folder = copied(folder_of(LLAVA), tmp_path / "bare")
    (folder / missing).unlink()
    if missing == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    message = (
        r"The processor of .*bare cannot be loaded: .* copy them from the checkpoint that it was trained from, or pass"
    )
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(folder)
    whole = HookedMultimodal.from_pretrained(folder_of(LLAVA))
    assert HookedMultimodal.from_pretrained(folder, processor=whole.processor).processor is whole.processor


def test_a_processor_that_needs_torchvision_says_so(folder_of: Folder) -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"needs a package that is not installed: .*pip install mmlens\[video\]"):
            HookedMultimodal.from_pretrained(folder_of(MOLMO2))
