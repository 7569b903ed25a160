"""Concepts: extracting, grounding and explaining them, and their shift from a model to its fine-tuned version."""

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.explain import ConceptSweep, StateExplanation, explain_state, sweep_concepts
from mmlens.analysis.concepts.extract import ConceptCount, choose_n_concepts, extract_concepts
from mmlens.analysis.concepts.grounding import ConceptGrounding, GroundedConcept, ground_concepts
from mmlens.analysis.concepts.methods import *  # noqa: F403
from mmlens.analysis.concepts.methods import CONCEPT_METHODS
from mmlens.analysis.concepts.methods import __all__ as _methods
from mmlens.analysis.concepts.scores import GroundingScores, score_grounding
from mmlens.analysis.concepts.words import concept_words
from mmlens.analysis.shift.grounding import ShiftGrounding, ground_shift
from mmlens.analysis.shift.layers import LayerShifts, layer_shifts
from mmlens.analysis.shift.result import ConceptShift, Correlation
from mmlens.analysis.shift.shift import concept_shift

__all__ = [  # noqa: PLE0604
    "choose_n_concepts",
    "concept_shift",
    "concept_words",
    "ConceptBank",
    "ConceptCount",
    "ConceptGrounding",
    "ConceptShift",
    "ConceptSweep",
    "Correlation",
    "explain_state",
    "extract_concepts",
    "ground_concepts",
    "ground_shift",
    "GroundedConcept",
    "GroundingScores",
    "layer_shifts",
    "LayerShifts",
    "score_grounding",
    "ShiftGrounding",
    "StateExplanation",
    "sweep_concepts",
    *_methods,
]

__getattr__ = CONCEPT_METHODS.by_class_name  # methods that were registered since
