"""The methods that map relevance, one file each: `mm.lenses.relevance_map(method=...)`. A file that is put here is found."""

from mmlens.analysis.relevance.method import RELEVANCE_METHODS as RELEVANCE_METHODS
from mmlens.analysis.relevance.method import RelevanceChoice as RelevanceChoice
from mmlens.analysis.relevance.method import RelevanceMethod as RelevanceMethod

RELEVANCE_METHODS.discover(__name__, list(__path__))

__all__ = ["RELEVANCE_METHODS", "RelevanceMethod", *(method.__name__ for method in RELEVANCE_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[RelevanceMethod]:
    return RELEVANCE_METHODS.by_class_name(name)
