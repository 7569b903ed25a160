"""What every way of doing the tasks offers."""

from collections.abc import Sequence
from typing import Protocol

from benchmarks.contender import Contender


class Way(Protocol):
    """A library around one model."""

    def forward(self) -> Contender:
        """Run without hooks; the answer is `logits`."""

    def cache(self, names: Sequence[str], *, last: bool = False) -> Contender:
        """Run and keep these points, at all positions or the last one; the answers are `logits` and the points."""

    def everything(self) -> Contender:
        """Run and keep whatever the library keeps by default."""
