"""EXAONE 4.5: Qwen2.5-VL's tower with grouped query heads, and a language model that is normed behind its branches.

A language block has no norm in front of its branches, but one behind each; what is added to the stream is its output.

Source: LG AI Research, EXAONE 4.5 Technical Report, 2026 (https://arxiv.org/abs/2604.08644).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import LLAMA_BLOCK, llama_language, projected
from mmlens.architectures.families.packed import PACKED_VIDEOS
from mmlens.architectures.families.qwen2_vl import QWEN2_5_VL
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block
from mmlens.inputs.patch_geometry.packed import by_window, packed_video_places

_BLOCK = Block(
    attn=projected("o_proj", branch="post_attention_layernorm"),
    mlp=replace(LLAMA_BLOCK.mlp, branch="post_feedforward_layernorm"),
)

EXAONE4_5 = register_family(
    replace(
        QWEN2_5_VL,
        name="exaone4_5",
        classes=("Exaone4_5_ForConditionalGeneration",),
        language=llama_language(block=_BLOCK),
        placeholder="<|image_pad|>\n",
        extra_inputs=None,
        # no time: its rotary positions run along the tokens
        videos=replace(PACKED_VIDEOS, places=packed_video_places(order=by_window), placeholder="{}\n"),
    )
)
