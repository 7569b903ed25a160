"""Which questions are posed: one of each kind a scene, its answers evenly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mmlens.lab.phenomena.world import Case, LabQuestion, LabScene

#: Kinds that one thing of the picture decides, by its colour or noun.
LOOK_UPS = ("color", "noun", "shape")


def by_kind(
    scenes: Sequence[LabScene], questions: Sequence[Sequence[LabQuestion]], per_kind: int, seed: int
) -> dict[str, list[Case]]:
    """One question of each kind a scene, until there are enough.

    Args:
        scenes: The scenes.
        questions: Those of each.
        per_kind: How many of a kind at most.
        seed: Of the choice; answers of a scene are drawn evenly first, so that "no" is as frequent as "yes".

    Returns:
        The questions with their scenes, by kind.
    """
    rng = np.random.default_rng(seed)
    selection: dict[str, list[Case]] = {}
    for scene, options in zip(scenes, questions, strict=True):
        for kind in dict.fromkeys(question.kind for question in options):
            cases = selection.setdefault(kind, [])
            if len(cases) < per_kind:
                cases.append((scene, _drawn([question for question in options if question.kind == kind], rng)))
    return selection


def look_ups(cases: Iterable[tuple[LabScene, Sequence[LabQuestion]]], count: int, seed: int) -> list[Case]:
    """One question a scene for the colour of a thing that is there."""
    rng = np.random.default_rng(seed)
    selection: list[Case] = []
    for scene, options in cases:
        colors = [question for question in options if question.kind == "color" and question.noun]
        if colors and len(selection) < count:
            selection.append((scene, _drawn(colors, rng)))
    return selection


def _drawn(options: Sequence[LabQuestion], rng: np.random.Generator) -> LabQuestion:
    answers = list(dict.fromkeys(question.answer for question in options))
    answer = answers[int(rng.integers(len(answers)))]
    alike = [question for question in options if question.answer == answer]
    return alike[int(rng.integers(len(alike)))]
