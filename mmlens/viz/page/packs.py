"""Which pack a result fills: a function for each kind of result, and a table of what it holds for all others."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.features.page_result import FeaturePage
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.patching.result import PatchSweep
from mmlens.viz.page.pack import Pack
from mmlens.viz.page.pack_features import feature_pack
from mmlens.viz.page.pack_frames import frame_pack
from mmlens.viz.page.pack_graphs import graph_pack
from mmlens.viz.page.pack_lens import lens_pack
from mmlens.viz.page.pack_looks import looks_pack
from mmlens.viz.page.pack_maps import map_pack
from mmlens.viz.page.pack_neurons import neuron_pack
from mmlens.viz.page.pack_sweeps import sweep_pack

_PACKS: dict[type, Callable[[Any, Image.Image | None, bool], Pack]] = {
    AttentionLooks: looks_pack,
    FeaturePage: feature_pack,
    AttributionGraph: graph_pack,
    HeatMap: map_pack,
    LogitLens: lens_pack,
    NeuronScores: neuron_pack,
    PatchSweep: sweep_pack,
}


def pack_of(result: Any, picture: Image.Image | None = None, *, run: bool = False) -> Pack:
    """The pack of a result.

    Args:
        result: any result.
        picture: what it is about, where it does not hold it.
        run: whether its model may run once.
    """
    return _PACKS.get(type(result), frame_pack)(result, picture, run)
