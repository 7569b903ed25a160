"""A contender: one way of doing a benchmark's task, and how to read what it answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

#: What a run found out, by name: `logits`, and kept activations by mmlens's hook names.
Answers: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Contender:
    """One way of doing the task that a benchmark times.

    Attributes:
        name: who does it.
        run: does it once; this alone is timed.
        answers: reads a run's result for the agreement check; outside the timing.
        tolerance: largest absolute difference from the limit's answers that counts as equal; 0 means bit-equal.
        target: what its time must not exceed, as a multiple of the limit's; None for orientation only.
        lacks: answers that it cannot give; it must give all others.
        note: what a reader of the row should know.
    """

    name: str
    run: Callable[[], Any]
    answers: Callable[[Any], Answers]
    tolerance: float = 0.0
    target: float | None = None
    lacks: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A contender, or a whole benchmark, that cannot run here.

    Attributes:
        name: who is missing.
        why: the reason, with what to do about it.
    """

    name: str
    why: str
