"""Series in figures: a colour and a shape of its own for each name, means with their intervals, and legends beside the data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.palette import GREY, SERIES
from mmlens.viz.figures import TICK, inches
from mmlens.viz.words import shortened, text_options

_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


@dataclass(frozen=True)
class Mark:
    """How a series is drawn.

    Attributes:
        color: its colour.
        shape: matplotlib's marker.
        hollow: drawn as an outline: a control.
    """

    color: str
    shape: str = "o"
    hollow: bool = False

    @property
    def face(self) -> str:
        """What the shape is filled with."""
        return "white" if self.hollow else self.color


#: Random controls and other baselines.
CONTROL = Mark(GREY)


def marks(names: Iterable[str]) -> dict[str, Mark]:
    """A colour and a shape for each name: both change from one to the next, so that no two of seventy are the same.

    Example:
        >>> first, second = marks(["a", "b"]).values()
        >>> first.color != second.color and first.shape != second.shape
        True
    """
    return {
        name: Mark(SERIES[i % len(SERIES)], _SHAPES[i % len(_SHAPES)]) for i, name in enumerate(dict.fromkeys(names))
    }


def draw_intervals(
    axes: Axes, places: Sequence[float], intervals: Sequence[Interval], mark: Mark, *, level: bool = False
) -> None:
    """Means with their 95% intervals at places of the other axis.

    Args:
        axes: where.
        places: of each.
        intervals: means and bounds.
        mark: how they are drawn.
        level: values run to the right, not upwards.
    """
    exact = [Interval(place, place, place, 0) for place in places]
    draw_points(axes, intervals if level else exact, exact if level else intervals, mark=mark)


def draw_points(
    axes: Axes, x: Sequence[Interval], y: Sequence[Interval], *, mark: Mark, label: str = "", line: str = ""
) -> None:
    """Points with 95% intervals in both directions.

    Args:
        axes: where.
        x, y: means and bounds.
        mark: how they are drawn.
        label: in a legend.
        line: matplotlib's style of the line that joins them, if any.
    """

    def errors(intervals_of_line: Sequence[Interval]) -> list[list[float]] | None:
        bars = [
            [interval.mean - interval.low for interval in intervals_of_line],
            [interval.high - interval.mean for interval in intervals_of_line],
        ]
        return bars if any(map(any, bars)) else None

    axes.errorbar(
        [interval.mean for interval in x],
        [interval.mean for interval in y],
        xerr=errors(x),
        yerr=errors(y),
        marker=mark.shape,
        linestyle=line or "none",
        color=mark.color,
        ecolor=(mark.color, 0.55),
        mfc=mark.face,
        markersize=4,
        linewidth=1.1,
        elinewidth=1.0,
        label=label or None,
    )


def draw_band(
    axes: Axes, places: Sequence[float], intervals: Sequence[Interval], mark: Mark, *, line: str = "-"
) -> None:
    """A curve of means, and a band for their 95% intervals.

    Args:
        axes: where.
        places: on the x axis.
        intervals: means and bounds.
        mark: how they are drawn.
        line: matplotlib's style of the line.
    """
    means = [interval.mean for interval in intervals]
    above = 2 if mark == CONTROL else 3  # baselines lie beneath
    style: dict[str, Any] = {
        "marker": mark.shape,
        "linestyle": line,
        "color": mark.color,
        "mfc": mark.face,
        "zorder": above,
    }
    axes.plot(places, means, markersize=3, linewidth=1.1, **style)
    low, high = [interval.low for interval in intervals], [interval.high for interval in intervals]
    axes.fill_between(places, low, high, color=mark.color, alpha=0.18, linewidth=0, zorder=above)


def legend_entry(label: str, mark: Mark, **style: Any) -> Line2D:
    """A line of a legend for a mark.

    Args:
        label: its words.
        mark: as in the panels.
        style: what is different from it, in matplotlib's words.
    """
    options: dict[str, Any] = {"marker": mark.shape, "linestyle": "none", "markersize": 4.5, "linewidth": 1.1} | style
    return Line2D([], [], color=mark.color, mfc=mark.face, label=shortened(label, 44), **options)


def legend_below(figure: Figure | SubFigure, entries: Sequence[Any]) -> None:
    """A legend under all panels, where it hides nothing, in as many columns as the figure is wide.

    Args:
        figure: which.
        entries: matplotlib's artists with labels, or those of `legend_entry`.
    """
    if not entries:
        return
    columns = _columns([str(entry.get_label()) for entry in entries], inches(figure)[0])
    legend = figure.legend(
        handles=list(entries), loc="outside lower center", ncols=columns, fontsize=TICK, frameon=False
    )
    for text in legend.get_texts():
        text.set(**text_options())


def legend_height(labels: Sequence[str], width: float) -> float:
    """How much room such a legend needs in a figure of a width; both in inches."""
    return 0.2 + 1.35 * TICK / 72 * -(-len(labels) // _columns(labels, width)) if labels else 0.0


def _columns(labels: Sequence[str], width: float) -> int:
    width_of_label = (0.58 * max(map(len, labels)) + 4.5) * TICK / 72
    return max(1, min(len(labels), int((width - 0.3) / width_of_label)))
