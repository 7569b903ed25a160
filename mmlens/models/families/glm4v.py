"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: a packed tower whose squares are merged by a convolution.

Between tower and language model stand a norm, the convolution, and a gated MLP behind a linear. The dense language models
have a norm in front of every branch and one behind it, and one linear for gate and up; the mixtures are built as Llama,
with an expert that all tokens pass through (`mlp.shared.`) and first blocks that are dense.

Source: Hong et al., GLM-4.1V-Thinking and GLM-4.5V, 2025 (https://arxiv.org/abs/2507.01006).
"""

from dataclasses import replace

from mmlens.models.families.blocks import LLAMA_BLOCK, SHARED_MIXTURE, llama_language
from mmlens.models.families.packed import GATED_PACKED_BLOCK, merged_tokens, packed_vision, picture_tokens
from mmlens.models.family import Family, Projector
from mmlens.models.places.packed import packed_places
from mmlens.models.registry import register_family
from mmlens.models.structure import Attention, Block, Mlp, Norm, Stack

_SANDWICH = Block(
    attn=Attention(
        kernel="self_attn",
        branch="post_self_attn_layernorm",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.o_proj",
    ),
    mlp=Mlp(down="mlp.down_proj", gate_up="mlp.gate_up_proj", act="mlp.activation_fn", branch="post_mlp_layernorm"),
    ln1=Norm("input_layernorm"),
    ln2=Norm("post_attention_layernorm"),
)
_SPARSE = replace(
    LLAMA_BLOCK,
    mlp=SHARED_MIXTURE,
)
_LANGUAGE = llama_language("model.language_model", head="lm_head")

GLM4V = register_family(
    Family(
        name="glm4v",
        classes=(
            "Glm4vForConditionalGeneration",
            "Glm4vMoeForConditionalGeneration",
            "Glm46VForConditionalGeneration",
            "GlmOcrForConditionalGeneration",
        ),
        vision=packed_vision(GATED_PACKED_BLOCK),
        projector=Projector(
            receives=("model.visual.post_layernorm", "hidden_states"),
            returns="model.visual.merger",
            mlp=Mlp(
                down="model.visual.merger.down_proj",
                up="model.visual.merger.up_proj",
                gate="model.visual.merger.gate_proj",
                act="model.visual.merger.act_fn",
            ),
            receives_rows="vision",
        ),
        language=replace(
            _LANGUAGE,
            stack=Stack(_LANGUAGE.stack.path, (_SANDWICH, LLAMA_BLOCK, _SPARSE), config=lambda c: c.text_config),
        ),
        places=packed_places(),
        placeholder="<|begin_of_image|><|image|><|end_of_image|>",
        expand=merged_tokens,
        extra_inputs=picture_tokens,
    )
)
