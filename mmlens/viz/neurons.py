"""Scores of neurons, drawn: where the best lie, and what they say."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from mmlens.core.contract import checked
from mmlens.core.kinds import Count
from mmlens.core.palette import PARTS
from mmlens.viz.figures import TICK, canvas, dress, headline
from mmlens.viz.words import shown, text_options

if TYPE_CHECKING:
    from mmlens.analysis.neurons.scores import NeuronScores

_ROWS = 10


@checked
def plot_scores(scores: "NeuronScores", *, k: Count = 20, figure: Figure | SubFigure | None = None) -> Figure:
    """The top k neurons by layer, and the ten best of them with their scores and words.

    Args:
        scores: from `mm.find_neurons`.
        k: how many are counted by layer.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    rows = min(_ROWS, k)
    frame = scores.to_frame(rows)
    with_words = "words" in frame
    figure = canvas(8.4 if with_words else 5.6, 0.8 + 0.26 * max(rows, 7), figure)
    bars, table = figure.subplots(1, 2, width_ratios=(1, 2) if with_words else (3, 2))
    _bars(bars, scores, k)
    _list(
        table,
        [
            [f"L{row.layer}.u{row.neuron}", f"{row.score:.3f}", shown(getattr(row, "words", ""), 46)][: 2 + with_words]
            for row in frame.itertuples()
        ],
    )
    headline(figure, f"neurons for {scores.word!r} by {scores.method.replace('_', ' ')}")
    return figure.figure


@checked
def plot_layers(scores: "NeuronScores", *, k: Count = 20, figure: Figure | SubFigure | None = None) -> Figure:
    """How many of the top k neurons lie in each layer.

    Args:
        scores: from `mm.find_neurons`.
        k: how many neurons.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    figure = canvas(3.4, 2.2, figure)
    _bars(figure.subplots(), scores, k)
    headline(figure, f"neurons for {scores.word!r}")
    return figure.figure


def _bars(axes: Axes, scores: "NeuronScores", k: int) -> None:
    counts = scores.layers(k)
    axes.bar(range(len(counts)), counts, color=PARTS[scores.part])
    axes.set_xticks(range(0, len(counts), 1 + len(counts) // 12))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    dress(axes, x="layer" if scores.part == "language" else f"{scores.part} layer", y=f"how many of the top {k}")


def _list(axes: Axes, rows: list[list[str]]) -> None:
    """Neurons below each other: name, score, and the words they write, if these are known."""
    with_words = len(rows[0]) == 3
    axes.set_axis_off()
    table = axes.table(
        rows,
        colLabels=["neuron", "score", "writes"][: len(rows[0])],
        colWidths=[0.17, 0.13, 0.7] if with_words else [0.6, 0.4],
        cellLoc="left",
        colLoc="left",
        loc="upper left",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(TICK + 0.5)
    for cell in table.get_celld().values():
        cell.set_edgecolor("#c8c8c8")
        cell.get_text().set(**text_options())
