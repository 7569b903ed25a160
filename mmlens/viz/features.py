"""Pages of features, drawn: how often a feature fires, and the pictures on which it is strongest, beside a random one."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.features.page_result import FeaturePage
from mmlens.core.palette import GREY, SERIES
from mmlens.viz.figures import LABEL, canvas, dress, headline
from mmlens.viz.words import shown

#: So many pictures are drawn.
_PICTURES = 4


def plot_page(page: FeaturePage, *, figure: Figure | SubFigure | None = None) -> Figure:
    """How often a feature fires, and its codes on the pictures on which it is strongest; the random feature in grey, and below.

    Args:
        page: from `mm.features.page`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    pictures = page.pictures[:_PICTURES]
    figure = canvas(3.0 + 1.9 * len(pictures), 3.9 if pictures else 2.6, figure)
    grid = figure.add_gridspec(2, 1 + len(pictures), width_ratios=[2.4, *[1.9] * len(pictures)])
    bars = figure.add_subplot(grid[:, 0])
    kinds = list(page.density)
    for shift, density, color in ((-0.2, page.density, SERIES[0]), (0.2, page.control_density, GREY)):
        bars.bar([place + shift for place in range(len(kinds))], [density[kind] for kind in kinds], 0.36, color=color)
    bars.set_xticks(range(len(kinds)), [f"{kind} rows" for kind in kinds])
    dress(bars, y="share of rows in which it fires (grey: random feature)", grid=True)
    for column, top in enumerate(pictures, start=1):
        for row, (heat, title) in enumerate(
            ((top.map, f"at most {top.strongest:.3g}"), (top.control, "random feature"))
        ):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(heat.overlay(top.picture))
            axes.set_title(title, fontsize=LABEL, color=GREY if row else "black")
            axes.set_axis_off()
    words = f"; writes {shown(', '.join(page.words[:5]), 60)}" if page.words else ""
    headline(
        figure, f"{page.feature}{words}; {page.image_share:.0%} of its codes lie on pictures, {page.n_samples} samples"
    )
    return figure.figure
