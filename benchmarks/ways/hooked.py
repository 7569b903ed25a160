"""mmlens, as a user calls it."""

from collections.abc import Sequence
from typing import Any

from benchmarks.contender import Answers, Contender
from benchmarks.models import Subject

FORWARD_TARGET = 1.02
CACHE_TARGET = 1.05
#: Hooked attention is computed step by step, where the bare model's runs in one fused kernel.
_ROUNDING = 2e-5


class Hooked:
    """`HookedMultimodal` around the bare model itself."""

    def __init__(self, subject: Subject):
        self.model = subject.hooked
        self.batch = subject.batch

    def forward(self) -> Contender:
        """Run without hooks."""
        return Contender(
            "mmlens", lambda: self.model(self.batch), lambda logits: {"logits": logits}, target=FORWARD_TARGET
        )

    def cache(self, names: Sequence[str], *, last: bool = False) -> Contender:
        """Run with a cache of these points."""
        asked = list(names)
        positions = "last" if last else "all"
        return Contender(
            "mmlens",
            lambda: self.model.run_with_cache(self.batch, names=asked, positions=positions),
            _answers,
            target=CACHE_TARGET,
        )

    def everything(self) -> Contender:
        """Run with the default cache."""
        return Contender(
            "mmlens",
            lambda: self.model.run_with_cache(self.batch),
            _answers,
            tolerance=_ROUNDING,
            note=f"{len(self.model.default_points)} points, heads and norms among them",
        )


def _answers(result: Any) -> Answers:
    logits, cache = result
    return {"logits": logits, **cache.cache_dict}
