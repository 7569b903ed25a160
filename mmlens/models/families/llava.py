"""LLaVA: a CLIP or SigLIP tower read at one of its layers, a two-layer projector, a Llama-like language model.

Source: Liu et al., Visual Instruction Tuning, 2023 (https://arxiv.org/abs/2304.08485).
"""

from mmlens.models.families.blocks import class_rows, clip_vision, llama_language, two_layer_projector
from mmlens.models.family import Family, register_family
from mmlens.models.places import grid_places

LLAVA = register_family(
    Family(
        name="llava",
        classes=("LlavaForConditionalGeneration",),
        vision=clip_vision(),
        projector=two_layer_projector(),
        language=llama_language("model.language_model", head="lm_head"),
        places=grid_places(class_rows=class_rows, drops_class=lambda c: c.vision_feature_select_strategy == "default"),
    )
)
