"""Florence-2: a hierarchical DaViT tower, whose stream is a map, and an encoder-decoder language model (BART).

The tower has four stages of ever coarser maps. In each, blocks with attention inside windows and blocks with attention
between channels take turns; a convolution in front of every branch changes the stream. Its rows have no fixed place,
since every convolution mixes neighbours; the projector's do, up to the reach of these convolutions.

Source: Xiao et al., Florence-2, 2023 (https://arxiv.org/abs/2311.06242); Ding et al., DaViT, 2022
(https://arxiv.org/abs/2204.03645).
"""

from math import prod
from typing import Any

from mmlens.architectures.families.encoder_decoders import bart_language, decoder_start
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.reading import vision_config
from mmlens.core.names import Part
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Raster, Sizes, raster_places


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
        config=vision_config,
        heads=lambda v: v.num_heads[number],
        name=f"stages.{number}.blocks",
        within=("spatial_block", "channel_block"),
        maps=True,
    )


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    height, width = tensors["pixel_values"].shape[-2:]
    side = prod(config.vision_config.patch_stride)
    cells = Raster.of((-(-height // side), -(-width // side)), side, first=1)
    why = (
        "the tower's stages are maps of different sizes, and its convolutions mix neighbours; ask for part='projector' "
        "or 'language', whose rows stand for the cells of the last map (the first row is the mean of all)"
    )
    rasters: dict[Part, Raster] = {"projector": cells, "language": cells}
    return raster_places(config, tensors, sizes, processor, rasters, {"vision": why}, tokens=1 + len(cells.rows))


FLORENCE2 = register_family(
    Family(
        name="florence2",
        classes=("Florence2ForConditionalGeneration",),
        vision=Vision(
            stack=tuple(_stage(number) for number in range(4)), read=lambda c: [2 * c.vision_config.depths[-1] - 1]
        ),
        projector=projector_at("model.multi_modal_projector", receives_rows="vision"),
        language=bart_language("model.language_model", head="lm_head"),
        places=_places,
        writes_placeholders=True,
        placeholder="",
        extra_inputs=decoder_start,
        left_padding="the encoder of Florence-2 counts positions from the first one, padding included.",
    )
)
