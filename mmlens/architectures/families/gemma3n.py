"""Gemma 3n (as far as it reads pictures): a MobileNet of timm's, and a language model of several streams.

transformers builds the tower with timm, which has to be installed with torchvision beside it; nothing of either is
imported here. The tower has four stages of ever coarser maps, whose rows hooks see in raster order. Its blocks have one
branch each, an MLP of convolutions or attention in timm's own code, so that no stream lies between two branches; the
first of a stage makes the coarser stream itself, and has no `hook_resid_pre`. The outputs of the last two stages are
fused and pooled to the rows that the projector receives. They stand for squares of the picture, up to the reach of the
convolutions.

The language model hands several streams from block to block (AltUp). A block predicts all of them, puts its branches on
one of the predictions, the active one, and corrects the others by what became of it. `hook_resid_pre` and
`hook_resid_post` are the active stream as it enters and leaves a block: an edit leaves the others as they are, and in the
graph the point stands for all. There is no `hook_resid_mid`, since the branches are added to the prediction, with a
learned skip path beside attention (`hook_laurel_out`) and a division by the root of 2. What is looked up for every token
and layer (`hook_lookup_out`) is added to the streams that are not active. Later blocks take over the keys and values of
earlier ones: an edit of these is of one block's alone. `hook_embed` is what all streams, and the lookups' gates, are made
of. `hook_logits` is in front of the soft cap.

Source: Google DeepMind, Gemma 3n model card, 2025 (https://ai.google.dev/gemma/docs/gemma-3n); Baykal et al., Alternating
Updates for Efficient Transformers, 2023 (https://arxiv.org/abs/2301.13310); Menghani et al., LAuReL, 2024
(https://arxiv.org/abs/2411.07501); Qin et al., MobileNetV4, 2024 (https://arxiv.org/abs/2404.10518).
"""

from dataclasses import replace
from math import isqrt
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from mmlens.architectures.families.blocks import GEMMA_SANDWICH_BLOCK, llama_language, timm_stage
from mmlens.architectures.families.reading import text_config
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.projector import FeatureMethod, Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Block, Config, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Places, Sizes, cells_of
from mmlens.inputs.patch_geometry.staged import staged_places

_STAGES = 4


def _begins(block: nn.Module) -> bool:
    """Whether a block begins a stage: its input, a finer map, is not added to what it returns."""
    return not block.has_skip


_INVERTED = Mlp(down="pw_proj.conv", up="pw_exp.conv", branch="layer_scale")
_EDGE = Mlp(down="conv_pwl", branch="bn2")
_TOWER_BLOCKS = (
    # what is in front of their strides is on the rows of the stage before
    Block(mlp=_INVERTED, begins=True, when=_begins),
    Block(mlp=_EDGE, begins=True, when=_begins),
    Block(
        attn=Attention(kernel=None, branch="layer_scale", o="attn.output.proj", heads=attrgetter("attn.num_heads")),
        ln1=Norm("norm"),
    ),
    Block(mlp=replace(_INVERTED, act="pw_exp.bn.act")),
    Block(mlp=replace(_EDGE, act="bn1.act")),
)


def _stage(number: int) -> Stack:
    return timm_stage(f"model.vision_tower.timm_model.blocks.{number}", number, _TOWER_BLOCKS)


_BLOCK = replace(
    GEMMA_SANDWICH_BLOCK,
    ln1=Norm("input_layernorm"),
    ln2=Norm("pre_feedforward_layernorm"),
    laurel="laurel",
    lookup=Mlp(
        down="per_layer_projection", up="per_layer_input_gate", act="act_fn", branch="post_per_layer_input_norm"
    ),
    mixed=True,
)
_LANGUAGE = llama_language()


def _places(config: Config, tensors: dict[str, Any], sizes: Sizes, processor: Any | None) -> list[Places]:
    height, width = tensors["pixel_values"].shape[-2:]
    side = isqrt(config.vision_soft_tokens_per_image)
    step = torch.tensor([width / side, height / side])
    top_left = cells_of(side, side).flip(-1).double() * step
    squares = torch.cat([top_left, top_left + step], dim=-1)
    return staged_places(
        config, tensors, sizes, processor, shape=(side, side), squares=squares, stand_for="squares of the picture"
    )


GEMMA3N = register_family(
    Family(
        name="gemma3n",
        classes=("Gemma3nForConditionalGeneration",),
        vision=Vision(
            stack=tuple(_stage(number) for number in range(_STAGES)),
            read=lambda c: [(f"stages.{number}.blocks", -1) for number in (_STAGES - 2, _STAGES - 1)],
        ),
        projector=Projector(
            # the projector itself runs on tokens too, before it runs on pictures
            receives=("model.embed_vision.soft_embedding_norm", "hidden_states"),
            returns=FeatureMethod("model", "get_image_features", "pooler_output"),
            received_width=lambda c: c.vision_config.hidden_size,
        ),
        language=replace(
            _LANGUAGE,
            stack=Stack(_LANGUAGE.stack.path, _BLOCK, config=text_config, active=lambda t: t.altup_active_idx),
            enters=("model.language_model", "inputs_embeds"),
        ),
        places=_places,
        placeholder="<image_soft_token>",
        nested_pictures=True,
    )
)
