"""Llama 4: a tower that sees tiles, pixel shuffle, a sparse language model that mostly attends within chunks.

Every tile is an entry of the tower's batch axis, its class row the last; the squares of 2 x 2 patches become one row.
In sparse layers a router scales the input of one expert, and a shared expert sees every token. Three layers in four
attend only within chunks of the text, with rotary positions; the fourth attends to everything, without.

Source: Meta, The Llama 4 herd, 2025 (https://ai.meta.com/blog/llama-4-multimodal-intelligence/).
"""

import math
from dataclasses import replace
from typing import Any

from mmlens.architectures.families.blocks import LLAMA_BLOCK, gated_mlp, llama_language, projected, vision_tower
from mmlens.declarations.family import Family
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Config, Mlp, Norm
from mmlens.inputs.patch_geometry import Frame
from mmlens.inputs.patch_geometry.marked import marked_places

_VISION_BLOCK = Block(
    attn=projected("o_proj"),
    mlp=Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.activation_fn", branch="mlp"),
    ln1=Norm("input_layernorm", centred=True),
    ln2=Norm("post_attention_layernorm", centred=True),
)


_DENSE = replace(LLAMA_BLOCK, mlp=gated_mlp("feed_forward", act="activation_fn", branch="feed_forward"))
_SPARSE = replace(
    LLAMA_BLOCK,
    mlp=Mlp(
        branch="feed_forward",
        router="feed_forward.router",
        router_item=1,
        shared=gated_mlp("feed_forward.shared_expert", act="activation_fn"),
    ),
)


def _tiles(config: Config, between: list[int]) -> tuple[int, int]:
    """(rows, columns) of tiles: one token ends every row, another stands between columns, a third before the whole."""
    *separators, _ = between
    if not separators:
        return 1, 1
    rows = separators.count(separators[-1])
    return rows, len(separators) // rows


def _fit(processor: Any | None, size: tuple[int, int], canvas: tuple[int, int]) -> Frame:
    """The frame of a picture that is resized to fit the canvas, in its upper left corner.

    A picture that is smaller than the canvas is not enlarged beyond the side of a tile, unless the processor is told so.
    """
    limit = canvas
    if processor is not None and not processor.resize_to_max_canvas:
        tile = dict(processor.size)["height"]
        limit = (min(max(size[0], tile), canvas[0]), min(max(size[1], tile), canvas[1]))
    factors = (limit[0] / size[0], limit[1] / size[1])
    tight = 1 if factors[1] < factors[0] else 0
    target = [
        min(math.floor(side * factors[tight]), limit_of_side) for side, limit_of_side in zip(size, limit, strict=True)
    ]
    target[tight] = limit[tight]
    return Frame(*size, (max(target[0], 1) / size[0], max(target[1], 1) / size[1]))


LLAMA4 = register_family(
    Family(
        name="llama4",
        classes=("Llama4ForConditionalGeneration",),
        vision=vision_tower("vision_model.model.layers", _VISION_BLOCK),
        projector=Projector(
            receives=("vision_model.vision_adapter", "encoded_patches"),
            returns="multi_modal_projector",
            # its activation runs a second time on what the second linear returns, so that it has no points of its own
            mlp=Mlp(down="vision_model.vision_adapter.mlp.fc2", up="vision_model.vision_adapter.mlp.fc1"),
            receives_rows="vision",
            laid_out="vision_model.vision_adapter",
        ),
        language=llama_language("language_model.model", (_DENSE, _SPARSE), head="language_model.lm_head"),
        places=marked_places(
            marks=lambda c: (c.boi_token_id, c.eoi_token_id),
            tiles=_tiles,
            merge=lambda c: round(1 / c.vision_config.pixel_shuffle_ratio),
            fit=_fit,
            whole_first=False,
            extra_rows=1,
        ),
        placeholder="<|image|>",
    )
)
