"""Qwen3.5, dense and as a mixture of experts: three of four language blocks mix positions by linear attention.

Those blocks have no attention pattern; what their gated delta net adds to the stream is `hook_mixer_out`. In the others
every head's `hook_z` is multiplied by a gate before the output projection. The mixtures have an expert that all tokens
pass through (`mlp.shared.`), whose output is multiplied by a gate of its own before it is added to the routed ones'.

Source: Yang et al., Gated Delta Networks, 2024 (https://arxiv.org/abs/2412.06464).
Source: Qwen Team, Qwen3.5, 2026 (https://huggingface.co/Qwen/Qwen3.5-27B).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import LLAMA_BLOCK, MIXTURE, gated_mlp, llama_language, projected
from mmlens.architectures.families.qwen3_vl import MERGER, QWEN3_VL
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Norm

_FULL = Block(
    attn=replace(projected("o_proj"), gated=True),
    mlp=LLAMA_BLOCK.mlp,
    ln1=Norm("input_layernorm", offset=1.0),
    ln2=Norm("post_attention_layernorm", offset=1.0),
)
_LINEAR = replace(_FULL, attn=None, mixer="linear_attn")
_MIXTURE = replace(MIXTURE, shared=gated_mlp("mlp.shared_expert"))
_KINDS = (_FULL, _LINEAR, replace(_FULL, mlp=_MIXTURE), replace(_LINEAR, mlp=_MIXTURE))

QWEN3_5 = register_family(
    replace(
        QWEN3_VL,
        name="qwen3_5",
        classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
        projector=MERGER,
        language=llama_language(block=_KINDS, norm=Norm("norm", offset=1.0)),
    )
)
