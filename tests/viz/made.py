"""Results as large as those of a 7B model, and small ones, made without a model: what figures are tested on."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from mmlens.analysis.attention.looks import AttentionLooks
from mmlens.analysis.attribution.compare import Agreement, agreement
from mmlens.analysis.attribution_graphs.graph import AttributionGraph
from mmlens.analysis.attribution_graphs.nodes import GraphNode
from mmlens.analysis.concepts.grounding import ConceptGrounding, GroundedConcept
from mmlens.analysis.edits.cases import EditCase, EditFacts
from mmlens.analysis.edits.outcome import EditReport
from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.page_result import ClampedAnswers, FeaturePage, TextContext, TopPicture
from mmlens.analysis.features.row_quality import RowQuality
from mmlens.analysis.features.training.result import SAETraining, TrainingPoint
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.neurons.scores import NeuronScores
from mmlens.analysis.patching.result import PatchSweep
from mmlens.analysis.properties.measurements import Measurements
from mmlens.analysis.properties.quantities import Quantity, Value, control_of
from mmlens.analysis.shift.grounding import ShiftGrounding, Shown
from mmlens.analysis.shift.result import ConceptShift
from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.analysis.steering.cases import SteeringCase, SteeringFacts
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.core.units import Feature
from mmlens.inputs.layout import TokenLayout

#: Tokens as tokenizers give them: with spaces, line ends, dollars, letters that a font may not have, and long ones.
TOKENS = [" moon", "▁red", "$", "a$b$c", "\n", "\t", "中国", "unbelievably", "<0x0A>", "émigré"]


def noise(*shape: int) -> torch.Tensor:
    """Always the same random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def picture(width: int = 48, height: int = 48) -> Image.Image:
    """A picture of one size."""
    return Image.new("RGB", (width, height), (40, 90, 160))


def sweep(points: list[str], groups: list[str], boxes: tuple[Any, ...] = (), metric: str = "m, logits") -> PatchSweep:
    """A sweep of two samples, whose effects lie between -1 and 2."""
    values = torch.linspace(-1, 2, len(points) * len(groups) * 2).reshape(len(points), len(groups), 2)
    return PatchSweep(values, points, groups, torch.ones(2), torch.zeros(2), "denoise", metric, boxes=boxes)


def estimated(exact: PatchSweep) -> Agreement:
    """How an estimate that is a tenth too large agrees with a sweep."""
    return agreement(replace(exact, values=1.1 * exact.values, method="atp"), exact, k=2)


def blocks(count: int, *, width: int = 48, height: int = 48) -> tuple[torch.Tensor, ...]:
    """The boxes of `count` x `count` blocks of a picture."""
    w, h = width / count, height / count
    return tuple(torch.tensor([[c * w, r * h, c * w + w, r * h + h]]) for r in range(count) for c in range(count))


def lens(layers: int, positions: int, *, patches: int = 0) -> LogitLens:
    """A lens that reads `TOKENS`; at the patches of a picture of `patches` x `patches`, if there are any."""
    top = torch.arange(layers * positions).reshape(1, layers, positions, 1) % len(TOKENS)
    boxes = torch.cat(blocks(patches)) if patches else torch.zeros(0, 4)
    grid = SimpleNamespace(rows=torch.arange(patches**2), boxes=boxes)
    layout = TokenLayout(torch.zeros(1, positions, dtype=torch.bool), torch.ones(1, positions, dtype=torch.bool), ())
    object.__setattr__(layout, "grid", lambda **_: grid)  # a picture without a model that would have cut it
    return LogitLens(
        points=[f"blocks.{i}.hook_resid_post" for i in range(layers)],
        positions=torch.arange(positions)[None],
        top_tokens=top,
        probabilities=top / len(TOKENS),
        words=(),
        word_probabilities=torch.zeros(1, layers, positions, 0),
        control_probabilities=None,
        control_word_probabilities=None,
        strings=dict(enumerate(TOKENS)),
        tokens=[[TOKENS[i % len(TOKENS)] for i in range(positions)]],
        layout=layout,
    )


def neurons(layers: int, width: int) -> NeuronScores:
    """Scores of random neurons."""
    return NeuronScores(noise(layers, width), (5,), "moon", "integrated_gradients")


def heat(width: int = 48, height: int = 48) -> HeatMap:
    """A map over a picture."""
    return HeatMap(noise(6, 6), (height, width), (0, 0, width, height), "mean of the top 20 neurons for 'moon'")


