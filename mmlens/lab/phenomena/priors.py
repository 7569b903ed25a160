"""Priors: answers that are usual where the scene is and wrong in it, beside questions where nothing is usual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.answer_text import is_answer
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, absent
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import Case

_CONFLICT, _ELSEWHERE = TargetRange(0.1, 0.3), TargetRange(high=0.03)


def priors(subject: Subject, sizes: Sizes) -> Measured:
    """Measure how often the usual answer is given where the picture says otherwise, and how often the true one."""
    sorts = subject.world.conflicts(sizes.share(0.5), sizes.stream(10))
    if not sorts:
        why = "nothing is usual in the world's places"
        return Measured([absent("usual answers in scenes that say otherwise", why, _CONFLICT)])
    findings = []
    for name, pairs in sorts.items():
        usual, true = _said(subject, pairs.cases)
        usual_elsewhere, _ = _said(subject, pairs.others)
        control = Control(pairs.control, mean_interval(usual_elsewhere), _ELSEWHERE)
        findings += [
            Finding(
                f"usual answer against the picture: {name}", mean_interval(usual), "share of answers", (control,), _CONFLICT,
                subject.world.trained_in.get("priors", ""),
            ),
            Finding(f"true answer against the usual: {name}", mean_interval(true), "share of answers"),
        ]  # fmt: skip
    return Measured(findings)


def _said(subject: Subject, cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer is the usual one, and whether it is the true one."""
    replies = subject.replies([subject.sample(scene, question) for scene, question in cases], tokens=8)
    pairs = list(zip(replies, cases, strict=True))
    usual = np.array([is_answer(text, str(question.prior)) for text, (_, question) in pairs])
    return usual, np.array([is_answer(text, question.answer) for text, (_, question) in pairs])
