"""Answers: how often they are right, kind by kind, and how sure the model is of the true ones."""

from __future__ import annotations

import numpy as np

from mmlens.analysis.statistics.intervals import mean_interval
from mmlens.lab.phenomena.finding import Control, Finding, Measured, Sizes, TargetRange, median_interval
from mmlens.lab.phenomena.questions import by_kind
from mmlens.lab.phenomena.subject import Subject

_ACCURACY = TargetRange(0.75, 0.92)
_LOG_P = TargetRange(-0.4, -0.05)


def answer_findings(subject: Subject, sizes: Sizes) -> Measured:
    """Measure accuracy by kind, beside the answers to the pictures of other scenes, and the answers' log-probabilities."""
    scenes = subject.world.scenes(sizes.scenes, sizes.stream(0))
    cases = by_kind(scenes, [subject.world.questions(scene) for scene in scenes], sizes.share(0.4), sizes.seed)
    rows = [(kind, scene, question) for kind, pairs in cases.items() for scene, question in pairs]
    number = {id(scene): index for index, scene in enumerate(scenes)}
    groups = np.array([number[id(scene)] for _, scene, _ in rows])
    samples = [subject.sample(scene, question) for _, scene, question in rows]
    elsewhere = [
        subject.sample(scenes[(group + 1) % len(scenes)], question)
        for group, (_, _, question) in zip(groups, rows, strict=True)
    ]
    right = subject.is_right(samples)
    picks = np.random.default_rng(sizes.seed).permutation(len(rows))[: sizes.share(1)]
    blind = subject.is_right([elsewhere[i] for i in picks])
    log_p = subject.log_p([samples[i] for i in picks]).numpy()
    kinds = np.array([kind for kind, _, _ in rows])
    accuracies = {kind: mean_interval(right[kinds == kind]) for kind in cases}
    findings = [
        Finding(
            "accuracy, all kinds",
            mean_interval(right, groups=groups),
            controls=(Control("the picture of another scene", mean_interval(blind, groups=groups[picks])),),
            target=_ACCURACY,
            note=subject.world.trained_in.get("answers", ""),
        ),
        *(Finding(f"accuracy: {kind}", interval, target=_ACCURACY) for kind, interval in accuracies.items()),
        Finding(
            "median log p of the true answer", median_interval(log_p, groups[picks], seed=sizes.seed), "nats", target=_LOG_P
        ),
    ]  # fmt: skip
    return Measured(findings)
