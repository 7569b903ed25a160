"""Scores of neurons, drawn: where the best lie, and what they say."""

from typing import TYPE_CHECKING

from mmlens.viz.figures import Plot

if TYPE_CHECKING:
    from mmlens.analysis.neurons.scores import NeuronScores

_COLOR = "#5a4fa3"


def plot_scores(scores: "NeuronScores", *, k: int = 20, rows: int = 10) -> Plot:
    """The top k neurons by layer, and the best of them with their scores and words.

    Args:
        scores: from `mm.find_neurons`.
        k: how many are counted by layer.
        rows: how many are listed.
    """
    counts = scores.layers(k)
    rows = min(rows, k)
    figure = Plot(figsize=(8.4, 0.7 + 0.26 * max(rows, 6)), layout="constrained")
    bars, table = figure.subplots(1, 2, width_ratios=(1, 2))
    bars.bar(range(len(counts)), counts, color=_COLOR)
    bars.set_xticks(range(0, len(counts), 1 + len(counts) // 12))
    bars.yaxis.get_major_locator().set_params(integer=True)
    bars.set_xlabel("layer" if scores.part == "language" else f"{scores.part} layer", fontsize=8)
    bars.set_ylabel(f"of the top {k}", fontsize=8)
    bars.tick_params(labelsize=7)
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_title(f"{scores.word}: {scores.method.replace('_', ' ')}", fontsize=9)
    frame = scores.to_frame(rows)
    shown = [
        [f"L{row.layer}.u{row.neuron}", f"{row.score:.3f}", getattr(row, "words", "")] for row in frame.itertuples()
    ]
    with_words = "words" in frame
    table.set_axis_off()
    drawn = table.table(
        [row if with_words else row[:2] for row in shown],
        colLabels=["neuron", "score", "writes"][: 2 + with_words],
        colWidths=[0.17, 0.13, 0.7] if with_words else [0.3, 0.2],
        cellLoc="left",
        colLoc="left",
        loc="upper left",
        edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)
    for cell in drawn.get_celld().values():
        cell.set_edgecolor("#c8c8c8")
    return figure
