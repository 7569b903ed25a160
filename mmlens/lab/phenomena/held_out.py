"""Held-out pairs and phrasings: what training had seldom or never, beside what it had often."""

from __future__ import annotations

from collections.abc import Sequence

from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, absent
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import Case


def held_out(subject: Subject, sizes: Sizes) -> Measured:
    """Measure accuracy there, beside the same questions about what was frequent."""
    sorts = subject.world.held_out(sizes.share(0.3), sizes.stream(11))
    if not sorts:
        return Measured([absent("rare pairs and phrasings", "every combination was trained, in one phrasing")])
    return Measured(
        [
            Finding(
                name, _right(subject, pairs.cases), controls=(Control(pairs.control, _right(subject, pairs.others)),)
            )
            for name, pairs in sorts.items()
        ]
    )


def _right(subject: Subject, cases: Sequence[Case]) -> Interval:
    return mean_interval(subject.is_right([subject.sample(scene, question) for scene, question in cases]))
