"""What a sweep shows: effects over the picture, layer by layer, or as a heat map where positions have no place."""

import numpy as np
from PIL import Image

from mmlens.analysis.metrics import unit_of
from mmlens.analysis.patching.result import PatchSweep
from mmlens.viz.grids import grids_of
from mmlens.viz.page.boxes import numbers
from mmlens.viz.page.pack import Axis, Pack, PackArray, PackTable, largest_of
from mmlens.viz.points import parse_point, point_rows

#: More columns than this are drawn in the folded table alone.
_MOST_COLUMNS = 96
_ROWS = 20


def sweep_pack(sweep: PatchSweep, picture: Image.Image | None, run: bool = False) -> Pack:
    """Effects of a sweep: over the picture, if there is one and groups have places in it, and as heat maps."""
    unit = unit_of(sweep.metric)
    effect = numbers(sweep.effect.mean(-1))
    limit = largest_of(effect)
    arrays: list[PackArray] = []
    labels: dict[Axis, list[str]] = {}
    notes: list[str] = []
    boxes, axes = None, ""
    placed = [group for group, places in enumerate(sweep.boxes) if places is not None and len(places)]
    kinds: dict[str, list[int]] = {}
    for number, point in enumerate(sweep.points):
        label = parse_point(point)
        kinds.setdefault(f"{label.kind} {label.unit}".strip(), []).append(number)
    alike = len({len(rows) for rows in kinds.values()}) == 1
    if picture is not None and placed:
        boxes = np.concatenate([np.asarray(sweep.boxes[group], dtype=np.float64) for group in placed])
        columns = [group for group in placed for _ in sweep.boxes[group]]  # type: ignore[union-attr]
        sets = kinds if alike else {"": list(range(len(sweep.points)))}
        for kind, rows in sets.items():
            over = effect[np.ix_(rows, columns)]
            title = f"change, patched at {kind}" if kind else "change"
            arrays.append(PackArray(f"over {kind}", title, over, ("layer", "patch"), unit, "signed", limit))
        labels["layer"] = point_rows([sweep.points[i] for i in next(iter(sets.values()))])[0]
    else:
        if placed:
            notes.append("Positions have places in the picture: .view(picture) shows the effects over it.")
        grids = grids_of(sweep, list(range(len(sweep.points))))
        grids = [grid for grid in grids if len(grid.rows) == len(grids[0].rows) and grid.columns == grids[0].columns]
        if len(grids[0].columns) <= _MOST_COLUMNS:
            labels = {"layer": grids[0].rows, "group": grids[0].columns}
            axes = f" Rows: {grids[0].y or 'points'}; columns: {grids[0].x}."
            arrays = [
                PackArray(
                    grid.title or "change",
                    grid.title or f"change by {grid.y or 'point'} and {grid.x}",
                    numbers(grid.effect),
                    ("layer", "group"),
                    unit,
                    "signed",
                    limit,
                )
                for grid in grids
            ]
        else:
            notes.append(f"{len(grids[0].columns)} groups are too many columns; the largest effects are in the table.")
    return Pack(
        _headline(sweep),
        caption=_caption(sweep) + axes,
        arrays=tuple(arrays),
        picture=picture if boxes is not None else None,
        boxes=boxes,
        labels=labels,
        start={"layer": _best_layer(arrays)},
        tables=(_table(sweep),),
        notes=tuple(notes),
    )


def _best_layer(arrays: list[PackArray]) -> int:
    """The layer of the largest effect of the first array."""
    if not arrays:
        return 0
    sizes = np.nan_to_num(np.abs(arrays[0].values))
    return int(sizes.argmax() // sizes.shape[-1])


def _headline(sweep: PatchSweep) -> str:
    cells = sweep.cells(1)
    n = len(sweep.clean)
    samples = "1 sample" if n == 1 else f"mean of {n} samples"
    return f"The largest change of {sweep.metric} ({samples}): {cells[0]}." if cells else repr(sweep)


def _caption(sweep: PatchSweep) -> str:
    gap = float(sweep.clean.mean()), float(sweep.corrupted.mean())
    how = {"denoise": "Clean states put into the corrupted run", "noise": "Corrupted states put into the clean run"}
    estimate = "" if sweep.method == "exact" else f" Estimated by {sweep.method}."
    return (
        f"{how.get(sweep.direction, 'Attention cut in the clean run')}, cell by cell. The metric is {gap[0]:.3g} in the clean "
        f"run and {gap[1]:.3g} in the corrupted one.{estimate}"
    )


def _table(sweep: PatchSweep) -> PackTable:
    cells = sweep.cells(min(_ROWS, len(sweep.points) * len(sweep.groups)))
    return PackTable(
        f"The {len(cells)} largest effects",
        ("point", "positions", "effect", f"share of the gap {sweep.moved}"),
        tuple((cell.point, cell.positions, cell.effect, cell.share) for cell in cells),
    )
