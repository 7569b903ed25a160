"""Corrupted versions of a batch: other pictures, noise and blanks behind the pixels, other words."""

from mmlens.interventions.corruptions.multi_level import blank, mean, noise, shuffle
from mmlens.interventions.corruptions.pixels import blur, swap, twin
from mmlens.interventions.corruptions.text import replace_words

__all__ = [
    "blank",
    "blur",
    "mean",
    "noise",
    "replace_words",
    "shuffle",
    "swap",
    "twin",
]
