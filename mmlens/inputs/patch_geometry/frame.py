"""From the pixels of the user's picture to the pixels that the vision encoder receives, and back."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Frame:
    """How a picture was resized, padded and cropped: `processed = original * scale - offset`, per axis.

    Attributes:
        height, width: the original picture, in pixels.
        scale: (vertical, horizontal) processed pixels per original pixel.
        offset: (top, left) in processed pixels; positive where a crop cut away, negative where padding was added.
    """

    height: int
    width: int
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def to_original(self, boxes: torch.Tensor) -> torch.Tensor:
        """Processed pixel boxes `[n, 4]` (left, top, right, bottom) in pixels of the original picture."""
        shift = torch.tensor([self.offset[1], self.offset[0]] * 2, dtype=torch.float64)
        scale = torch.tensor([self.scale[1], self.scale[0]] * 2, dtype=torch.float64)
        return (boxes.double() + shift) / scale


def picture_frame(processor: Any | None, original: tuple[int, int] | None, target: tuple[int, int]) -> Frame:
    """The frame of one picture, from the settings of its image processor.

    Args:
        processor: the Hugging Face image processor, or None if the tensors were made by hand.
        original: (height, width) of the picture, or None if unknown: pixels then mean processed pixels.
        target: (height, width) that the vision encoder receives.

    Returns:
        The frame: identity without a processor; else padding to a square, resizing and centre crop, as the
        processor's own settings say.
    """
    if processor is None or original is None:
        return Frame(*target)
    height, width = original
    padding = (0.0, 0.0)
    if getattr(processor, "do_pad", False) and not getattr(processor, "pad_size", None):
        side = max(height, width)
        padding = (float((side - height) // 2), float((side - width) // 2))
        height = width = side
    size = _resized(processor, height, width, target)
    scale = (size[0] / height, size[1] / width)
    crop = tuple(float((r - p) // 2) for r, p in zip(size, target, strict=True))
    offset = (crop[0] - padding[0] * scale[0], crop[1] - padding[1] * scale[1])
    return Frame(*original, scale, offset)


def fitted_frame(processor: Any | None, original: tuple[int, int] | None, target: tuple[int, int]) -> Frame:
    """The frame of one picture that was resized to fit a square and then padded around it; arguments as `picture_frame`."""
    if processor is None or original is None:
        return Frame(*target)
    factor = max(target) / max(original)
    new_size = tuple(max(round(side * factor), processor.min_size) for side in original)
    size = new_size if processor.do_resize else original
    margins = [float((length - side) // 2) for length, side in zip(target, size, strict=True)]
    return Frame(*original, (size[0] / original[0], size[1] / original[1]), (-margins[0], -margins[1]))


def _resized(processor: Any, height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """Size after resizing and before any crop."""
    if not getattr(processor, "do_resize", True):
        return height, width
    if not getattr(processor, "do_center_crop", False):
        return target
    size = dict(processor.size)
    short = size.get("shortest_edge")
    if short is None:
        return size["height"], size["width"]
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short
