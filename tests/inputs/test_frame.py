"""Frames: a rectangle that is painted into a picture lies, after the image processor, where the frame says."""

from types import SimpleNamespace
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


TARGET = (32, 24)


@pytest.mark.parametrize(
    ("settings", "size", "scale", "offset"),
    [
        # resized as a whole, whatever the form: also where the processor says nothing of its settings
        ({}, (8, 48), (4, 0.5), (0, 0)),
        ({"do_resize": True, "do_center_crop": False, "do_pad": False}, (64, 6), (0.5, 4), (0, 0)),
        # made a square of 31 with ten and none (or ten of eleven) pixels in front, and then resized
        ({"do_pad": True}, (11, 31), (32 / 31, 24 / 31), (-10 * 32 / 31, 0)),
        ({"do_pad": True, "pad_size": None}, (30, 9), (32 / 30, 0.8), (0, -10 * 0.8)),
        # padded after it was resized, which moves nothing
        ({"do_pad": True, "pad_size": {"height": 40}}, (64, 12), (0.5, 2), (0, 0)),
        # the shorter side made 40 (the other cut off to whole pixels), and the middle of that
        ({"do_center_crop": True, "size": {"shortest_edge": 40}}, (40, 55), (1, 1), (4, 15)),
        ({"do_center_crop": True, "size": {"shortest_edge": 40}}, (20, 33), (2, 2), (4, 21)),
        ({"do_center_crop": True, "size": {"shortest_edge": 40}}, (45, 30), (60 / 45, 40 / 30), (14, 8)),
        ({"do_center_crop": True, "size": {"shortest_edge": 7}}, (9, 10), (7 / 9, 7 / 10), (-13, -9)),
        ({"do_center_crop": True, "size": {"shortest_edge": 7}}, (10, 9), (7 / 10, 7 / 9), (-13, -9)),
        ({"do_center_crop": True, "size": {"shortest_edge": 24}}, (10, 10), (2.4, 2.4), (-4, 0)),
        # to a size of its own, and padded where that is smaller than what is cut out: the odd pixel in front
        ({"do_center_crop": True, "size": {"height": 20, "width": 31}}, (10, 62), (2, 0.5), (-6, 3)),
        ({"do_center_crop": True, "size": {"height": 27, "width": 20}}, (27, 40), (1, 0.5), (-3, -2)),
        # not resized at all
        ({"do_resize": False, "do_center_crop": True}, (40, 19), (1, 1), (4, -3)),
        ({"do_resize": False, "do_center_crop": True, "do_pad": True}, (40, 20), (1, 1), (4, 8 - 10)),
    ],
)
def test_settings_of_an_image_processor(settings: Any, size: Any, scale: Any, offset: Any) -> None:
    frame = picture_frame(SimpleNamespace(**settings), size, TARGET)
    assert (frame.height, frame.width) == size
    assert frame.scale == pytest.approx(scale)
    assert frame.offset == pytest.approx(offset)


@pytest.mark.parametrize(
    ("resizes", "size", "scale", "offset"),
    [
        (True, (12, 48), (1, 0.5), (-2, 0)),  # half of it is 6 high, and 12 is the least
        (True, (40, 48), (0.5, 0.5), (2, 0)),
        (True, (48, 31), (0.5, 16 / 31), (4, -4)),
        (False, (1, 9), (1, 1), (-7, -7)),
        (False, (20, 9), (1, 1), (2, -7)),
    ],
)
def test_settings_of_an_image_processor_that_fits(resizes: bool, size: Any, scale: Any, offset: Any) -> None:
    processor = SimpleNamespace(do_resize=resizes, min_size=12 if resizes else 99)
    frame = fitted_frame(processor, size, (16, 24))
    assert (frame.height, frame.width) == size
    assert frame.scale == pytest.approx(scale)
    assert frame.offset == pytest.approx(offset)


def test_without_settings_or_size_pixels_are_those_of_the_tower() -> None:
    for make in (picture_frame, fitted_frame):
        for processor, size in ((None, (3, 4)), (SimpleNamespace(do_resize=True, min_size=1), None), (None, None)):
            assert make(processor, size, TARGET) == Frame(32, 24)
    assert (Frame(3, 4).scale, Frame(3, 4).offset) == ((1, 1), (0, 0))


def test_boxes_back_in_the_picture() -> None:
    """A pixel is three high and two wide in the tower, which cut one row off and added five columns."""
    frame = Frame(10, 10, (3.0, 2.0), (1.0, -5.0))
    assert frame.to_original(torch.tensor([[7, 2, 9, 5]])).tolist() == [[1, 1, 2, 2]]
