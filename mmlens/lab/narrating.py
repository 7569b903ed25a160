"""The narrator with the change that tuning made to its weights added for good."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from mmlens.architectures.loading import load_model
from mmlens.models.hooked import HookedMultimodal

_PEFT = "base_model.model."


def merged_model(base: Path, change: Path) -> HookedMultimodal:
    """Load a checkpoint and add a low-rank change to it; the model then has plain matrices, as if saved so.

    Args:
        base: Folder of the checkpoint.
        change: Folder of a LoRA in peft's form.

    Returns:
        The hooked model in float32 on the CPU.
    """
    model, processor = load_model(base, dtype="float32", device=None, device_map=None, processor=None, options={})
    add_change(model, change)
    return HookedMultimodal.from_hf(model.eval(), processor)


@torch.no_grad()
def add_change(model: nn.Module, change: Path) -> None:
    """Add B A, scaled as the change's configuration says, to every matrix it names, in place."""
    config = json.loads((change / "adapter_config.json").read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / config["r"]
    state = load_file(change / "adapter_model.safetensors")
    for name in state:
        if name.endswith("lora_A.weight"):
            stem = name.removesuffix("lora_A.weight")
            weight = model.get_submodule(stem.removeprefix(_PEFT).removesuffix(".")).get_parameter("weight")
            product = state[f"{stem}lora_B.weight"].float() @ state[name].float()
            weight.add_(scale * product.to(weight.dtype))
