"""Figures of studies: the numbers of a stage."""

from collections.abc import Sequence

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.study_table import StudyTable
from mmlens.core.contract import checked
from mmlens.core.palette import NOTE, SERIES
from mmlens.viz.figures import canvas, dress, headline, name_rows

_PANELS = 12


@checked
def plot_study(table: StudyTable, *, figure: Figure | SubFigure | None = None) -> Figure:
    """Every quantity of a stage in a panel: its numbers with their intervals, beside controls (hollow) and the paper's (crosses).

    Args:
        table: the table.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    quantities = list(dict.fromkeys(row.quantity for row in table.rows if row.value is not None))
    panels = quantities[:_PANELS]
    deepest = max((sum(row.quantity == name for row in table.rows) for name in panels), default=1)
    rows, columns = -(-max(len(panels), 1) // 3), min(max(len(panels), 1), 3)
    figure = canvas(4.4 * columns, rows * (0.9 + 0.22 * min(deepest, 24)), figure)
    for axes, name in zip(
        figure.subplots(rows, columns, squeeze=False).flat, [*panels, *[""] * (rows * columns - len(panels))]
    ):
        numbers = [row for row in table.rows if row.quantity == name and row.value is not None]
        if not numbers:
            axes.set_axis_off()
            continue
        for place, row in enumerate(reversed(numbers)):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=SERIES[0], linewidth=1.2)
            axes.plot([row.value], [place], "o", color=SERIES[0], markersize=4)
            if row.control is not None:
                axes.plot([row.control], [place], "o", markerfacecolor="none", color=NOTE, markersize=4)
            if row.published is not None:
                axes.plot([row.published], [place], "x", color=SERIES[1], markersize=5)
        axes.set_ylim(-0.6, len(numbers) - 0.4)
        name_rows(axes, [row.case for row in reversed(numbers)], rows and 0.22 * min(deepest, 24))
        dress(axes, x=numbers[0].unit, title=name)
    rest = f"; {len(quantities) - len(panels)} more in the table" if len(quantities) > len(panels) else ""
    headline(figure, f"{table.paper}, {table.stage}: {table.title}{rest}{f': {table.reason}' if table.reason else ''}")
    return figure.figure


def plot_studies(tables: Sequence[StudyTable], *, figure: Figure | SubFigure | None = None) -> Figure:
    """The tables of a study below each other.

    Args:
        tables: the tables.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    heights = [1.4 + 0.3 * min(len(table.rows), 12) for table in tables]
    figure = canvas(9.0, sum(heights), figure)
    for part, table in zip(figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0], tables):
        plot_study(table, figure=part)
    return figure.figure
