"""Hallucination: things that the model says are there and are not, asked for by name and in its own captions.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (POPE), EMNLP 2023
(https://arxiv.org/abs/2305.10355), section 5: absent things drawn at random, among the most frequent, and among those that go
most often with what is there; Rohrbach et al., "Object Hallucination in Image Captioning" (CHAIR), EMNLP 2018
(https://arxiv.org/abs/1809.02156). *Departs:* what is there is known, and frequencies are those of the world's own scenes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.core.answer_text import is_answer, says
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes
from mmlens.lab.phenomena.subject import Subject
from mmlens.lab.phenomena.world import LabQuestion, LabScene

_COUNTED = 1_500


def hallucination(subject: Subject, sizes: Sizes) -> Measured:
    """Measure how often "yes" is said of what is absent, and how many of the things that captions name are not there."""
    world = subject.world
    scenes = list(world.scenes(sizes.share(0.5), sizes.stream(8)))
    findings = [*_asked(subject, scenes, sizes), *_named(subject, scenes)]
    return Measured(findings)


def _asked(subject: Subject, scenes: Sequence[LabScene], sizes: Sizes) -> list[Finding]:
    rng = np.random.default_rng(sizes.seed)
    frequent, together = _counts(subject.world.nouns_together(_COUNTED, sizes.stream(8)))
    nouns = np.array(subject.world.nouns)

    def drawn(absent: list[str], there: set[str]) -> str:
        return str(rng.choice(absent))

    def popular(absent: list[str], there: set[str]) -> str:
        return max(absent, key=lambda noun: frequent[noun])

    def adversarial(absent: list[str], there: set[str]) -> str:
        return max(absent, key=lambda noun: sum(together[noun, other] for other in there))

    sorts: dict[str, Callable[[list[str], set[str]], str]] = {
        "random": drawn, "popular": popular, "adversarial": adversarial,
    }  # fmt: skip
    there = [{thing.shape for thing in scene.objects} for scene in scenes]

    def said_yes(choices: Sequence[str]) -> np.ndarray:
        samples = [
            subject.sample(scene, LabQuestion(subject.world.presence(noun), "", "presence"))
            for scene, noun in zip(scenes, choices, strict=True)
        ]
        return np.array([is_answer(text, "yes") for text in subject.replies(samples, tokens=3)])

    present = mean_interval(said_yes([str(rng.choice(sorted(nouns_there))) for nouns_there in there]))
    findings = []
    for name, choose in sorts.items():
        choices = [choose([noun for noun in nouns if noun not in here], here) for here in there]
        control = Control("yes to what is there", present)
        findings.append(
            Finding(f"yes to what is absent, {name}", mean_interval(said_yes(choices)), controls=(control,))
        )
    return findings


def _named(subject: Subject, scenes: Sequence[LabScene]) -> list[Finding]:
    captions = subject.captions(scenes)
    caption_nouns = [
        {noun for noun in subject.world.nouns if says(text, subject.world.spellings(noun))} for text in captions
    ]
    there = [{thing.shape for thing in scene.objects} for scene in scenes]
    elsewhere = [*there[1:], there[0]]
    pairs = [(number, noun) for number, nouns in enumerate(caption_nouns) for noun in sorted(nouns)]
    groups = np.array([number for number, _ in pairs])
    false = np.array([noun not in there[number] for number, noun in pairs], dtype=bool)
    chance = np.array([noun not in elsewhere[number] for number, noun in pairs], dtype=bool)
    is_absent = np.array(
        [noun not in nouns for nouns, here in zip(caption_nouns, there, strict=True) for noun in sorted(here)]
    )
    of_scene = np.array([number for number, here in enumerate(there) for _ in here])
    return [
        Finding(
            "named things that are not there (CHAIR i)", mean_interval(false, groups=groups), "share of named things",
            (Control("judged by another scene", mean_interval(chance, groups=groups)),),
        ),
        Finding(
            "captions with one that is not there (CHAIR s)",
            mean_interval(np.array([bool(nouns - here) for nouns, here in zip(caption_nouns, there, strict=True)])),
            "share of captions",
        ),
        Finding("things that captions leave out", mean_interval(is_absent, groups=of_scene), "share of things"),
    ]  # fmt: skip


def _counts(scenes: Sequence[Sequence[str]]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How often nouns are in scenes, and how often two are in one."""
    frequent = Counter(noun for nouns in scenes for noun in set(nouns))
    together = Counter((a, b) for nouns in scenes for a in set(nouns) for b in set(nouns) if a != b)
    return frequent, together
