"""Drawings of which row stands for which pixels, pixel by pixel: the truth for `mmlens.inputs.patch_geometry`."""

from collections.abc import Callable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch

from mmlens.inputs.patch_geometry import RowGrid

#: (entry of the batch axis or None, row, row of cells, column of cells).
Owner: TypeAlias = tuple[int | None, int, int, int]
#: A token of a picture, of a video, and the tokens that begin and end a picture.
IMAGE, VIDEO, BEGIN, END = 9, 8, 5, 6


def config(**vision: Any) -> Any:
    """A configuration with these settings of its tower."""
    return SimpleNamespace(image_token_id=IMAGE, video_token_id=VIDEO, vision_config=SimpleNamespace(**vision))


def ids(*samples: str) -> torch.Tensor:
    """Token ids of samples: `i`, `v`, `<`, `>` for the tokens above, digits for themselves, `x` for 99, 0 behind."""
    letters = {"i": IMAGE, "v": VIDEO, "<": BEGIN, ">": END, "x": 99}
    length = max(map(len, samples))
    return torch.tensor([[letters.get(letter) or int(letter) for letter in f"{s:0<{length}}"] for s in samples])


def drawing(
    owner: Callable[[int, int], Owner | None],
    target: tuple[int, int],
    size: tuple[int, int],
    corner: tuple[float, float] = (0, 0),
) -> dict[Owner, list[float]]:
    """The box of every owner's pixels, in pixels of the user's picture.

    Args:
        owner: who has pixel (y, x) of what the tower receives.
        target: (height, width) of that, or of the part of it that the picture fills.
        size: (height, width) of the user's picture.
        corner: (top, left) of the part of the tower's pixels that the picture fills.
    """
    boxes: dict[Owner, list[float]] = {}
    whole = [int(side + 2 * edge) for side, edge in zip(target, corner, strict=True)]
    for y, x in product(*map(range, whole)):
        who = owner(y, x)
        if who is not None:
            left, top, right, bottom = boxes.get(who, [x, y, x + 1, y + 1])
            boxes[who] = [min(left, x), min(top, y), max(right, x + 1), max(bottom, y + 1)]
    down, across = size[0] / target[0], size[1] / target[1]
    factors, shift = (across, down) * 2, (corner[1], corner[0]) * 2
    return {
        who: [(edge - s) * factor for edge, s, factor in zip(box, shift, factors, strict=True)]
        for who, box in boxes.items()
    }


def content(grid: RowGrid) -> dict[Owner, list[float]]:
    """What a grid says."""
    count = len(grid.rows)
    entries = grid.index.tolist() if isinstance(grid.index, torch.Tensor) else [grid.index] * count
    rows = zip(entries, grid.rows.tolist(), *grid.cells.T.tolist(), strict=True)
    result = dict(zip(rows, grid.boxes.tolist(), strict=True))
    assert len(result) == count, "rows come twice"
    return result


def check(
    grid: RowGrid,
    shape: tuple[int, int],
    owner: Callable[[int, int], Owner | None],
    target: tuple[int, int],
    size: tuple[int, int],
    corner: tuple[float, float] = (0, 0),
) -> None:
    """Compare a grid with a drawing."""
    assert grid.shape == shape
    expected, actual = drawing(owner, target, size, corner), content(grid)
    assert actual.keys() == expected.keys()
    for who, box in expected.items():
        assert actual[who] == pytest.approx(box, abs=1e-9), who


def positions_of(tokens: torch.Tensor, sample: int, token: int = IMAGE) -> Sequence[int]:
    """The positions of a token in a sample."""
    return [position for position, word in enumerate(tokens[sample].tolist()) if word == token]
