"""The methods that choose steering vectors, one file each: `mm.steering`. A file that is put here is found."""

from mmlens.analysis.steering.method import SELECTION_METHODS as SELECTION_METHODS
from mmlens.analysis.steering.method import SelectionChoice as SelectionChoice
from mmlens.analysis.steering.method import SelectionMethod as SelectionMethod

SELECTION_METHODS.discover(__name__, list(__path__))

__all__ = ["SELECTION_METHODS", "SelectionMethod", *(method.__name__ for method in SELECTION_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[SelectionMethod]:
    return SELECTION_METHODS.by_class_name(name)
