"""Figures of results with matplotlib: a patch sweep as a grid, neurons by layer, maps over a picture."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image

from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.patching import PatchSweep
from mmlens.core.names import HookName

if TYPE_CHECKING:
    from mmlens.analysis.neurons.scores import NeuronScores


class Plot(Figure):
    """A matplotlib figure that shows itself in a notebook, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def plot_sweep(sweep: PatchSweep) -> Plot:
    """A patch sweep as a grid of points by groups: the change of the metric, red for a rise and blue for a fall.

    Args:
        sweep: from `mm.patch`.
    """
    effect = sweep.effect.mean(-1)
    limit = float(effect.abs().max()) or 1.0
    few = len(sweep.groups) <= 8
    figure = Plot(
        figsize=(2.4 + (0.8 if few else 0.16) * len(sweep.groups), 1.2 + 0.34 * len(sweep.points)), layout="constrained"
    )
    axes = figure.subplots()
    shown = axes.imshow(effect.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    labels = [_short(point) for point in sweep.points]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylabel("layer")
    if few:
        axes.set_xticks(range(len(sweep.groups)), sweep.groups, fontsize=8)
        for i, row in enumerate(effect.tolist()):
            for j, value in enumerate(row):
                dark = abs(value) > 0.6 * limit
                axes.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
                )
    axes.set_xlabel("positions")
    axes.set_title(f"change of {sweep.metric}", fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


def _short(name: str) -> str:
    parsed = HookName.parse(name)
    return name if parsed.layer is None else f"{parsed.layer} {parsed.rest.replace('hook_', '')}"


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
