"""Kinds of answers: how each is read, when two of them agree, and what is told of one that is off."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.units import Unit


@dataclass(frozen=True)
class Number:
    """A number, right within a tolerance.

    Attributes:
        unit: of the number.
        relative: share of the truth that it may be off by; 0 for numbers that count or name something, which are whole.
        absolute: what it may be off by in any case.
    """

    unit: str
    relative: float = 0.02
    absolute: float = 1e-3

    @property
    def must_be(self) -> str:
        """A number and its unit."""
        return f"one number ({self.unit})"

    def read(self, answer: Any) -> float | None:
        """The number; of a tensor or a list, its only entry."""
        if isinstance(answer, list | tuple) and len(answer) == 1:
            return self.read(answer[0])
        try:
            value = answer.detach() if isinstance(answer, torch.Tensor) else answer
            return None if isinstance(answer, str | bool) else float(value)
        except (TypeError, ValueError, RuntimeError):
            return None

    def agree(self, answer: float, truth: float) -> bool:
        """Whether it lies within the tolerance."""
        if self.relative == 0 and not answer.is_integer():
            return False
        return abs(answer - truth) <= self.absolute + self.relative * abs(truth)

    def compare(self, answer: float, truth: float) -> str:
        """Its sign and size beside the truth's."""
        if not math.isfinite(answer):
            return f"{answer} is no finite number"
        if self.relative == 0 and not answer.is_integer():
            return f"{answer:.4g} is no whole number ({self.unit})"
        if self.agree(-answer, truth):
            return "the sign is the other way round"
        if self.unit in ("row", "patch", "concept"):  # names, of which none is more than another
            return f"it is not {self.unit} {answer:g}"
        share = abs(answer - truth) / max(abs(truth), 1e-9)
        size = "much " if share > 0.5 else ""
        return f"{answer:.4g} is {size}too {'large' if answer > truth else 'small'}"


@dataclass(frozen=True)
class Choice:
    """One of some words.

    Attributes:
        words: all that there are; empty where any word may come.
    """

    words: Collection[str] = ()

    @property
    def must_be(self) -> str:
        """A word, one of which."""
        return f"one of {', '.join(map(repr, self.words))}" if self.words else "a word, as text"

    def read(self, answer: Any) -> str | None:
        """The word, without spaces around it."""
        word = answer.strip() if isinstance(answer, str) else None
        if word is None or not self.words:
            return word
        return next((known for known in self.words if known.casefold() == word.casefold()), None)

    def agree(self, answer: str, truth: str) -> bool:
        """Whether it is the word, in small or large letters."""
        return answer.casefold() == truth.casefold()

    def compare(self, answer: str, truth: str) -> str:
        """That it is another word."""
        return f"it is not {answer!r}"


@dataclass(frozen=True)
class Items:
    """A set of things: rows, names, neurons; their order does not count.

    Attributes:
        noun: what one of them is called.
        overlap: the share of the truth that has to be among as many answers; 1 for all of it and nothing else.
    """

    noun: str
    overlap: float = 1.0

    @property
    def must_be(self) -> str:
        """Several of the things."""
        return f"{self.noun}s, as units or their names" if self._are_units else f"{self.noun}s, as a list or a tensor"

    @property
    def _are_units(self) -> bool:
        return self.noun in ("head", "neuron")

    def read(self, answer: Any) -> frozenset[Any] | None:
        """The set of things: numbers as numbers, units by their names."""
        if self._are_units and isinstance(answer, Unit | str):
            answer = [answer]
        if isinstance(answer, torch.Tensor):
            answer = answer.flatten().tolist()
        if isinstance(answer, str | dict) or not isinstance(answer, Iterable):
            return None
        try:
            if self._are_units:
                return frozenset(str(item if isinstance(item, Unit) else Unit.parse(item)) for item in answer)
            return frozenset(answer)
        except (TypeError, InputError):
            return None

    def agree(self, answer: frozenset[Any], truth: frozenset[Any]) -> bool:
        """Whether enough of the truth is there, among no more things than there are."""
        if self.overlap == 1.0:
            return answer == truth
        return len(answer) <= len(truth) and len(answer & truth) >= self.overlap * len(truth)

    def compare(self, answer: frozenset[Any], truth: frozenset[Any]) -> str:
        """How many are right, too many and missing."""
        parts = [f"{len(answer & truth)} of {len(answer)} {self.noun}s right"]
        if answer - truth:
            parts.append(f"{len(answer - truth)} too many")
        if truth - answer:
            parts.append(f"{len(truth - answer)} missing")
        return ", ".join(parts)


@dataclass(frozen=True)
class Numbers:
    """Several numbers in their order, right within a tolerance.

    Attributes:
        unit: of each.
        relative: share of the largest of them that each may be off by.
    """

    unit: str
    relative: float = 0.02

    @property
    def must_be(self) -> str:
        """Several numbers and their unit."""
        return f"numbers in their order ({self.unit}), as a list or a tensor"

    def read(self, answer: Any) -> torch.Tensor | None:
        """The numbers as a flat tensor of double precision."""
        try:
            return torch.as_tensor(answer).detach().double().flatten()
        except (TypeError, ValueError, RuntimeError):
            return None

    def agree(self, answer: torch.Tensor, truth: torch.Tensor) -> bool:
        """Whether there are as many, and each is near."""
        if answer.shape != truth.shape or not answer.isfinite().all():
            return False
        return bool((answer - truth).abs().max() <= self.relative * truth.abs().max() + 1e-6)

    def compare(self, answer: torch.Tensor, truth: torch.Tensor) -> str:
        """How many there are, and which of them is the furthest off."""
        if answer.shape != truth.shape:
            return f"there should be {len(truth)} numbers, not {len(answer)}"
        if not answer.isfinite().all():
            return "some are not finite"
        worst = int((answer - truth).abs().argmax())
        near = int(((answer - truth).abs() <= self.relative * truth.abs().max() + 1e-6).sum())
        return f"{near} of {len(truth)} are right; the one that is off the most is number {worst}, counted from 0"


@dataclass(frozen=True)
class Judged:
    """An answer that is put to a test of its own, because many answers are right.

    Attributes:
        what: what it has to be, in words.
        of: the class, or the classes, of answers.
        test: None for an answer that holds, else what is off; the second argument is the exercise's truth.
    """

    what: str
    of: type | tuple[type, ...]
    test: Callable[[Any, Any], str | None]

    @property
    def must_be(self) -> str:
        """What it has to be."""
        return self.what

    def read(self, answer: Any) -> Any:
        """The answer itself."""
        return answer if isinstance(answer, self.of) else None

    def agree(self, answer: Any, truth: Any) -> bool:
        """Whether it passes the test."""
        return self.test(answer, truth) is None

    def compare(self, answer: Any, truth: Any) -> str:
        """What the test finds fault with."""
        return self.test(answer, truth) or ""
