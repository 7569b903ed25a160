"""An answer to an exercise of the course, held against the truth."""

import difflib
from collections.abc import Sized
from functools import lru_cache
from typing import Any

import torch

from mmlens.architectures.loading import without_bars
from mmlens.core.errors import InputError
from mmlens.lab.checkpoints import WEIGHTS
from mmlens.lab.course.exercise import Exercise, Grade
from mmlens.lab.course.units import UNITS
from mmlens.models.hooked import HookedMultimodal

EXERCISES: dict[str, Exercise] = {exercise.name: exercise for unit in UNITS for exercise in unit}


def checked_answer(exercise: str, answer: Any, model: HookedMultimodal | None) -> Grade:
    """What becomes of an answer; see `mmlens.lab.check`.

    Raises:
        InputError: there is no such exercise.
    """
    if exercise not in EXERCISES:
        near = difflib.get_close_matches(exercise, EXERCISES, n=3, cutoff=0.5)
        raise InputError(
            f"There is no exercise {exercise!r}. {'Nearest: ' + ', '.join(near) + '. ' if near else ''}"
            f"Exercises: {', '.join(EXERCISES)}."
        )
    question = EXERCISES[exercise]
    wanted = f"Wanted: {question.asks}: {question.kind.must_be}."
    if answer is ...:
        return Grade(exercise, False, f"no answer yet. {wanted}")
    value = question.kind.read(answer)
    if value is None:
        return Grade(exercise, False, f"{_described(answer)} is not what is asked for. {wanted}")
    with torch.no_grad():
        return _judged(question, value, _lab_model() if model is None else model)


@lru_cache(maxsize=1)
def _lab_model() -> HookedMultimodal:
    with without_bars():
        return HookedMultimodal.from_pretrained(WEIGHTS, dtype="float32")


def _described(answer: Any) -> str:
    """An answer of another kind in a few words."""
    if answer is None:
        return "None (does a function lack its return?)"
    if isinstance(answer, str | bool | int | float):
        return repr(answer)
    name = type(answer).__name__
    if isinstance(answer, torch.Tensor):
        return f"a tensor of shape {list(answer.shape)}"
    return f"a {name} of {len(answer)}" if isinstance(answer, Sized) else f"a value of the class {name}"


def _judged(question: Exercise, value: Any, model: HookedMultimodal) -> Grade:
    kind, truth = question.kind, question.truth(model)
    truth = truth if question.example is not None else kind.read(truth)
    if kind.agree(value, truth):
        return Grade(question.name, True, f"right: {question.asks}.")
    for slip in question.slips:
        if kind.agree(value, kind.read(slip.answer(model))):
            return Grade(question.name, False, f"{kind.compare(value, truth)}. Hint: {slip.hint}")
    return Grade(question.name, False, f"{kind.compare(value, truth)}. Hint: {question.hint}")
