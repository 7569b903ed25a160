"""Contract: a call with a wrong argument is refused by a clear error before any forward pass, whatever is called.

The calls are generated over everything that is public: each parameter of each callable gets values that are wrong for what the
parameter means, beside right values for all others. `python -m tests.contracts.door 0` makes all of them and prints the rest.
"""

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.contracts.door.calls import Call, Fuzz, Result
from tests.contracts.door.world import World

CALLS = 1000
#: The least share of calls that are refused clearly.
SHARE = 0.98

#: Calls that are not refused, and rightly: by the kind of parameter, and why.
RESULTS = frozenset(
    (
        "Agreement", "Circuit", "CircuitCurve", "CircuitEvaluation", "CircuitOverlap", "ConceptBank", "ConceptShift",
        "DoseCurve", "EditReport", "HeatMap",
        "LogitLens", "Measurements", "Measurements.of", "MultimodalBatch", "NeuronScores", "PatchSweep", "PatchscopeReading",
        "CaptionNeurons", "LayerShifts", "PathSweep", "RandomUnits", "ShiftGrounding", "States", "SteeringReport",
        "edits.Edit", "edits.Provenance", "FeatureScores", "DictionaryCard",
        "AttributionGraph", "GraphCheck", "SteeringTable", "LearnedPredictor", "HeadRanking", "MitigationReport",
        "ContextualIndex", "LatentReading",
        "Tune", "Reproduction", "StudyTable", "StudyValue", "StudyValue.of",
        "ClampedAnswers", "FeaturePage", "SAETraining", "TextContext", "TopPicture", "TrainingPoint",
    )
)  # fmt: skip

LABELS = frozenset(("number", "count", "choice", "point", "text", "token", "metric", "box", "index", "stranger"))


def is_accepted(result: Result) -> bool:
    """Whether a call that was not refused is one that need not be."""
    call = result.call
    place = f"{call.public.name}.{call.parameter}"
    return (
        # results are made by verbs: their labels are free text, and NaN stands for what is not known
        (call.public.name in RESULTS and call.kind in LABELS)
        # what a cell changes is looked at by the run that makes it
        or call.public.name in ("Cell", "Change")
        or place in ("SteeringVector.provenance", "SteeringVector.with_direction.method", "CaptionNeurons.scores")
        # a name that only a model can say whether it has; it is asked where the unit meets one
        or place in ("Neuron.layer", "Neuron.index", "Head.layer", "Head.index", "Unit.layer", "Unit.index")
        or place in ("Feature.layer", "Feature.index", "Feature.stack", "Feature.branch", "Feature.at.index")
        or place in ("Neuron.stack", "Head.stack", "Neuron.branch", "Head.branch", "HookGraph.residual_writers.stack")
        or place in ("SteeringVector.at", "SparseDictionary.at", "SparseDictionary.cfg", "load_sae.at")
        or place in ("Units.units", "Head.at.index", "Neuron.at.index")
        # one id is as good as a list of one; accelerate reads device maps
        or place in ("HookedMultimodal.tokens_to_residual_directions.tokens", "HookedMultimodal.to_string.tokens")
        or place in ("HookedMultimodal.to_str_tokens.tokens", "HookedMultimodal.from_pretrained.device_map")
        or place in ("HookedMultimodal.tokens_to_residual_directions.tokens", "Circuit.p_values.correction")
        # only matches that run the model read their pictures; a measure compares logits when it is called
        or place in ("random_units.batch", "metrics.Metric.on.clean")
        # scenes make their objects
        or place == "lab.SceneObject.color"
        # a sample of text alone has no pictures
        or place
        in ("Sample.images", "MultimodalBatch.images", "HookedMultimodal.prepare.images", "AttributionGraph.images")
        or place
        in ("ConceptBank.settings", "GradientXActivation.positions", "IntegratedGradients.positions", "Sample.answer")
        or place == "AttributionGraph.identity"
        # a sample may have no attributes; a lens's points have numbers too
        or place in ("Sample.attributes", "LogitLens.overlay.point", "Activation.positions")
        or place
        in (
            "Tune.settings",
            "SAETraining.settings",
            "Tune.identity",
            "MultimodalBatch.tokenizer",
            "MultimodalBatch.carried",
            "PatchSweep.p_values.correction",
        )
        # any word may be a word of the prompt; it is looked for there when a run starts
        or (call.kind == "positions" and isinstance(call.value, str | int | list) and call.public.is_class)
        # or one that is only said later
        or place == "HookedMultimodal.trace_generation.positions"
        # what was said is counted, be it never
        or call.public.name in ("SteeringReport.said", "SteeringReport.became", "metrics.unit_of")
        # several numbers, no control, the end of a prompt, the groups that are usual: all documented
        or (call.parameter == "k" and not isinstance(call.value, int | float) and result.outcome == "forward")
        or place in ("dose_curve.seeds", "patchscope.target_position", "path_patch.positions")
        # no edge, no draw
        or (place in ("Circuit.strongest.n", "Circuit.grown.n", "overlap.n_random") and repr(call.value) == "0")
        # whatever is answered is judged, of a wrong kind too
        or place == "lab.check.answer"
        # checkpoints are read when they are first needed
        or (place.startswith("scorers.") and call.parameter in ("path", "layer", "text", "phrases", "answer", "by"))
        or place in ("evaluate_circuit.n_edges", "evaluate_circuit.n_random", "LogitLens.plot_picture.point")
    )


@pytest.fixture(scope="module")
def fuzz() -> Fuzz:
    return Fuzz(World())


def test_right_arguments_are_not_refused(fuzz: Fuzz) -> None:
    refused = []
    for item in fuzz.public:
        result = fuzz.attempt(Call(item, "", "", None), fuzz.arguments(item))
        if result.outcome in ("clear", "unclear"):
            refused.append(f"{item.name}: {result.text}")
    assert not refused, "\n".join(refused)


def test_wrong_arguments_are_refused_before_any_forward_pass(fuzz: Fuzz) -> None:
    calls = fuzz.calls()
    results: list[Result] = []

    @settings(
        max_examples=CALLS,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def make(random: Random) -> None:
        results.append(fuzz.run(random.choice(calls)))

    make()
    counts = Counter(result.outcome for result in results)
    rest = [result for result in results if result.outcome != "clear"]
    table = "\n".join(f"{result.outcome:9} {result.call!r}: {result.text[:110]}" for result in rest)
    silent = [result for result in rest if result.outcome != "unclear" and not is_accepted(result)]
    accepted = sum(result.outcome != "unclear" for result in rest) - len(silent)
    assert len(results) >= CALLS
    assert not silent, f"{len(silent)} calls were not refused:\n{table}"
    assert counts["clear"] >= SHARE * (len(results) - accepted), f"{dict(counts)}\n{table}"
