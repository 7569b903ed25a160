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
    "Ablate": "mmlens.interventions.units",
    "ActivationCache": "mmlens.hooks.cache",
    "ActivationStore": "mmlens.analysis.store.store",
    "Add": "mmlens.interventions.activations",
    "Clamp": "mmlens.interventions.activations",
    "EditReport": "mmlens.analysis.edit_outcome",
    "Agreement": "mmlens.analysis.attribution.compare",
    "Circuit": "mmlens.analysis.circuits.circuit",
    "CircuitEvaluation": "mmlens.analysis.circuits.evaluate",
    "ConceptBank": "mmlens.analysis.concepts.bank",
    "HeatMap": "mmlens.analysis.heatmap",
    "HookGraph": "mmlens.hooks.graph",
    "HookedMultimodal": "mmlens.models.hooked",
    "InputError": "mmlens.core.errors",
    "KnockOut": "mmlens.interventions.knockout",
    "LogitLens": "mmlens.analysis.lenses.result",
    "MMLensError": "mmlens.core.errors",
    "MultimodalBatch": "mmlens.models.batch",
    "Neuron": "mmlens.core.places",
    "Head": "mmlens.core.places",
    "NeuronScores": "mmlens.analysis.neurons.scores",
    "Noise": "mmlens.interventions.activations",
    "Patchscope": "mmlens.analysis.lenses.patchscopes",
    "PathSweep": "mmlens.analysis.paths",
    "PatchSweep": "mmlens.analysis.patching.result",
    "Replace": "mmlens.interventions.activations",
    "Scale": "mmlens.interventions.activations",
    "ProjectOut": "mmlens.interventions.steering",
    "Steer": "mmlens.interventions.steering",
    "SteeringVector": "mmlens.interventions.vectors",
    "Sample": "mmlens.analysis.samples",
    "States": "mmlens.analysis.store.states",
    "TokenLayout": "mmlens.models.layout",
    "UnknownNameError": "mmlens.core.errors",
    "UnsupportedModelError": "mmlens.core.errors",
    "VerificationError": "mmlens.core.errors",
    "caption_nouns": "mmlens.analysis.nouns",
    "collect": "mmlens.analysis.store.collect",
    "edit_report": "mmlens.analysis.edit_report",
    "attribute": "mmlens.analysis.attribution.attribute",
    "compare_attribution": "mmlens.analysis.attribution.compare",
    "evaluate_circuit": "mmlens.analysis.circuits.evaluate",
    "find_circuit": "mmlens.analysis.circuits.find",
    "choose_n_concepts": "mmlens.analysis.concepts.extract",
    "concept_words": "mmlens.analysis.concepts.words",
    "explain_state": "mmlens.analysis.concepts.explain",
    "ground_concepts": "mmlens.analysis.concepts.grounding",
    "score_grounding": "mmlens.analysis.concepts.scores",
    "sweep_concepts": "mmlens.analysis.concepts.explain",
    "extract_concepts": "mmlens.analysis.concepts.extract",
    "find_caption_neurons": "mmlens.analysis.neurons.captions",
    "find_neurons": "mmlens.analysis.neurons.find",
    "causal_trace": "mmlens.analysis.patching.tracing",
    "knock_out": "mmlens.analysis.patching.knockout",
    "mean_activation": "mmlens.analysis.means",
    "logit_lens": "mmlens.analysis.lenses.logit_lens",
    "neuron_words": "mmlens.analysis.neurons.words",
    "path_patch": "mmlens.analysis.paths",
    "patchscope": "mmlens.analysis.lenses.patchscopes",
    "grid": "mmlens.analysis.patching.groups",
    "patch": "mmlens.analysis.patching.sweep",
    "random_neurons": "mmlens.analysis.neurons.control",
    "contrastive_vector": "mmlens.analysis.steering.vectors",
    "concept_steering_vectors": "mmlens.analysis.steering.vectors",
    "register_family": "mmlens.models.registry",
    "Measured": "mmlens.analysis.properties.measured",
    "sensitivity": "mmlens.analysis.properties.sensitivity",
    "localisation": "mmlens.analysis.properties.localisation",
    "region_invariance": "mmlens.analysis.properties.invariance",
    "image_invariance": "mmlens.analysis.properties.invariance",
    "cross_modality": "mmlens.analysis.properties.cross_modality",
    "noun_exclusivity": "mmlens.analysis.properties.exclusivity",
    "causal_effect": "mmlens.analysis.properties.causal",
    "neuron_report": "mmlens.analysis.properties.report",
    "specific_neurons": "mmlens.analysis.properties.specificity",
    "size_estimate": "mmlens.analysis.store.collect",
    "steering_vector": "mmlens.analysis.steering.vectors",
    "ActiveConcept": "mmlens.analysis.steering.gates",
    "DoseCurve": "mmlens.analysis.steering.dose",
    "dose_curve": "mmlens.analysis.steering.dose",
    "SteeringReport": "mmlens.analysis.steering.outcome",
    "steering_report": "mmlens.analysis.steering.report",
    "select_by_effect": "mmlens.analysis.steering.selection",
    "select_by_proximity": "mmlens.analysis.steering.selection",
    "verify": "mmlens.models.verify",
    "vqa_accuracy": "mmlens.analysis.steering.vqa",
}
_MODULES = {
    "corrupt": "mmlens.interventions.corruptions",
    "edits": "mmlens.interventions.edits",
    "lab": "mmlens.lab",
    "metrics": "mmlens.analysis.metrics",
    "scorers": "mmlens.analysis.properties.scorers",
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
