"""The methods that find a direction between pairs of states, one file each: `mm.steering`. A file that is put here is found."""

from mmlens.analysis.steering.direction import DIRECTION_METHODS as DIRECTION_METHODS
from mmlens.analysis.steering.direction import DirectionChoice as DirectionChoice
from mmlens.analysis.steering.direction import DirectionMethod as DirectionMethod

DIRECTION_METHODS.discover(__name__, list(__path__))

__all__ = ["DIRECTION_METHODS", "DirectionMethod", *(method.__name__ for method in DIRECTION_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[DirectionMethod]:
    return DIRECTION_METHODS.by_class_name(name)
