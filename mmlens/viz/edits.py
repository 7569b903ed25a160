"""Figures of edits: success against what else changed."""

from itertools import groupby

from mmlens.analysis.edit_outcome import EditFacts, EditReport
from mmlens.viz.figures import Plot

_COLORS = ("#5a4fa3", "#d1603d", "#2f8f6b", "#b3892c", "#777777", "#3b7fc4")


def plot_frontier(report: EditReport) -> Plot:
    """Success against the share of control answers that changed; edits of one method are joined by falling penalty.

    Args:
        report: from `mm.edit_report`. Good edits lie at the top left. Bars are 95% intervals.
    """
    groups = report.groups("target")
    figure = Plot(figsize=(1.2 + 3.0 * len(groups), 3.2), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    methods = [list(some) for _, some in groupby(sorted(report.edits, key=lambda f: f.method), key=lambda f: f.method)]
    for axes, group in zip(panels, groups, strict=True):
        for number, facts in enumerate(methods):
            color = _COLORS[number % len(_COLORS)]
            ordered = sorted(facts, key=_strength)
            points = [(report.changed(fact.name), report.success(fact.name, group)) for fact in ordered]
            x, y = [changed.mean for changed, _ in points], [success.mean for _, success in points]
            axes.errorbar(
                x,
                y,
                xerr=[[c.mean - c.low for c, _ in points], [c.high - c.mean for c, _ in points]],
                yerr=[[s.mean - s.low for _, s in points], [s.high - s.mean for _, s in points]],
                fmt="o-" if len(facts) > 1 else "o",
                color=color,
                ecolor=color + "55",
                markersize=4,
                linewidth=1,
                label=facts[0].method,
            )
            for fact, across, up in zip(ordered, x, y, strict=True):
                axes.annotate(
                    fact.name, (across, up), xytext=(4, -9), textcoords="offset points", fontsize=6, color=color
                )
        axes.set_title(group, fontsize=9)
        axes.set_xlabel("control answers changed (share)", fontsize=8)
        axes.set_xlim(left=-0.02)
        axes.set_ylim(-0.05, 1.08)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("success (share)", fontsize=8)
    panels[-1].legend(fontsize=7, loc="lower right")
    words = repr(report.source) + ("" if report.target is None else f" to {report.target!r}")
    figure.suptitle(f"edits of {words}", fontsize=10)
    return figure


def _strength(fact: EditFacts) -> float:
    return float("inf") if fact.penalty is None else -fact.penalty
