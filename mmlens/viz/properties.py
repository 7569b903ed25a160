"""Figures of measured properties of neurons: one panel per quantity, each choice of neurons beside its baselines."""

from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from mmlens.core.errors import InputError
from mmlens.viz.figures import Plot

if TYPE_CHECKING:
    import pandas as pd

    from mmlens.analysis.properties.measured import Measured

_COLORS = ("#5a4fa3", "#1b8a7a", "#c9701e", "#a83258", "#5b7f1f", "#3b6fb5")
_GREY = "#9a9a9a"
_COLUMNS = 5


def plot_measured(measured: "Measured", *, k: int | None = None) -> Plot:
    """Every quantity in a panel: means with their 95% intervals.

    Filled: a choice of neurons. Grey: random neurons of the same layers. Hollow: the quantity's control with the same
    neurons (other objects, another noun). A dashed line: another baseline (a centred blob). Where several k were measured,
    curves over k.

    Args:
        measured: from `mm.neuron_report` or one of the properties.
        k: draw this number of neurons alone; by default all that were measured.

    Raises:
        InputError: if nothing was measured for that k.
    """
    frame = measured.to_frame()
    if k is not None:
        frame = frame[frame["k"] == k]
        if frame.empty:
            raise InputError(f"Nothing was measured with k={k}; k was {', '.join(map(str, measured.ks))}.")
    controls = {quantity.control for quantity in measured.quantities if quantity.control}
    shown = [quantity for quantity in measured.quantities if quantity.name in set(frame["quantity"])]
    # a control is drawn inside the panel of the quantity that it belongs to
    shown = [quantity for quantity in shown if quantity.name not in controls]
    choices = _choices(frame)
    columns = min(_COLUMNS, len(shown))
    rows = ceil(len(shown) / columns)
    figure = Plot(figsize=(2.9 * columns, 2.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel, quantity in zip(axes.flat, shown, strict=False):
        own = frame[frame["quantity"] == quantity.name]
        control = frame[frame["quantity"] == quantity.control]
        if own["k"].nunique() > 1:
            _curves(panel, own, control, choices)
        else:
            _points(panel, own, control, choices)
        blob = own[own["method"] == quantity.baseline]["mean"]
        if len(blob):
            panel.axhline(float(blob.iloc[-1]), color=_GREY, linewidth=1, linestyle="--")
        arrow = {"higher": " ↑", "lower": " ↓"}.get(quantity.better, "")
        panel.set_title(fill(quantity.name, 34) + arrow, fontsize=8)
        panel.set_ylabel(fill(quantity.unit, 26), fontsize=7)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(axes.flat)[len(shown) :]:
        panel.set_axis_off()
    _legend(figure, choices, bool(controls), frame)
    return figure


def _choices(frame: "pd.DataFrame") -> list[str]:
    """The choices of neurons that have a colour: all but random neurons and other baselines."""
    baselines = set(frame["baseline"].dropna()) if "baseline" in frame else set()
    return [
        method
        for method in dict.fromkeys(frame["method"])
        if not method.startswith("random, like ") and method not in baselines
    ]


def _color(choices: list[str], method: str) -> str:
    return _COLORS[choices.index(method) % len(_COLORS)]


def _points(panel: Axes, own: "pd.DataFrame", control: "pd.DataFrame", choices: list[str]) -> None:
    """One group per choice of neurons: it, random neurons like it, its control."""
    present = [method for method in choices if method in set(own["method"])]
    for place, method in enumerate(present):
        color = _color(choices, method)
        for rows, name, shift, (line, inside) in (
            (own, method, -0.22, (color, color)),
            (own, f"random, like {method}", 0.0, (_GREY, _GREY)),
            (control, method, 0.22, (color, "white")),
        ):
            row = rows[rows["method"] == name]
            if len(row):
                mean, low, high = (float(row[column].iloc[0]) for column in ("mean", "low", "high"))
                panel.errorbar(
                    place + shift, mean, [[mean - low], [high - mean]], fmt="o", markersize=4, color=line, mfc=inside
                )
    panel.set_xticks(range(len(present)), [fill(method.replace("_", " "), 12) for method in present], fontsize=7)
    panel.set_xlim(-0.6, len(present) - 0.4)
    low, high = panel.get_ylim()
    if low < 0 < high:
        panel.axhline(0, color="black", linewidth=0.5)


def _curves(panel: Axes, own: "pd.DataFrame", control: "pd.DataFrame", choices: list[str]) -> None:
    """One curve over k per choice of neurons, its random neurons in grey, its control dotted."""
    for method in choices:
        color = _color(choices, method)
        for rows, name, shade, line in (
            (own, method, color, "-"),
            (own, f"random, like {method}", _GREY, "-"),
            (control, method, color, ":"),
        ):
            some = rows[rows["method"] == name].sort_values("k")
            if len(some):
                panel.plot(
                    some["k"], some["mean"], color=shade, linestyle=line, marker="o", markersize=2.5, linewidth=1.2
                )
                panel.fill_between(some["k"], some["low"], some["high"], color=shade, alpha=0.15, linewidth=0)
    panel.set_xscale("log")
    ks = sorted(set(own["k"]))
    panel.set_xticks(ks, [str(k) for k in ks], fontsize=7)
    panel.minorticks_off()
    panel.set_xlabel("neurons", fontsize=7)


def _legend(figure: Plot, choices: list[str], controls: bool, frame: "pd.DataFrame") -> None:
    """What the marks mean, once for all panels."""
    from matplotlib.lines import Line2D

    def mark(label: str, color: str, **style: object) -> Line2D:
        options: dict[str, object] = {"marker": "o", "linestyle": "", "markersize": 5} | style
        return Line2D([], [], color=color, label=label, **options)  # type: ignore[arg-type]

    marks = [mark(method.replace("_", " "), _color(choices, method)) for method in choices]
    if frame["method"].str.startswith("random, like ").any():
        marks.append(mark("random, same layers", _GREY))
    if controls:
        marks.append(mark("control (other object, noun, token)", "black", markerfacecolor="white"))
    baselines = sorted(set(frame["baseline"].dropna())) if "baseline" in frame else []
    marks += [mark(name, _GREY, marker="", linestyle="--") for name in baselines]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)
