"""LLaVA-NeXT and LLaVA-NeXT-Video: LLaVA on a squeezed picture and on tiles of a larger one.

Pictures differ in their number of tiles; the tiles of all pictures lie one after another along the vision batch axis.
After the projector the tiles are put together, bars are cut off, and each row of tokens ends with a learned newline.

The frames of a video are squeezed and cropped to one tile each; squares of their patches are pooled before the projector.

Source: Liu et al., LLaVA-NeXT: Improved reasoning, OCR, and world knowledge, 2024
(https://llava-vl.github.io/blog/2024-01-30-llava-next/); Zhang et al., LLaVA-NeXT: A Strong Zero-shot Video
Understanding Model, 2024 (https://llava-vl.github.io/blog/2024-04-30-llava-next-video/).
"""

from dataclasses import replace
from typing import Any

import torch

from mmlens.architectures.families.blocks import class_rows, clip_vision, llama_language
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family, Videos
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import boxes_of, cells_of
from mmlens.inputs.patch_geometry.anyres import anyres_places, anyres_tokens
from mmlens.inputs.patch_geometry.frames import frame_places
from mmlens.inputs.video_frames import plain_reader, stacked_frames

LLAVA_NEXT = register_family(
    Family(
        name="llava_next",
        classes=("LlavaNextForConditionalGeneration",),
        vision=clip_vision(),
        projector=two_layer_projector(),
        language=llama_language(),
        places=anyres_places(class_rows=class_rows),
        expand=anyres_tokens(),
    )
)


def _pooled(config: Config, patches: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Squares of patches; what is left over at the right and below is in none."""
    stride = config.spatial_pool_stride
    shape = (patches[0] // stride, patches[1] // stride)
    return boxes_of(cells_of(*shape), stride), shape


def _frame_tokens(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    side = config.vision_config.patch_size
    height, width = tensors["pixel_values_videos"].shape[-2:]
    cells, _ = _pooled(config, (height // side, width // side))
    return [mark * (len(cells) * count) for count in counts]


LLAVA_NEXT_VIDEO = register_family(
    replace(
        LLAVA_NEXT,
        name="llava_next_video",
        classes=("LlavaNextVideoForConditionalGeneration",),
        videos=Videos(
            reader=plain_reader(do_center_crop=True),
            pixels=stacked_frames,
            expand=_frame_tokens,
            places=frame_places(projector_cells=_pooled, token_cells=_pooled, class_rows=class_rows),
        ),
    )
)
