"""The pictures of each sample, as users give them: beside the text, or in the parts of a chat."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from PIL import Image

from mmlens.core.errors import InputError
from mmlens.core.kinds import Accepts
from mmlens.inputs.images import Picture, decoded_image, load_image
from mmlens.inputs.prompts import Message, visual_items

Images: TypeAlias = Annotated["Picture | Sequence[Picture] | Sequence[Sequence[Picture]] | None", Accepts(object)]


def pictures_of_samples(images: Any, samples: list[str | list[Message]]) -> list[list[Image.Image]]:
    """The pictures of each sample, read: those of its chat, and those given besides in the places that it leaves open."""
    by_sample = _by_sample(images, len(samples))
    return [
        _pictures_of(sample, sample_pictures, number)
        for number, (sample, sample_pictures) in enumerate(zip(samples, by_sample, strict=True))
    ]


def pictures_by_sample(images: Images, count: int) -> list[list[Image.Image]]:
    """The pictures of each of so many samples, read; see `HookedMultimodal.prepare` for how they are given.

    Raises:
        InputError: for another number, or pictures that cannot be read.
    """
    return [[load_image(picture) for picture in sample] for sample in _by_sample(images, count)]


def _by_sample(images: Any, count: int) -> list[list[Any]]:
    """What was given as pictures, by sample."""
    if images is None:
        return [[] for _ in range(count)]
    if not isinstance(images, list | tuple):
        images = [images]
    is_list = [isinstance(item, list | tuple) for item in images]
    if any(is_list) and not all(kind or item is None for kind, item in zip(is_list, images, strict=True)):
        raise InputError(
            "images mixes pictures and lists of pictures; give one list per sample, or one picture per sample."
        )
    if count == 1 and not any(is_list):
        images = [images]
    if len(images) != count:
        raise InputError(
            f"{count} texts came with {len(images)} pictures (or lists of pictures); give as many. For one picture and "
            "several texts repeat the picture; for a text without a picture give an empty list."
        )
    return [list(item) if isinstance(item, list | tuple) else [] if item is None else [item] for item in images]


#: Under which a part of a message holds its picture.
_PICTURE_KEYS = ("image", "path", "url", "base64")


def _pictures_of(sample: str | list[Message], pictures: list[Any], number: int) -> list[Image.Image]:
    """The pictures of a sample in the order of its text.

    Raises:
        InputError: if it is not clear where those that were given belong.
    """
    items = visual_items(sample, "image")
    if not items:
        return [load_image(picture) for picture in pictures]
    keys = [next((key for key in _PICTURE_KEYS if item.get(key) is not None), None) for item in items]
    places = keys.count(None)
    if places != len(pictures):
        raise InputError(
            f"The chat of sample {number} has {len(items)} picture(s), {len(items) - places} of them with one of their own, and "
            f"images= gives {len(pictures)}; give one for each {{'type': 'image'}} that has none, which says where it belongs."
        )
    rest = iter(pictures)
    return [_read(item, key) if key else load_image(next(rest)) for item, key in zip(items, keys, strict=True)]


def _read(item: dict[str, Any], key: str) -> Image.Image:
    """The picture that a part of a message holds."""
    value = item[key]
    if key == "base64" or (isinstance(value, str) and value.startswith("data:")):
        return decoded_image(value)
    return load_image(value)
