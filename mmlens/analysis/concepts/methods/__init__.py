"""The methods that find concepts in states, one file each: `mm.concepts`. A file that is put here is found."""

from mmlens.analysis.concepts.method import CONCEPT_METHODS as CONCEPT_METHODS
from mmlens.analysis.concepts.method import ConceptChoice as ConceptChoice
from mmlens.analysis.concepts.method import ConceptMethod as ConceptMethod

CONCEPT_METHODS.discover(__name__, list(__path__))

__all__ = ["CONCEPT_METHODS", "ConceptMethod", *(method.__name__ for method in CONCEPT_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[ConceptMethod]:
    return CONCEPT_METHODS.by_class_name(name)
