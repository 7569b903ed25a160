"""Circuits: finding, evaluating and drawing them, and the methods that score their edges."""

from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.methods import *  # noqa: F403
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.circuits.methods import __all__ as _methods
from mmlens.hooks.drawing import Drawing
from mmlens.hooks.graph import HookGraph

__all__ = [  # noqa: PLE0604
    "Circuit",
    "CircuitEvaluation",
    "Drawing",
    "Edge",
    "evaluate_circuit",
    "find_circuit",
    "HookGraph",
    *_methods,
]

__getattr__ = CIRCUIT_METHODS.by_class_name  # methods that were registered since
