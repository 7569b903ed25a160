"""The training pictures, drawn once and kept, with what is seen at each of their patches."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from mmlens.core.files import whole_file
from mmlens.lab.composing import scene
from mmlens.lab.scenery import Scene
from mmlens.lab.world import CANVAS, COLORS, NOUNS, PLACES, SIZES

MOST_OBJECTS = 3
_CHUNK = 250


@dataclass(frozen=True)
class PatchLabels:
    """What is seen at every patch; 0 stands for bare ground throughout.

    Attributes:
        ranks: Which object is seen there, counted from 1 in the order of the caption, from left to right.
        nouns: 1 + its index in `NOUNS`.
        colors: 1 + its index in `COLORS`.
        sizes: 1 + its index in `SIZES`.
        centers: Its centre (x, y), from -1 at the left and upper edge of the picture to 1.
        places: Index of the ground in `PLACES`.
    """

    ranks: Int[Tensor, "batch patch"]
    nouns: Int[Tensor, "batch patch"]
    colors: Int[Tensor, "batch patch"]
    sizes: Int[Tensor, "batch patch"]
    centers: Float[Tensor, "batch patch xy"]
    places: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Gallery:
    """Pictures and the truth about their patches.

    Attributes:
        pictures: What is seen.
        ranks: As in `PatchLabels`.
        nouns: Per rank the value that `PatchLabels` has at the object's patches.
        colors: The same.
        sizes: The same.
        centers: The same.
        places: As in `PatchLabels`.
    """

    pictures: UInt8[np.ndarray, "scene height width rgb"]
    ranks: UInt8[np.ndarray, "scene patch"]
    nouns: UInt8[np.ndarray, "scene rank"]
    colors: UInt8[np.ndarray, "scene rank"]
    sizes: UInt8[np.ndarray, "scene rank"]
    centers: Float[np.ndarray, "scene rank xy"]
    places: UInt8[np.ndarray, " scene"]

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.pictures)

    def labels(self, indices: Int[np.ndarray, " batch"]) -> PatchLabels:
        """Give what is seen at every patch of some pictures."""
        ranks = self.ranks[indices].astype(np.int64)

        def spread(per_rank: np.ndarray) -> Tensor:
            return torch.from_numpy(np.take_along_axis(per_rank[indices].astype(np.int64), ranks, axis=1))

        return PatchLabels(
            ranks=torch.from_numpy(ranks),
            nouns=spread(self.nouns),
            colors=spread(self.colors),
            sizes=spread(self.sizes),
            centers=torch.from_numpy(np.take_along_axis(self.centers[indices], ranks[:, :, None], axis=1)),
            places=torch.from_numpy(self.places[indices].astype(np.int64)),
        )


def make_gallery(scenes: list[Scene], patch: int) -> Gallery:
    """Draw scenes and say what is seen at their patches.

    Args:
        scenes: The scenes.
        patch: Side of a patch in pixels.

    Returns:
        Their pictures and truth, in the same order.
    """
    shape = (len(scenes), 1 + MOST_OBJECTS)
    nouns, colors, sizes = (np.zeros(shape, dtype=np.uint8) for _ in range(3))
    centers = np.zeros((*shape, 2), dtype=np.float32)
    for row, picture in enumerate(scenes):
        for rank, thing in enumerate(sorted(picture.placed, key=lambda thing: thing.center[0]), start=1):
            nouns[row, rank] = 1 + NOUNS.index(thing.shape)
            colors[row, rank] = 1 + list(COLORS).index(thing.color)
            sizes[row, rank] = 1 + SIZES.index(thing.size)
            centers[row, rank] = 2 * np.array(thing.center) / CANVAS - 1
    return Gallery(
        pictures=np.stack([np.asarray(scene.image) for scene in scenes]),
        ranks=np.stack([patch_ranks(scene, patch) for scene in scenes]),
        nouns=nouns,
        colors=colors,
        sizes=sizes,
        centers=centers,
        places=np.array([PLACES.index(scene.place) for scene in scenes], dtype=np.uint8),
    )


def patch_ranks(scene: Scene, patch: int) -> UInt8[np.ndarray, " patch"]:
    """Say per patch which object, counted from the left, covers most of it: an eighth of it at the least."""
    side = CANVAS // patch
    ranks = np.zeros(side * side, dtype=np.uint8)
    largest = np.full(side * side, patch * patch / 8)
    for rank, thing in enumerate(sorted(scene.objects, key=lambda thing: thing.center[0]), start=1):
        areas = thing.mask.reshape(side, patch, side, patch).sum(axis=(1, 3)).ravel()
        ranks[areas >= largest] = rank
        largest = np.maximum(largest, areas)
    return ranks


def training_gallery(count: int, patch: int, folder: Path, *, workers: int = 2, progress: bool = True) -> Gallery:
    """Draw the training scenes, or fetch them where they were kept.

    Args:
        count: Number of scenes.
        patch: Side of a patch in pixels.
        folder: Where the drawn scenes are kept; the file is written whole or not at all.
        workers: Processes that draw.
        progress: Whether to show a bar.

    Returns:
        Scenes 0 to count - 1 of the training split.
    """
    file = folder / f"gallery-{count}-{patch}.npz"
    names = [field.name for field in fields(Gallery)]
    if not file.exists():
        jobs = [(start, min(_CHUNK, count - start), patch) for start in range(0, count, _CHUNK)]
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                parts = list(tqdm(pool.map(_draw, jobs), "drawing", len(jobs), disable=not progress))
        else:
            parts = [_draw(job) for job in tqdm(jobs, "drawing", disable=not progress)]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        with whole_file(file) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
    with np.load(file) as archive:
        return Gallery(**{name: archive[name] for name in names})


def _draw(job: tuple[int, int, int]) -> Gallery:
    start, count, patch = job
    return make_gallery([scene(seed, split="train") for seed in range(start, start + count)], patch)
