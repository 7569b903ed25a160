"""What processors do that cut pictures into tiles and cannot be imported without torchvision."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image


def tiles_of(image: Image.Image, side: int) -> list[Image.Image]:
    """A picture of whole tiles, cut into them."""
    rows, columns = image.height // side, image.width // side
    boxes = [(side * c, side * r, side * c + side, side * r + side) for r in range(rows) for c in range(columns)]
    return [image.crop(box) for box in boxes]


def pixels_of(image: Image.Image) -> torch.Tensor:
    """The pixels of a picture, `[height width 3]`, from -1 to 1."""
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, 3) / 127.5 - 1


class TileProcessor:
    """An image processor and a tokenizer, with a text for each picture that says how it was cut.

    Args:
        words: the tokenizer.
        image_processor: makes tensors of pictures.
        image_token: the placeholder.
        marked: the text of a picture.
    """

    def __init__(self, words: Any, image_processor: Any, image_token: str, marked: Callable[[Image.Image], str]):
        self.tokenizer = words
        self.image_processor = image_processor
        self.image_token = image_token
        self.chat_template = None
        self._marked = marked

    def __call__(self, *, text: list[str], images: list[Any] | None = None, **options: Any) -> dict[str, torch.Tensor]:
        flat = [image for held in images or [] for image in (held if isinstance(held, list) else [held])]
        pictures = iter(flat)
        expanded = []
        for sample in text:
            first, *rest = sample.split(self.image_token)
            expanded.append(first + "".join(self._marked(next(pictures)) + piece for piece in rest))
        tensors = dict(self.tokenizer(expanded, **options))
        return {**tensors, **(self.image_processor(flat, return_tensors="pt") if flat else {})}

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        return self.tokenizer.batch_decode(ids, **options)
