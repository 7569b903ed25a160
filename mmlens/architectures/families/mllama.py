"""Llama 3.2 Vision: a tower of two stages, and a language model that looks at the picture from cross-attention blocks.

The second stage's blocks and the cross-attention blocks have gates (tanh of a learned number) on what they add. The
projector gets the last block's output beside that of several blocks of the first stage. Nothing is put among the token
embeddings: one image token marks the place from which on the text may look at the picture. Every picture comes as the
largest number of tiles that the model allows, the missing ones empty; each tile has a class row in front and padding
rows behind.

At positions in front of the first picture, Hugging Face adds nothing of what the MLP of a cross-attention block gives:
`hook_mlp_out` there holds what is dropped.

Source: Llama Team, The Llama 3 Herd of Models, 2024, section 7 (https://arxiv.org/abs/2407.21783).
"""

from collections.abc import Sequence
from dataclasses import replace
from math import floor
from typing import Any

import torch

from mmlens.architectures.families.blocks import CLIP_BLOCK, LLAMA_BLOCK, llama_language, projected
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.reading import vision_config
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Read, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Norm, Stack
from mmlens.inputs.patch_geometry import Frame, Places, RowGrid, Sizes, owners_of
from mmlens.inputs.patch_geometry.tile_raster import TileRaster

_VISION_BLOCK = replace(
    CLIP_BLOCK,
    attn=projected("o_proj"),
    ln1=Norm("input_layernorm", centred=True),
    ln2=Norm("post_attention_layernorm", centred=True),
)
_GATED_VISION_BLOCK = replace(
    _VISION_BLOCK,
    attn=replace(projected("o_proj"), scale=lambda block: block.get_parameter("gate_attn").tanh()),
    mlp=replace(CLIP_BLOCK.mlp, scale=lambda block: block.get_parameter("gate_ffn").tanh()),
)
_CROSS_BLOCK = Block(
    cross=replace(
        projected("o_proj", module="cross_attn"), scale=lambda block: block.get_parameter("cross_attn_attn_gate").tanh()
    ),
    mlp=replace(LLAMA_BLOCK.mlp, scale=lambda block: block.get_parameter("cross_attn_mlp_gate").tanh()),
    ln1=LLAMA_BLOCK.ln1,
    ln2=LLAMA_BLOCK.ln2,
)


def _read(config: Config) -> Sequence[Read]:
    """The last block of the second stage, then those of the first stage that are handed on beside it."""
    vision = config.vision_config
    depth = vision.num_hidden_layers
    return [
        ("global_blocks", vision.num_global_layers - 1),
        *(("blocks", index % depth) for index in vision.intermediate_layers_indices),
    ]


def _fitted(size: tuple[int, int], canvas: tuple[int, int], tile: int) -> Frame:
    """The frame of a picture in the upper left of its canvas: no longer than that, no shorter than a tile."""
    target = [min(max(side, tile), limit) for side, limit in zip(size, canvas, strict=True)]
    factors = [want / side for want, side in zip(target, size, strict=True)]
    new = [min(max(floor(side * min(factors)), 1), want) for side, want in zip(size, target, strict=True)]
    tight = 1 if factors[1] < factors[0] else 0
    new[tight] = target[tight]
    return Frame(*size, (new[0] / size[0], new[1] / size[1]))


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    """Places in the tower and in the projector, whose rows are those of all tiles of all pictures of a sample."""
    vision = config.vision_config
    side, tile = vision.patch_size, vision.image_size
    within = (tile // side, tile // side)
    handed_on = within[0] * within[1] + 1
    tile_rows = -(-handed_on // 8) * 8
    shapes = tensors["aspect_ratio_ids"].cpu()
    most_pictures, most_tiles = tensors["pixel_values"].shape[1:3]
    lengths: dict[Part, int] = {"vision": most_tiles * tile_rows, "projector": most_pictures * most_tiles * handed_on}
    why = (
        "the language model's rows hold no picture features: its cross-attention blocks look at the projector's rows; ask "
        "for part='projector'"
    )
    places = []
    for sample, image, _ in owners_of(tensors, config.image_token_id, [1] * int((shapes > 0).sum())):
        rows, columns = vision.supported_aspect_ratios[int(shapes[sample, image]) - 1]
        canvas = (rows * tile, columns * tile)
        size = canvas if sizes is None else sizes[sample][image]
        raster = TileRaster((rows, columns), (tile, tile), side)
        boxes = _fitted(size, canvas, tile).to_original(raster.boxes)
        shows = (boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0])
        cells, boxes = raster.cells[shows], boxes[shows]
        tiles, patches = raster.numbers[shows], raster.rows[shows]
        first = image * most_tiles * handed_on
        grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
            "vision": RowGrid(
                sample * most_pictures + image, tiles * tile_rows + 1 + patches, boxes, cells, raster.shape
            ),
            "projector": RowGrid(sample, first + tiles * handed_on + 1 + patches, boxes, cells, raster.shape),
        }
        places.append(Places(sample, image, size, grids, {"language": why}, lengths))
    return places


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """Which tiles each position may look at; positions that were added at the end look at what the last one does."""
    mask = tensors.get("cross_attention_mask")
    if mask is None:
        return {}
    extra = tensors["input_ids"].shape[1] - mask.shape[1]
    return {"cross_attention_mask": torch.cat([mask, mask[:, -1:].expand(-1, extra, -1, -1)], dim=1)}


MLLAMA = register_family(
    Family(
        name="mllama",
        classes=("MllamaForConditionalGeneration",),
        vision=Vision(
            stack=(
                Stack("model.vision_model.transformer.layers", _VISION_BLOCK, config=vision_config),
                Stack(
                    "model.vision_model.global_transformer.layers",
                    _GATED_VISION_BLOCK,
                    config=vision_config,
                    name="global_blocks",
                ),
            ),
            read=_read,
        ),
        projector=projector_at("model.multi_modal_projector", "input", nested=True),
        language=replace(llama_language(block=(LLAMA_BLOCK, _CROSS_BLOCK)), merges=False),
        places=_places,
        placeholder="<|image|>",
        nested_pictures=True,
        extra_inputs=_extra_inputs,
    )
)
