"""LLaVA-OneVision: LLaVA-NeXT with a SigLIP tower and a bound on the tokens of a picture.

The cells of a picture that has more are interpolated to fewer tokens, each of which stands for up to four cells. Several
pictures in one sample are not cut into tiles: each is made a square with bars and seen as a whole.

The frames of a video are squeezed to one tile each; behind the projector their cells are interpolated to a quarter as many
tokens, and a token without a place ends the video.

Source: Li et al., LLaVA-OneVision: Easy Visual Task Transfer, 2024 (https://arxiv.org/abs/2408.03326).
"""

import math
from typing import Any

import torch

from mmlens.architectures.families.blocks import class_rows, clip_vision, llama_language
from mmlens.architectures.families.projectors import two_layer_projector
from mmlens.declarations.family import Family, Videos
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Config
from mmlens.inputs.patch_geometry import cells_of
from mmlens.inputs.patch_geometry.anyres import anyres_places, anyres_tokens, interpolated_from
from mmlens.inputs.patch_geometry.frames import frame_places
from mmlens.inputs.video_frames import plain_reader, stacked_frames


def _most(config: Config) -> int:
    """The number in `anyres_max_9`."""
    return int(config.vision_aspect_ratio.rpartition("_")[2])


def _interpolated(config: Config, patches: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
    """The patches that each of the interpolated rows is made of."""
    shape = (math.ceil(patches[0] / 2), math.ceil(patches[1] / 2))
    rows, columns = (interpolated_from(length, new) for length, new in zip(patches, shape, strict=True))
    row, column = cells_of(*shape).unbind(1)
    return torch.stack([columns[column, 0], rows[row, 0], columns[column, 1] + 1, rows[row, 1] + 1], dim=1), shape


def _frame_tokens(config: Config, tensors: dict[str, Any], counts: list[int], fps: float, mark: str) -> list[str]:
    side = config.vision_config.patch_size
    height, width = tensors["pixel_values_videos"].shape[-2:]
    cells, _ = _interpolated(config, (height // side, width // side))
    return [mark * (len(cells) * count + 1) for count in counts]


LLAVA_ONEVISION = register_family(
    Family(
        name="llava_onevision",
        classes=("LlavaOnevisionForConditionalGeneration",),
        vision=clip_vision(),
        projector=two_layer_projector(),
        language=llama_language(),
        places=anyres_places(class_rows=class_rows, limit=_most),
        expand=anyres_tokens(limit=_most),
        nested_pictures=True,
        videos=Videos(
            reader=plain_reader(),
            pixels=stacked_frames,
            expand=_frame_tokens,
            places=frame_places(token_cells=_interpolated, class_rows=class_rows, closing=1),
        ),
    )
)
