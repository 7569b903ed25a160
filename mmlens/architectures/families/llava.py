"""LLaVA: a CLIP or SigLIP tower read at one of its layers, a two-layer projector, a Llama-like language model.

Pixtral is of this class too: its tower takes pictures of any size and lays the patches of all of them into one sequence,
which is one entry of the batch axis in the tower and in the projector. Every row of image tokens ends with a token of its
own, which has no place.

Source: Liu et al., Visual Instruction Tuning, 2023 (https://arxiv.org/abs/2304.08485).
Source: Agrawal et al., Pixtral 12B, 2024 (https://arxiv.org/abs/2410.07073).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import class_rows, clip_vision, llama_language
from mmlens.architectures.families.mistral3 import pixtral_vision, rows_of_tokens
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.architectures.families.reading import feature_layers
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.inputs.patch_geometry import grid_places
from mmlens.inputs.patch_geometry.merging import one_sequence_places

_LLAVA = Family(
    name="llava",
    classes=("LlavaForConditionalGeneration",),
    vision=clip_vision(),
    projector=two_layer_projector(),
    language=llama_language(),
    places=grid_places(class_rows=class_rows, drops_class=lambda c: c.vision_feature_select_strategy == "default"),
)
_PIXTRAL = replace(
    _LLAVA,
    name="pixtral",
    vision=pixtral_vision("model.vision_tower", feature_layers),
    places=one_sequence_places(merge=lambda c: 1, entry=0),
    placeholder="[IMG]",
    expand=rows_of_tokens,
    image_options=lambda c: {"patch_size": c.vision_config.patch_size},
)

LLAVA = register_family(replace(_LLAVA, other_towers=(_PIXTRAL,)))
