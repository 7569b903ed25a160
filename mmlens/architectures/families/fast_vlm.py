"""FastVLM: a FastViT of timm's, whose stream is a map, two linears, a Qwen2 language model.

transformers builds the tower with timm, which has to be installed with torchvision beside it; nothing of either is
imported here. The tower has five stages of ever coarser maps, with convolutions between them; hooks see their rows, in
raster order. In the first stages a block mixes neighbours by one convolution that adds its input by itself, so that the
stream behind it is `hook_resid_mid` and there is no branch; the last two have attention in timm's own code, of whose six
points there is `hook_z` alone. Every MLP starts with a convolution, and a last convolution, gated by what is in the whole
picture, makes the rows that the projector receives. They stand for the cells of the last map, up to the reach of all
these convolutions.

Source: Vasu et al., FastVLM: Efficient Vision Encoding for Vision Language Models, 2024
(https://arxiv.org/abs/2412.13303); Vasu et al., FastViT, 2023 (https://arxiv.org/abs/2303.14189).
"""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from mmlens.architectures.families.blocks import llama_language, timm_stage
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Sizes, boxes_of, cells_of
from mmlens.inputs.patch_geometry.staged import staged_places

#: Side of a cell of the last map in pixels: the stem halves the picture twice, and every stage but the first once.
_SIDE = 64
_STAGES = 5


def _scale(name: str) -> Callable[[nn.Module], torch.Tensor | float]:
    """What a branch is multiplied by, as rows are."""

    def of(block: nn.Module) -> torch.Tensor | float:
        gamma = getattr(getattr(block, name), "gamma", None)
        return 1.0 if gamma is None else gamma.flatten()

    return of


def _is_layer_norm(block: nn.Module) -> bool:
    """Whether a block's norm divides every row by a number of its own, unlike a batch norm."""
    return isinstance(block.norm, nn.LayerNorm)


_MLP = Mlp(down="mlp.fc2", up="mlp.fc1", act="mlp.act", branch="mlp", scale=_scale("layer_scale"))
_ATTENTIVE = Block(
    attn=Attention(
        kernel=None,
        branch="token_mixer",
        qkv="token_mixer.qkv",
        o="token_mixer.proj",
        scale=_scale("layer_scale_1"),
        heads=attrgetter("token_mixer.num_heads"),
    ),
    mlp=replace(_MLP, scale=_scale("layer_scale_2")),
)
_BLOCKS = (
    replace(_ATTENTIVE, ln1=Norm("norm", centred=True), when=_is_layer_norm),
    _ATTENTIVE,
    Block(middle="token_mixer", mlp=_MLP),
)


def _stage(number: int) -> Stack:
    return timm_stage(f"model.vision_tower.timm_model.stages.{number}.blocks", number, _BLOCKS)


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    height, width = tensors["pixel_values"].shape[-2:]
    shape = (-(-height // _SIDE), -(-width // _SIDE))
    squares = boxes_of(cells_of(*shape), _SIDE)
    return staged_places(
        config, tensors, sizes, processor, shape=shape, squares=squares, stand_for="the cells of the last map"
    )


FAST_VLM = register_family(
    Family(
        name="fast_vlm",
        classes=("FastVlmForConditionalGeneration",),
        vision=Vision(stack=tuple(_stage(number) for number in range(_STAGES)), read=lambda c: [-1]),
        projector=replace(two_layer_projector(), received_width=lambda c: c.vision_config.hidden_size),
        language=llama_language(),
        places=_places,
    )
)
