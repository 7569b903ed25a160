"""Which pack a result fills: a function for each kind of result, and a table of what it holds for all others."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.circuits.circuit import Circuit
from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.grounding import ConceptGrounding
from mmlens.analysis.edits.outcome import EditReport
from mmlens.analysis.features.page_result import FeaturePage
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.shift.grounding import ShiftGrounding
from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.models.generation import GenerationTrace
from mmlens.models.hooked import HookedMultimodal
from mmlens.viz.page.pack import Pack
from mmlens.viz.page.pack_concepts import bank_pack, grounding_pack, shift_pack
from mmlens.viz.page.pack_curves import CURVES, curve_pack
from mmlens.viz.page.pack_features import feature_pack
from mmlens.viz.page.pack_frames import frame_pack
from mmlens.viz.page.pack_graphs import circuit_pack, graph_pack
from mmlens.viz.page.pack_inputs import batch_pack, cache_pack, layout_pack, model_pack
from mmlens.viz.page.pack_lens import lens_pack
from mmlens.viz.page.pack_looks import looks_pack
from mmlens.viz.page.pack_maps import map_pack
from mmlens.viz.page.pack_neurons import neuron_pack
from mmlens.viz.page.pack_sweeps import sweep_pack
from mmlens.viz.page.pack_texts import report_pack, trace_pack, vector_pack

_PACKS: dict[type, Callable[[Any, Image.Image | None, bool], Pack]] = {
    ActivationCache: cache_pack,
    AttentionLooks: looks_pack,
    AttributionGraph: graph_pack,
    Circuit: circuit_pack,
    ConceptBank: bank_pack,
    ConceptGrounding: grounding_pack,
    EditReport: report_pack,
    FeaturePage: feature_pack,
    GenerationTrace: trace_pack,
    HeatMap: map_pack,
    HookedMultimodal: model_pack,
    LogitLens: lens_pack,
    MultimodalBatch: batch_pack,
    NeuronScores: neuron_pack,
    PatchSweep: sweep_pack,
    ShiftGrounding: shift_pack,
    SteeringVector: vector_pack,
    TokenLayout: layout_pack,
    **dict.fromkeys(CURVES, curve_pack),
}


def pack_of(result: Any, picture: Image.Image | None = None, *, run: bool = False) -> Pack:
    """The pack of a result.

    Args:
        result: any result.
        picture: what it is about, where it does not hold it.
        run: whether its model may run once.
    """
    return _PACKS.get(type(result), frame_pack)(result, picture, run)
