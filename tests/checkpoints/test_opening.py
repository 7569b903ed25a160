"""What can be opened, and what is said of the rest: adapters, subfolders, code of its own, wrong weights."""

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

from mmlens.core.errors import InputError
from mmlens.models.hooked import HookedMultimodal
from tests.checkpoints.cases import SHORT, picture
from tests.checkpoints.layouts import LLAVA, QWEN2_VL, Layout

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


def test_adapters_that_cannot_be_read_say_so_before_the_base_is_loaded(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AutoModelForImageTextToText, "from_pretrained", lambda *args, **options: pytest.fail("the base was loaded")
    )
    broken = copied(adapter, tmp_path / "broken")
    edited(broken, "adapter_config.json", peft_type="LORAX")
    with pytest.raises(InputError, match=r"gives peft_type='LORAX', which peft .* does not know \(nearest: "):
        HookedMultimodal.from_pretrained(broken)
    edited(broken, "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(adapter))
    with pytest.raises(
        InputError, match=r"is an adapter on .*adapter, which is an adapter too\. Merge that into its base"
    ):
        HookedMultimodal.from_pretrained(broken)
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"is an adapter .* without weights: adapter_model\.safetensors is not there"):
        HookedMultimodal.from_pretrained(broken)


def test_adapters_whose_weights_do_not_fit_name_them(adapter: Path, tmp_path: Path) -> None:
    other = copied(adapter, tmp_path / "rank")
    edited(other, "adapter_config.json", r=4)
    with pytest.raises(InputError, match=r"does not fit its base .*size mismatch for .*_proj\.lora_A"):
        HookedMultimodal.from_pretrained(other)
    cut = copied(adapter, tmp_path / "cut")
    (cut / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes()[:60])
    with pytest.raises(InputError, match=r"The weights of the adapter .*cut are damaged or cut off"):
        HookedMultimodal.from_pretrained(cut)


def test_a_checkpoint_in_a_subfolder(folder_of: Folder, tmp_path: Path) -> None:
    copied(folder_of(LLAVA), tmp_path / "checkpoint-500")
    message = r"holds no checkpoint, but folders in it do \(checkpoint-500\); pass subfolder='checkpoint-500'"
    with pytest.raises(InputError, match=message):
        HookedMultimodal.from_pretrained(tmp_path)
    model = HookedMultimodal.from_pretrained(tmp_path, subfolder="checkpoint-500")
    whole = HookedMultimodal.from_pretrained(folder_of(LLAVA))
    batches = [each.prepare(SHORT, images=picture(0)) for each in (model, whole)]
    assert torch.equal(*(batch["input_ids"] for batch in batches))
    assert torch.equal(model(batches[0]), whole(batches[1]))
    with pytest.raises(InputError, match=r"has no folder 'checkpoint-900'; it has checkpoint-500\."):
        HookedMultimodal.from_pretrained(tmp_path, subfolder="checkpoint-900")
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


def test_files_of_weights_that_cannot_be_read_are_named(folder_of: Folder, tmp_path: Path) -> None:
    folder = copied(folder_of(LLAVA), tmp_path / "damaged")
    first, second, third = sorted(folder.glob("*.safetensors"))[:3]
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"damaged cannot be read: {second.name} is damaged or cut off"):
        HookedMultimodal.from_pretrained(folder)
    first.unlink()
    with pytest.raises(InputError, match=rf"damaged cannot be read: .*{first.name}"):
        HookedMultimodal.from_pretrained(folder)
    third.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    with pytest.raises(
        InputError, match=rf"holds pointers of git-lfs .* \({third.name}\); fetch them with git lfs pull"
    ):
        HookedMultimodal.from_pretrained(folder)


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
    # a class of its own under the name of one that is covered
    (folder / "own.py").write_text(CODE.replace("OwnModel", "LlavaForConditionalGeneration"))
    edited(folder, "config.json", architectures=["LlavaForConditionalGeneration"])
    with pytest.raises(InputError, match=r"\(LlavaForConditionalGeneration, model_type 'own_llava'\) comes as code"):
        HookedMultimodal.from_pretrained(folder)
    (folder / "own.py").write_text("import nobody_has_this\n" + CODE)
    edited(folder, "config.json", architectures=["OwnModel"])
    with pytest.raises(InputError, match=r"cannot be read without a package that is not installed: .*nobody_has_this"):
        HookedMultimodal.from_pretrained(folder, trust_remote_code=True)
    (folder / "own.py").write_text(f"{CODE}\n    def __init__(self, config):\n        self.gone()\n")
    with pytest.raises(
        InputError, match=r"The code that comes with .*own does not run under transformers .*: AttributeError"
    ):
        HookedMultimodal.from_pretrained(folder, trust_remote_code=True)


def test_code_of_a_processor_is_not_run_either(
    folder_of: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = copied(folder_of(LLAVA), tmp_path / "processed")
    (folder / "own.py").write_text("from transformers import LlavaProcessor\n\nclass Own(LlavaProcessor):\n    pass\n")
    edited(folder, "processor_config.json", processor_class="Own", auto_map={"AutoProcessor": "own.Own"})
    edited(folder, "preprocessor_config.json", processor_class="Own")
    with pytest.raises(
        InputError, match=r"The processor of .* comes as code .*; pass trust_remote_code=True .* or processor="
    ):
        HookedMultimodal.from_pretrained(folder)
    assert type(HookedMultimodal.from_pretrained(folder, trust_remote_code=True).processor).__name__ == "Own"


def test_options_that_nobody_knows_are_refused(folder_of: Folder) -> None:
    with pytest.raises(InputError, match=r"LlavaForConditionalGeneration know no option 'shard'\."):
        HookedMultimodal.from_pretrained(folder_of(LLAVA), shard=3)
    with pytest.raises(InputError, match=r"strict='no' must be True or False"):
        HookedMultimodal.from_pretrained(folder_of(LLAVA), strict="no")
    with pytest.raises(InputError, match=r"device='cuda:99' must be a device of this machine"):
        HookedMultimodal.from_pretrained(folder_of(LLAVA), device="cuda:99")
