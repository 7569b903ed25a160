"""mmlens: mechanistic interpretability for models that see.

import mmlens as mm

model = mm.HookedMultimodal.from_pretrained("path/to/checkpoint")      # or mm.lab.load(): small, embedded, offline
logits, cache = model.run_with_cache(model.prepare("what is this?", images="photo.png"))
"""

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public names and where they live; loaded when first used, so that `import mmlens` is quick.
_PUBLIC = {
    "Ablate": "mmlens.interventions.ablation",
    "ActivationCache": "mmlens.hooks.cache",
    "ActivationStore": "mmlens.analysis.store.store",
    "ActiveConcept": "mmlens.analysis.steering.gates",
    "Add": "mmlens.interventions.activations",
    "Agreement": "mmlens.analysis.attribution.compare",
    "Cell": "mmlens.execution.cells",
    "Change": "mmlens.execution.cells",
    "CleanRun": "mmlens.execution.clean_run",
    "attention_map": "mmlens.analysis.attention_map",
    "attribute": "mmlens.analysis.attribution.attribute",
    "caption_nouns": "mmlens.analysis.nouns",
    "causal_effect": "mmlens.analysis.properties.causal",
    "causal_trace": "mmlens.analysis.patching.tracing",
    "choose_n_concepts": "mmlens.analysis.concepts.extract",
    "Circuit": "mmlens.analysis.circuits.circuit",
    "CircuitEvaluation": "mmlens.analysis.circuits.evaluate",
    "Clamp": "mmlens.interventions.activations",
    "collect": "mmlens.analysis.store.collect",
    "compare_attribution": "mmlens.analysis.attribution.compare",
    "concept_steering_vectors": "mmlens.analysis.steering.vectors",
    "concept_shift": "mmlens.analysis.shift.shift",
    "concept_words": "mmlens.analysis.concepts.words",
    "ConceptBank": "mmlens.analysis.concepts.bank",
    "ConceptShift": "mmlens.analysis.shift.result",
    "contrastive_vector": "mmlens.analysis.steering.vectors",
    "cross_modality": "mmlens.analysis.properties.cross_modality",
    "dose_curve": "mmlens.analysis.steering.dose",
    "DoseCurve": "mmlens.analysis.steering.dose",
    "edit_report": "mmlens.analysis.edit_report",
    "EditReport": "mmlens.analysis.edit_outcome",
    "evaluate_circuit": "mmlens.analysis.circuits.evaluate",
    "explain_state": "mmlens.analysis.concepts.explain",
    "extract_concepts": "mmlens.analysis.concepts.extract",
    "find_caption_neurons": "mmlens.analysis.neurons.captions",
    "find_circuit": "mmlens.analysis.circuits.find",
    "find_neurons": "mmlens.analysis.neurons.find",
    "ground_concepts": "mmlens.analysis.concepts.grounding",
    "ground_shift": "mmlens.analysis.shift.grounding",
    "Head": "mmlens.core.units",
    "HeatMap": "mmlens.analysis.heatmap",
    "HookedMultimodal": "mmlens.models.hooked",
    "HookGraph": "mmlens.hooks.graph",
    "image_invariance": "mmlens.analysis.properties.invariance",
    "InputError": "mmlens.core.errors",
    "knock_out": "mmlens.analysis.patching.knockout",
    "KnockOut": "mmlens.interventions.knockout",
    "localisation": "mmlens.analysis.properties.localisation",
    "logit_lens": "mmlens.analysis.lenses.logit_lens",
    "LogitLens": "mmlens.analysis.lenses.result",
    "mean_activation": "mmlens.analysis.means",
    "MappedStates": "mmlens.analysis.store.mapped",
    "Measurements": "mmlens.analysis.properties.measurements",
    "MMLensError": "mmlens.core.errors",
    "MultimodalBatch": "mmlens.inputs.batch",
    "Neuron": "mmlens.core.units",
    "neuron_report": "mmlens.analysis.properties.report",
    "neuron_words": "mmlens.analysis.neurons.words",
    "NeuronScores": "mmlens.analysis.neurons.scores",
    "Noise": "mmlens.interventions.activations",
    "noun_exclusivity": "mmlens.analysis.properties.exclusivity",
    "patch": "mmlens.analysis.patching.sweep",
    "patchscope": "mmlens.analysis.lenses.patchscopes",
    "Patchscope": "mmlens.analysis.lenses.patchscopes",
    "PatchSweep": "mmlens.analysis.patching.result",
    "path_patch": "mmlens.analysis.paths",
    "PathSweep": "mmlens.analysis.paths",
    "ProjectOut": "mmlens.interventions.steering",
    "random_units": "mmlens.analysis.controls.random_units",
    "RandomUnits": "mmlens.analysis.controls.random_units",
    "region_invariance": "mmlens.analysis.properties.invariance",
    "register_family": "mmlens.declarations.registry",
    "Replace": "mmlens.interventions.activations",
    "Sample": "mmlens.analysis.samples",
    "Scale": "mmlens.interventions.activations",
    "score_grounding": "mmlens.analysis.concepts.scores",
    "select_vectors": "mmlens.analysis.steering.selection",
    "sensitivity": "mmlens.analysis.properties.sensitivity",
    "ShiftGrounding": "mmlens.analysis.shift.grounding",
    "size_estimate": "mmlens.analysis.store.collect",
    "specific_neurons": "mmlens.analysis.properties.specificity",
    "States": "mmlens.analysis.store.states",
    "Steer": "mmlens.interventions.steering",
    "steering_report": "mmlens.analysis.steering.report",
    "steering_vector": "mmlens.analysis.steering.vectors",
    "SteeringReport": "mmlens.analysis.steering.outcome",
    "SteeringVector": "mmlens.interventions.steering_vector",
    "sweep_concepts": "mmlens.analysis.concepts.explain",
    "TokenLayout": "mmlens.inputs.layout",
    "Unit": "mmlens.core.units",
    "Units": "mmlens.core.unit_sets",
    "UnknownNameError": "mmlens.core.errors",
    "UnsupportedModelError": "mmlens.core.errors",
    "VerificationError": "mmlens.core.errors",
    "verify": "mmlens.models.verify",
    "vqa_accuracy": "mmlens.analysis.steering.vqa",
}
_MODULES = {
    "attribution": "mmlens.analysis.attribution.methods",
    "circuits": "mmlens.analysis.circuits.methods",
    "concepts": "mmlens.analysis.concepts.methods",
    "corrupt": "mmlens.interventions.corruptions",
    "edits": "mmlens.interventions.edits",
    "lab": "mmlens.lab",
    "matches": "mmlens.analysis.controls.matches",
    "metrics": "mmlens.analysis.metrics",
    "neurons": "mmlens.analysis.neurons.methods",
    "positions": "mmlens.core.positions",
    "scorers": "mmlens.analysis.properties.scorers",
    "steering": "mmlens.analysis.steering.methods",
}

__all__ = [*_PUBLIC, *_MODULES, "__version__"]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'mmlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
