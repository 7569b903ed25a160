"""Hidden states: collecting them over datasets, and where they are kept."""

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.store.collect import collect, size_estimate
from mmlens.analysis.store.mapped import MappedStates
from mmlens.analysis.store.repair import StoreCheck
from mmlens.analysis.store.size import SizeEstimate
from mmlens.analysis.store.states import States
from mmlens.analysis.store.store import ActivationStore
from mmlens.hooks.cache import ActivationCache
from mmlens.models.generation import GenerationTrace

__all__ = [  # noqa: RUF022
    "ActivationCache",
    "ActivationStore",
    "collect",
    "GenerationTrace",
    "MappedStates",
    "Sample",
    "size_estimate",
    "SizeEstimate",
    "States",
    "StoreCheck",
]
