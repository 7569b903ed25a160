"""Which image tokens show a thing, and which show the ground alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from mmlens.inputs.batch import MultimodalBatch
from mmlens.lab.phenomena.world import LabScene

#: A patch shows a thing that covers so much of it, and the ground alone where all things together cover less than the second.
_SHOWN, _EMPTY = 0.5, 0.02


@dataclass(frozen=True)
class ThingPatches:
    """The image tokens of one thing.

    Attributes:
        sample: Number of the scene in its batch.
        noun: The thing's.
        color: The thing's.
        size: The thing's.
        rows: Numbers among the sample's image tokens, in their order.
    """

    sample: int
    noun: str
    color: str
    size: str
    rows: Int[np.ndarray, " row"]


def mask_shares(batch: MultimodalBatch, sample: int, mask: np.ndarray) -> Float[np.ndarray, " row"]:
    """How much of each image token's patch a mask covers, 0 to 1, in the order of the image tokens."""
    grid = batch.layout.grid(sample=sample)
    sums = np.pad(mask.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    left, top, right, bottom = grid.boxes.round().long().clamp(0, min(mask.shape)).numpy().T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    share = inside / np.maximum((right - left) * (bottom - top), 1)
    return share[np.argsort(torch.as_tensor(grid.rows).numpy())]


def things(batch: MultimodalBatch, scenes: Sequence[LabScene]) -> Iterator[ThingPatches]:
    """The image tokens of each thing of scenes whose noun is there once; none for what is too small to fill half of one."""
    for sample, scene in enumerate(scenes):
        nouns = [thing.shape for thing in scene.objects]
        for thing in scene.objects:
            rows = np.flatnonzero(mask_shares(batch, sample, thing.mask) >= _SHOWN)
            if len(rows) and nouns.count(thing.shape) == 1:
                yield ThingPatches(sample, thing.shape, thing.color, thing.size, rows)


def background(batch: MultimodalBatch, scenes: Sequence[LabScene]) -> list[Int[np.ndarray, " row"]]:
    """Per scene, the image tokens that show the ground alone."""
    every = [np.any([thing.mask for thing in scene.objects], axis=0) for scene in scenes]
    return [np.flatnonzero(mask_shares(batch, sample, mask) < _EMPTY) for sample, mask in enumerate(every)]


def sources(before: MultimodalBatch, after: MultimodalBatch, sample: int) -> Int[np.ndarray, " row"]:
    """Which patch of a picture each patch of its shuffled version was, row by row."""
    rows, columns = before.layout.grid(sample=sample).shape
    tiles = []
    for batch in (before, after):
        pixels = np.asarray(batch.images[sample][0])
        height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
        cells = pixels.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
        tiles.append([cell.tobytes() for cell in cells.reshape(rows * columns, -1)])
    number = {tile: index for index, tile in enumerate(tiles[0])}
    return np.array([number[tile] for tile in tiles[1]])
