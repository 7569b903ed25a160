"""HunyuanVL and HunyuanOCR: a packed tower in raster order, and a row for the end of every line of squares.

Squares of patches are merged by convolutions, picture by picture, so that what lies inside the projector exists in no one
tensor and has no points. Of every picture it returns one row before the squares and one behind them, and one at the end
of every line; these have no place.

Source: Tencent Hunyuan Vision Team, HunyuanOCR Technical Report, 2025 (https://arxiv.org/abs/2511.19575).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mmlens.architectures.families.blocks import CLIP_BLOCK, llama_language, projected, vision_tower
from mmlens.architectures.families.packed import token_modalities
from mmlens.declarations.family import Family
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry.packed import in_raster, packed_places


def _among(shape: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """The rows of the squares, between a row at the start and those at the ends of lines."""
    rows, columns = shape
    index = 1 + torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :columns].flatten()
    return index, rows * (columns + 1) + 2


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    side = config.vision_config.spatial_merge_size
    return [_among((height // side, width // side))[1] for _, height, width in tensors["image_grid_thw"].tolist()]


def _position_ids(model: Any, tensors: Mapping[str, Any]) -> torch.Tensor | None:
    """Positions in which a sample's pictures are counted from 0; transformers counts them through the batch."""
    ids, kinds, mask = (tensors.get(name) for name in ("input_ids", "mm_token_type_ids", "attention_mask"))
    grids = tensors.get("image_grid_thw")
    if ids is None or kinds is None or grids is None or len(ids) == 1:
        return None
    mask = torch.ones_like(ids) if mask is None else mask
    if not ids.shape == kinds.shape == mask.shape:
        return None  # what is written in cached decoding is counted on from the prompt's end
    is_picture = nn.functional.pad(kinds == 1, (1, 0))
    counts = (is_picture[:, 1:] & ~is_picture[:, :-1]).sum(1).tolist()
    alone = zip(ids.split(1), kinds.split(1), grids.split(counts), mask.split(1), strict=True)
    return torch.cat([model.model.get_rope_index(*sample)[0] for sample in alone], dim=1)


HUNYUAN_VL = register_family(
    Family(
        name="hunyuan_vl",
        classes=("HunYuanVLForConditionalGeneration",),
        vision=vision_tower(
            "model.vision_tower.layers", replace(CLIP_BLOCK, attn=projected("o_proj")), packed=True, lone_axis=0
        ),
        projector=Projector(
            receives=("model.vision_tower.layers.-1", None),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            receives_rows="vision",
            lone_axis=0,
        ),
        language=llama_language(),
        places=packed_places(order=in_raster, among=_among),
        placeholder="<｜hy_place▁holder▁no▁100｜><｜hy_place▁holder▁no▁102｜><｜hy_place▁holder▁no▁101｜>",
        expand=_expand,
        extra_inputs=token_modalities,
        position_ids=_position_ids,
    )
)
