"""ViP-LLaVA: LLaVA with five layers of its CLIP tower side by side, and a norm in front of the projector's linears.

Source: Cai et al., ViP-LLaVA: Making Large Multimodal Models Understand Arbitrary Visual Prompts, 2023
(https://arxiv.org/abs/2312.00784).
"""

from mmlens.architectures.families.blocks import clip_vision, llama_language
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.inputs.patch_geometry import grid_places

VIPLLAVA = register_family(
    Family(
        name="vipllava",
        classes=("VipLlavaForConditionalGeneration",),
        vision=clip_vision(),
        projector=two_layer_projector(argument="hidden_states"),
        language=llama_language(),
        # the first row is dropped whatever the tower, which is CLIP in all checkpoints
        places=grid_places(class_rows=lambda c: 1, drops_class=lambda c: True),
    )
)
