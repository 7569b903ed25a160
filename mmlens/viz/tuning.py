"""Figures of fine-tunes."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.tuning.tune import Tune
from mmlens.core.contract import checked
from mmlens.core.palette import SERIES
from mmlens.viz.figures import canvas, dress


@checked
def plot_losses(tune: Tune, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The loss of every step of a fine-tune.

    Args:
        tune: the fine-tune.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    figure = canvas(5.0, 3.0, figure)
    axes = figure.subplots()
    axes.plot(range(len(tune.losses)), tune.losses, color=SERIES[0])
    dress(axes, x="step", y="loss, nats per token", title=f"Fine-tune in {tune.folder.name}", grid=True)
    return figure.figure
