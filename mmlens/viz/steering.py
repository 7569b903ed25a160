"""Figures of steering: dose curves, and what changed in which answers."""

import math
from collections.abc import Callable, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.metrics import unit_of
from mmlens.analysis.statistics.intervals import Interval
from mmlens.analysis.steering.controls import ControlKind
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.core.contract import checked
from mmlens.core.palette import SERIES
from mmlens.viz.figures import (
    LABEL,
    TICK,
    canvas,
    color_bar,
    dress,
    headline,
    heat_map,
    inches,
    name_columns,
    name_rows,
    panels,
    rows_and_columns,
    signed_scale,
)
from mmlens.viz.marks import CONTROL, Mark, draw_band, draw_intervals, legend_below, legend_entry, legend_height, marks
from mmlens.viz.points import label_of, parse_point, point_rows
from mmlens.viz.words import counted, text_options, with_unit, wrapped

_CURVES = 12  # points: so many have a panel each, more are rows of a heat map
_ROWS = 48  # pairs of intervention and set of prompts: so many have a mark each, more are cells of a heat map
_VECTOR = Mark(SERIES[0])
_CONTROLS: dict[str, Mark] = {"words": Mark(SERIES[1]), "covariance": Mark(SERIES[2]), "isotropic": CONTROL}


def _control_names(curve: DoseCurve) -> dict[ControlKind, str]:
    """The kinds of control of a curve, as legends have them."""
    names: dict[ControlKind, str] = {
        "words": "unembedding difference",
        "covariance": f"random, with the states' covariance, mean of {len(curve.covariance)}",
        "isotropic": f"random vectors, mean of {len(curve.controls)}",
    }
    return {kind: names[kind] for kind in curve.kinds}


