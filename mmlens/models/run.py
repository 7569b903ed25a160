"""What a hooked model is about to run: interventions that act on some positions only have to know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from mmlens.models.batch import MultimodalBatch


@dataclass(frozen=True)
class Run:
    """A forward pass, or a generation, that is about to start.

    Attributes:
        kind: which of the two.
        batch: what goes in, with its token layout.
        options: options of Hugging Face's `generate` (`max_new_tokens`, ...); empty for a forward pass.
    """

    kind: Literal["forward", "generate"]
    batch: MultimodalBatch
    options: Mapping[str, Any]


@runtime_checkable
class Watching(Protocol):
    """An intervention that is told of every run before it starts."""

    def starts(self, run: Run) -> None:
        """Get ready for a run; raise InputError if it cannot happen in it."""
