"""The methods that find deltas for edits about words, one file each. A file that is put here is found."""

from mmlens.interventions.edits.method import EDIT_METHODS as EDIT_METHODS
from mmlens.interventions.edits.method import EditChoice as EditChoice
from mmlens.interventions.edits.method import EditMethod as EditMethod

EDIT_METHODS.discover(__name__, list(__path__))

__all__ = ["EDIT_METHODS", "EditMethod", *(method.__name__ for method in EDIT_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[EditMethod]:
    return EDIT_METHODS.by_class_name(name)
