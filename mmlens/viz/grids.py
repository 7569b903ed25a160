"""Which heat maps a sweep is drawn as: layers by positions, one map per kind of point, or layers by heads, one per group."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.patching.result import PatchSweep
from mmlens.viz.points import PointLabel, label_of, parse_point

_LISTED = 12  # points of several kinds: so many stand below each other, more in a map per kind
_MOST = 24  # maps


@dataclass(frozen=True)
class SweepGrid:
    """One heat map of a sweep.

    Attributes:
        title: what sets it apart from the others; empty if there are none.
        effect: mean effects, in the metric's unit.
        rows, columns: their labels.
        x, y: what columns and rows are.
    """

    title: str
    effect: Float[torch.Tensor, "row column"]
    rows: list[str]
    columns: list[str]
    x: str
    y: str


def grids_of(sweep: PatchSweep, indices: list[int]) -> list[SweepGrid]:
    """The heat maps of some of a sweep's points.

    Args:
        sweep: from `mm.patch`.
        indices: numbers of the points.
    """
    effect = sweep.effect.mean(-1)[indices]
    points = [parse_point(sweep.points[i]) for i in indices]
    kinds = {point.kind: [i for i, other in enumerate(points) if other.kind == point.kind] for point in points}
    of_heads = _heads(sweep.groups, effect, points, kinds)
    if of_heads:
        return of_heads
    layers = [[points[i].layer for i in rows] for rows in kinds.values()]
    rectangle = all(numbers == layers[0] and len(set(numbers)) == len(numbers) for numbers in layers)
    plain = all(point.layer is not None and not point.unit for point in points)
    if rectangle and plain and (len(kinds) == 1 or len(points) > _LISTED):
        has_kinds = len(kinds) > 1
        names = list(map(str, layers[0]))
        return [
            SweepGrid(
                kind if has_kinds else "", effect[rows], names, sweep.groups, "positions", _layer(kind, has_kinds)
            )
            for kind, rows in kinds.items()
        ]
    return [SweepGrid("", effect, list(map(label_of, points)), sweep.groups, "positions", "")]


def _heads(
    groups: list[str], effect: torch.Tensor, points: list[PointLabel], kinds: dict[str, list[int]]
) -> list[SweepGrid]:
    """Layers by heads, a map per kind and group; none where the points are not all the heads of some layers."""
    sizes = {kind: _rectangle([points[i] for i in rows]) for kind, rows in kinds.items()}
    if len(kinds) * len(groups) > _MOST:
        return []
    grids = []
    for kind, rows in kinds.items():
        size = sizes[kind]
        if size is None:
            return []
        layers, heads = size
        for number, group in enumerate(groups):
            values = effect[rows, number].reshape(len(layers), len(heads))
            title = " ".join([kind] * (len(kinds) > 1) + [f"at {group}"] * (len(groups) > 1))
            x = "head" if len(groups) > 1 else f"head, at {group}"
            grids.append(SweepGrid(title, values, layers, heads, x, _layer(kind, len(kinds) > 1)))
    return grids


def _layer(kind: str, has_kinds: bool) -> str:
    return "layer" if has_kinds else f"layer ({kind})"


def _rectangle(points: list[PointLabel]) -> tuple[list[str], list[str]] | None:
    """The layers and heads of points that are every head of every layer, in order; else None."""
    pairs = [(point.layer, point.head) for point in points]
    layers = list(dict.fromkeys(layer for layer, _ in pairs))
    heads = list(dict.fromkeys(head for _, head in pairs))
    if None in heads or len(heads) < 2 or pairs != [(layer, head) for layer in layers for head in heads]:
        return None
    return [str(layer) for layer in layers], [str(head) for head in heads]
