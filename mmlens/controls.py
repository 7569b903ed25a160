"""Controls: matched random units, and what they can be matched by."""

from mmlens.analysis.controls.matches import *  # noqa: F403
from mmlens.analysis.controls.matches import MATCHES
from mmlens.analysis.controls.matches import __all__ as _methods
from mmlens.analysis.controls.random_units import RandomUnits, random_units

__all__ = [  # noqa: PLE0604
    "random_units",
    "RandomUnits",
    *_methods,
]

__getattr__ = MATCHES.by_class_name  # methods that were registered since
