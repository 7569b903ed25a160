"""Corruptions of the pictures themselves, whole or in a region."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeGuard, cast

import numpy as np
import torch
from PIL import Image, ImageFilter

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Positive
from mmlens.inputs.batch import BatchLike, MultimodalBatch
from mmlens.inputs.batch_changes import with_exchanged_pictures
from mmlens.inputs.images import Picture, load_image
from mmlens.inputs.pixels import Box
from mmlens.models.hooked import HookedMultimodal

#: Part of a picture: a box (left, top, right, bottom) in pixels, or a mask `[height width]`, True inside.
Region: TypeAlias = Box | np.ndarray | torch.Tensor
#: One region for all samples, or one each; None for the whole picture.
Regions: TypeAlias = Region | Sequence[Region] | None


@checked
def swap(
    model: HookedMultimodal, batch: BatchLike, images: Sequence[Picture] | Sequence[Sequence[Picture]]
) -> MultimodalBatch:
    """The batch with other pictures.

    Args:
        model: the hooked model, whose processor is used.
        batch: made by `prepare`.
        images: one picture per sample, or a list per sample.

    Raises:
        InputError: if the new pictures do not take the places of the old ones (another number, or another layout), or are the
            old ones.
    """
    pictures = [[load_image(p) for p in (item if isinstance(item, list | tuple) else [item])] for item in images]
    return with_other_pictures(model, batch, pictures, "swap")


@checked
def twin(model: HookedMultimodal, batch: BatchLike, images: Sequence[Picture]) -> MultimodalBatch:
    """The batch with a counterfactual twin of each picture: the same scene with one thing changed.

    Args:
        model: the hooked model, whose processor is used.
        batch: made by `prepare`, one picture per sample.
        images: the twins, e.g. `scene.twin(color="blue", object=0).image`; of the pictures' own sizes.

    Raises:
        InputError: if a twin has another size, is the picture itself, or differs in more than half of its pixels.
    """
    require_pictures_at_hand(batch, "twin")
    if len(images) != batch.size or any(len(sample) != 1 for sample in batch.images):
        counts = [len(sample) for sample in batch.images]
        raise InputError(
            f"twin needs one picture per sample and as many twins; found {counts} pictures, {len(images)} twins."
        )
    twins = [load_image(picture) for picture in images]
    for number, (new, (old,)) in enumerate(zip(twins, batch.images, strict=True)):
        if new.size != old.size:
            raise InputError(
                f"The twin of sample {number} is {new.size} (width, height), its picture {old.size}; give one size."
            )
        share = float((np.asarray(new) != np.asarray(old.convert("RGB"))).any(-1).mean())
        if share == 0:
            raise InputError(f"The twin of sample {number} is the picture itself; change something in it.")
        if share > 0.5:
            raise InputError(
                f"The twin of sample {number} differs in {share:.0%} of its pixels, so it is another picture; use swap."
            )
    return with_other_pictures(model, batch, [[picture] for picture in twins], "twin")


@checked
def blur(
    model: HookedMultimodal, batch: BatchLike, *, radius: Positive | None = None, region: Regions = None
) -> MultimodalBatch:
    """The batch with blurred pictures.

    Args:
        model: the hooked model.
        batch: made by `prepare`.
        radius: standard deviation of the Gaussian, in pixels; by default an eighth of the shorter side, which leaves
            light and colour and takes the shapes.
        region: only inside a box or mask; one for all samples, or one each.

    Raises:
        InputError: if the batch was made from tensors, so that its pictures are not at hand, or nothing would change.

    Example:
        >>> import mmlens as mm
        >>> corrupted = mm.corrupt.blur(model, batch, region=scene.objects[0].mask)
        >>> bool((corrupted["pixel_values"] != batch["pixel_values"]).any())
        True
    """

    def blurred(picture: Image.Image, number: int) -> Image.Image:
        size = min(picture.size) / 8 if radius is None else radius
        return picture.filter(ImageFilter.GaussianBlur(size))

    return repaint(model, batch, blurred, region, "blur")


def repaint(
    model: HookedMultimodal,
    batch: MultimodalBatch,
    change: Callable[[Image.Image, int], Image.Image],
    region: Regions,
    name: str,
) -> MultimodalBatch:
    """The batch with each picture changed, inside a region.

    Args:
        model: the hooked model.
        batch: made by `prepare`.
        change: from a picture and its number in the batch to a picture of the same size.
        region: where; None for everywhere.
        name: the corruption's name, for messages.

    Raises:
        InputError: if the pictures are not at hand, or a region does not fit.
    """
    require_pictures_at_hand(batch, name)
    regions = regions_per_sample(region, batch.size)
    numbers = iter(range(sum(map(len, batch.images))))
    new_pictures = [
        [_inside(picture, change(picture, next(numbers)), where) for picture in sample]
        for sample, where in zip(batch.images, regions, strict=True)
    ]
    return with_other_pictures(model, batch, new_pictures, name)


def with_other_pictures(
    model: HookedMultimodal, batch: MultimodalBatch, pictures: list[list[Image.Image]], name: str
) -> MultimodalBatch:
    """The batch with pictures in the place of its own.

    Args:
        model: the hooked model.
        batch: made by `prepare`.
        pictures: one list per sample.
        name: the corruption's name, for messages.

    Raises:
        InputError: if the pictures do not take the places of the old ones, or a sample's are the old ones; the batch is
            corrupted behind its pictures already.
    """
    refuse_carried(batch)
    tensors = with_exchanged_pictures(model.family, model.config, model.processor, batch, pictures)
    equal = [
        sample
        for sample, (new, old) in enumerate(zip(pictures, batch.images, strict=False))
        if old and all(map(_equal, new, old))
    ]
    if equal:
        raise InputError(
            f"{name} would leave the pictures of samples {equal} as they are, so that there would be nothing to compare; "
            "give other pictures, or change more of them."
        )
    return tensors


def _equal(new: Image.Image, old: Image.Image) -> bool:
    return np.array_equal(np.asarray(new.convert("RGB")), np.asarray(old.convert("RGB")))


def regions_per_sample(region: Regions, size: int) -> list[Region | None]:
    """One region per sample.

    Raises:
        InputError: if there are not as many as samples.
    """
    if region is None or isinstance(region, np.ndarray | torch.Tensor) or _is_box(region):
        return [region] * size
    if len(region) != size:
        raise InputError(f"region names {len(region)} regions for {size} samples; give one for all, or one each.")
    return list(cast(Sequence[Region], region))


def _is_box(region: object) -> TypeGuard[Box]:
    return (
        isinstance(region, list | tuple) and len(region) == 4 and all(isinstance(edge, int | float) for edge in region)
    )


def region_mask(region: Region, size: tuple[int, int]) -> torch.Tensor:
    """A region as a mask `[height width]`.

    Args:
        region: a box or mask.
        size: (width, height) of the picture.

    Raises:
        InputError: if it is empty, or a mask of another size.
    """
    width, height = size
    if _is_box(region):
        left, top, right, bottom = (round(edge) for edge in region)
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    else:
        mask = torch.as_tensor(region).bool()
        if tuple(mask.shape) != (height, width):
            raise InputError(
                f"region is a mask {list(mask.shape)}, but the picture is [height={height} width={width}]."
            )
    if not mask.any():
        raise InputError(f"region={region!r:.80} covers no pixel of the picture ({width} wide, {height} high).")
    return mask


def _inside(old: Image.Image, new: Image.Image, region: Region | None) -> Image.Image:
    if region is None:
        return new
    mask = region_mask(region, old.size).numpy()
    return Image.composite(new, old.convert("RGB"), Image.fromarray(mask.astype(np.uint8) * 255))


def require_pictures_at_hand(batch: MultimodalBatch, name: str) -> None:
    """Refuse a batch whose pictures are unknown."""
    if not any(batch.images):
        raise InputError(
            f"{name} needs the pictures, and this batch was made from tensors; give them, model.batch(inputs, images=...), "
            "or make it with model.prepare(...)."
        )


def refuse_carried(batch: MultimodalBatch) -> None:
    """Refuse to change what a batch that is corrupted behind its pictures was made of: its values came from that."""
    if batch.carried:
        raise InputError(
            f"The batch is corrupted already, by {', '.join(map(repr, batch.carried))}; corrupt the pixels first, then what "
            "lies behind them."
        )
