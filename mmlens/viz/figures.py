"""What all figures have in common: size, panels, axes, colour bars, and how they show and save themselves."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from mmlens.core.palette import DIVERGING, NOTE
from mmlens.viz.words import shortened, text_options, wrapped

#: Sizes of letters, in points: titles of figures, of panels and axes, and everything else.
TITLE, LABEL, TICK = 9.0, 8.0, 7.0
#: No figure is larger, in inches: it has to fit on a screen.
WIDEST, TALLEST = 16.0, 12.0
#: Steps between labels where not all can be written.
_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 64, 100, 128, 200, 256, 500, 512, 1000)


class Plot(Figure):
    """A matplotlib figure that shows itself in a notebook, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's; letters stay letters in SVG and PDF, so that they can be searched and edited."""
        with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42}):
            super().savefig(fname, **options)


def canvas(width: float, height: float, figure: Figure | SubFigure | None = None) -> Figure | SubFigure:
    """What is drawn on: a new figure, or the one that was given.

    Args:
        width, height: of a new one, in inches; larger ones than fit on a screen are made smaller.
        figure: a figure, or a part of one, that keeps its size.
    """
    if figure is None:
        return Plot(figsize=(min(width, WIDEST), min(height, TALLEST)), layout="constrained")
    if isinstance(figure, Figure) and figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    return figure


def inches(figure: Figure | SubFigure) -> tuple[float, float]:
    """Width and height of a figure or of a part of one."""
    return float(figure.bbox.width / figure.figure.dpi), float(figure.bbox.height / figure.figure.dpi)


def panels(
    figure: Figure | SubFigure, count: int, *, limit: int, sharex: bool = False, sharey: bool = False
) -> list[Axes]:
    """So many axes in rows of equal length, as far as that can be; places without a panel are empty.

    Args:
        figure: where.
        count: how many.
        limit: per row.
        sharex, sharey: as for matplotlib's `subplots`.
    """
    rows, columns = rows_and_columns(count, limit)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    for place, axes in enumerate(grid.flat):
        if place >= count:
            axes.remove()
        elif place + columns >= count:
            axes.tick_params(
                labelbottom=True
            )  # shared axes are labelled in the last row alone, where this place may be empty
    return list(grid.flat)[:count]


def rows_and_columns(count: int, limit: int) -> tuple[int, int]:
    """Into how many rows and columns panels go, so that none stands alone in the last row.

    Args:
        count: how many panels.
        limit: to a row; one more, or fewer, where a panel would be left over.

    Example:
        >>> rows_and_columns(7, 6), rows_and_columns(3, 6), rows_and_columns(9, 4)
        ((2, 4), (1, 3), (3, 3))
    """
    even = math.ceil(count / math.ceil(count / limit))
    for columns in (even, even + 1, *range(even - 1, 1, -1)):
        if count % columns != 1 or count == 1:
            return math.ceil(count / columns), columns
    return math.ceil(count / even), even


def dress(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: bool = False) -> None:
    """Labels, sizes of letters, and no frame but the two axes.

    Args:
        axes: which.
        x, y: what the axes show, with its unit.
        title: what the panel shows.
        grid: faint lines to read values by.
    """
    axes.tick_params(labelsize=TICK)
    axes.spines[["top", "right"]].set_visible(False)
    if x:
        axes.set_xlabel(x, fontsize=LABEL, **text_options())
    if y:
        axes.set_ylabel(y, fontsize=LABEL, **text_options())
    if title:
        axes.set_title(title, fontsize=LABEL, **text_options())
    if grid:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)


def headline(figure: Figure | SubFigure, words: str) -> None:
    """The title of a whole figure, in lines that fit into its width."""
    width = int(inches(figure)[0] * 72 / (0.56 * TITLE))
    lines = [wrapped(line, width) for line in words.splitlines()]
    figure.suptitle("\n".join(lines), fontsize=TITLE, **text_options())


def signed_scale(values: Float[torch.Tensor, "*any"]) -> ScalarMappable:
    """Colours of signed values: zero is white, red is a rise and blue a fall, and both reach equally far."""
    limit = float(values.nan_to_num(0.0, 0.0, 0.0).abs().max()) if values.numel() else 0.0
    return ScalarMappable(Normalize(-(limit or 1.0), limit or 1.0), DIVERGING)


def limit_of(scale: ScalarMappable) -> float:
    """The value at which the colours of a scale end."""
    _, high = scale.get_clim()
    return float(1.0 if high is None else high)


