"""Reports on methods against hallucination, drawn: what each changes, beside random changes as strong."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure, SubFigure

from mmlens.core.contract import checked
from mmlens.core.palette import SERIES
from mmlens.viz.figures import LABEL, TICK, canvas, dress, headline, panels

if TYPE_CHECKING:
    from mmlens.analysis.mitigation.result import MitigationReport

_SCORES = 12


@checked
def plot_mitigation(report: "MitigationReport", *, figure: Figure | SubFigure | None = None) -> Figure:
    """The change of each score by each method with its 95% interval, and the mean change by its random controls (crosses).

    Args:
        report: from `mm.mitigation_report`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    frame = report.to_frame()
    pairs = list(dict.fromkeys(zip(frame["task"], frame["score"])))[:_SCORES]
    methods = list(report.methods)
    columns = min(3, len(pairs))
    lines = -(-len(pairs) // columns)
    figure = canvas(1.2 + 2.4 * columns, 0.8 + lines * (0.7 + 0.24 * len(methods)), figure)
    for axes, (task, score) in zip(panels(figure, len(pairs), limit=3, sharey=True), pairs, strict=True):
        rows = frame[(frame["task"] == task) & (frame["score"] == score)].set_index("method")
        for number, method in enumerate(methods):
            row = rows.loc[method]
            axes.plot([row["difference_low"], row["difference_high"]], [number, number], color=SERIES[0])
            axes.plot([row["difference"]], [number], "o", color=SERIES[0], markersize=4)
            axes.plot([row["control"] - row["plain"]], [number], "x", color=SERIES[1], markersize=5)
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.set_yticks(range(len(methods)), methods, fontsize=TICK)
        axes.invert_yaxis()
        dress(axes, title=f"{task}: {score}")
        axes.title.set_fontsize(LABEL)
    headline(figure, "change by each method (o), and by random changes as strong (x)")
    return figure.figure
