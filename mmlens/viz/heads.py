"""Attention heads, drawn: scores and shares, layers by heads, and where tokens look."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from mmlens.core.contract import checked
from mmlens.core.errors import NoPlaceError
from mmlens.core.palette import SEQUENTIAL
from mmlens.viz.figures import LABEL, canvas, color_bar, dress, headline, heat_map, inches, name_columns, name_rows
from mmlens.viz.words import shown, text_options

if TYPE_CHECKING:
    from mmlens.analysis.attention.looks import AttentionLooks
    from mmlens.analysis.heads.ranking import HeadRanking
    from mmlens.analysis.heatmap import HeatMap

#: So many tokens are shown on the picture.
_TOKENS = 3


@checked
def plot_heads(ranking: "HeadRanking", *, figure: Figure | SubFigure | None = None) -> Figure:
    """The score of every head, layers by heads.

    Args:
        ranking: from `mm.rank_heads`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    layers, heads = ranking.scores.shape
    figure = canvas(max(3.6, 0.22 * heads + 1.6), max(2.2, 0.18 * layers + 1.2), figure)
    _matrix(figure, figure.subplots(), ranking.scores, ranking.layers, "score")
    headline(figure, f"heads by {ranking.method}, {ranking.samples} samples")
    return figure.figure


def plot_looks(looks: "AttentionLooks", *, figure: Figure | SubFigure | None = None) -> Figure:
    """The share of attention that each head gives to the picture, and the maps of the tokens that look at it most.

    Args:
        looks: from `mm.lenses.attention_looks`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    layer, head, query = looks.most
    maps = _maps(looks)
    heads = looks.values.shape[1]
    width, height = max(3.0, 0.22 * heads + 1.6), max(2.4, 0.18 * len(looks.layers) + 1.2)
    figure = canvas(width + 2.2 * len(maps), height, figure)
    first, *others = figure.subplots(1, 1 + len(maps), squeeze=False, width_ratios=[width, *[2.2] * len(maps)])[0]
    _matrix(figure, first, looks.shares[:, :, query], looks.layers, "share")
    for axes, (heat, picture) in zip(others, maps, strict=True):
        axes.imshow(heat.overlay(picture))
        axes.set_title(shown(heat.title.split(",")[0], 30), fontsize=LABEL, **text_options())
        axes.set_axis_off()
    share = float(looks.shares[layer, head, query])
    words = (
        f"the picture gets {share:.2f} of the attention of {looks.queries[query]!r} in L{looks.layers[layer]}.h{head}"
    )
    headline(figure, f"{words}; left: in each head")
    return figure.figure


def _maps(looks: "AttentionLooks") -> "list[tuple[HeatMap, Image.Image]]":
    """Where the tokens look that look at the picture most; none where there is no picture, or no place in it."""
    if looks.picture is None or looks.layout is None:
        return []
    best = looks.shares.mean((0, 1)).argsort(descending=True)[:_TOKENS].tolist()
    try:
        return [(looks.map(query), looks.picture) for query in best]
    except NoPlaceError:
        return []


def _matrix(
    figure: Figure | SubFigure,
    axes: Axes,
    values: Float[torch.Tensor, "layer head"],
    layers: Sequence[int],
    what: str,
) -> None:
    """Values of heads, layers upwards."""
    width, height = inches(figure)
    high = float(values.max())
    scale = ScalarMappable(Normalize(0.0, high if high > 0 else 1.0), SEQUENTIAL)
    heat_map(axes, values, scale)
    name_rows(axes, [str(layer) for layer in layers], height)
    name_columns(axes, [str(head) for head in range(values.shape[1])], min(width, 0.22 * values.shape[1] + 1.6))
    dress(axes, x="head", y="layer")
    color_bar(figure, scale, [axes], what)
