"""Figures of results with matplotlib: neurons by layer, maps over a picture."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from mmlens.analysis.heatmap import HeatMap

if TYPE_CHECKING:
    from mmlens.analysis.neurons.scores import NeuronScores


class Plot(Figure):
    """A matplotlib figure that shows itself in a notebook, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def plot_layers(scores: "NeuronScores", *, k: int = 20) -> Plot:
    """How many of the top k neurons lie in each layer.

    Args:
        scores: from `mm.find_neurons`.
        k: how many neurons.
    """
    counts = scores.layers(k)
    figure = Plot(figsize=(3.2, 1.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(counts)), counts, color="#5a4fa3")
    axes.set_xticks(range(len(counts)))
    axes.set_xlabel("layer")
    axes.set_ylabel(f"of the top {k}")
    axes.set_title(scores.word, fontsize=9)
    return figure


def plot_maps(image: Image.Image, maps: Sequence[HeatMap], *, percentile: float = 95.0) -> Plot:
    """A picture, and beside it each map in colours and as a mask.

    Args:
        image: the picture.
        maps: heat maps over it.
        percentile: of the masks.
    """
    figure = Plot(figsize=(2.2 * (1 + len(maps)), 4.6), layout="constrained")
    axes = figure.subplots(2, 1 + len(maps), squeeze=False)
    axes[0][0].imshow(image)
    axes[0][0].set_title("picture", fontsize=8)
    for column, heat in enumerate(maps, start=1):
        axes[0][column].imshow(heat.overlay(image))
        axes[0][column].set_title(heat.title, fontsize=8, wrap=True)
        axes[1][column].imshow(heat.overlay(image, percentile=percentile))
        axes[1][column].set_title(f"above percentile {percentile:g}", fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure
