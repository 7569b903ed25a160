"""Patching: sweeps, paths, knock-outs, attribution, and the counterfactual runs beneath them."""

from mmlens.analysis.attribution.attribute import attribute
from mmlens.analysis.attribution.compare import Agreement, compare_attribution
from mmlens.analysis.attribution.methods import *  # noqa: F403
from mmlens.analysis.attribution.methods import ATTRIBUTION_METHODS
from mmlens.analysis.attribution.methods import __all__ as _methods
from mmlens.analysis.flow.back_patching import SplitBest, back_patch, split_best
from mmlens.analysis.flow.object_ablation import ablate_object, mean_image_row
from mmlens.analysis.flow.routes import information_flow
from mmlens.analysis.patching.knockout import knock_out
from mmlens.analysis.patching.paths import PathSweep, path_patch
from mmlens.analysis.patching.result import PatchEffect, PatchSweep
from mmlens.analysis.patching.sweep import patch
from mmlens.analysis.patching.tracing import causal_trace
from mmlens.execution.cells import Cell, Change
from mmlens.execution.clean_run import CleanRun
from mmlens.execution.plan import Plan

__all__ = [  # noqa: PLE0604
    "ablate_object",
    "Agreement",
    "attribute",
    "back_patch",
    "causal_trace",
    "Cell",
    "Change",
    "CleanRun",
    "compare_attribution",
    "information_flow",
    "knock_out",
    "mean_image_row",
    "patch",
    "PatchEffect",
    "PatchSweep",
    "path_patch",
    "PathSweep",
    "Plan",
    "split_best",
    "SplitBest",
    *_methods,
]

__getattr__ = ATTRIBUTION_METHODS.by_class_name  # methods that were registered since
