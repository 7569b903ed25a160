"""Calls with a wrong value that are not refused, and rightly: by the place of the value, with the reason.

A place is `"callable.parameter"`; a line that no call needs fails when all calls are made (`python -m tests.contracts.door 0`).
"""

from tests.contracts.door.calls import Call, Result

#: Constructors of results: verbs make them, their labels are free text, and NaN stands for what is not known.
RESULTS = frozenset(
    (
        *(
            "Agreement",
            "AttentionLooks",
            "AttributionGraph",
            "CaptionNeurons",
            "Circuit",
            "CircuitCurve",
            "CircuitEvaluation",
        ),
        *(
            "CircuitOverlap",
            "ClampedAnswers",
            "ConceptBank",
            "ConceptShift",
            "ContextualIndex",
            "DictionaryCard",
            "DoseCurve",
        ),
        *(
            "EditReport",
            "FeaturePage",
            "FeatureScores",
            "GraphCheck",
            "HeadRanking",
            "HeatMap",
            "LatentReading",
            "LayerShifts",
        ),
        *("LearnedPredictor", "LogitLens", "Measurements", "Measurements.of", "MitigationReport", "MultimodalBatch"),
        *("NeuronScores", "PatchSweep", "PatchscopeReading", "PathSweep", "RandomUnits", "Reproduction", "SAETraining"),
        *("ShiftGrounding", "States", "SteeringReport", "SteeringTable", "StudyTable", "StudyValue", "StudyValue.of"),
        *("TextContext", "TopPicture", "TrainingPoint", "Tune", "edits.Edit", "edits.Provenance"),
    )
)

_ACCEPTED: dict[str, str] = {
    "what a cell changes is looked at by the run that makes it": "Cell.sample Cell.changes Change.at",
    "a name, or a number, that only a model can say whether it has; it is asked where the two meet": """
        Feature.layer Feature.index Feature.stack Feature.branch Feature.at.index Head.layer Head.index Head.stack Head.branch
        Head.at.index Neuron.layer Neuron.index Neuron.stack Neuron.branch Neuron.at.index Units.units
        SteeringVector.at SparseDictionary.at load_sae.at steering_vector.at Boosted.first VisuallySteered.first
        positions.index.numbers positions.row.rows positions.box.image positions.mask.image positions.object.image
        positions.box.frame positions.mask.frame positions.object.frame positions.word.which""",
    "any word may be a word of the prompt; it is looked for there when a run starts": """
        Activation.positions FiringRate.positions GradientXActivation.positions IntegratedGradients.positions
        VisuallySteered.positions GroupMeanAblation.groups""",
    "a word that is only said later, or only while dictionaries are attached": "HookedMultimodal.trace_generation.positions",
    "a number of tokens, of layers or of draws that may be 0": """
        edits.Belief.frozen_last edits.Through.frozen_last contextual_index.first curve.n_random edit_report.matched
        evaluate_circuit.n_random evaluate_circuit.n_edges overlap.n_random find_neurons.keep page.n_contexts page.n_clamped
        Circuit.strongest.n Circuit.grown.n FeatureScores.to_frame.words lab.scenes.n tales.scenes.n families.Family.written_kind
        AttributionGraph.check.nodes""",
    "numbers that count from the end, or from 0": """
        families.Mlp.router_item families.Projector.lone_axis families.Stack.lone_axis LogitLens.top.position
        patchscope.target_position lab.Scene.twin.object AttentionLooks.map.query AttentionLooks.map.head CircuitCurve.at.size
        TokenLayout.boxes.view TokenLayout.grid.view TokenLayout.patches.view TokenLayout.patches_of_mask.view
        TokenLayout.raster.view HookedMultimodal.add_hook.level LogitLens.map.point LogitLens.overlay.point
        LogitLens.plot_picture.point LogitLens.point.point corrupt.blank.color""",
    "a position is named by its number, and groups by positions": """
        causal_trace.positions path_patch.positions attribution_graph.groups""",
    "a token may be named by its id": "edits.remove_word.word find_features.word",
    "none is meant: no control, no correction, no limit": """
        dose_curve.controls dose_curve.seeds steering_report.controls mitigation_report.seeds mitigation_report.max_new_tokens
        Circuit.p_values.correction PatchSweep.p_values.correction HeatMap.overlay.longest scorers.vqa_accuracy.by
        Validation.prompt""",
    "none of them: an empty scene, a sample of text alone, metrics of no word, words of no neuron": """
        lab.Scene.placed tales.facts_of.things Sample.images HookedMultimodal.prepare.images metrics.Metric.tokens
        metrics.Metric.signs neuron_words.neurons NeuronScores.words.neurons feature_words.features HookGraph.draw.values
        TokenLayout.boxes.rows States.__getitem__.rows positions.box.box families.Stack.block""",
    "what was said is counted and compared, be it nothing": """
        SteeringReport.said.phrases SteeringReport.became.source SteeringReport.became.target scorers.says_yes.answer
        scorers.vqa_score.answer Sample.answer lab.Question.answer tales.Fact.answer tales.TaleQuestion.answer tales.Fact.color
        tales.Fact.region lab.check.answer""",
    "free text: how a vector was made, the name of rows, the path of a module": """
        SteeringVector.with_direction.method SteeringVector.provenance SparseDictionary.cfg families.Stack.rows
        families.DeepStack.path families.Norm.path families.Stack.path families.Projector.queries""",
    "one id is as good as a list of one, and several numbers as one": """
        HookedMultimodal.tokens_to_residual_directions.tokens HookedMultimodal.to_string.tokens
        HookedMultimodal.to_str_tokens.tokens causal_effect.k cross_modality.k image_invariance.k region_invariance.k
        RandomUnits.__getitem__.number Units.__getitem__.number CircuitCurve.ratios.values""",
    "only matches that run the model read pictures; a measure compares logits when it is called": """
        random_units.batch metrics.Metric.on.clean""",
    "checkpoints are read when they are first needed": "scorers.BertScore.layer scorers.MoverScore.layer",
    "transformers names the option that it does not know": "HookedMultimodal.generate.options",
}
#: Places of wrong values that are no fault there, with the reason.
ACCEPTED = {place: reason for reason, places in _ACCEPTED.items() for place in places.split()}
_LABELS = frozenset(
    (
        *(
            "number",
            "numbers",
            "count",
            "counts",
            "choice",
            "point",
            "text",
            "token",
            "metric",
            "box",
            "index",
            "indices",
        ),
        *("positions", "list", "mapping", "stranger", "tensor", "picture", "model", "seed"),
    )
)


def place_of(call: Call) -> str:
    """Where a call's wrong value is."""
    return f"{call.public.name}.{call.parameter}"


def is_accepted(result: Result) -> bool:
    """Whether a call that was not refused is one that need not be."""
    call = result.call
    return place_of(call) in ACCEPTED or (call.public.name in RESULTS and call.kind in _LABELS)
