"""Lenses: what states would say, and where attention looks."""

from mmlens.analysis.attention_map import attention_map
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.logit_lens import logit_lens
from mmlens.analysis.lenses.patchscopes import PatchscopeReading, patchscope
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.looks import AttentionLooks, attention_looks

__all__ = [  # noqa: RUF022
    "attention_looks",
    "AttentionLooks",
    "attention_map",
    "HeatMap",
    "logit_lens",
    "LogitLens",
    "patchscope",
    "PatchscopeReading",
]
