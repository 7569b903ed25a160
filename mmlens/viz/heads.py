"""Rankings of heads, drawn: their scores, layers by heads."""

from typing import TYPE_CHECKING

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from mmlens.viz.figures import canvas, color_bar, dress, headline, heat_map, name_columns, name_rows

if TYPE_CHECKING:
    from mmlens.analysis.heads.ranking import HeadRanking


def plot_heads(ranking: "HeadRanking", *, figure: Figure | SubFigure | None = None) -> Figure:
    """The score of every head, layers by heads.

    Args:
        ranking: from `mm.rank_heads`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    layers, heads = ranking.scores.shape
    width, height = max(3.6, 0.22 * heads + 1.6), max(2.2, 0.18 * layers + 1.2)
    figure = canvas(width, height, figure)
    axes = figure.subplots()
    high = float(ranking.scores.max())
    scale = ScalarMappable(Normalize(0.0, high if high > 0 else 1.0), "viridis")
    heat_map(axes, ranking.scores, scale)
    name_rows(axes, [str(layer) for layer in ranking.layers], height)
    name_columns(axes, [str(head) for head in range(heads)], width)
    dress(axes, x="head", y="layer")
    color_bar(figure, scale, [axes], "score")
    headline(figure, f"heads by {ranking.method}, {ranking.samples} samples")
    return figure.figure
