"""An exercise: what it asks for, its truth, worked out anew for each model, and the slips that it knows by their answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmlens.models.hooked import HookedMultimodal

Truth = Callable[[HookedMultimodal], Any]


class AnswerKind(Protocol):
    """A kind of answer: a number, some rows, a word, ..."""

    @property
    def must_be(self) -> str:
        """What an answer has to be, in words."""
        ...

    def read(self, answer: Any) -> Any:
        """An answer in the form in which answers are compared; None if it is of another kind."""
        ...

    def agree(self, answer: Any, truth: Any) -> bool:
        """Whether a read answer is right."""
        ...

    def compare(self, answer: Any, truth: Any) -> str:
        """What of a wrong answer is right and what is off, without giving the truth away."""
        ...


@dataclass(frozen=True)
class Slip:
    """A mistake that people make.

    Attributes:
        answer: what it leads to, for a model.
        hint: what somebody who gives that answer should think of.
    """

    answer: Truth
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A question with a truth.

    Attributes:
        name: `unit.number`.
        asks: what the answer is, with its shape and unit.
        kind: of answer.
        truth: the right answer, from the scene, its twin, bare tensors or a planted model.
        slips: known mistakes; the first whose answer is given is told to whoever gave it.
        hint: for all other wrong answers.
        control: an answer by chance, which must not pass.
        example: an answer that passes, where the truth is what answers are put to and none itself.
    """

    name: str
    asks: str
    kind: AnswerKind
    truth: Truth
    hint: str
    slips: Sequence[Slip] = ()
    control: Truth | None = None
    example: Truth | None = None


@dataclass(frozen=True)
class Grade:
    """What became of an answer.

    Attributes:
        exercise: its name.
        passed: whether the answer is right.
        message: what is right, what is off, and one hint.
    """

    exercise: str
    passed: bool
    message: str

    def __repr__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"
