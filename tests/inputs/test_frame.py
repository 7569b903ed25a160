"""Frames: a rectangle that is painted into a picture lies, after the image processor, where the frame says."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

from mmlens.architectures.families.llama4 import _fit
from mmlens.inputs.patch_geometry import Frame, fitted_frame, picture_frame


def found(processor: Any, size: tuple[int, int], box: tuple[int, int, int, int]) -> torch.Tensor:
    """The centre (left, top) of a white box on black, in pixels of what the tower receives."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    made = [processor(images=[picture], return_tensors="pt")["pixel_values"][0] for picture in (pixels, pixels * 0)]
    weight = (made[0] - made[1]).clamp(min=0).sum(0)
    rows, columns = (torch.arange(side) + 0.5 for side in weight.shape)
    return torch.stack([(weight.sum(0) * columns).sum(), (weight.sum(1) * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(96, 96), (40, 100), (101, 60), (37, 90), (30, 17)])
def test_a_fitted_picture_lies_where_its_frame_says(size: tuple[int, int]) -> None:
    processor = DeepseekVLImageProcessorPil(size={"height": 64, "width": 64}, min_size=4)
    frame = fitted_frame(processor, size, (64, 64))
    for box in ((4, 6, 12, 16), (size[1] - 14, size[0] - 12, size[1] - 2, size[0] - 2)):
        centre = found(processor, size, box)
        back = frame.to_original(torch.cat([centre, centre])[None])[0, :2]
        expected = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        torch.testing.assert_close(back.float(), expected, atol=0.75 * max(size) / 64, rtol=0)


@pytest.mark.parametrize("size", [(40, 72), (72, 40), (33, 50), (50, 33), (64, 64), (101, 37)])
def test_a_cropped_picture_was_resized_to_the_size_that_the_processor_makes(size: tuple[int, int]) -> None:
    settings = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    uncropped = CLIPImageProcessorPil(**settings, do_center_crop=False)
    resized = uncropped(images=[np.zeros((*size, 3), dtype=np.uint8)], return_tensors="pt")["pixel_values"].shape[-2:]
    frame = picture_frame(CLIPImageProcessorPil(**settings), size, (32, 32))
    assert frame.scale == (resized[0] / size[0], resized[1] / size[1])


class _Llama4:
    """The settings of its image processor that say how a picture is fitted."""

    size = {"height": 32, "width": 32}  # noqa: RUF012
    resize_to_max_canvas = False


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((64, 64), (64, 64), (64, 64)),  # whole tiles stay as they are
        ((30, 60), (32, 64), (30, 60)),  # smaller than the canvas: not enlarged beyond a tile's side
        ((20, 10), (32, 32), (32, 16)),  # smaller than a tile: enlarged to it
        ((200, 100), (64, 32), (64, 32)),  # larger: made smaller, one side tight
        ((100, 210), (32, 64), (30, 64)),
    ],
)
def test_llama_4_fits_a_picture_into_the_upper_left_of_its_canvas(
    size: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert _fit(_Llama4(), size, canvas) == Frame(*size, (expected[0] / size[0], expected[1] / size[1]))
