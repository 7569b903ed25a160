"""Florence-2: a hierarchical DaViT tower, whose stream is a map, and an encoder-decoder language model (BART).

The tower has four stages of ever coarser maps. In each, blocks with attention inside windows and blocks with attention
between channels take turns; a convolution in front of every branch changes the stream. Its rows have no fixed place,
since every convolution mixes neighbours; the projector's do, up to the reach of these convolutions.

Source: Xiao et al., Florence-2, 2023 (https://arxiv.org/abs/2311.06242); Ding et al., DaViT, 2022
(https://arxiv.org/abs/2204.03645).
"""

from math import prod
from typing import Any

import torch

from mmlens.architectures.families.blocks import bart_language, decoder_start
from mmlens.declarations.family import Family, Projector, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Grid, Places, Sizes, boxes_of, cells_of, owners_of, picture_frame, size_of


def _block(attention: str, *, over_channels: bool) -> Block:
    return Block(
        attn=Attention(
            kernel=attention,
            branch=attention,
            qkv=f"{attention}.qkv",
            o=f"{attention}.proj",
            over_channels=over_channels,
        ),
        mlp=Mlp(down="ffn.fc2", up="ffn.fc1", act="ffn.activation_fn", branch="ffn"),
        ln1=Norm("norm1", centred=True),
        ln2=Norm("norm2", centred=True),
        mixed=True,
    )


_BLOCKS = (_block("window_attn", over_channels=False), _block("channel_attn", over_channels=True))


def _stage(number: int) -> Stack:
    return Stack(
        f"model.vision_tower.blocks.{number}",
        _BLOCKS,
        config=lambda c: c.vision_config,
        heads=lambda v: v.num_heads[number],
        name=f"stages.{number}.blocks",
        within=("spatial_block", "channel_block"),
        maps=True,
    )


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    pixels = tensors["pixel_values"]
    height, width = pixels.shape[-2:]
    side = prod(config.vision_config.patch_stride)
    shape = (-(-height // side), -(-width // side))
    cells = cells_of(*shape)
    rows = torch.arange(len(cells)) + 1
    found = []
    for number, (sample, image, positions) in enumerate(
        owners_of(tensors, config.image_token_id, [1 + len(cells)] * len(pixels))
    ):
        frame = picture_frame(processor, size_of(sizes, sample, image), (height, width))
        boxes = frame.to_original(boxes_of(cells, side))
        grids: dict[Any, Grid | tuple[Grid, ...]] = {
            "projector": Grid(number, rows, boxes, cells, shape),
            "language": Grid(sample, positions[1:], boxes, cells, shape),
        }
        why = (
            "the tower's stages are maps of different sizes, and its convolutions mix neighbours; ask for part='projector' "
            "or 'language', whose rows stand for the cells of the last map (the first row is the mean of all)"
        )
        found.append(Places(sample, image, (frame.height, frame.width), grids, {"vision": why}))
    return found


FLORENCE2 = register_family(
    Family(
        name="florence2",
        classes=("Florence2ForConditionalGeneration",),
        vision=Vision(
            stack=tuple(_stage(number) for number in range(4)), read=lambda c: [2 * c.vision_config.depths[-1] - 1]
        ),
        projector=Projector(
            receives=("model.multi_modal_projector", "image_features"),
            returns="model.multi_modal_projector",
            receives_rows="vision",
        ),
        language=bart_language("model.language_model", head="lm_head"),
        places=_places,
        writes_placeholders=True,
        placeholder="",
        extra_inputs=decoder_start,
    )
)