@checked
def plot_dose(curve: DoseCurve, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The metric over strengths: the vector beside its controls, with 95% intervals, a panel per point.

    More than twelve points are drawn as heat maps of the mean change from the unsteered value, points by strengths.

    Args:
        curve: from `mm.steering.dose_curve`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    figure = _dose_maps(curve, figure) if len(curve.points) > _CURVES else _dose_curves(curve, figure)
    headline(figure, f"steered with growing strength, {counted(len(curve.baseline), 'sample')}")
    return figure.figure


def _dose_curves(curve: DoseCurve, figure: Figure | SubFigure | None) -> Figure | SubFigure:
    n_rows, n_columns = rows_and_columns(len(curve.points), 4)
    figure = canvas(0.8 + max(2.4 * n_columns, 4.2), 0.9 + 2.0 * n_rows, figure)
    all_axes = panels(figure, len(curve.points), limit=4, sharex=True, sharey=True)
    order = sorted(curve.alphas)
    for place, (axes, point) in enumerate(zip(all_axes, curve.points, strict=True)):
        draw_band(axes, order, [curve.interval(point, alpha) for alpha in order], _VECTOR)
        for kind in curve.kinds:
            intervals = [curve.control(point, alpha, control=kind) for alpha in order]
            if not any(math.isnan(interval.mean) for interval in intervals):
                draw_band(axes, order, intervals, _CONTROLS[kind])
        axes.axhline(float(curve.baseline.mean()), color="black", linewidth=0.7, linestyle=":")
        below = place + n_columns >= len(curve.points)
        dress(axes, title=label_of(parse_point(point)), x="alpha" if below else "")
    figure.supylabel(wrapped(curve.metric, 50), fontsize=LABEL, **text_options())
    entries = [legend_entry("steering vector", _VECTOR, linestyle="-")]
    entries += [legend_entry(name, _CONTROLS[kind], linestyle="-") for kind, name in _control_names(curve).items()]
    legend_below(figure, [*entries, legend_entry("without", Mark("black"), marker="", linestyle=":")])
    return figure


def _dose_maps(curve: DoseCurve, figure: Figure | SubFigure | None) -> Figure | SubFigure:
    order = sorted(range(len(curve.alphas)), key=curve.alphas.__getitem__)
    changes = {"steering vector": (curve.values - curve.baseline).mean(-1)[:, order]}
    runs = {"words": curve.words[None], "covariance": curve.covariance, "isotropic": curve.controls}
    for kind, name in _control_names(curve).items():
        changes[name] = (runs[kind] - curve.baseline).mean((0, -1))[:, order]
    rows, axis = point_rows(curve.points)
    height = min(0.2 * len(rows), 8.5)
    figure = canvas(1.8 + 2.9 * len(changes), 1.2 + height, figure)
    scale = signed_scale(torch.cat(list(changes.values())))
    all_axes = panels(figure, len(changes), limit=2, sharey=True)
    for place, (axes, (name, values)) in enumerate(zip(all_axes, changes.items(), strict=True)):
        heat_map(axes, values, scale)
        dress(axes, x="alpha", y="" if place else axis, title=name)
        axes.spines[:].set_visible(False)
        axes.tick_params(left=not place)
        name_rows(axes, rows, inches(figure)[1] - 1.2)
        name_columns(axes, [f"{curve.alphas[i]:g}" for i in order], (inches(figure)[0] - 1.8) / len(changes))
    name = curve.metric.removesuffix(f", {unit_of(curve.metric)}")
    color_bar(figure, scale, all_axes, wrapped(with_unit(f"change of {name}", curve.metric), 50))
    return figure


@checked
def plot_report(report: SteeringReport, *, figure: Figure | SubFigure | None = None) -> Figure:
    """Per set of prompts the share of answers changed, and the change of the score, with 95% intervals; random controls grey.

    Where there are too many interventions and sets of prompts for a mark each, they are drawn as heat maps of the means.

    Args:
        report: from `mm.steering.steering_report`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    names = [fact.name for fact in report.interventions if fact.control_of is None]
    measures: dict[str, Callable[[str, str], Interval]] = {"answers changed (share)": report.changed}
    if any(case.score is not None for case in report.cases):
        measures["change of the score"] = report.score_change
    many = len(names) * len(report.groups) > _ROWS
    figure = _report_maps(report, names, measures, figure) if many else _report_marks(report, names, measures, figure)
    headline(figure, f"{counted(len(names), 'intervention')}, {counted(len(report.groups), 'set')} of prompts")
    return figure.figure


def _controls(report: SteeringReport, name: str) -> list[str]:
    return [fact.name for fact in report.interventions if fact.control_of == name]


def _report_marks(
    report: SteeringReport,
    names: Sequence[str],
    measures: dict[str, Callable[[str, str], Interval]],
    figure: Figure | SubFigure | None,
) -> Figure | SubFigure:
    name_marks = marks(names)
    has_controls = any(_controls(report, name) for name in names)
    labels = [*names, *(["controls, one per kind and seed"] if has_controls else [])]
    width = 1.6 + 3.4 * len(measures)
    rows = len(report.groups) * (len(names) + 0.6)
    figure = canvas(width, 0.9 + max(0.8, 0.17 * rows) + legend_height(labels, width), figure)
    all_axes = panels(figure, len(measures), limit=2, sharey=True)
    for axes, (quantity, value) in zip(all_axes, measures.items(), strict=True):
        for row, name in enumerate(names):
            places = [group + 0.8 * (row + 0.5) / len(names) - 0.4 for group in range(len(report.groups))]
            for control in _controls(report, name):
                means = [value(control, group).mean for group in report.groups]
                axes.scatter(means, places, s=9, marker="o", facecolor="none", edgecolor=CONTROL.color, linewidth=0.8)
            draw_intervals(axes, places, [value(name, group) for group in report.groups], name_marks[name], level=True)
        axes.axvline(0, color="black", linewidth=0.6, zorder=0)
        for line in range(1, len(report.groups)):
            axes.axhline(line - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
        dress(axes, x=quantity)
    _name_groups(all_axes[0], report.groups)
    all_axes[0].set_ylim(len(report.groups) - 0.5, -0.5)
    entries = [legend_entry(name, name_marks[name]) for name in names]
    if has_controls:
        entries.append(legend_entry(labels[-1], Mark(CONTROL.color, hollow=True)))
    legend_below(figure, entries)
    return figure


def _name_groups(axes: Axes, groups: Sequence[str]) -> None:
    names = [wrapped(group, 24, 2) for group in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=TICK, **text_options())


def _report_maps(
    report: SteeringReport,
    names: Sequence[str],
    measures: dict[str, Callable[[str, str], Interval]],
    figure: Figure | SubFigure | None,
) -> Figure | SubFigure:
    maps: dict[str, torch.Tensor] = {}
    for quantity, value in measures.items():
        maps[quantity] = torch.tensor([[value(name, group).mean for group in report.groups] for name in names])
        rows_of_maps = [
            [[value(control, group).mean for control in _controls(report, name)] for group in report.groups]
            for name in names
        ]
        if all(cells for row in rows_of_maps for cells in row):
            random = [[sum(cells) / len(cells) for cells in row] for row in rows_of_maps]
            maps[f"{quantity}, random vectors"] = torch.tensor(random)
    n_rows, n_columns = len(measures), len(maps) // len(measures)
    width = min(max(0.42 * len(report.groups), 1.8), 6.0)
    height = min(max(0.2 * len(names), 1.2), 9.0 / n_rows)
    figure = canvas(2.6 + (width + 0.3) * n_columns, 0.8 + (height + 1.6) * n_rows, figure)
    scale = signed_scale(torch.cat([heat.flatten() for heat in maps.values()]))
    all_axes = panels(figure, len(maps), limit=n_columns, sharey=True)
    for place, (axes, (name, values)) in enumerate(zip(all_axes, maps.items(), strict=True)):
        heat_map(axes, values, scale)
        dress(axes, title=wrapped(name, 40, 2))
        axes.spines[:].set_visible(False)
        axes.tick_params(left=place % n_columns == 0)
        name_rows(axes, names, (inches(figure)[1] - 0.8) / n_rows - 1.6)
        name_columns(axes, report.groups, (inches(figure)[0] - 2.6) / n_columns - 0.3)
    all_axes[0].invert_yaxis()
    color_bar(figure, scale, all_axes, "mean over prompts (share)")
    return figure
