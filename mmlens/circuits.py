"""Circuits: finding, judging, comparing and drawing them, the methods that score their edges, and ablations."""

from mmlens.analysis.circuits.ablations import (
    ABLATIONS,
    Ablation,
    CounterfactualAblation,
    GroupMeanAblation,
    MeanAblation,
    ZeroAblation,
)
from mmlens.analysis.circuits.circuit import Circuit, Edge
from mmlens.analysis.circuits.curve import curve
from mmlens.analysis.circuits.curve_result import CircuitCurve
from mmlens.analysis.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from mmlens.analysis.circuits.find import find_circuit
from mmlens.analysis.circuits.methods import *  # noqa: F403
from mmlens.analysis.circuits.methods import CIRCUIT_METHODS
from mmlens.analysis.circuits.methods import __all__ as _methods
from mmlens.analysis.circuits.mib import load_mib, save_mib
from mmlens.analysis.circuits.overlap import CircuitOverlap, overlap
from mmlens.hooks.drawing import Drawing
from mmlens.hooks.graph import HookGraph

__all__ = [  # noqa: PLE0604
    "ABLATIONS",
    "Ablation",
    "Circuit",
    "CircuitCurve",
    "CircuitEvaluation",
    "CircuitOverlap",
    "CounterfactualAblation",
    "Drawing",
    "Edge",
    "GroupMeanAblation",
    "HookGraph",
    "MeanAblation",
    "ZeroAblation",
    "curve",
    "evaluate_circuit",
    "find_circuit",
    "load_mib",
    "overlap",
    "save_mib",
    *_methods,
]

__getattr__ = CIRCUIT_METHODS.by_class_name  # methods that were registered since
