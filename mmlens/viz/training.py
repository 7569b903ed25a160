"""Figures of training: what a sparse dictionary gave back, and how many of its features were dead."""

from matplotlib.figure import Figure, SubFigure

from mmlens.analysis.features.training.result import SAETraining
from mmlens.core.contract import checked
from mmlens.core.palette import SERIES
from mmlens.viz.figures import canvas, dress, headline


@checked
def plot_training(training: SAETraining, *, figure: Figure | SubFigure | None = None) -> Figure:
    """The share of the variance that was not given back, and the share of dead features, over the steps.

    Args:
        training: from `mm.train_sae`.
        figure: a matplotlib figure or subfigure to draw into; a new one by default.
    """
    frame = training.to_frame()
    figure = canvas(7.2, 2.9, figure)
    left, right = figure.subplots(1, 2)
    left.plot(frame["step"], frame["unexplained"], color=SERIES[0])
    left.set_yscale("log")
    if training.held_out is not None:
        left.axhline(1 - training.held_out.explained_variance, color="black", linewidth=0.7, linestyle=":")
    dress(left, x="step", title="variance not explained (dotted: held-out pictures)", grid=True)
    right.plot(frame["step"], 100 * frame["dead"], color=SERIES[1])
    right.set_ylim(bottom=0)
    dress(right, x="step", title="dead features, %", grid=True)
    headline(figure, f"{len(training.sae)} features at {training.sae.at}")
    return figure.figure
