"""The methods that score the edges of circuits, one file each: `mm.circuits`. A file that is put here is found."""

from mmlens.analysis.circuits.method import CIRCUIT_METHODS as CIRCUIT_METHODS
from mmlens.analysis.circuits.method import CircuitChoice as CircuitChoice
from mmlens.analysis.circuits.method import CircuitMethod as CircuitMethod

CIRCUIT_METHODS.discover(__name__, list(__path__))

__all__ = ["CIRCUIT_METHODS", "CircuitMethod", *(method.__name__ for method in CIRCUIT_METHODS)]  # noqa: PLE0604


def __getattr__(name: str) -> type[CircuitMethod]:
    return CIRCUIT_METHODS.by_class_name(name)