def measured(methods: int, quantities: int, ks: tuple[int, ...] = (20,)) -> Measurements:
    """Properties of neurons chosen by several methods, with random neurons, controls and a baseline."""
    known = [f"integrated_gradients_{i}" for i in range(methods)]
    asked = [
        Quantity(
            f"quantity {i} that has a rather long name", "share of neurons", "higher", f"control {i}", "centred blob"
        )
        for i in range(quantities)
    ]
    asked += [Quantity(f"control {i}", "share of neurons") for i in range(quantities)]
    values = [
        Value(quantity.name, name, k, 1.0 + number / 9 + sample / 9, sample, "cat")
        for quantity in asked
        for number, method in enumerate(known)
        for name in ((method,) if quantity.name.startswith("control") else (method, control_of(method)))
        for k in ks
        for sample in range(2)
    ]
    values += [Value(asked[0].name, "centred blob", k, 0.5, sample, "cat") for k in ks for sample in range(2)]
    return Measurements.of(asked, values)


def edits(count: int, *, one_method: bool = False, penalties: bool = False, groups: int = 2) -> EditReport:
    """A report of edits; control answers change more from one to the next."""
    facts = tuple(
        EditFacts(f"edit {i}", "through" if one_method else f"method {i}", 20, 1.0, float(i) if penalties else None)
        for i in range(count)
    )
    cases = [
        EditCase(
            fact.name, "target", f"prompts {group}", str(n), "q", "red", "blue", "blue", True, n % (i + 1) == 0, 0.1
        )
        for i, fact in enumerate(facts)
        for group in range(groups)
        for n in range(6)
    ]
    cases += [
        EditCase(
            fact.name, "control", "others", str(n), "q", "a", "b" if n < i * 10 / count else "a", None, False, None, 0
        )
        for i, fact in enumerate(facts)
        for n in range(10)
    ]
    return EditReport("red", "blue", facts, tuple(cases))


def dose(points: int, alphas: tuple[float, ...] = (-1.0, 0.0, 1.0, 2.0)) -> DoseCurve:
    """A metric that rises with strength and depth."""
    values = torch.tensor(alphas)[None, :, None] * torch.linspace(0.1, 3, points)[:, None, None] + noise(1, 1, 6)
    controls = 0.1 * noise(2, points, len(alphas), 6)
    names = tuple(f"blocks.{i}.hook_resid_post" for i in range(points))
    return DoseCurve(values, controls, torch.zeros(6), names, alphas, "logit('no') - logit('yes'), logits")


def steering(groups: int, interventions: int, *, seeds: int = 2, scored: bool = True) -> SteeringReport:
    """A report in which intervention i changes i of 4 answers, and random vectors none."""
    facts, cases = [], []
    for i in range(interventions):
        name = f"steer by intervention {i}"
        facts += [
            SteeringFacts(name, None, name, 1),
            *(SteeringFacts(f"{name}, isotropic {seed}", name, name, 1, "isotropic") for seed in range(seeds)),
        ]
        for fact in facts[-1 - seeds :]:
            for group in range(groups):
                for n in range(4):
                    changed = fact.control_of is None and n < 1 + i % 4
                    score = (1.0, float(not changed)) if scored else None
                    said = "no" if changed else "yes"
                    cases.append(
                        SteeringCase(fact.name, f"a set of prompts, {group}", str(n), "q", "yes", "yes", said, score)
                    )
    return SteeringReport(tuple(facts), tuple(cases))


def shift(concepts: int) -> ConceptShift:
    """Concepts that moved, of every fate."""
    fates = ("kept", "refined", "expanded", "vanished", "empty")
    base = noise(concepts, 8)
    return ConceptShift(
        vectors=0.5 * noise(2 * concepts, 8)[concepts:],
        base=base,
        tuned=base + 0.5 * noise(3 * concepts, 8)[2 * concepts :],
        match=torch.arange(concepts),
        consistency=torch.linspace(0, 1, concepts),
        n_samples=torch.arange(concepts),
        owner=torch.zeros(0, dtype=torch.long),
        unit=torch.ones(concepts),
        shifts=torch.zeros(0, 8),
        alpha=1.0,
        fate=tuple(fates[i % 5] for i in range(concepts)),  # type: ignore[misc]
        appeared=(),
        most_active=None,
        at="blocks.24.hook_resid_post",
        matching="best",
        average="mean",
    )


