"""Corruptions that exist for pixels and for what lies behind them: noise, blank, mean, shuffle."""

from itertools import pairwise
from typing import Annotated, TypeAlias

import numpy as np
import torch
from PIL import Image

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must, Positive, Seed
from mmlens.core.rules import Positions
from mmlens.inputs.batch import BatchesLike, BatchLike, MultimodalBatch
from mmlens.interventions.activations import gaussian, spread
from mmlens.interventions.corruptions.carried import (
    carry,
    level,
    require_level,
    require_one_area,
    rows_at,
    rows_of_area,
)
from mmlens.interventions.corruptions.pixels import Regions, repaint, require_pictures_at_hand
from mmlens.models.hooked import HookedMultimodal

_GREY = (127, 127, 127)
Byte: TypeAlias = Annotated[int, Must("from 0 to 255", lambda value: 0 <= value <= 255)]
#: Red, green and blue.
Color: TypeAlias = tuple[Byte, Byte, Byte]


@checked
def noise(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    sigma: Positive = 3.0,
    at: str | None = None,
    positions: Positions | None = None,
    region: Regions = None,
    seed: Seed = 0,
) -> MultimodalBatch:
    """The batch with Gaussian noise: `x + sigma * s * e`, `e ~ N(0, 1)`, `s` the spread of what is corrupted.

    Args:
        model: the hooked model.
        batch: the batch.
        sigma: standard deviation, in units of the spread: of the embeddings at these positions around their mean vector, or
            of a picture's pixels around its mean colour.
        at: a point with a vector per row, such as `"projector.hook_out"`; or `"pixels"`. By default `"hook_embed"`, what the
            language model receives, or `"vision.hook_embed"` where these rows are none of its own (dual encoders, pictures that
            are read by cross-attention).
        positions: which rows, behind the pixels; those of the picture by default.
        region: only inside a box or mask of the picture; one for all samples, or one each.
        seed: of the noise.

    Returns:
        A batch of the same layout; noise behind the pixels is carried along.

    Raises:
        InputError: for points, positions and regions that cannot be, and where nothing would change.

    Example:
        >>> import mmlens as mm
        >>> corrupted = mm.corrupt.noise(model, batch, sigma=3.0, seed=1)
        >>> bool((model(corrupted)[:, -1] != model(batch)[:, -1]).any())
        True

    Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022
    (https://arxiv.org/abs/2202.05262), section 2.1: noise of three times the embeddings' spread.
    """
    at = level(model, at, positions, region)
    if at == "pixels":

        def noisy(picture: Image.Image, number: int) -> Image.Image:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).astype(np.float32))
            draw = gaussian(pixels, seed, f"pixels {number}")
            new = pixels + sigma * spread(pixels) * draw
            return Image.fromarray(new.round().clamp(0, 255).to(torch.uint8).numpy())

        return repaint(model, batch, noisy, region, "noise")
    unit = _spread_at(model, batch, at, positions)

    def add(rows: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x + sigma * unit * gaussian(x, seed, f"{at} {sample}") for sample, x in enumerate(rows)]

    return carry(model, batch, at, positions, region, add, f"noise of {sigma:g} spreads, seed {seed},")


def _spread_at(model: HookedMultimodal, batch: MultimodalBatch, at: str, positions: Positions | None) -> float:
    node = require_level(model, at)
    pieces, _ = rows_at(model, batch, node, rows_of_area(batch, node, positions, None))
    deviation = spread(torch.cat([piece.flatten(0, -2) for piece in pieces]))
    if deviation == 0:
        raise InputError(
            f"The rows at {at} are all equal, so their spread is 0 and noise in its units would be none; corrupt another point "
            "(at='projector.hook_out') or other positions."
        )
    return deviation


@checked
def blank(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    at: str = "pixels",
    color: Color | None = None,
    positions: Positions | None = None,
    region: Regions = None,
) -> MultimodalBatch:
    """The batch with nothing in its pictures: one colour, or zero vectors behind the pixels.

    Args:
        model: the hooked model.
        batch: the batch.
        at: `"pixels"`, or a point with a vector per row.
        color: of the blank pixels, RGB; grey by default.
        positions: which rows, behind the pixels; those of the picture by default.
        region: only inside a box or mask of the picture; one for all samples, or one each.

    Raises:
        InputError: for points, positions and regions that cannot be, and where nothing would change.
    """
    require_one_area(at, positions, region)
    if at == "pixels":
        paint = color or _GREY
        return repaint(model, batch, lambda picture, number: Image.new("RGB", picture.size, paint), region, "blank")
    if color is not None:
        raise InputError(f"color has a meaning for pixels alone; at={at!r} is blanked with zeros.")
    return carry(model, batch, at, positions, region, lambda rows: [torch.zeros_like(x) for x in rows], "zeros")


