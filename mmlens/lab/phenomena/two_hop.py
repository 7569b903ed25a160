"""Two hops: questions that need what the picture shows and a fact that only text told."""

from __future__ import annotations

from collections.abc import Sequence

from mmlens.analysis.samples.sample import Sample
from mmlens.analysis.statistics.intervals import Interval, mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, absent
from mmlens.lab.phenomena.questions import by_kind
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import Case

#: A thing that is named needs no look at the picture: only what is told by its colour or place takes two hops.
_TARGET, _BLIND = TargetRange(0.5), TargetRange(high=0.3)


def two_hop(subject: Subject, sizes: Sizes) -> Measured:
    """Measure such questions by kind, beside the same with the scene in words and with the picture of another scene."""
    scenes = list(subject.world.scenes(sizes.scenes, sizes.stream(9)))
    cases = by_kind(scenes, [subject.world.two_hops(scene) for scene in scenes], sizes.share(0.25), sizes.seed)
    if not cases:
        why = "the world has no facts beside what is seen"
        return Measured([absent("two-hop questions about pictures", why, _TARGET)])
    findings = []
    for kind, pairs in cases.items():
        is_two = " by " in kind
        controls = (
            Control("the scene in words", _right(subject, pairs, in_words=True)),
            Control("the picture of another scene", _right(subject, pairs, shift=1), _BLIND if is_two else None),
        )
        hops = "two hops" if is_two else "one hop, the thing is named"
        notes = filter(None, (hops, subject.world.trained_in.get(kind)))
        findings.append(
            Finding(
                f"{kind}, about pictures", _right(subject, pairs), controls=controls, target=_TARGET if is_two else None,
                note="; ".join(notes),
            )
        )  # fmt: skip
    facts = subject.world.facts()
    if facts:
        right = subject.is_right([Sample((), question.text, answer=question.answer) for question in facts])
        findings.append(Finding("facts alone, without a scene", mean_interval(right)))
    return Measured(findings)


def _right(subject: Subject, cases: Sequence[Case], *, shift: int = 0, in_words: bool = False) -> Interval:
    other_scenes = [cases[(number + shift) % len(cases)][0] for number in range(len(cases))]
    samples = [subject.sample(scene, question) for scene, (_, question) in zip(other_scenes, cases, strict=True)]
    return mean_interval(subject.is_right([sample.as_writing for sample in samples] if in_words else samples))
