"""A stage of a study: a table or figure of its paper, and what measuring it gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias

from mmlens.analysis.study_table import StudyValue
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: A layer of the papers' models, which have 32.
Layer: TypeAlias = Annotated[int, Must("from 0 to 31", lambda value: 0 <= value < 32)]


class UnanswerableError(InputError):
    """What the model or the data at hand cannot answer; the message says why."""


class Savable(Protocol):
    """A result that writes itself into a file."""

    def save(self, path: str) -> Any:
        """Write it."""


@dataclass(frozen=True)
class Outcome:
    """What a stage gives.

    Attributes:
        rows: its numbers.
        notes: what departs from the paper, and what could not be had.
        figures: pictures by name.
        results: whole results by the name of their file.
    """

    rows: Sequence[StudyValue]
    notes: Sequence[str] = ()
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    results: Mapping[str, Savable] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A table or figure of a paper.

    Attributes:
        name: as `--only` has it.
        title: what it shows.
        run: measures it.
    """

    name: str
    title: str
    run: Callable[[Any], Outcome]


def stages(*functions: Callable[[Any], Outcome]) -> tuple[Stage, ...]:
    """Stages from what measures them: the name is the function's, the title the first line of what is said of it."""
    return tuple(
        Stage(function.__name__, _title((function.__doc__ or function.__name__).split("\n")[0]), function)
        for function in functions
    )


def _title(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")
