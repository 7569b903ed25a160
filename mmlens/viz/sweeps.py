"""Pictures of sweeps: layers by positions or heads as heat maps, and effects over the picture that was patched."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from mmlens.analysis.patching.result import PatchSweep
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.inputs.images import Picture, load_image
from mmlens.viz.figures import (
    LABEL,
    TICK,
    canvas,
    color_bar,
    dress,
    headline,
    heat_map,
    inches,
    limit_of,
    name_columns,
    name_rows,
    panels,
    rows_and_columns,
    signed_scale,
)
from mmlens.viz.grids import grids_of
from mmlens.viz.points import label_of, parse_point
from mmlens.viz.words import text_options, with_unit

_DIRECTIONS = {"denoise": "clean into corrupted", "noise": "corrupted into clean", "knock-out": "attention cut"}
_FEW = 8  # columns: so many have their values written into them
_BESIDE = 4  # heat maps to a row
_MOST_PANELS = 24


@checked
def plot_sweep(
    sweep: PatchSweep, *, points: Sequence[str] | None = None, figure: Figure | SubFigure | None = None
) -> Figure:
    """A sweep as heat maps of the change of the metric, red for a rise and blue for a fall, layers upwards.

    One kind of point: layers by positions. Several: a map for each. Heads: layers by heads, a map for each group of positions.

    Args:
        sweep: from `mm.patch`.
        points: which points to draw; all by default.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    grids = grids_of(sweep, _chosen(sweep, points))
    is_narrow = max(len(grid.columns) for grid in grids) <= _FEW
    n_rows, n_columns = rows_and_columns(len(grids), _BESIDE)
    width = max(len(grid.columns) for grid in grids) * (0.8 if is_narrow else 0.17)
    width = min(max(width, 1.6 if len(grids) > 1 else 2.4), 13.0 / n_columns)
    largest = max(len(grid.rows) for grid in grids)
    height = min(max(0.32 * largest, 0.6), max(5.5, 0.14 * largest), 9.5 / n_rows)
    # beside the cells there is room for labels and the colour bar, above and below them for titles and labels
    figure = canvas(1.9 + (width + 0.4) * n_columns, 0.7 + (height + 0.6) * n_rows, figure)
    width, height = (inches(figure)[0] - 1.9) / n_columns - 0.4, (inches(figure)[1] - 0.7) / n_rows - 0.6
    alike = all(grid.rows == grids[0].rows for grid in grids)
    all_axes = panels(figure, len(grids), limit=_BESIDE, sharey=alike)
    scale = signed_scale(torch.cat([grid.effect.flatten() for grid in grids]))
    for place, (axes, grid) in enumerate(zip(all_axes, grids, strict=True)):
        first = place % n_columns == 0
        heat_map(axes, grid.effect, scale)
        dress(axes, x=grid.x, y=grid.y if first else "", title=grid.title)
        axes.spines[:].set_visible(False)
        axes.tick_params(left=first or not alike)
        name_rows(axes, grid.rows, height)
        name_columns(axes, grid.columns, width)
        if is_narrow and height / len(grid.rows) > 0.14 and width / len(grid.columns) > 0.32:
            _write_values(axes, grid.effect, limit_of(scale))
    color_bar(figure, scale, all_axes, with_unit("change", sweep.metric))
    headline(figure, _title(sweep))
    return figure.figure


@checked
def plot_over_picture(
    sweep: PatchSweep,
    image: Picture,
    *,
    points: Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Effects over the picture, one panel per point: each group's patches in the colour of its mean effect.

    Args:
        sweep: from `mm.patch`, with groups that have a place in the picture.
        image: the first sample's picture.
        points: which points to draw; at most 24.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.

    Raises:
        InputError: if no group has a place, or there are too many points for panels.
    """
    indices = _chosen(sweep, points)
    groups = [j for j in range(len(sweep.boxes)) if _boxes(sweep, j)]
    if not groups:
        raise InputError(
            "None of the sweep's groups has a place in the picture; sweep blocks of it, boxes or "
            "masks: positions=mm.positions.grid(k)."
        )
    if len(indices) > _MOST_PANELS:
        raise InputError(f"{len(indices)} points are too many panels; name at most {_MOST_PANELS} with points=[...].")
    picture = load_image(image)
    effect = sweep.effect.mean(-1)[indices]
    scale = signed_scale(effect[:, groups])
    shape = picture.height / picture.width
    limit = 7 if shape > 0.7 else 4
    n_rows, n_columns = rows_and_columns(len(indices) + 1, limit)
    width = min(2.0 if shape > 0.7 else 3.0, 2.6 / shape)
    figure = canvas((width + 0.08) * n_columns + 1.0, (width * shape + 0.28) * n_rows + 0.5, figure)
    first, *others = panels(figure, len(indices) + 1, limit=limit)
    first.imshow(picture)
    first.set_title("picture", fontsize=LABEL)
    shade = _shade(picture)
    for axes, values, i in zip(others, effect, indices, strict=True):
        boxes = [(box, float(values[j])) for j in groups for box in _boxes(sweep, j)]
        patches = [
            Rectangle((start - 0.5, top - 0.5), right - start, bottom - top) for (start, top, right, bottom), _ in boxes
        ]
        colors = scale.to_rgba(np.array([value for _, value in boxes]))
        axes.add_collection(PatchCollection(patches, facecolors=colors, linewidths=0, antialiased=False))
        axes.imshow(shade, zorder=2)
        axes.set_title(label_of(parse_point(sweep.points[i])), fontsize=LABEL, **text_options())
    for axes in (first, *others):
        axes.set_axis_off()
    color_bar(figure, scale, [first, *others], with_unit("change", sweep.metric))
    headline(figure, _title(sweep))
    return figure.figure


def _boxes(sweep: PatchSweep, group: int) -> list[list[float]]:
    """Where a group lies in the picture; nothing if it has no place."""
    boxes = sweep.boxes[group]
    return [] if boxes is None else boxes.tolist()


def _shade(picture: Image.Image) -> np.ndarray:
    """The picture in black, `[height width 4]`: the darker a pixel, the less see-through, so that colours beneath keep theirs."""
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L")), dtype=float) / 255
    return np.dstack([np.zeros((*grey.shape, 3)), 0.4 * (1 - grey)])


def _chosen(sweep: PatchSweep, points: Sequence[str] | None) -> list[int]:
    if points is None:
        return list(range(len(sweep.points)))
    wrong = [point for point in points if point not in sweep.points]
    if wrong or not len(points):
        raise InputError(
            f"points={list(points)} must name some of the sweep's points: {', '.join(sweep.points[:6])} ..."
        )
    return [sweep.points.index(point) for point in points]


def _write_values(axes: Axes, effect: torch.Tensor, limit: float) -> None:
    largest = float(effect.nan_to_num().abs().max())
    digits = 2 if largest < 10 else 1 if largest < 100 else 0
    for i, row in enumerate(effect.tolist()):
        for j, value in enumerate(row):
            color = "white" if abs(value) > 0.6 * limit else "black"
            number = round(value, digits) + 0.0  # no "-0.00"
            axes.text(j, i, f"{number:.{digits}f}", ha="center", va="center", fontsize=TICK, color=color)


def _title(sweep: PatchSweep) -> str:
    how = _DIRECTIONS.get(sweep.direction, sweep.direction)
    estimate = "" if sweep.method == "exact" else f", estimated by {sweep.method}"
    count = f", mean of {len(sweep.clean)} samples" if len(sweep.clean) > 1 else ""
    return f"change of {sweep.metric}\n{how}{estimate}{count}"
