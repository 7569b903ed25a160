"""Gemma 4 (as far as it reads pictures): a tower of any picture size, pooling, a language model in several builds.

Vision and language blocks have norms around every branch. Patches lie in raster order, one entry of the tower's batch
axis per picture, padded; they are averaged over squares, and behind that the tokens of all pictures lie in one sequence.
The small builds look up an embedding of every token for every layer, which enters the stream behind the MLP
(`hook_lookup_out`), and their later layers take over the keys and values of earlier ones: an edit of these is of one
layer's alone. The sparse build adds a mixture of experts to the MLP's branch, whose neurons have no points. A block's
output is its stream times a number of its own.

Source: Google DeepMind, Gemma 4 model card, 2026 (https://ai.google.dev/gemma/docs/core/model_card_4).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import GEMMA_SANDWICH_BLOCK, llama_language, projected, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.core.names import Part
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp, Norm
from mmlens.inputs.patch_geometry import Places, RowGrid, Sizes, owners_of, size_of
from mmlens.inputs.patch_geometry.marked import stretched
from mmlens.inputs.patch_geometry.merging import raster_grid

_BLOCK = replace(GEMMA_SANDWICH_BLOCK, ln1=Norm("input_layernorm"), ln2=Norm("pre_feedforward_layernorm"))
_LOOKING_UP = replace(
    _BLOCK,
    lookup=Mlp(
        down="per_layer_projection", up="per_layer_input_gate", act="act_fn", branch="post_per_layer_input_norm"
    ),
)
_VISION_BLOCK = replace(
    _BLOCK,
    attn=projected("o_proj", branch="post_attention_layernorm", linear=".linear"),
    mlp=Mlp(
        down="mlp.down_proj.linear",
        up="mlp.up_proj.linear",
        gate="mlp.gate_proj.linear",
        act="mlp.act_fn",
        branch="post_feedforward_layernorm",
    ),
)


def _shapes(tensors: dict[str, Any]) -> list[tuple[int, int]]:
    """(rows, columns) of patches of every picture, from the positions (column, row) of its patches."""
    return [(int(rows), int(columns)) for columns, rows in tensors["image_position_ids"].amax(1) + 1]


def _expand(config: Config, tensors: dict[str, Any]) -> list[list[int]]:
    """The tokens of a picture, with one in front of them and one behind."""
    square = config.vision_config.pooling_kernel_size**2
    begin, end, token = config.boi_token_id, config.eoi_token_id, config.image_token_id
    return [[begin, *[token] * (rows * columns // square), end] for rows, columns in _shapes(tensors)]


def _extra_inputs(config: Config, tensors: dict[str, Any]) -> dict[str, Any]:
    """In some builds the tokens of a picture attend to each other in both directions."""
    return {"mm_token_type_ids": (tensors["input_ids"] == config.image_token_id).long()}


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    side, factor = config.vision_config.patch_size, config.vision_config.pooling_kernel_size
    patches = _shapes(tensors)
    squares = [(rows // factor, columns // factor) for rows, columns in patches]
    places = []
    first = 0
    owners = owners_of(tensors, config.image_token_id, [rows * columns for rows, columns in squares])
    for number, (sample, image, positions) in enumerate(owners):
        patch_shape, square_shape = patches[number], squares[number]
        area = (patch_shape[0] * side, patch_shape[1] * side)
        size = size_of(sizes, sample, image) or area
        frame = stretched(processor, size, area)
        tokens = torch.arange(len(positions)) + first
        grids: dict[Part, RowGrid | tuple[RowGrid, ...]] = {
            "vision": raster_grid(frame, patch_shape, side, torch.arange(patch_shape[0] * patch_shape[1]), number),
            "projector": raster_grid(frame, square_shape, side * factor, tokens, None),
            "language": raster_grid(frame, square_shape, side * factor, positions, sample),
        }
        places.append(Places(sample, image, size, grids, {}))
        first += len(positions)
    return places


GEMMA4 = register_family(
    Family(
        name="gemma4",
        classes=("Gemma4ForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layers", _VISION_BLOCK),
        projector=projector_at("model.embed_vision", "inputs_embeds", packed=True),
        language=replace(llama_language(block=(_LOOKING_UP, _BLOCK)), looks_ahead=True),
        places=_places,
        placeholder="<|image|>",
        nested_pictures=True,
        expand=_expand,
        extra_inputs=_extra_inputs,
        written_places=lambda c: c.text_config.pad_token_id,
        for_counting=("num_soft_tokens_per_image",),
    )
)
