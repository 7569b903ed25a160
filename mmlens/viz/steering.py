"""Figures of steering: dose curves, and what changed in which answers."""

from matplotlib.axes import Axes

from mmlens.analysis.statistics import Interval
from mmlens.analysis.steering.dose import DoseCurve
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.viz.figures import Plot

_COLORS = ("#5a4fa3", "#d1603d", "#2f8f6b", "#b3892c", "#3b7fc4", "#a33f6e")
_GREY = "#999999"


def plot_dose(curve: DoseCurve) -> Plot:
    """The metric over strengths, one panel per point: the vector in colour, random vectors in grey, with 95% intervals.

    Args:
        curve: from `mm.dose_curve`.
    """
    columns = min(4, len(curve.points))
    rows = -(-len(curve.points) // columns)
    figure = Plot(figsize=(0.8 + 2.3 * columns, 0.6 + 2.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    order = sorted(curve.alphas)
    for number, axes in enumerate(panels.flat):
        if number >= len(curve.points):
            axes.set_axis_off()
            continue
        point = curve.points[number]
        lines = [("vector", _COLORS[0], [curve.interval(point, alpha) for alpha in order])]
        if len(curve.controls):
            lines.append(("random", _GREY, [curve.control(point, alpha) for alpha in order]))
        for name, color, intervals in lines:
            axes.plot(
                order, [each.mean for each in intervals], "o-", color=color, markersize=3, linewidth=1, label=name
            )
            low, high = [each.low for each in intervals], [each.high for each in intervals]
            axes.fill_between(order, low, high, color=color, alpha=0.2, linewidth=0)
        axes.axhline(float(curve.baseline.mean()), color="black", linewidth=0.6, linestyle=":")
        axes.set_title(point, fontsize=7)
        axes.tick_params(labelsize=7)
    panels[0][0].legend(fontsize=7)
    figure.supxlabel("alpha", fontsize=8)
    figure.supylabel(curve.metric, fontsize=8)
    return figure


def plot_report(report: SteeringReport) -> Plot:
    """Per set of prompts, the share of answers changed, and of the score's change; controls with random vectors in grey.

    Args:
        report: from `mm.steering_report`.
    """
    groups, facts = report.groups, report.interventions
    asked = [fact.name for fact in facts if fact.control_of is None]
    scored = any(case.score is not None for case in report.cases)
    height = 1.0 + 0.14 * len(groups) * len(facts)
    figure = Plot(figsize=(4.2 * (1 + scored) + 1.2, height), layout="constrained")
    panels = figure.subplots(1, 1 + scored, sharey=True, squeeze=False)[0]
    for number, fact in enumerate(facts):
        color = _GREY if fact.control_of is not None else _COLORS[asked.index(fact.name) % len(_COLORS)]
        places = [group + 0.8 * number / len(facts) for group in range(len(groups))]
        _bars(panels[0], places, [report.changed(fact.name, group) for group in groups], color, fact.name, len(facts))
        if scored:
            changes = [report.score_change(fact.name, group) for group in groups]
            _bars(panels[1], places, changes, color, fact.name, len(facts))
    middle = 0.4 * (len(facts) - 1) / len(facts)
    panels[0].set_yticks([group + middle for group in range(len(groups))], groups, fontsize=8)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("answers changed (share)", fontsize=8)
    if scored:
        panels[1].set_xlabel("change of the score", fontsize=8)
        panels[1].axvline(0, color="black", linewidth=0.6)
    panels[-1].legend(fontsize=6)
    for axes in panels:
        axes.tick_params(axis="x", labelsize=7)
    return figure


def _bars(axes: Axes, places: list[float], intervals: list[Interval], color: str, label: str, bars: int) -> None:
    means = [each.mean for each in intervals]
    errors = [[each.mean - each.low for each in intervals], [each.high - each.mean for each in intervals]]
    axes.barh(places, means, height=0.7 / bars, xerr=errors, color=color, label=label, error_kw={"linewidth": 0.7})
