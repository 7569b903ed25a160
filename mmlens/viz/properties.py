"""Figures of measured properties of neurons: one panel per quantity, each choice of neurons beside its baselines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.statistics.intervals import Interval
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.palette import GREY
from mmlens.viz.figures import TICK, canvas, dress, panels, rows_and_columns
from mmlens.viz.marks import CONTROL, Mark, draw_band, draw_intervals, legend_below, legend_entry, legend_height, marks
from mmlens.viz.words import text_options, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.lines import Line2D

    from mmlens.analysis.properties.measurements import Measurements

_BESIDE = 4  # choices of neurons: so many stand beside each other, more below each other
_RANDOM, _MATCHED = "random, like ", "matched, like "
#: Random neurons that are as active.
MATCHED = Mark(CONTROL.color, "s")


class _Series(NamedTuple):
    """What is drawn of one choice of neurons in one panel: rows of the frame, how, and where beside the others."""

    rows: "pd.DataFrame"
    mark: Mark
    line: str
    shift: float


@checked
def plot_measurements(
    table: "Measurements", *, k: int | None = None, figure: Figure | SubFigure | None = None
) -> Figure:
    """Every quantity in a panel: means with their 95% intervals.

    Filled: a choice of neurons. Grey: random neurons of the same layers, their mean and 95% of the draws; as squares, those of
    them that are as active. Hollow: the quantity's control with the same neurons (other objects, another noun). A dashed line:
    another baseline (a centred blob, the weights alone). Where several k were measured, curves over k.

    Args:
        table: from `mm.properties.neuron_report` or one of the properties.
        k: draw this number of neurons alone; by default all that were measured.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.

    Raises:
        InputError: if nothing was measured for that k.
    """
    frame = table.to_frame()
    if k is not None:
        frame = frame[frame["k"] == k]
        if frame.empty:
            raise InputError(f"Nothing was measured with k={k}; k was {', '.join(map(str, table.ks))}.")
    controls = {quantity.control for quantity in table.quantities if quantity.control}
    # a control is drawn inside the panel of the quantity that it belongs to
    quantities = [
        quantity
        for quantity in table.quantities
        if quantity.name in set(frame["quantity"]) and quantity.name not in controls
    ]
    method_marks = marks(_choices(frame))
    curves = frame["k"].nunique() > 1
    level = len(method_marks) > _BESIDE and not curves
    limit = 4 if level else 5
    n_rows, n_columns = rows_and_columns(len(quantities), limit)
    entries = _entries(method_marks, bool(controls), frame, curves=curves)
    height = max(1.1, 0.2 * len(method_marks)) + 0.75 if level else 2.1
    width = (2.7 if level else max(2.9, 0.75 * len(method_marks))) * n_columns + (1.2 if level else 0)
    width = max(width, 4.6)
    figure = canvas(
        width, height * n_rows + legend_height([str(entry.get_label()) for entry in entries], width), figure
    )
    all_axes = panels(figure, len(quantities), limit=limit, sharey=level)
    for place, (axes, quantity) in enumerate(zip(all_axes, quantities, strict=True)):
        values, control = (frame[frame["quantity"] == name] for name in (quantity.name, quantity.control))
        arrow = {"higher": " ↑", "lower": " ↓"}.get(quantity.better, "")
        title, unit = wrapped(quantity.name, 34) + arrow, wrapped(quantity.unit, 40 if level else 26)
        if values["k"].nunique() > 1:
            _curves(axes, values, control, method_marks)
            dress(axes, title=title, x="neurons", y=unit)
        else:
            _points(axes, values, control, method_marks, level=level)
            dress(axes, title=title, x=unit if level else "", y="" if level else unit)
        if level and place % n_columns:
            axes.tick_params(labelleft=False)
        blob = values[values["method"] == quantity.baseline]["mean"]
        if len(blob):
            (axes.axvline if level else axes.axhline)(float(blob.iloc[-1]), color=GREY, linewidth=1, linestyle="--")
    legend_below(figure, entries)
    return figure.figure


def _choices(frame: "pd.DataFrame") -> list[str]:
    """The choices of neurons that have a colour: all but random neurons and other baselines."""
    baselines = set(frame["baseline"].dropna()) if "baseline" in frame else set()
    return [
        method
        for method in dict.fromkeys(frame["method"])
        if not method.startswith((_RANDOM, _MATCHED)) and method not in baselines
    ]


def _series(values: "pd.DataFrame", control: "pd.DataFrame", method: str, mark: Mark) -> Iterator[_Series]:
    """A choice of neurons, random neurons like it, and its control, as far as they were measured."""
    for rows, name, how, line, shift in (
        (values, method, mark, "-", -0.22),
        (values, f"{_RANDOM}{method}", CONTROL, "-", -0.07),
        (values, f"{_MATCHED}{method}", MATCHED, "--", 0.07),
        (control, method, Mark(mark.color, mark.shape, hollow=True), ":", 0.22),
    ):
        selection = rows[rows["method"] == name].sort_values("k")
        if len(selection):
            yield _Series(selection, how, line, shift)


def _intervals(rows: "pd.DataFrame") -> list[Interval]:
    return [Interval(mean, low, high, 0) for mean, low, high in rows[["mean", "low", "high"]].to_numpy(float).tolist()]


def _points(
    axes: Axes, values: "pd.DataFrame", control: "pd.DataFrame", method_marks: dict[str, Mark], *, level: bool
) -> None:
    """One group per choice of neurons, beside or below each other."""
    # below each other all panels share one axis, so that every choice has its line in each
    present = [method for method in method_marks if level or method in set(values["method"])]
    for place, method in enumerate(present):
        for series in _series(values, control, method, method_marks[method]):
            draw_intervals(axes, [place + series.shift], _intervals(series.rows), series.mark, level=level)
    ticks = axes.set_yticks if level else axes.set_xticks
    ticks(
        range(len(present)), [_name(method, 30 if level else 12) for method in present], fontsize=TICK, **text_options()
    )
    if level:
        axes.set_ylim(len(present) - 0.4, -0.6)
    else:
        axes.set_xlim(-0.6, len(present) - 0.4)
    low, high = axes.get_xlim() if level else axes.get_ylim()
    if low < 0 < high:
        (axes.axvline if level else axes.axhline)(0, color="black", linewidth=0.5, zorder=0)


def _name(method: str, width: int) -> str:
    return wrapped(method.replace("_", " "), width)


def _curves(axes: Axes, values: "pd.DataFrame", control: "pd.DataFrame", method_marks: dict[str, Mark]) -> None:
    """One curve over k per choice of neurons, its random neurons in grey, its control dotted."""
    for method, mark in method_marks.items():
        for series in _series(values, control, method, mark):
            draw_band(axes, series.rows["k"].tolist(), _intervals(series.rows), series.mark, line=series.line)
    axes.set_xscale("log")
    ticks = _apart(sorted(set(values["k"])))
    axes.set_xticks(ticks, [str(number) for number in ticks])
    axes.minorticks_off()


def _apart(numbers: list[int]) -> list[int]:
    """Of rising numbers those that lie far enough apart on a logarithmic axis for their labels."""
    ticks = [numbers[0]]
    for number in numbers[1:]:
        if number >= ticks[-1] * (numbers[-1] / numbers[0]) ** 0.13:
            ticks.append(number)
    return ticks


def _entries(method_marks: dict[str, Mark], controls: bool, frame: "pd.DataFrame", *, curves: bool) -> "list[Line2D]":
    """What the marks mean; the choices of neurons are named on the axes, but where these are numbers."""
    entries = [legend_entry(_name(name, 40), mark, linestyle="-") for name, mark in method_marks.items() if curves]
    if frame["method"].str.startswith(_RANDOM).any():
        entries.append(legend_entry("random neurons, same layers: 95% of draws", CONTROL))
    if frame["method"].str.startswith(_MATCHED).any():
        entries.append(legend_entry("those that are as active", MATCHED))
    if controls:
        entries.append(legend_entry("control (other object, noun, token)", Mark("black", hollow=True)))
    baselines = sorted(set(frame["baseline"].dropna())) if "baseline" in frame else []
    return entries + [legend_entry(name, CONTROL, marker="", linestyle="--") for name in baselines]
