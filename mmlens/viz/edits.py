"""Figures of edits: success against what else changed."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.edits.cases import EditFacts
from mmlens.analysis.edits.outcome import EditReport
from mmlens.core.contract import checked
from mmlens.viz.figures import canvas, dress, headline, note_points, panels, rows_and_columns
from mmlens.viz.marks import Mark, draw_points, legend_below, legend_entry, legend_height, marks


class _Series(NamedTuple):
    """One edit, or those of one method with rising penalties, which are joined."""

    name: str
    facts: list[EditFacts]


@checked
def plot_frontier(report: EditReport, *, figure: Figure | SubFigure | None = None) -> Figure:
    """Success against the share of control answers that changed, in a colour and shape per edit.

    Edits of one method with different penalties are one series, joined from the strongest to the weakest.

    Args:
        report: from `mm.edits.edit_report`. Good edits lie at the top left. Bars are 95% intervals.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    groups = report.groups("target")
    series = _series(report)
    line_marks = marks(line.name for line in series)
    n_rows, n_columns = rows_and_columns(len(groups), 4)
    width = 0.7 + max(3.3 * n_columns, 4.0)
    height = 0.7 + 2.7 * n_rows + legend_height(list(line_marks), width)
    figure = canvas(width, height, figure)
    all_axes = panels(figure, len(groups), limit=4, sharex=True, sharey=True)
    for place, (axes, group) in enumerate(zip(all_axes, groups, strict=True)):
        for line in series:
            _draw(axes, report, group, line, line_marks[line.name])
        last = place + n_columns >= len(groups)
        dress(
            axes,
            x="control answers changed (share)" if last else "",
            y="success (share)" if place % n_columns == 0 else "",
            title=group,
            grid=True,
        )
        axes.set_ylim(-0.05, 1.05)
    right = max(axes.dataLim.x1 for axes in all_axes)
    all_axes[0].set_xlim(-0.03 * max(0.1, right), 1.04 * max(0.1, right))
    for axes, group in zip(all_axes, groups, strict=True):
        facts = [fact for line in series if len(line.facts) > 1 for fact in line.facts]
        places = [(report.changed(fact.name).mean, report.success(fact.name, group).mean) for fact in facts]
        note_points(axes, [fact.name for fact in facts], places)
    entries = [legend_entry(line.name, line_marks[line.name], linestyle=_line(line) or "none") for line in series]
    legend_below(figure, entries)
    words = repr(report.source) + ("" if report.target is None else f" to {report.target!r}")
    headline(figure, f"edits of {words}")
    return figure.figure


def _series(report: EditReport) -> list[_Series]:
    series = []
    for method in dict.fromkeys(fact.method for fact in report.edits):
        facts = [fact for fact in report.edits if fact.method == method]
        if len({fact.penalty for fact in facts}) == len(facts) > 1:
            series.append(_Series(method, sorted(facts, key=_strength)))
        else:
            series += [_Series(fact.name, [fact]) for fact in facts]
    return series


def _strength(fact: EditFacts) -> float:
    return float("inf") if fact.penalty is None else -fact.penalty


def _line(series: _Series) -> str:
    return "-" if len(series.facts) > 1 else ""


def _draw(axes: Axes, report: EditReport, group: str, series: _Series, mark: Mark) -> None:
    points = [(report.changed(fact.name), report.success(fact.name, group)) for fact in series.facts]
    draw_points(axes, *zip(*points, strict=True), mark=mark, label=series.name, line=_line(series))
