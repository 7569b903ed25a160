"""A small result of every kind, made by hand."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmlens
from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.analysis.attribution.compare import agreement
from mmlens.analysis.attribution_graphs.check_result import GraphCheck
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.circuits.evaluate import CircuitEvaluation
from mmlens.analysis.circuits.graph import EdgeGraph, Reader, Writer
from mmlens.analysis.circuits.overlap import CircuitOverlap
from mmlens.analysis.concepts.explain import ConceptSweep, StateExplanation
from mmlens.analysis.concepts.extract import ConceptCount, extract_concepts
from mmlens.analysis.features.card import DictionaryCard
from mmlens.analysis.features.scores import FeatureScores
from mmlens.analysis.heads.ranking import HeadRanking
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.contextual_index import ContextualIndex
from mmlens.analysis.lenses.latent_lens import LatentReading, LatentWord
from mmlens.analysis.lenses.patchscopes import PatchscopeReading
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.mitigation.result import MitigationReport
from mmlens.analysis.neurons.captions import CaptionNeurons
from mmlens.analysis.nouns.caption_nouns import CaptionWord
from mmlens.analysis.patching.paths import PathSweep
from mmlens.analysis.properties.exclusivity import Exclusivity
from mmlens.analysis.scores.score import Score, ScoreTable
from mmlens.analysis.shift.layers import LayerShifts
from mmlens.analysis.steering.learned import LearnedPredictor
from mmlens.analysis.store.states import States
from mmlens.analysis.study_table import StudyTable, StudyValue
from mmlens.analysis.tuning.tune import Tune
from mmlens.core.unit_sets import Units
from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.patch_geometry import Places, RowGrid
from mmlens.interventions.edits.edit import Edit, Provenance
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.recipes.reproduce import Reproduction
from tests.viz import made

AT = "blocks.1.hook_resid_post"
IDENTITY = {"weights": "0123456789abcdef", "metric": "unknown"}


def states() -> States:
    values = 9 * torch.eye(8)[torch.arange(12) % 3] + 0.1 * made.noise(12, 8)
    return States(values, AT, keys=tuple(map(str, range(12))), tokens=("dog",) * 12, source="m with 1 edits")


def circuit() -> Circuit:
    writers = (
        Writer("embed[text]", "language", "hook_embed", "s", 0, group="text"),
        Writer("L0.mlp", "language", "m", "s", 2),
    )
    readers = (
        Reader("L0.mlp", "language", "mlp", "m", "s", 0, feeds=("L0.mlp",)),
        Reader("logits", "language", "logits", "l", "s", 2),
    )
    graph = EdgeGraph(writers, readers, "attention", "language", {})
    scores = made.noise(2, 2, 3).where(graph.allowed[..., None], torch.tensor(0.0))
    return Circuit(
        graph, scores, graph.allowed.clone(), "eap", "m, logits", torch.ones(3), torch.zeros(3), identity=IDENTITY
    )


def curve() -> CircuitCurve:
    values, drawn = made.noise(2, 3, 4), made.noise(2, 3, 4)
    edges = torch.tensor([[0, 1, 3], [0, 2, 3]])
    shares = torch.tensor([0.0, 0.3, 1.0])
    whole, empty = torch.ones(4), torch.zeros(4)
    return CircuitCurve(
        shares, edges, 3, values, drawn, drawn, whole, empty, "m, logits", "eap", "mean", identity=IDENTITY
    )


def attribution_graph() -> AttributionGraph:
    members = (
        GraphNode("feature", "L0.hook_mlp_out.f3@1", "blocks.0.hook_mlp_out", (1,), "red", feature=3, value=0.5),
        GraphNode("error", "L0.hook_mlp_out.error@1", "blocks.0.hook_mlp_out", (1,), "red"),
        GraphNode("source", "patch 0", "hook_embed", (0,), "patch", box=(0.0, 0.0, 8.0, 8.0), image=0),
        GraphNode("logit", "logit red@1", "hook_logits", (1,), "red", token=5, value=2.0),
    )
    weights = torch.tensor([[0.0, 0.0, 0.5, 0.0], [1.0, 0.1, 0.25, 0.0]])
    shares, shown = torch.ones(1), torch.tensor([True, False, True, True])
    return AttributionGraph(
        members, weights, torch.zeros(2), torch.tensor([0.75]), shares, 4, ("<image>", "red"), (made.picture(),),
        IDENTITY, shown, weights > 0.3, 0.8,
    )  # fmt: skip


def graph_check() -> GraphCheck:
    return GraphCheck(("a", "b"), ("c", "d"), *(made.noise(2, 2) for _ in range(4)), 1e-6)


def study_table() -> StudyTable:
    rows = (StudyValue("theirs", "time", 1.0, "s", 0.5, 1.5, 3, 2.0, 0.9, "a note"), StudyValue("ours", "time", None))
    return StudyTable("pan", "cost", "what it costs", rows, ("a note",), identity=IDENTITY)


def tune() -> Tune:
    return Tune(Path("folder"), (1.0, 0.5), {"steps": 2, "targets": ["q_proj"]}, IDENTITY)


def evaluation() -> CircuitEvaluation:
    shares = [made.noise(3), made.noise(3), made.noise(1, 3), made.noise(2, 3), made.noise(2, 3), made.noise(1, 3)]
    return CircuitEvaluation(1, 2.0, "m, logits", *shares[:3], [Edge("a", "b", 0.5)], *shares[3:], IDENTITY)


def edit() -> Edit:
    about = Provenance("Model", "0123", "through", "red", "blue", {"steps": 3}, 0, {"loss": [1.0, 0.5]})
    return Edit(Units(["L0.u3", "L1.u2"]), made.noise(2, 8), about)


def layout() -> TokenLayout:
    """Four patches of a picture, as the rows 1 to 4 of six."""
    boxes, cells = torch.cat(made.blocks(2)), torch.cartesian_prod(torch.arange(2), torch.arange(2))
    grid = RowGrid(0, torch.arange(1, 5), boxes, cells, (2, 2))
    is_image = torch.tensor([[False, True, True, True, True, False]])
    grids = {"language": grid, "vision": (replace(grid, index=torch.zeros(4)), replace(grid, index=None))}
    places = Places(0, 0, (48, 48), grids, {"projector": "it has none"}, {"vision": 5})
    return TokenLayout(is_image, torch.ones(1, 6, dtype=torch.bool), (places,))


def lens() -> LogitLens:
    """A lens at every row, of a word too, with a control."""
    words = made.noise(1, 2, 6, 1).sigmoid()
    of_the_lens = replace(made.lens(2, 6), layout=layout(), words=("red",), word_probabilities=words)
    control = 0.5 * of_the_lens.probabilities
    return replace(of_the_lens, control_probabilities=control, control_word_probabilities=0.5 * words)


def explanation() -> StateExplanation:
    return StateExplanation("moon", (2, 0), (1.5, -0.25), (("red", "moon"), ("sand",)), 0.125)


def concept_sweep() -> ConceptSweep:
    bank = extract_concepts(states(), 3, method="kmeans")
    return ConceptSweep(("a", "b"), (bank, bank), ((("red", "blue"), ("red",), ("dog",)),) * 2)


def feature_scores() -> FeatureScores:
    """Of features without the model that they are of, which only their words and maps need."""
    scores = {AT: made.noise(6), "blocks.0.hook_resid_post": made.noise(4)}
    result = object.__new__(FeatureScores)  # the constructor asks for a model
    fields = {"errors": dict.fromkeys(scores, 0.25), "tokens": (5,), "word": "moon", "n_samples": 2}
    vars(result).update(scores=scores, model=None, batch=None, **fields)
    return result


def score() -> Score:
    return Score("hit", "share", np.ones(2), np.ones(2), ("a", "b"), ("a", "b"))


def cache() -> ActivationCache:
    return ActivationCache({"hook_embed": made.noise(2, 3, 4)}, None, axes={"hook_embed": "batch pos d_model"})


#: A small result of every kind, and of the pieces that they are made of.
RESULTS: dict[str, Callable[[], Any]] = {
    "PatchSweep": lambda: replace(made.sweep(["a", "b"], ["image", "last"]), identity=IDENTITY),
    "NeuronScores": lambda: made.neurons(3, 8),
    "Measurements": lambda: made.measured(2, 1),
    "EditReport": lambda: made.edits(2),
    "DoseCurve": lambda: made.dose(2),
    "SteeringReport": lambda: made.steering(1, 2),
    "ConceptShift": lambda: made.shift(3),
    "ConceptBank": lambda: extract_concepts(states(), 3, method="kmeans"),
    "SteeringVector": lambda: SteeringVector(made.noise(8), AT, {"method": "mean difference"}),
    "SteeringTable": lambda: SteeringTable(made.noise(2, 8), AT, "sample", ("a", "b"), {"method": "contrastive"}),
    "LearnedPredictor": lambda: LearnedPredictor(
        made.noise(3, 8), made.noise(3), made.noise(8, 3), AT, AT, {"epochs": 3}
    ),
    "HeadRanking": lambda: HeadRanking(
        made.noise(2, 3), made.noise(2, 3), {"attention": made.noise(2, 3)}, (0, 2), "visual", 4, IDENTITY
    ),
    "MitigationReport": lambda: MitigationReport(
        {"pope": {"hit": score()}},
        {"a": {"pope": {"hit": score()}}},
        {"a": ({"pope": {"hit": score()}},)},
        {"plain": (3.0, 0.5), "a": (3.0, 1.0)},
        {"a": "boosted"},
        IDENTITY,
    ),
    "PathSweep": lambda: PathSweep(
        replace(made.sweep(["a", "b"], ["image", "last"]), identity=IDENTITY), ["c[h1]"], "branches", {"a": ["d"]}
    ),
    "Agreement": lambda: agreement(
        replace(made.sweep(["a", "b"], ["image"]), method="atp"), made.sweep(["a", "b"], ["image"])
    ),
    "HeatMap": lambda: HeatMap(made.noise(2, 3), (24, 36), (0.0, 0.0, 36.0, 24.0), "a map"),
    "PatchscopeReading": lambda: PatchscopeReading(
        ["a"],
        torch.tensor([[0, -1]]),
        torch.tensor([[[[4], [5]]]]),
        torch.tensor([[[[0.5], [0.25]]]]),
        [[["x", ""]]],
        "b",
        {4: "red", 5: "blue"},
    ),
    "ContextualIndex": lambda: ContextualIndex.of(
        {AT: made.noise(2, 4).half()}, {AT: ("a", "b")}, {AT: ("an a", "a b")}
    ),
    "Circuit": circuit,
    "CircuitEvaluation": evaluation,
    "CircuitCurve": curve,
    "CircuitOverlap": lambda: CircuitOverlap("edges", ["a -> b"], ["b -> c"], [], [0.25, 0.0], 0.5),
    "AttributionGraph": attribution_graph,
    "StudyTable": study_table,
    "Edit": edit,
    "ActivationCache": cache,
    "LogitLens": lens,
    "ConceptCount": lambda: ConceptCount((1, 2, 4), (1.0, 0.6, 0.4), 4, 0.5),
    "StateExplanation": explanation,
    "ConceptSweep": concept_sweep,
    "Exclusivity": lambda: Exclusivity(("a", "b"), torch.tensor([0.5, 1.0]), made.noise(2, 2), (0.1, 0.2), 4),
    "FeatureScores": feature_scores,
    "ConceptGrounding": lambda: made.board(2, 2),
    "ShiftGrounding": lambda: made.shift_board(2),
    "States": states,
    "TokenLayout": layout,
    "Provenance": lambda: edit().provenance,
    "AttentionLooks": lambda: AttentionLooks(
        made.noise(1, 2, 1, 4).softmax(-1), (0,), ("last",), (5,), layout().grid().boxes, made.picture(), layout()
    ),
    "Score": score,
    "ScoreTable": lambda: ScoreTable("steering", (score(),)),
    "DictionaryCard": lambda: DictionaryCard(AT, {}, 1.0, 1.2, 3.0, made.noise(4).abs(), 2),
    "LatentReading": lambda: LatentReading({AT: (((LatentWord("a", "an a", AT, 0.5),),),)}, ((3,),)),
    "LayerShifts": lambda: LayerShifts({"blocks.24": made.shift(3)}),
    "GraphCheck": graph_check,
    "SAETraining": made.training,
    "FeaturePage": made.feature_page,
    "TopPicture": lambda: made.feature_page().pictures[0],
    "TextContext": lambda: made.feature_page().contexts[0],
    "ClampedAnswers": lambda: made.feature_page().clamped[0],
    "TrainingPoint": lambda: made.training().history[0],
    "CaptionNeurons": lambda: CaptionNeurons("a moon", (CaptionWord("moon", 1, (5,)),), (made.neurons(2, 8),), "0"),
    "StudyValue": lambda: study_table().rows[0],
    "Tune": tune,
    "Reproduction": lambda: Reproduction("pan", Path("folder"), (study_table(),)),
}


def all_of(base: type) -> list[type]:
    """The classes of the package that derive from another, in the order of their names."""
    for path in sorted((Path(mmlens.__file__).parent).rglob("*.py")):
        names = path.relative_to(Path(mmlens.__file__).parents[1]).with_suffix("").parts
        if "__" not in path.stem:
            importlib.import_module(".".join(names))

    def below(kind: type) -> Iterator[type]:
        for direct in kind.__subclasses__():
            yield from (direct, *below(direct))

    found = {kind.__name__: kind for kind in below(base) if kind.__module__.startswith("mmlens.")}
    return [found[name] for name in sorted(found)]
