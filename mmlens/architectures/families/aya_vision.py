"""Aya Vision and Command A Vision: a SigLIP tower on tiles, a gated projector that merges patches, parallel Cohere2 blocks.

A picture is stretched to a canvas of tiles, which is followed by its whole on one tile. The projector lays 2 x 2 patches
side by side and keeps the rows of each tile as a raster; its points show them one after another. The language model's
attention and MLP read the same normed stream, so that there is no stream between them.

Source: Dash et al., Aya Vision: Advancing the Frontier of Multilingual Multimodality, 2025
(https://arxiv.org/abs/2505.08751); Cohere, Command A Vision, 2025 (https://cohere.com/blog/command-a-vision).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import LLAMA_BLOCK, clip_vision, llama_language, vision_tower
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config, Mlp, Norm
from mmlens.inputs.patch_geometry.tile import canvas_places

_COHERE2_BLOCK = replace(LLAMA_BLOCK, ln1=Norm("input_layernorm", centred=True), ln2=None, parallel=True)

_PROJECTOR = projector_at(
    "model.multi_modal_projector",
    mlp=Mlp(
        down="model.multi_modal_projector.linear_2",
        gate_up="model.multi_modal_projector.linear_1",
        up_first=True,
        act="model.multi_modal_projector.act",
    ),
    receives_rows="vision",
    nested=True,
)

#: The language model of both.
COHERE2_LANGUAGE = llama_language(block=_COHERE2_BLOCK, norm=Norm("norm", centred=True))


def _merge(config: Config) -> int:
    return int(config.downsample_factor)


AYA_VISION = register_family(
    Family(
        name="aya_vision",
        classes=("AyaVisionForConditionalGeneration",),
        vision=clip_vision(),
        projector=_PROJECTOR,
        language=COHERE2_LANGUAGE,
        places=canvas_places(merge=_merge),
        image_options=lambda c: {"crop_to_patches": True},
    )
)

COHERE2_VISION = register_family(
    Family(
        name="cohere2_vision",
        classes=("Cohere2VisionForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.encoder.layers"),
        projector=_PROJECTOR,
        language=COHERE2_LANGUAGE,
        places=canvas_places(merge=_merge),
        placeholder="<|IMG_PATCH|>\n",
    )
)
