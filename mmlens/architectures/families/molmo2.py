"""Molmo 2: a SigLIP-like tower read at two of its blocks, attention that pools patches, and features that are added.

A picture is seen as a whole, squeezed into one crop, and as overlapping crops of a canvas; what crops share is read from
one of them alone. Every token is pooled from a window of two by two patches: their mean looks at them. The pooled
features are added to the embeddings of the placeholders instead of taking their place. Pictures' tokens attend to each
other in both directions. In some checkpoints (Molmo2-O) norms stand behind the language model's branches.

Source: Clark et al., Molmo2: Open Weights and Data for Vision-Language Models with Video Understanding and Grounding,
2026 (https://arxiv.org/abs/2601.10611).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch

from mmlens.architectures.families.blocks import (
    CLIP_BLOCK,
    LLAMA_BLOCK,
    gated_mlp,
    llama_language,
    projected,
    vision_tower,
)
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.projector import Pooling, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, boxes_of, cells_of, owners_of

_PROJECTOR = "model.multi_modal_projector"
_POOLING = f"{_PROJECTOR}.image_pooling_2d"

#: Norms behind the branches: what is added to the stream is their output.
_POST_NORM_BLOCK = replace(
    LLAMA_BLOCK,
    attn=projected("o_proj", branch="input_layernorm"),
    mlp=replace(LLAMA_BLOCK.mlp, branch="post_attention_layernorm"),
    ln1=None,
    ln2=None,
    when=lambda block: bool(block.norm_after),
)


@dataclass(frozen=True)
class _Canvas:
    """What a picture was resized to before it was cut, as the pooling windows tell.

    Attributes:
        patches: `[row column]` which patch of the tower is read in each place, counting through all crops.
        windows: (rows, columns) of windows.
        before: (rows, columns) of nothing that the first windows have in front.
    """

    patches: torch.Tensor
    windows: tuple[int, int]
    before: tuple[int, int]

    @classmethod
    def of(cls, windows_of_patches: torch.Tensor, windows: tuple[int, int]) -> "_Canvas":
        """From the patches of each window, `[window patch]`, where -1 is nothing."""
        side = isqrt(windows_of_patches.shape[1])
        raster = (
            windows_of_patches.view(*windows, side, side).transpose(1, 2).reshape(windows[0] * side, windows[1] * side)
        )
        rows, columns = (raster >= 0).any(1), (raster >= 0).any(0)
        return cls(raster[rows][:, columns], windows, (int(rows.int().argmax()), int(columns.int().argmax())))

    def window_boxes(self, window: int, side: int) -> torch.Tensor:
        """Boxes of the windows in pixels of the canvas, for windows of `window` patches of `side` pixels."""
        boxes = boxes_of(cells_of(*self.windows), window)
        limit = torch.tensor(self.patches.shape).flip(0).repeat(2)
        return (boxes - torch.tensor(self.before).flip(0).repeat(2)).clamp(min=torch.zeros(4).long(), max=limit) * side


def _crops(canvas: _Canvas, within: tuple[int, int]) -> Iterator[tuple[int, torch.Tensor]]:
    """Every crop of a canvas, and the canvas cells `[patch 2]` of all its patches, those that are not read included."""
    per_crop = within[0] * within[1]
    row, column = (canvas.patches >= 0).nonzero().unbind(1)
    read = canvas.patches[row, column]
    for crop in (read // per_crop).unique().tolist():
        first = int((read // per_crop == crop).nonzero()[0])
        inner = int(read[first]) % per_crop
        corner = torch.tensor([int(row[first]) - inner // within[1], int(column[first]) - inner % within[1]])
        yield crop, cells_of(*within) + corner


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Views of each picture: the whole and the canvas; in the tower, the whole and every crop, since crops overlap."""
    vision = config.vision_config
    side = vision.patch_size
    within = (vision.image_size[0] // side, vision.image_size[1] // side)
    pooling = tensors["image_token_pooling"].cpu()
    window = isqrt(pooling.shape[1])
    shapes = tensors["image_grids"].tolist()
    counts = [rows * columns + more_rows * more_columns for rows, columns, more_rows, more_columns in shapes]
    places = []
    first = 0
    for shape, (sample, image, positions) in zip(
        shapes, owners_of(tensors, config.image_token_id, counts), strict=True
    ):
        split = shape[0] * shape[1]
        pools = pooling[first : first + len(positions)]
        overview = _Canvas.of(pools[:split], (shape[0], shape[1]))
        canvas = _Canvas.of(pools[split:], (shape[2], shape[3]))
        height, width = (int(length) * side for length in canvas.patches.shape)
        size: tuple[int, int] = (height, width) if sizes is None else sizes[sample][image]
        tower, rows, tokens = [], [], []
        for view, start in ((overview, 0), (canvas, split)):
            seen_height, seen_width = (int(length) * side for length in view.patches.shape)
            frame = Frame(*size, (seen_height / size[0], seen_width / size[1]))
            for crop, cells in _crops(view, within):
                boxes = frame.to_original(boxes_of(cells, side))
                tower.append(RowGrid(crop, torch.arange(len(cells)), boxes, cells - cells[0], within))
            boxes = frame.to_original(view.window_boxes(window, side))
            where = torch.arange(start, start + len(boxes))
            windows = (boxes, cells_of(*view.windows), view.windows)
            rows.append(RowGrid(None, first + where, *windows))
            tokens.append(RowGrid(sample, positions[where], *windows))
        grids: dict[Part, tuple[RowGrid, ...]] = {
            "vision": tuple(tower),
            "projector": tuple(rows),
            "language": tuple(tokens),
        }
        places.append(Places(sample, image, size, grids, {}))
        first += len(positions)
    return places


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """Which tokens belong to pictures, from the first to the last of each view; none of those added at the end do."""
    ids = tensors["input_ids"]
    if "pixel_values" not in tensors:
        return {}
    opening = (ids == config.image_start_token_id) | (ids == config.low_res_image_start_token_id)
    closing = ids == config.image_end_token_id
    inside = (opening.int().cumsum(1) > closing.int().cumsum(1)) | closing
    return {"mm_token_type_ids": inside.to(ids.dtype)}


def _feature_layers(config: Config) -> list[int]:
    depth = config.vision_config.num_hidden_layers
    return [layer % depth for layer in config.adapter_config.vision_feature_layer]


MOLMO2 = register_family(
    Family(
        name="molmo2",
        classes=("Molmo2ForConditionalGeneration",),
        vision=vision_tower(
            "model.vision_tower.layers", replace(CLIP_BLOCK, attn=projected("o_proj")), read=_feature_layers
        ),
        projector=Projector(
            receives=(_PROJECTOR, "image_features"),
            # the module itself returns a record, not a tensor
            returns=f"{_PROJECTOR}.image_projector",
            pooling=Pooling(
                projected("o_proj", _POOLING), heads=lambda c: c.adapter_config.num_attention_heads, windows=True
            ),
            mlp=gated_mlp(f"{_PROJECTOR}.image_projector"),
            receives_rows="vision",
        ),
        language=replace(llama_language(block=(_POST_NORM_BLOCK, LLAMA_BLOCK)), looks_ahead=True),
        places=_places,
        placeholder="<|image|>",
        extra_inputs=_extra_inputs,
    )
)
