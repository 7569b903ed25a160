"""Lenses: what states would say, and where attention looks."""

from mmlens.analysis.attention.looks import AttentionLooks, attention_looks
from mmlens.analysis.attention.shares import attention_map
from mmlens.analysis.heads.methods import *  # noqa: F403
from mmlens.analysis.heads.methods import HEAD_METHODS
from mmlens.analysis.heads.methods import __all__ as _head_methods
from mmlens.analysis.heads.ranking import HeadRanking
from mmlens.analysis.heatmap import HeatMap
from mmlens.analysis.lenses.contextual_index import ContextualIndex
from mmlens.analysis.lenses.indexing import contextual_index
from mmlens.analysis.lenses.latent_lens import LatentReading, LatentWord, latent_lens
from mmlens.analysis.lenses.logit_lens import logit_lens
from mmlens.analysis.lenses.patchscopes import PatchscopeReading, patchscope
from mmlens.analysis.lenses.result import LogitLens
from mmlens.analysis.relevance.maps import relevance_map, score_maps
from mmlens.analysis.relevance.methods import *  # noqa: F403
from mmlens.analysis.relevance.methods import RELEVANCE_METHODS
from mmlens.analysis.relevance.methods import __all__ as _relevance_methods
from mmlens.core.registry import by_class_name_in as _by_class_name_in

__all__ = [  # noqa: PLE0604
    "attention_looks",
    "AttentionLooks",
    "attention_map",
    "contextual_index",
    "ContextualIndex",
    "HeadRanking",
    "HeatMap",
    "latent_lens",
    "LatentReading",
    "LatentWord",
    "logit_lens",
    "LogitLens",
    "patchscope",
    "PatchscopeReading",
    "relevance_map",
    "score_maps",
    *_head_methods,
    *_relevance_methods,
]

__getattr__ = _by_class_name_in(HEAD_METHODS, RELEVANCE_METHODS)  # methods that were registered since
