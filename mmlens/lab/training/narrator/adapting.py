"""Low-rank changes of weights while they are trained, and their files in peft's form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LANGUAGE, PROJECTOR = "model.language_model.", "model.multi_modal_projector."
_LAYERS = r"language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
TARGETS = rf".*({_LAYERS}|multi_modal_projector\.linear_\d)"


class LowRank:
    """Weights W + B A, with A and B learnt and W as it is.

    Args:
        weights: By name; the matrices of linear layers are changed, all others (embeddings, gains, biases) handed through.
        names: Of the matrices that are changed.
        rank: Of the change.
        seed: Decides A; B starts at zero, so the change does too.
    """

    def __init__(self, weights: Mapping[str, Tensor], names: Iterable[str], rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._weights = {name: weight.detach() for name, weight in weights.items()}
        self.rank = rank
        self.inward: dict[str, nn.Parameter] = {}
        self.outward: dict[str, nn.Parameter] = {}
        for name in names:
            outputs, inputs = weights[name].shape
            self.inward[name] = nn.Parameter(torch.randn(rank, inputs, generator=generator) / inputs**0.5)
            self.outward[name] = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [*self.inward.values(), *self.outward.values()]

    def merged(self) -> dict[str, Tensor]:
        """All weights with the changes added, gradients kept."""
        new_weights = {name: self._weights[name] + self.outward[name] @ self.inward[name] for name in self.inward}
        return self._weights | new_weights

    def state(self) -> dict[str, Tensor]:
        """The changes alone, under peft's names."""
        state = {}
        for name in self.inward:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            state[f"{stem}.lora_A.weight"] = self.inward[name].detach()
            state[f"{stem}.lora_B.weight"] = self.outward[name].detach()
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over changes that `state` gave."""
        with torch.no_grad():
            for name in self.inward:
                stem = f"base_model.model.{name.removesuffix('.weight')}"
                self.inward[name].copy_(state[f"{stem}.lora_A.weight"])
                self.outward[name].copy_(state[f"{stem}.lora_B.weight"])

    def save(self, folder: Path) -> None:
        """Write the changes in float16 as peft reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.half().contiguous() for name, tensor in self.state().items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_model.safetensors").chmod(0o644)
        config = {
            "auto_mapping": {
                "base_model_class": "LlavaForConditionalGeneration",
                "parent_library": "transformers.models.llava.modeling_llava",
            },
            "base_model_name_or_path": "mmlens.lab",
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": TARGETS,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
