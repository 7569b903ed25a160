"""Positions as values; see `mmlens.core.positions`."""

from mmlens.core.positions import *  # noqa: F403
from mmlens.core.positions import __all__ as __all__
