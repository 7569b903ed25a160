"""Video-LLaVA, as far as it reads pictures: LLaVA with a tower for pictures beside its tower for videos.

The video tower has no hook points: frames come from a video processor, and no frame has a place in a picture.

Source: Lin et al., Video-LLaVA: Learning United Visual Representation by Alignment Before Projection, 2023
(https://arxiv.org/abs/2311.10122).
"""

from typing import Any

from mmlens.architectures.families.blocks import class_rows, clip_vision, llama_language
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import grid_places


def _drops_class(config: Config) -> bool:
    return bool(config.vision_feature_select_strategy == "default")


def _expand(config: Config, tensors: dict[str, Any]) -> list[int]:
    pixels = tensors["pixel_values"]
    side = config.vision_config.patch_size
    extra = 0 if _drops_class(config) else class_rows(config)
    return [extra + (pixels.shape[-2] // side) * (pixels.shape[-1] // side)] * len(pixels)


VIDEO_LLAVA = register_family(
    Family(
        name="video_llava",
        classes=("VideoLlavaForConditionalGeneration",),
        vision=clip_vision("model.image_tower"),
        projector=two_layer_projector(),
        language=llama_language(),
        places=grid_places(class_rows=class_rows, drops_class=_drops_class),
        expand=_expand,
        # the image processor's own name for its pixels, which it keeps unless told otherwise
        renamed={"pixel_values_images": "pixel_values"},
        image_options=lambda c: {"return_legacy_image_output": False},
    )
)
