"""Figures of edits: success against what else changed."""

from itertools import groupby
from typing import Any

from mmlens.analysis.edit_outcome import EditFacts, EditReport
from mmlens.viz.figures import Plot

_COLORS = ("#5a4fa3", "#d1603d", "#2f8f6b", "#b3892c", "#777777", "#3b7fc4")


def plot_frontier(report: EditReport) -> Plot:
    """Success against the share of control answers that changed; edits of one method and several penalties are joined.

    Args:
        report: from `mm.edit_report`. Good edits lie at the top left. Bars are 95% intervals.
    """
    groups = report.groups("target")
    figure = Plot(figsize=(1.2 + 3.0 * len(groups), 3.2), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    by_method = sorted(report.edits, key=lambda fact: fact.method)
    methods = [sorted(some, key=_strength) for _, some in groupby(by_method, key=lambda fact: fact.method)]
    for axes, group in zip(panels, groups, strict=True):
        named: dict[tuple[float, float], list[str]] = {}
        for number, facts in enumerate(methods):
            _draw_method(axes, report, group, facts, _COLORS[number % len(_COLORS)], named)
        for place, names in named.items():  # edits that fall on one place share a label
            axes.annotate(
                ", ".join(names),
                place,
                xytext=(5, -3),
                textcoords="offset points",
                va="top",
                fontsize=6,
                color="#333333",
            )
        axes.set_title(group, fontsize=9)
        axes.set_xlabel("control answers changed (share)", fontsize=8)
        axes.set_xlim(left=-0.02, right=max(0.1, axes.get_xlim()[1]))
        axes.set_ylim(-0.05, 1.08)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("success (share)", fontsize=8)
    panels[-1].legend(fontsize=7, loc="lower right")
    words = repr(report.source) + ("" if report.target is None else f" to {report.target!r}")
    figure.suptitle(f"edits of {words}", fontsize=10)
    return figure


def _draw_method(
    axes: Any,
    report: EditReport,
    group: str,
    facts: list[EditFacts],
    color: str,
    named: dict[tuple[float, float], list[str]],
) -> None:
    """One method's edits; their names are kept by where they lie."""
    points = [(report.changed(fact.name), report.success(fact.name, group)) for fact in facts]
    joined = len({fact.penalty for fact in facts}) == len(facts) > 1
    axes.errorbar(
        [changed.mean for changed, _ in points],
        [success.mean for _, success in points],
        xerr=[[c.mean - c.low for c, _ in points], [c.high - c.mean for c, _ in points]],
        yerr=[[s.mean - s.low for _, s in points], [s.high - s.mean for _, s in points]],
        fmt="o-" if joined else "o",
        color=color,
        ecolor=color + "55",
        markersize=4,
        linewidth=1,
        label=facts[0].method,
    )
    for fact, (changed, success) in zip(facts, points, strict=True):
        named.setdefault((round(changed.mean, 2), round(success.mean, 2)), []).append(fact.name)


def _strength(fact: EditFacts) -> float:
    return float("inf") if fact.penalty is None else -fact.penalty
