"""Corrupted versions of a batch: the same text and layout with other pictures."""

from collections.abc import Sequence

from PIL import Image, ImageFilter

from mmlens.core.errors import InputError
from mmlens.models.batch import MultimodalBatch
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.images import Picture, load_image
from mmlens.models.prepare import with_pictures


def swap(
    model: HookedMultimodal, batch: MultimodalBatch, images: Sequence[Picture] | Sequence[Sequence[Picture]]
) -> MultimodalBatch:
    """The batch with other pictures: a counterfactual twin, or another scene.

    Args:
        model: the hooked model, whose processor is used.
        batch: made by `prepare`.
        images: one picture per sample, or a list per sample.

    Raises:
        InputError: if the new pictures do not take the places of the old ones (another number, or another layout).
    """
    pictures = [[load_image(p) for p in (item if isinstance(item, list | tuple) else [item])] for item in images]
    return with_pictures(model.family, model.config, model.processor, batch, pictures)


def blur(model: HookedMultimodal, batch: MultimodalBatch, *, radius: float | None = None) -> MultimodalBatch:
    """The batch with blurred pictures.

    Args:
        model: the hooked model.
        batch: made by `prepare`.
        radius: standard deviation of the Gaussian, in pixels; by default an eighth of the shorter side, which leaves
            light and colour and takes the shapes.

    Raises:
        InputError: if the batch was made from tensors, so that its pictures are not at hand.
    """
    if not any(batch.images):
        raise InputError(
            "blur needs the pictures, and this batch was made from tensors; make it with model.prepare(...)."
        )

    def blurred(picture: Image.Image) -> Image.Image:
        size = min(picture.size) / 8 if radius is None else radius
        return picture.filter(ImageFilter.GaussianBlur(size))

    return swap(model, batch, [[blurred(picture) for picture in sample] for sample in batch.images])
