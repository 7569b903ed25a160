"""LFM3-VL: a packed tower of convolutions and attention, squares merged, a language model of the same two mixers.

A tower's convolution runs over the raster of each picture; its output is `hook_mixer_out`. In the language model an
attention's heads pass a gate of their own behind `hook_z`, and a norm stands behind every branch, in checkpoints that
have one.

Source: Liquid AI, LFM2 Technical Report, 2025 (https://arxiv.org/abs/2511.23404); LFM3-VL model card, 2026
(https://huggingface.co/LiquidAI/LFM3-VL-2B).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import llama_language, projected, vision_tower
from mmlens.architectures.families.lfm2_vl import ATTENTION_BLOCK, CONVOLUTION_BLOCK
from mmlens.architectures.families.packed import merged_tokens
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Norm
from mmlens.inputs.patch_geometry.packed import packed_places

_MLP = replace(ATTENTION_BLOCK.mlp, branch="post_ffn_norm")
_SANDWICH_BLOCKS = (
    replace(ATTENTION_BLOCK, attn=projected("o_proj", branch="post_operator_norm"), mlp=_MLP),
    replace(CONVOLUTION_BLOCK, mixer="post_operator_norm", mlp=_MLP),
)

LFM3_VL = register_family(
    Family(
        name="lfm3_vl",
        classes=("Lfm3VlForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.layers", (ATTENTION_BLOCK, CONVOLUTION_BLOCK), packed=True),
        projector=replace(two_layer_projector(), receives_rows="vision"),
        language=llama_language(block=_SANDWICH_BLOCKS, norm=Norm("embedding_norm")),
        places=packed_places(),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=merged_tokens,
    )
)
