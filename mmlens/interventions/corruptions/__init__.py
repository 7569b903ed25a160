"""Corrupted versions of a batch: `mm.corrupt`.

Every corruption gives a batch of the same layout, for `mm.patch(model, clean, corrupted)`. Pixel corruptions change the
pictures; corruptions behind the pixels (`at="hook_embed"`, `"projector.hook_out"`, `"vision.hook_embed"`) are values that the
batch carries along and that stand at that point in every run of it. Those that draw something at random take a seed.
"""

from mmlens.interventions.corruptions.multi_level import blank, mean, noise, shuffle
from mmlens.interventions.corruptions.pixels import blur, swap, twin
from mmlens.interventions.corruptions.text import replace_words

__all__ = ["blank", "blur", "mean", "noise", "replace_words", "shuffle", "swap", "twin"]
