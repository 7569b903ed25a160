"""Runs shared by the processes of one launch: each does its part of the units of work, and all get every result, in order.

A unit (a batch of a dataset, a packed call of a sweep, a run of a circuit) is the same whatever the number of processes, and
results come in the order of the units. So a run of many processes gives bit for bit what a lone one gives, provided that each
computes with as many threads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

from mmlens.core.checkpoint import Checkpoint
from mmlens.core.errors import InputError, MMLensError
from mmlens.core.processes import Process

Unit = TypeVar("Unit")
Result = TypeVar("Result")

#: Whether this thread or task is inside a unit, whose own runs are its process's alone.
_INSIDE: ContextVar[bool] = ContextVar("inside_a_unit", default=False)


@contextmanager
def _inside() -> Iterator[None]:
    token = _INSIDE.set(True)
    try:
        yield
    finally:
        _INSIDE.reset(token)


@dataclass(frozen=True)
class _Turn(Generic[Result]):
    """What one process did of a round of units, one for each process.

    Attributes:
        run: what it takes the round to be of; the same in all processes, unless they were given different things.
        result: of its unit; None where the round has none for it.
        error: what came in between.
    """

    run: str
    result: Result | None = None
    error: Exception | None = None

    def sendable(self) -> "_Turn[Result]":
        """The same, with an error that pickles: those of others may hold anything."""
        if self.error is None or isinstance(self.error, MMLensError):
            return self
        return replace(self, error=MMLensError(f"{type(self.error).__name__}: {self.error}"))


def shared(
    units: Iterable[Unit], work: Callable[[Unit], Result], process: Process, *, run: Callable[[Sequence[Unit]], str]
) -> Iterator[tuple[Unit, Result]]:
    """Do the work of units, each in one of the processes; yields every unit with its result, in all processes alike.

    Processes meet after each round of as many units as there are processes. What is raised in one is raised in all. Inside a
    unit nothing is shared any further.

    Args:
        units: the same in all processes; read as they are needed.
        work: from a unit to its result, which pickles and lies on the CPU.
        process: this one.
        run: says what some units are of, so that processes which were given different things find out.

    Raises:
        InputError: if processes were given different things.
    """
    if process.count == 1 or _INSIDE.get():
        for unit in units:
            yield unit, work(unit)
        return
    queue = iter(units)
    while True:
        turn, outcome = _turn(queue, work, process, run)
        turns = process.gather(outcome.sendable())
        _require_sound(turns, outcome, process)
        for unit, other in zip(turn, turns, strict=False):  # the last round may be short
            yield unit, other.result
        if len(turn) < process.count:
            return


def _turn(
    queue: Iterator[Unit], work: Callable[[Unit], Result], process: Process, run: Callable[[Sequence[Unit]], str]
) -> tuple[list[Unit], _Turn[Result]]:
    """The units of the next round, and what this process did of it."""
    turn: list[Unit] = []
    failure = _Caught()
    with failure, _inside():
        turn = list(islice(queue, process.count))
        name = f"{len(turn)} units of {run(turn)}"
        result = work(turn[process.index]) if process.index < len(turn) else None
        return turn, _Turn(name, result)
    return turn, _Turn("", error=failure.error)


class _Caught(AbstractContextManager["_Caught"]):
    """Keeps what is raised inside the `with`, whatever it is: the other processes wait for an answer.

    Attributes:
        error: it.
    """

    error: Exception | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def _require_sound(turns: Sequence[_Turn[Any]], own: _Turn[Any], process: Process) -> None:
    """Raise what was raised anywhere.

    Raises:
        InputError: if processes were given different things.
    """
    errors = [turn.error for turn in turns if turn.error is not None]
    if own.error is not None or errors:
        raise own.error or errors[0]
    runs = [turn.run for turn in turns]
    if len(set(runs)) > 1:
        names = "; ".join(f"process {number}: {name}" for number, name in enumerate(runs))
        raise InputError(
            f"The {process.count} processes of this launch were given different things ({names}). Give each the whole data and "
            "the same settings: every process takes its share of it by itself, and gets the whole result."
        )


def shared_tensors(
    names: Sequence[str],
    work: Callable[[str], torch.Tensor],
    process: Process,
    checkpoint: Checkpoint,
    *,
    run: Callable[[], str],
    on_done: Callable[[], object] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Tensors by name, each made by one of the processes; those that the checkpoint holds are not made again.

    Args:
        names: of the tensors.
        work: makes one, on the CPU.
        process: this one.
        checkpoint: keeps them.
        run: says what they are of.
        on_done: called after each.
    """
    due = [name for name in names if name not in checkpoint.tensors]
    try:
        for name, tensor in shared(due, work, process, run=lambda turn: f"{', '.join(turn)} of {run()}"):
            checkpoint.tensors[name] = tensor
            checkpoint.save()
            on_done()
    finally:
        checkpoint.save(now=True)
    return {name: checkpoint.tensors[name] for name in names}
