"""The ways of contrasting, one file each: `mm.decoding`. A file that is put here is found."""

from mmlens.models.contrast.method import CONTRAST_METHODS as CONTRAST_METHODS
from mmlens.models.contrast.method import ContrastChoice as ContrastChoice
from mmlens.models.contrast.method import ContrastMethod as ContrastMethod

CONTRAST_METHODS.discover(__name__, list(__path__))

__all__ = ["CONTRAST_METHODS", "ContrastMethod", *(method.__name__ for method in CONTRAST_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[ContrastMethod]:
    return CONTRAST_METHODS.by_class_name(name)
