"""Steering: vectors, how to choose and judge them, and what acts with them."""

from mmlens.analysis.steering.controls import unembedding_difference
from mmlens.analysis.steering.directions import *  # noqa: F403
from mmlens.analysis.steering.directions import DIRECTION_METHODS
from mmlens.analysis.steering.directions import __all__ as _directions
from mmlens.analysis.steering.dose import dose_curve
from mmlens.analysis.steering.dose_result import DoseCurve
from mmlens.analysis.steering.gates import ActiveConcept
from mmlens.analysis.steering.latent_space import blank_patch_vectors, joint_vectors
from mmlens.analysis.steering.learned import LearnedPredictor, learn_predictor
from mmlens.analysis.steering.method import Selection, Validation
from mmlens.analysis.steering.methods import *  # noqa: F403
from mmlens.analysis.steering.methods import SELECTION_METHODS
from mmlens.analysis.steering.methods import __all__ as _methods
from mmlens.analysis.steering.outcome import SteeringReport
from mmlens.analysis.steering.per_sample import contrastive_vectors, visual_vectors
from mmlens.analysis.steering.report import steering_report
from mmlens.analysis.steering.selection import select_vectors
from mmlens.analysis.steering.vectors import concept_steering_vectors, contrastive_vector, steering_vector
from mmlens.core.registry import by_class_name_in as _by_class_name_in
from mmlens.interventions.steering import ProjectOut, Steer
from mmlens.interventions.steering_table import SteeringTable
from mmlens.interventions.steering_vector import SteeringVector
from mmlens.interventions.vector_predictor import VectorPredictor

__all__ = [  # noqa: PLE0604
    "ActiveConcept",
    "blank_patch_vectors",
    "concept_steering_vectors",
    "contrastive_vector",
    "contrastive_vectors",
    "dose_curve",
    "DoseCurve",
    "joint_vectors",
    "learn_predictor",
    "LearnedPredictor",
    "ProjectOut",
    "select_vectors",
    "Selection",
    "Steer",
    "steering_report",
    "steering_vector",
    "SteeringReport",
    "SteeringTable",
    "SteeringVector",
    "unembedding_difference",
    "Validation",
    "VectorPredictor",
    "visual_vectors",
    *_directions,
    *_methods,
]

__getattr__ = _by_class_name_in(DIRECTION_METHODS, SELECTION_METHODS)  # methods that were registered since
