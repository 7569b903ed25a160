"""Heat maps over a picture, side by side."""

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.core.contract import checked
from mmlens.core.kinds import Percentile, Several
from mmlens.core.palette import OVER_PICTURE
from mmlens.viz.figures import LABEL, TICK, canvas
from mmlens.viz.words import text_options, wrapped


@checked
def plot_maps(
    image: Image.Image | None,
    maps: Several[HeatMap],
    *,
    percentile: Percentile = 95.0,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """A picture, and beside it each map in colours, which reach from its least value to its largest, and as a mask.

    Args:
        image: the picture; without it maps lie on grey.
        maps: heat maps over it.
        percentile: of the masks.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    height, across = maps[0].size
    ground = Image.new("RGB", (across, height), "lightgrey") if image is None else image
    shape, first = ground.height / ground.width, int(image is not None)
    width = 2.3 if shape > 0.7 else 3.0
    figure = canvas(width * (first + len(maps)), 2 * (width - 0.15) * shape + 0.8, figure)
    axes = figure.subplots(3, first + len(maps), squeeze=False, height_ratios=(1, 0.05, 1))
    if image is not None:
        axes[0][0].imshow(image)
        axes[0][0].set_title("picture", fontsize=LABEL)
    for column, heat in enumerate(maps, start=first):
        above, between, below = axes[:, column]
        above.imshow(heat.overlay(ground))
        above.set_title(wrapped(heat.title, 30, 3), fontsize=LABEL, **text_options())
        low, high = float(heat.values.min()), float(heat.values.max())
        high = high if high > low else low + 1.0
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), OVER_PICTURE), cax=between, orientation="horizontal")
        bar.set_ticks([low, high], labels=[f"{low:.3g}", f"{high:.3g}"], fontsize=TICK)
        below.imshow(heat.overlay(ground, percentile=percentile))
        below.set_title(f"above percentile {percentile:g}", fontsize=LABEL)
        for ax in (above, below):
            ax.set_axis_off()
    for ax in axes[:, :first].flat:
        ax.set_axis_off()
    return figure.figure