def heat_map(axes: Axes, values: Float[torch.Tensor, "row column"], scale: ScalarMappable) -> None:
    """Values as cells, the first row at the bottom; cells keep their edges, also where they are smaller than a pixel.

    Args:
        axes: where.
        values: one per cell.
        scale: their colours.
    """
    low, high = scale.get_clim()
    axes.imshow(
        values.numpy(), cmap=scale.cmap, vmin=low, vmax=high, aspect="auto", origin="lower", interpolation="nearest"
    )


def color_bar(figure: Figure | SubFigure, scale: ScalarMappable, axes: Sequence[Axes], label: str) -> None:
    """What colours mean, beside the axes that they stand in."""
    height = inches(figure)[1]
    bar = figure.colorbar(
        scale, ax=list(axes), shrink=min(1.0, 3.5 / height) if height > 4 else 0.9, aspect=18, pad=0.02
    )
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=max(2, min(6, int(height / 0.4)))))
    bar.ax.tick_params(labelsize=TICK)
    bar.set_label(label, fontsize=LABEL, **text_options())


def name_rows(axes: Axes, labels: Sequence[str], height: float) -> None:
    """Label the rows of a heat map, as many as fit.

    Args:
        axes: of the heat map.
        labels: one per row.
        height: of the axes, in inches.
    """
    step = _step(len(labels), height / (1.25 * TICK / 72))
    ticks = range(0, len(labels), step)
    axes.set_yticks(ticks, [shortened(labels[i], 32) for i in ticks], fontsize=TICK, **text_options())


def name_columns(axes: Axes, labels: Sequence[str], width: float) -> None:
    """Label the columns of a heat map: level where the words fit, else upright, as many as fit.

    Args:
        axes: of the heat map.
        labels: one per column.
        width: of the axes, in inches.
    """
    letters = int(width / len(labels) / (0.6 * TICK / 72)) - 1
    if max(len(word) for label in labels for word in label.split() or [""]) <= letters:
        level = [wrapped(label, letters, 3) for label in labels]
        axes.set_xticks(range(len(labels)), level, fontsize=TICK, **text_options())
        return
    numbers = all(label.isdigit() for label in labels)
    letter = 0.7 * max(map(len, labels)) if numbers else 1.3
    ticks = range(0, len(labels), _step(len(labels), width / (letter * TICK / 72)))
    upright: dict[str, Any] = {} if numbers else {"rotation": 90}
    axes.set_xticks(ticks, [shortened(labels[i], 28) for i in ticks], fontsize=TICK, **upright, **text_options())


def _step(count: int, fit: float) -> int:
    """Every how many-th is labelled, if so many fit."""
    ratio = count / max(fit, 1.0)
    return next((step for step in _STEPS if step >= ratio), max(1, math.ceil(ratio)))


def note_points(axes: Axes, names: Sequence[str], places: Sequence[tuple[float, float]]) -> None:
    """A small name beside each point, on a side where it covers no other name and no point; none where there is no such side.

    Args:
        axes: with its data and limits.
        names: one per point.
        places: the points.
    """
    axes.autoscale_view()
    size = TICK - 1
    points = axes.transData.transform(np.asarray(places, dtype=float).reshape(-1, 2)) * 72 / axes.figure.dpi
    frame = Bbox(axes.get_window_extent().get_points() * 72 / axes.figure.dpi)
    boxes = [Bbox.from_bounds(x - 2, y - 2, 4, 4) for x, y in points.tolist()]
    for number, ((x, y), name) in enumerate(zip(points.tolist(), names, strict=True)):
        words = shortened(name, 24)
        width, height = 0.62 * size * len(words), 1.1 * size
        for right, up in ((4.0, 3.0), (-4.0 - width, 3.0), (4.0, -3.0 - height), (-4.0 - width, -3.0 - height)):
            box = Bbox.from_bounds(x + right, y + up, width, height)
            outside = box.x0 < frame.x0 or box.y0 < frame.y0 or box.x1 > frame.x1 or box.y1 > frame.y1 + height
            if outside or any(box.overlaps(other) for i, other in enumerate(boxes) if i != number):
                continue
            boxes.append(box)
            offset: dict[str, Any] = {"xytext": (right, up), "textcoords": "offset points", "va": "bottom"}
            axes.annotate(words, places[number], fontsize=size, color=NOTE, **offset, **text_options())
            break
