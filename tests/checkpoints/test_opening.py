"""What can be opened, and what is said of the rest: adapters, subfolders, code of its own, wrong weights, other kinds."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import SHORT, picture
from tests.checkpoints.layouts import LLAVA, MOLMO2, QWEN2_VL, Layout

Folder = Callable[[Layout], Path]


def copied(folder: Path, to: Path) -> Path:
    """A copy of a checkpoint that a test may change."""
    shutil.copytree(folder, to)
    return to


def edited(folder: Path, name: str, **changes: Any) -> None:
    """Change a JSON file of a checkpoint; None takes a key out."""
    file = folder / name
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def a_shard_with(folder: Path, beginning: str) -> tuple[Path, dict[str, torch.Tensor], str]:
    """The shard that holds a weight whose name begins so, what is in it, and that name."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = next(name for name in index if name.startswith(beginning))
    shard = folder / index[name]
    return shard, load_file(shard), name


@pytest.fixture
def adapter(folder_of: Folder, tmp_path: Path) -> Path:
    """A folder as peft saves it, on a checkpoint beside it."""
    base = AutoModelForImageTextToText.from_pretrained(folder_of(LLAVA))
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    edited(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(folder_of(LLAVA)))
    return tmp_path / "adapter"


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # which peft asks for
def test_an_adapter_is_opened_on_its_base(adapter: Path, folder_of: Folder) -> None:
    model = HookedMultimodal.from_pretrained(adapter)
    batch = model.prepare(SHORT, images=picture(0))
    bare = AutoModelForImageTextToText.from_pretrained(folder_of(LLAVA)).eval()
    base = bare(**batch, use_cache=False).logits
    tuned = PeftModel.from_pretrained(bare, adapter).eval()(**batch, use_cache=False).logits
    assert not model.training
    assert torch.equal(model(batch), tuned)
    assert torch.equal(model(batch), model(batch))  # no dropout
    assert not torch.equal(tuned, base)
    with model.adapter(None):
        assert torch.equal(model(batch), base)


def test_adapters_that_do_not_fit_say_so(adapter: Path, folder_of: Folder, tmp_path: Path) -> None:
    with_other_base = copied(adapter, tmp_path / "other")
    edited(with_other_base, "adapter_config.json", base_model_name_or_path="no/where")
    message = r"is an adapter on no/where \(base_model_name_or_path\), which cannot be opened: There is no checkpoint at no/where"
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(with_other_base)
    edited(with_other_base, "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"is an adapter .* that names no base; wrap it on yours"):
        HookedMultimodal.from_pretrained(with_other_base)
    edited(with_other_base, "adapter_config.json", base_model_name_or_path=str(folder_of(LLAVA)))
    weights = load_file(with_other_base / "adapter_model.safetensors")
    some = dict(list(weights.items())[2:])
    save_file(some, with_other_base / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"does not fit its base .*missing adapter keys.*strict=False"):
        HookedMultimodal.from_pretrained(with_other_base)
    assert HookedMultimodal.from_pretrained(with_other_base, strict=False).adapters == ("default",)


def test_a_checkpoint_in_a_subfolder(folder_of: Folder, tmp_path: Path) -> None:
    copied(folder_of(LLAVA), tmp_path / "checkpoint-500")
    message = r"has no config.json, but folders in it have one \(checkpoint-500\); pass subfolder='checkpoint-500'"
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(tmp_path)
    model = HookedMultimodal.from_pretrained(tmp_path, subfolder="checkpoint-500")
    whole = HookedMultimodal.from_pretrained(folder_of(LLAVA))
    batches = [each.prepare(SHORT, images=picture(0)) for each in (model, whole)]
    assert torch.equal(*(batch["input_ids"] for batch in batches))
    assert torch.equal(model(batches[0]), whole(batches[1]))
    qwen = copied(folder_of(QWEN2_VL), tmp_path / "qwen")  # whose processor is taken apart without torchvision
    inside = HookedMultimodal.from_pretrained(qwen.parent, subfolder="qwen", revision="main")
    assert inside.prepare(SHORT, images=picture(0)).prompts[0].startswith("<|im_start|>system")


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_are_not_those_of_the_class_are_named(change: str, folder_of: Folder, tmp_path: Path) -> None:
    folder = copied(folder_of(LLAVA), tmp_path / "changed")
    shard, weights, name = a_shard_with(folder, "multi_modal_projector.linear_1.weight")
    if change == "missing":
        del weights[name]
        index = folder / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        del content["weight_map"][name]
        index.write_text(json.dumps(content))
        message = r"it lacks 1 \(model\.multi_modal_projector\.linear_1\.weight\), which would be drawn .*strict=False"
    elif change == "unexpected":
        weights["reward_head.weight"] = torch.zeros(2, 2)
        index = folder / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        content["weight_map"]["reward_head.weight"] = shard.name
        index.write_text(json.dumps(content))
        message = r"it has 1 \(reward_head\.weight\), which have no place in it"
    else:
        weights[name] = torch.zeros(3, 3)
        message = "cannot be read|other shapes"
    save_file(weights, shard, metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(folder)
    if change != "shape":
        assert HookedMultimodal.from_pretrained(folder, strict=False).family.name == "llava"


CODE = """
from transformers import LlavaConfig, LlavaForConditionalGeneration


class OwnConfig(LlavaConfig):
    model_type = "own_llava"


class OwnModel(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


@torch.no_grad()
def test_code_of_a_checkpoints_own_is_run_only_where_it_is_trusted(
    folder_of: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = copied(folder_of(LLAVA), tmp_path / "own")
    (folder / "own.py").write_text(CODE)
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    for shard in folder.glob("*.safetensors*"):
        shard.unlink()
    # nobody knows other names for the weights of a class of its own than those of its modules
    whole = HookedMultimodal.from_pretrained(folder_of(LLAVA))
    save_file(whole.hf_model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    edited(folder, "config.json", architectures=["OwnModel"], model_type="own_llava", auto_map=named)
    with pytest.raises(
        InputError, match=r"\(OwnModel, model_type 'own_llava'\) comes as code .* pass trust_remote_code=True"
    ):
        HookedMultimodal.from_pretrained(folder)
    model = HookedMultimodal.from_pretrained(folder, trust_remote_code=True)
    assert type(model.hf_model).__name__ == "OwnModel"
    batch = whole.prepare(SHORT, images=picture(0))
    assert torch.equal(model(model.prepare(SHORT, images=picture(0))), whole(batch))


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
    "clip": (
        {"config.json": {"architectures": ["CLIPModel"], "model_type": "clip"}},
        r"is a dual encoder \(two towers and a score, without a language model that writes\) \(CLIPModel, model_type 'clip'\)",
    ),
    "siglip": ({"config.json": {"architectures": ["SiglipModel"], "model_type": "siglip"}}, "is a dual encoder"),
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
