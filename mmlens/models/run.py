"""The run that is under way: interventions that act at some positions resolve them against its batch."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, get_args, runtime_checkable

from mmlens.core.errors import InputError
from mmlens.inputs.batch import MultimodalBatch

Model = TypeVar("Model")
_Value = TypeVar("_Value")

#: Whose a pass is: `"conditional"`, of the prompt that is gone on with (every pass but in the cases that follow);
#: `"unconditional"`, of the prompt that `guidance_scale` guides away from; `"contrast"`, of the prompt that contrastive decoding
#: contrasts with; `"draft"`, of candidates that the model itself proposes (`assistant_early_exit`).
Branch: TypeAlias = Literal["conditional", "unconditional", "contrast", "draft"]
#: In which passes of a generation something acts: the conditional ones, or those of all branches.
PassChoice: TypeAlias = Literal["conditional", "all"]


def require_passes(passes: PassChoice) -> PassChoice:
    """The choice, if it is one.

    Raises:
        InputError: for anything else.
    """
    if passes not in get_args(PassChoice):
        raise InputError(
            f"passes={passes!r} must be 'conditional' (the prompt that is gone on with) or 'all' (also what guidance_scale, "
            "contrast and drafts of the model's own run)."
        )
    return passes


@dataclass
class Window:
    """Which positions the pass under way holds, where passes of a generation may be taken back (candidates that were rejected).

    Attributes:
        first: position of its first row.
        count: how many rows it holds.
        kept: once the generation is over, how many positions its cache holds: rejected candidates are gone from it.
    """

    first: int = 0
    count: int = 0
    kept: int | None = None


@dataclass(eq=False)
class Run(Generic[Model]):
    """A forward pass or a generation, from before it starts until it ends. What interventions work out for it ends with it,
    so that a run inside another one, and one intervention in force twice, keep apart.

    Attributes:
        model: the hooked model that runs.
        kind: which of the two.
        options: options of Hugging Face's `generate` (`max_new_tokens`, ...) or `forward`.
        branch: whose passes of a generation; each branch is a run of its own, with its own prompt.
        window: the positions of the pass under way, where they cannot be counted.
    """

    model: Model
    kind: Literal["forward", "generate"]
    options: Mapping[str, Any]
    make_batch: Callable[[], MultimodalBatch] = field(repr=False)
    branch: Branch = "conditional"
    window: Window | None = field(default=None, repr=False)
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
    """An intervention that is told of every run before it starts, and of every branch of a generation in which it acts."""

    def starts(self, run: Run) -> None:
        """Get ready for a run; raise InputError if it cannot happen in it."""