def shift_board(concepts: int) -> ShiftGrounding:
    """Their words and pictures."""
    side = tuple(Shown(tuple(TOKENS * 2), (picture(), picture(80, 48))) for _ in range(concepts))
    return ShiftGrounding(shift(concepts), side, side, side)


def board(concepts: int, pictures: int, *, maps: bool = True) -> ConceptGrounding:
    """Concepts with wide pictures, and maps over them if they are wanted."""
    each = [
        GroundedConcept(
            concept,
            tuple(TOKENS),
            tuple(range(pictures)),
            tuple(12.3456 / (n + 1) for n in range(pictures)),
            ("a caption",) * pictures,
            tuple(picture(80, 48) for _ in range(pictures)),
            tuple(heat(80, 48) for _ in range(pictures)) if maps else (),
        )
        for concept in range(concepts)
    ]
    return ConceptGrounding(tuple(each), "blocks.24.hook_resid_post", "semi_nmf")


def training() -> SAETraining:
    """A small dictionary after training."""
    W, at = noise(4, 8), "blocks.1.hook_resid_post"
    sae = SparseDictionary(W, torch.zeros(8), W.T.contiguous(), torch.zeros(4), at, activation="topk", k=2)
    return SAETraining(sae, (TrainingPoint(2, 64, 0.5, 0.0, 0.25),), RowQuality(8, 0.9, 2.0), 0.25, 64, {"k": 2})


def feature_page() -> FeaturePage:
    """What a page shows of a feature of one sample."""
    at = "blocks.1.hook_resid_post"
    first, second = (Feature.at(f"{at}.{Feature.point}", number) for number in (3, 5))
    maps = [HeatMap(noise(2, 2), (48, 48), (0.0, 0.0, 48.0, 48.0), name) for name in "ab"]
    shown = (TopPicture("0", picture(), *maps, 2.0),)
    held = ClampedAnswers(2.0, ("a red moon",), ("a moon",), *[mean_interval([0.0, 1.0])] * 2, (("red", 1),))
    density = {"image": 0.5, "text": 0.25}
    contexts = (TextContext("a", "red", "moon", 1.5),)
    return FeaturePage(first, second, density, density, 0.8, shown, contexts, ("red",), ("a moon",), (held,), 1)


def looks(layers: int = 3, heads: int = 2, queries: int = 4, side: int = 4, *, seed: int = 0) -> AttentionLooks:
    """Attention of made-up tokens to the patches of a picture; head 1 of layer 1 looks nowhere else."""
    values = torch.rand(layers, heads, queries, side**2, generator=torch.Generator().manual_seed(seed))
    values = values / values.sum(-1, keepdim=True) / 2
    values[1, 1] *= 2
    tokens = tuple(TOKENS[i % len(TOKENS)] for i in range(queries))
    layer_numbers, numbers = tuple(range(layers)), tuple(range(queries))
    return AttentionLooks(values, layer_numbers, tokens, numbers, torch.cat(blocks(side)), picture())


def attribution_graph(side: int = 2) -> AttributionGraph:
    """A feature and an error that read the patches of a picture and a word, and a logit that reads these."""
    point = "blocks.0.hook_mlp_out"
    boxes = [tuple(box[0].tolist()) for box in blocks(side)]
    sources = [
        GraphNode("source", f"patch {n}", "hook_embed", (n,), "", box=box, image=0)  # type: ignore[arg-type]
        for n, box in enumerate(boxes)
    ]
    members = (
        GraphNode("feature", "L0.f3", point, (side**2,), "red", feature=3, value=1.0),
        GraphNode("error", "L0.error", point, (side**2,), ""),
        *sources,
        GraphNode("source", "word", "hook_embed", (side**2,), "red"),
        GraphNode("logit", "logit red", "hook_logits", (side**2,), "red", token=5, value=2.0),
    )
    weights = torch.zeros(2, len(members))
    weights[0, 2:-1] = torch.linspace(-1, 2, side**2 + 1)
    weights[1, :-1] = torch.linspace(2, 0.5, len(members) - 1)
    texts = (*("<image>",) * side**2, "red")
    return AttributionGraph(
        members, weights, torch.zeros(2), torch.tensor([0.9]), torch.ones(1), 1, texts, (picture(),)
    )
