"""LFM3-VL: a packed tower of convolutions and attention, squares merged, a language model of the same two mixers.

A tower's convolution runs over the raster of each picture; its output is `hook_mixer_out`. In the language model an
attention's heads pass a gate of their own behind `hook_z`, and a norm stands behind every branch, in checkpoints that
have one.

Source: Liquid AI, LFM2 Technical Report, 2025 (https://arxiv.org/abs/2511.23404); LFM3-VL model card, 2026
(https://huggingface.co/LiquidAI/LFM3-VL-2B).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import llama_language, projected, two_layer_projector
from mmlens.architectures.families.packed import merged_tokens
from mmlens.declarations.family import Family, Vision
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry.packed import packed_places

_MLP = Mlp(down="feed_forward.w2", up="feed_forward.w3", gate="feed_forward.w1", branch="feed_forward")
_ATTENTION = Block(attn=projected("out_proj"), mlp=_MLP, ln1=Norm("operator_norm"), ln2=Norm("ffn_norm"))
_CONVOLUTION = replace(_ATTENTION, attn=None, mixer="conv")
_SANDWICH_MLP = replace(_MLP, branch="post_ffn_norm")

_PATH = "model.language_model"
_STACK = Stack(
    f"{_PATH}.layers",
    (
        replace(_ATTENTION, attn=replace(projected("o_proj"), branch="post_operator_norm"), mlp=_SANDWICH_MLP),
        replace(_CONVOLUTION, mixer="post_operator_norm", mlp=_SANDWICH_MLP),
    ),
    config=lambda c: c.text_config,
)

LFM3_VL = register_family(
    Family(
        name="lfm3_vl",
        classes=("Lfm3VlForConditionalGeneration",),
        vision=Vision(
            stack=Stack(
                "model.vision_tower.layers", (_ATTENTION, _CONVOLUTION), config=lambda c: c.vision_config, packed=True
            ),
            read=lambda c: [c.vision_config.num_hidden_layers - 1],
        ),
        projector=replace(two_layer_projector(), receives_rows="vision"),
        language=replace(llama_language(_PATH, head="lm_head"), stack=_STACK, norm=Norm(f"{_PATH}.embedding_norm")),
        places=packed_places(),
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        expand=merged_tokens,
    )
)
