"""Which features are a colour, a shape, a place: what scenes know, compared with what is active at their patches.

A patch shows a colour or a shape where such an object covers half of it or more, and does not where none is on it; it shows a
place where no object is on it. Feature and threshold are chosen by F1 on some scenes, and judged on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlens.lab.scenery import Scene
from mmlens.lab.world import CANVAS, COLORS, PLACES, SHAPES

_PATCH = 12
_SIDE = CANVAS // _PATCH
_COVERED = 0.5
#: Thresholds that say yes to more rows than so many times those that show it have an F1 below 0.4, and are not looked at.
_LIMIT = 4
#: Candidates whose thresholds are looked at together.
_TOGETHER = 128

TruthKind = Literal["color", "shape", "place"]
#: What is looked for, with its kind.
TRUTHS: dict[str, TruthKind] = {
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(PLACES, "place"),
}


def truth_of(scenes: Sequence[Scene]) -> Float[Tensor, "row truth"]:
    """What every patch of some scenes shows: 1, 0, or NaN where it is not to be told; patches row by row, scene by scene."""
    return torch.cat([_of_scene(scene) for scene in scenes])


def _of_scene(scene: Scene) -> Float[Tensor, "patch truth"]:
    covers = {id(thing): _coverage(thing.mask) for thing in scene.objects}
    anything = np.max([*covers.values(), np.zeros(_SIDE * _SIDE)], axis=0)
    columns = []
    for name, kind in TRUTHS.items():
        if kind == "place":
            column = np.where(anything == 0, float(scene.place == name), np.nan)
        else:
            alike = [covers[id(thing)] for thing in scene.objects if name in (thing.color, thing.shape)]
            cover = np.max([*alike, np.zeros(_SIDE * _SIDE)], axis=0)
            column = np.where(cover >= _COVERED, 1.0, np.where(cover == 0, 0.0, np.nan))
        columns.append(torch.from_numpy(column).float())
    return torch.stack(columns, 1)


def _coverage(mask: np.ndarray) -> np.ndarray:
    """The share of each patch that an object covers."""
    shares: np.ndarray = mask.reshape(_SIDE, _PATCH, _SIDE, _PATCH).mean((1, 3)).ravel()
    return shares


@dataclass(frozen=True)
class FeatureChoice:
    """The candidate that tells each truth best, by F1.

    Attributes:
        index: its number.
        threshold: at or above which it says yes.
        f1: on the rows that it was chosen on.
    """

    index: Int[Tensor, truth]
    threshold: Float[Tensor, truth]
    f1: Float[Tensor, truth]

    def judged(self, scores: Float[Tensor, "row candidate"], truth: Float[Tensor, "row truth"]) -> Float[Tensor, truth]:
        """F1 of each choice on other rows."""
        says = scores[:, self.index] >= self.threshold
        right = (says & (truth == 1)).sum(0)
        wrong = (says & (truth == 0)).sum(0)
        return 2 * right / (right + wrong + (truth == 1).sum(0)).clamp_min(1)


def choose(scores: Float[Tensor, "row candidate"], truth: Float[Tensor, "row truth"]) -> FeatureChoice:
    """The candidate and threshold with the highest F1 for each truth.

    Args:
        scores: how strong each candidate is at every row.
        truth: see `truth_of`; rows that are NaN do not count.
    """
    count = truth.shape[1]
    best = FeatureChoice(torch.zeros(count, dtype=torch.long), torch.zeros(count), torch.full((count,), -1.0))
    for start in range(0, scores.shape[1], _TOGETHER):
        values, order = scores[:, start : start + _TOGETHER].sort(dim=0, descending=True)
        # a threshold stands behind all rows of a value, never between them
        ends = torch.cat([values[1:] != values[:-1], torch.ones(1, values.shape[1], dtype=torch.bool)])
        for number in range(count):
            yes, no = truth[:, number] == 1, truth[:, number] == 0
            if not yes.any():
                continue
            first = _LIMIT * int(yes.sum())
            right, wrong = yes[order[:first]].float().cumsum(0), no[order[:first]].float().cumsum(0)
            f1 = torch.where(ends[:first], 2 * right / (right + wrong + yes.sum()).clamp_min(1), -1.0)
            at_best, rows = f1.max(0)
            candidate = int(at_best.argmax())
            if at_best[candidate] > best.f1[number]:
                best.f1[number], best.index[number] = at_best[candidate], start + candidate
                best.threshold[number] = values[rows[candidate], candidate]
    return best
