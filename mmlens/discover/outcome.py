"""The outcome of trying a family on its model."""

from collections.abc import Callable
from dataclasses import dataclass

from mmlens.declarations.family import Family


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a family that was tried.

    Attributes:
        ok: whether every point fired once and moved the logits exactly where it is not declared dead.
        failed: the points that a smaller family would leave out; None where no smaller one would do.
        message: what went wrong.
    """

    ok: bool
    failed: list[str] | None
    message: str


#: Tries a family on a model: wraps it and verifies it, which the room of the hooked model does.
Try = Callable[[Family], TrialOutcome]