@checked
def mean(
    model: HookedMultimodal,
    batch: BatchLike,
    reference: BatchesLike,
    *,
    at: str | None = None,
    positions: Positions | None = None,
    region: Regions = None,
) -> MultimodalBatch:
    """The batch with the mean of a dataset in the place of its pictures: what pictures have in common stays.

    Args:
        model: the hooked model.
        batch: the batch.
        reference: the dataset, as one batch or several.
        at: a point with a vector per row: each row becomes the mean over all such rows of the dataset; or `"pixels"`: each
            picture becomes the dataset's mean picture, at its own size. By default as for `noise`.
        positions: which rows, here and in the dataset, behind the pixels; those of the picture by default.
        region: only inside a box or mask of the picture; one for all samples, or one each.

    Raises:
        InputError: if the dataset is empty, for points, positions and regions that cannot be, and where nothing would change.
    """
    at = level(model, at, positions, region)
    others = [reference] if isinstance(reference, MultimodalBatch) else list(reference)
    if not others:
        raise InputError("mean was given no batch to take the mean over.")
    if at == "pixels":
        for other in others:
            require_pictures_at_hand(other, "mean")
        pictures = [picture for other in others for sample in other.images for picture in sample]

        def mean_picture(picture: Image.Image, number: int) -> Image.Image:
            arrays = [np.asarray(other.convert("RGB").resize(picture.size), dtype=np.float64) for other in pictures]
            return Image.fromarray(np.mean(arrays, axis=0).round().astype(np.uint8))

        return repaint(model, batch, mean_picture, region, "mean")
    node = require_level(model, at)
    total, count = torch.zeros(()), 0
    for other in others:
        pieces, _ = rows_at(model, other, node, rows_of_area(other, node, positions, None))
        flat = torch.cat([piece.flatten(0, -2) for piece in pieces]).double()
        total, count = total + flat.sum(0), count + len(flat)
    vector = total / count
    return carry(model, batch, at, positions, region, lambda rows: [vector.expand_as(x) for x in rows], "mean vector")


@checked
def shuffle(
    model: HookedMultimodal,
    batch: BatchLike,
    *,
    at: str | None = None,
    positions: Positions | None = None,
    region: Regions = None,
    seed: Seed = 0,
) -> MultimodalBatch:
    """The batch with the patches of each picture in another order: what is there stays, where it is goes.

    Args:
        model: the hooked model.
        batch: the batch.
        at: a point with a vector per row, whose rows change places; or `"pixels"`: the pixels of the vision tower's patches do.
            By default as for `noise`.
        positions: which rows, behind the pixels; those of the picture by default.
        region: only inside a box or mask of the picture (not for pixels); one for all samples, or one each.
        seed: of the order.

    Raises:
        InputError: for points, positions and regions that cannot be, and where nothing would change.
    """
    at = level(model, at, positions, region)
    generator = torch.Generator().manual_seed(seed)
    if at == "pixels":
        if region is not None:
            raise InputError("shuffle cannot keep pixels inside a region; shuffle rows instead: at='hook_embed'.")
        owners = [(places.sample, places.image) for places in batch.layout.places]

        def tiled(picture: Image.Image, number: int) -> Image.Image:
            sample, image = owners[number]
            return _tiles_moved(picture, batch.layout.grid("vision", sample=sample, image=image).shape, generator)

        return repaint(model, batch, tiled, None, "shuffle")

    def move(rows: list[torch.Tensor]) -> list[torch.Tensor]:
        return [x[..., _other_order(x.shape[-2], generator).to(x.device), :] for x in rows]

    return carry(model, batch, at, positions, region, move, f"shuffle, seed {seed},")


def _other_order(count: int, generator: torch.Generator) -> torch.Tensor:
    """A random order in which not everything stays where it is, if there is one."""
    order = torch.arange(count)
    while count > 1 and torch.equal(order, torch.arange(count)):
        order = torch.randperm(count, generator=generator)
    return order


def _tiles_moved(picture: Image.Image, shape: tuple[int, int], generator: torch.Generator) -> Image.Image:
    """The picture with its tiles in another order; tiles that differ by a pixel are resized to their new place."""
    down = np.linspace(0, picture.height, shape[0] + 1).round().astype(int).tolist()
    across = np.linspace(0, picture.width, shape[1] + 1).round().astype(int).tolist()
    boxes = [(left, top, right, bottom) for top, bottom in pairwise(down) for left, right in pairwise(across)]
    result = picture.convert("RGB")
    for box, source in zip(boxes, _other_order(len(boxes), generator).tolist(), strict=True):
        tile = picture.convert("RGB").crop(boxes[source])
        size = (box[2] - box[0], box[3] - box[1])
        result.paste(tile if tile.size == size else tile.resize(size), box)
    return result
