"""Mitigation of hallucination: attention paid to the picture, and what methods are worth side by side."""

from mmlens.analysis.mitigation.methods import *  # noqa: F403
from mmlens.analysis.mitigation.methods import MITIGATION_METHODS
from mmlens.analysis.mitigation.methods import __all__ as _methods
from mmlens.analysis.mitigation.result import MitigationReport
from mmlens.interventions.attention_boost import BoostAttention
from mmlens.interventions.sink_redistribution import RedistributeSinks

__all__ = ["BoostAttention", "MitigationReport", "RedistributeSinks", *_methods]  # noqa: PLE0604

__getattr__ = MITIGATION_METHODS.by_class_name  # methods that were registered since
