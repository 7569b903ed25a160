"""HyperCLOVA X Vision 2: Qwen2.5-VL's tower and merger, a linear, a language model whose branches are scaled.

The merger's hidden layer has its rows window by window, the linear behind it has them in raster order: neurons of the
merger have no place in the picture. What a language branch returns passes a norm, in checkpoints that have one, and is
multiplied by a number before it is added to the stream.

Source: NAVER Cloud, HyperCLOVA X SEED 32B Think model card, 2025
(https://huggingface.co/naver-hyperclovax/HyperCLOVAX-SEED-Think-32B).
"""

from dataclasses import replace
from operator import attrgetter

import torch

from mmlens.architectures.families.blocks import LLAMA_BLOCK, llama_language, projected
from mmlens.architectures.families.packed import GATED_PACKED_BLOCK, PACKED_VIDEOS, merged_tokens, packed_vision
from mmlens.declarations.family import Family
from mmlens.declarations.projector import Projector
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp
from mmlens.inputs.patch_geometry import cells_of
from mmlens.inputs.patch_geometry.packed import by_window, packed_places, packed_video_places


def _order(config: Config, shape: tuple[int, int], merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows in the tower, raster behind the projector."""
    return by_window(config, shape, merge)[0], cells_of(*shape)


#: What both branches of a language block are multiplied by.
_FACTOR = attrgetter("residual_multiplier")
_BLOCK = replace(
    LLAMA_BLOCK,
    attn=replace(projected("o_proj", branch="post_norm1"), scale=_FACTOR),
    mlp=replace(LLAMA_BLOCK.mlp, branch="post_norm2", scale=_FACTOR),
)
_MERGER = "model.vision_model.merger"

HYPERCLOVAX_VISION_V2 = register_family(
    Family(
        name="hyperclovax_vision_v2",
        classes=("HyperCLOVAXVisionV2ForConditionalGeneration",),
        vision=packed_vision(GATED_PACKED_BLOCK, "model.vision_model.blocks"),
        projector=Projector(
            receives=(_MERGER, "x"),
            returns="model.projector",
            mlp=Mlp(down=f"{_MERGER}.mlp.2", up=f"{_MERGER}.mlp.0", act=f"{_MERGER}.mlp.1"),
            mlp_rows="windows",
            receives_rows="vision",
        ),
        language=llama_language(block=_BLOCK),
        places=packed_places(order=_order),
        placeholder="<|image_pad|>\n",
        expand=merged_tokens,
        videos=replace(PACKED_VIDEOS, places=packed_video_places(order=_order), placeholder="{}\n"),
    )
)
