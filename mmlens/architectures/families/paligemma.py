"""PaliGemma: a SigLIP tower, one linear, a Gemma (or Gemma 2) language model that reads its prompt in both directions.

Picture and prompt are a prefix in which every token attends to every other; only what is written after it is causal.
`token_type_ids` say where the prefix ends: 0 in it, 1 behind it.

Source: Beyer et al., PaliGemma: A versatile 3B VLM for transfer, 2024 (https://arxiv.org/abs/2407.07726); Steiner et
al., PaliGemma 2, 2024 (https://arxiv.org/abs/2412.03555).
"""

from collections.abc import Mapping
from typing import Any

import torch

from mmlens.architectures.families.blocks import GEMMA_LANGUAGE, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import grid_places
from mmlens.inputs.position_ids import counted_positions


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """All of the prompt is prefix."""
    if "pixel_values" not in tensors:
        return {}
    return {"token_type_ids": torch.zeros_like(tensors["input_ids"])}


def _position_ids(model: Any, tensors: Mapping[str, Any]) -> torch.Tensor | None:
    """Positions are counted from 1."""
    mask = tensors.get("attention_mask")
    has_ids = tensors.get("position_ids") is not None
    return None if has_ids or mask is None or mask.ndim != 2 else counted_positions(mask) + 1


PALIGEMMA = register_family(
    Family(
        name="paligemma",
        classes=("PaliGemmaForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layers"),
        projector=projector_at("model.multi_modal_projector"),
        language=GEMMA_LANGUAGE,
        places=grid_places(class_rows=lambda c: 0, drops_class=lambda c: False),
        placeholder="<image>",
        extra_inputs=_extra_inputs,
        written_kind=1,
        position_ids=_position_ids,
    )
)
