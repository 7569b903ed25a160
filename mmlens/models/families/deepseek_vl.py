"""DeepSeek-VL and Janus: a SigLIP tower, a two-layer aligner, a Llama language model.

Pictures are resized to fit a square and padded around it. Janus has a second path with a codebook of its own, by which
it draws pictures; reading one does not touch it.

Source: Lu et al., DeepSeek-VL: Towards Real-World Vision-Language Understanding, 2024
(https://arxiv.org/abs/2403.05525); Wu et al., Janus: Decoupling Visual Encoding for Unified Multimodal Understanding
and Generation, 2024 (https://arxiv.org/abs/2410.13848).
"""

from dataclasses import replace

from mmlens.models.families.blocks import CLIP_BLOCK, llama_language
from mmlens.models.family import Attention, Block, Family, Mlp, Projector, Stack, Vision, register_family
from mmlens.models.places import fitted_frame, grid_places

_JANUS_BLOCK = replace(
    CLIP_BLOCK,
    attn=Attention(
        kernel="self_attn",
        branch="self_attn",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.projection_layer",
    ),
)

_PLACES = grid_places(class_rows=lambda c: 0, drops_class=lambda c: False, frame=fitted_frame)


def _vision(block: Block) -> Vision:
    """The tower, which is read at its last block."""
    return Vision(
        stack=Stack("model.vision_model.encoder.layers", block, config=lambda c: c.vision_config),
        read=lambda c: [c.vision_config.num_hidden_layers - 1],
    )


DEEPSEEK_VL = register_family(
    Family(
        name="deepseek_vl",
        classes=("DeepseekVLForConditionalGeneration",),
        vision=_vision(CLIP_BLOCK),
        projector=Projector(
            receives=("model.aligner", "vision_encodings"),
            returns="model.aligner",
            mlp=Mlp(down="model.aligner.linear2", up="model.aligner.linear1", act="model.aligner.activation"),
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=_PLACES,
        placeholder="<image_placeholder>",
    )
)

JANUS = register_family(
    Family(
        name="janus",
        classes=("JanusForConditionalGeneration",),
        vision=_vision(_JANUS_BLOCK),
        projector=Projector(
            receives=("model.aligner", "hidden_states"),
            returns="model.aligner",
            # the aligner of every checkpoint is two layers deep (vision_config.depth)
            mlp=Mlp(down="model.aligner.hidden_layers.0", up="model.aligner.fc1", act="model.aligner.activation_fn"),
        ),
        language=llama_language("model.language_model", head="lm_head"),
        places=_PLACES,
        placeholder="<image_placeholder>",
    )
)
