"""The run that is under way: interventions that act at some positions resolve them against its batch."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

from mmlens.inputs.batch import MultimodalBatch

Model = TypeVar("Model")
_Value = TypeVar("_Value")


@dataclass(eq=False)
class Run(Generic[Model]):
    """A forward pass or a generation, from before it starts until it ends. What interventions work out for it ends with it,
    so that a run inside another one, and one intervention in force twice, keep apart.

    Attributes:
        model: the hooked model that runs.
        kind: which of the two.
        options: options of Hugging Face's `generate` (`max_new_tokens`, ...) or `forward`.
    """

    model: Model
    kind: Literal["forward", "generate"]
    options: Mapping[str, Any]
    make_batch: Callable[[], MultimodalBatch] = field(repr=False)
    _memory: dict[Hashable, object] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def batch(self) -> MultimodalBatch:
        """What goes in, with its token layout; worked out when it is first read."""
        return self.make_batch()

    def remember(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """Something that is made once in this run.

        Args:
            key: names it; what it belongs to must live as long as the run.
            make: makes it.
        """
        if key not in self._memory:
            self._memory[key] = make()
        return cast(_Value, self._memory[key])


@runtime_checkable
class Watching(Protocol):
    """An intervention that is told of every run before it starts."""

    def starts(self, run: Run) -> None:
        """Get ready for a run; raise InputError if it cannot happen in it."""
