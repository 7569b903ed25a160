"""Frames of videos as a Hugging Face video processor would make tensors of them, without torchvision.

Transformers' video processors need torchvision. What they do to a frame (resize, crop, rescale, normalise) image processors
do too, with Pillow; so pixels differ from theirs by the rounding of the two resamplings, and by nothing where no frame has to
be resized.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize as smart_resize_of_video
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from mmlens.core.errors import InputError

Clip = Sequence[Image.Image]

#: What a video processor and a plain image processor both know.
_SHARED = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


def by_processor(reader: Any, videos: Sequence[Clip]) -> dict[str, Any]:
    """The tensors that a Hugging Face video processor makes of videos whose frames are already chosen."""
    arrays = [np.stack([np.asarray(frame) for frame in video]) for video in videos]
    return dict(reader(videos=arrays, do_sample_frames=False, return_tensors="pt"))


def plain_reader(**defaults: Any) -> Callable[[Any, Mapping[str, Any]], Any]:
    """A reader of frames that resizes, crops and normalises, and cuts into nothing.

    Args:
        defaults: settings that the family's video processor has unless the checkpoint says otherwise.
    """

    def reader(image_processor: Any, settings: Mapping[str, Any]) -> Any:
        image_settings = {name: getattr(image_processor, name, None) for name in _SHARED}
        options_of_reader = {
            **image_settings,
            **defaults,
            **{name: settings[name] for name in _SHARED if name in settings},
        }
        options_of_reader = {name: value for name, value in options_of_reader.items() if value is not None}
        return CLIPImageProcessorPil(**{"do_center_crop": False, **options_of_reader})

    return reader


def stacked_frames(reader: Any, videos: Sequence[Clip]) -> dict[str, Any]:
    """`pixel_values_videos [video frame channel row column]`.

    Raises:
        InputError: if videos differ in their number of frames, or in the size that frames have behind the processor.
    """
    counts = [len(video) for video in videos]
    if len(set(counts)) > 1:
        raise InputError(
            f"The videos have {counts} frames; in one batch this model takes videos of equally many frames."
        )
    tensors = [torch.as_tensor(reader(images=list(video), return_tensors="pt")["pixel_values"]) for video in videos]
    if len({frames.shape for frames in tensors}) > 1:
        raise InputError(f"The videos come out as {[list(m.shape) for m in tensors]} pixels; give videos of one size.")
    return {"pixel_values_videos": torch.stack(tensors)}


def packed_reader(image_processor: Any, settings: Mapping[str, Any]) -> Any:
    """The image processor of a packed tower, with the settings of the video processor."""
    reader = copy.copy(image_processor)
    for name, value in settings.items():
        if hasattr(reader, name):
            setattr(reader, name, value)
    return reader


def size_by_frame(reader: Any, count: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the resized frames: every frame has a budget of pixels of its own (Qwen2-VL)."""
    size = dict(reader.size)
    side = reader.patch_size * reader.merge_size
    return smart_resize(height, width, side, size["shortest_edge"], size["longest_edge"])


def size_by_video(reader: Any, count: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of the resized frames: all frames share a budget of pixels (Qwen3-VL, GLM-4V)."""
    size = dict(reader.size)
    if count < reader.temporal_patch_size:
        raise InputError(
            f"A video of {count} frame(s) was given; this model reads {reader.temporal_patch_size} frames together and takes "
            "no fewer. Repeat the frame, or pass it as a picture: prepare(text, images=...)."
        )
    side = reader.patch_size * reader.merge_size
    return smart_resize_of_video(
        count, height, width, reader.temporal_patch_size, side, size["shortest_edge"], size["longest_edge"]
    )


def packed_frames(
    *, size: Callable[[Any, int, int, int], tuple[int, int]]
) -> Callable[[Any, Sequence[Clip]], dict[str, Any]]:
    """`pixel_values_videos [patch channel*frame*row*column]` and `video_grid_thw`, for packed towers.

    Args:
        size: (height, width) of the resized frames, given `(reader, number of frames, height, width)`.
    """

    def pixels(reader: Any, videos: Sequence[Clip]) -> dict[str, Any]:
        rows, grids = [], []
        for video in videos:
            height, width = size(reader, len(video), video[0].height, video[0].width)
            frames = [frame.resize((width, height), reader.resample) for frame in video] if reader.do_resize else video
            tensors = reader(images=list(frames), do_resize=False, return_tensors="pt")
            _, high, wide = tensors["image_grid_thw"][0].tolist()
            together = reader.temporal_patch_size
            # the image processor repeats every frame `together` times; one of each is a frame's own patches
            patches = torch.as_tensor(tensors["pixel_values"]).view(len(frames), high * wide, 3, together, -1)[
                :, :, :, 0
            ]
            missing = -len(patches) % together
            patches = torch.cat([patches, patches[-1:].expand(missing, -1, -1, -1)])
            groups = patches.unflatten(0, (-1, together)).permute(0, 2, 3, 1, 4)
            rows.append(groups.flatten(2).flatten(0, 1))
            grids.append([len(groups), high, wide])
        return {"pixel_values_videos": torch.cat(rows), "video_grid_thw": torch.tensor(grids)}

    return pixels
