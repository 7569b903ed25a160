"""Masks of COCO's annotations: polygons and run lengths to pixels.

Source: the mask format of Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014
(https://arxiv.org/abs/1405.0312), as its API rasters it (https://github.com/cocodataset/cocoapi): run lengths go down the columns
and begin with background; a polygon is drawn on a raster five times as fine, and a pixel belongs to it by its centre.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mmlens.core.errors import InputError
from mmlens.core.wording import short

#: How much finer than pixels polygons are drawn.
_FINE = 5


def mask_of(segmentation: Any, height: int, width: int, what: str) -> Bool[np.ndarray, "height width"]:
    """The mask of one annotation.

    Args:
        segmentation: polygons `[[x, y, x, y, ...], ...]`, or run lengths `{"size": [height, width], "counts": [...] or "..."}`.
        height, width: of the picture, in pixels.
        what: the annotation, for messages.

    Raises:
        InputError: for another form, or run lengths of another picture.

    Example:
        >>> mask_of([[1, 1, 4, 1, 4, 3, 1, 3]], 4, 6, "a box").astype(int).tolist()
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
        >>> mask_of({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3, "runs").astype(int).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    if isinstance(segmentation, Mapping):
        return _from_runs(segmentation, height, width, what)
    if not isinstance(segmentation, Sequence) or not all(map(_is_polygon, segmentation)):
        raise InputError(
            f"The segmentation of {what} is {short(segmentation)}; it must be polygons [[x, y, x, y, ...], ...] of three corners "
            'or more, or run lengths {"size": [height, width], "counts": ...}.'
        )
    mask = np.zeros((height, width), dtype=bool)
    for polygon in segmentation:
        mask |= _polygon(np.asarray(polygon, dtype=float).reshape(-1, 2), height, width)
    return mask


def _is_polygon(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return (
        is_list
        and len(value) >= 6
        and len(value) % 2 == 0
        and all(isinstance(number, int | float) and np.isfinite(number) for number in value)
    )


def _from_runs(runs: Mapping[str, Any], height: int, width: int, what: str) -> Bool[np.ndarray, "height width"]:
    size, counts = runs.get("size"), runs.get("counts")
    if size is None or counts is None:
        raise InputError(f"The run lengths of {what} need 'size' and 'counts', found {', '.join(map(repr, runs))}.")
    if list(size) != [height, width]:
        raise InputError(
            f"The run lengths of {what} are of a picture of {list(size)} pixels (height, width), and its picture has "
            f"{[height, width]}."
        )
    lengths = _lengths(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise InputError(
            f"The run lengths of {what} cover {int(lengths.sum())} pixels, and its picture has {height * width}; the file is "
            "damaged, or the lengths are of another picture."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _lengths(counts: str | bytes) -> Int[np.ndarray, "run"]:
    """Run lengths from their compressed text: digits of five bits, least first, a sixth bit that says that more follow; from the
    fourth on, differences from the length two before."""
    codes = (counts.encode() if isinstance(counts, str) else counts).strip()
    lengths: list[int] = []
    value = shift = 0
    for code in codes:
        digit = code - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return np.asarray(lengths, dtype=np.int64)


def _polygon(corners: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """One polygon: where its border crosses the middle of a column, the column changes between outside and inside."""
    fine = np.trunc(_FINE * corners + 0.5).astype(int)
    x, y = map(np.concatenate, zip(*map(_line, fine, np.roll(fine, -1, axis=0)), strict=True))
    changes = np.flatnonzero(np.diff(x)) + 1
    column = (np.minimum(x[changes], x[changes - 1]) + 0.5) / _FINE - 0.5
    # towards the left the last point of the column counts
    row = np.ceil(np.clip((np.minimum(y[changes], y[changes - 1]) + 0.5) / _FINE - 0.5, 0, height))
    inside = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    crossings = (column[inside] * height + row[inside]).astype(int)
    parity = np.bincount(crossings, minlength=height * width + 1)[: height * width]
    return (np.cumsum(parity) % 2 == 1).reshape(width, height).T


def _line(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of the fine raster between two corners, both included."""
    (x, y), (to_x, to_y) = start, end
    across, down = abs(to_x - x), abs(to_y - y)
    flat = across >= down
    is_reverse = (x > to_x) if flat else (y > to_y)
    if is_reverse:  # rounding shall not depend on the direction
        x, y, to_x, to_y = to_x, to_y, x, y
    steps = np.arange((across if flat else down) + 1)
    slope = ((to_y - y) / across if across else 0.0) if flat else (to_x - x) / down
    other = np.trunc((y if flat else x) + slope * steps + 0.5).astype(int)
    points = (x + steps, other) if flat else (other, y + steps)
    return (points[0][::-1], points[1][::-1]) if is_reverse else points
