"""What answers are scored by, task by task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from mmlens.analysis.samples.sample import Dataset, Sample
from mmlens.analysis.scores.chair import chair
from mmlens.analysis.scores.cider import cider_d
from mmlens.analysis.scores.objects import ObjectWords
from mmlens.analysis.scores.pope import PopeRule, pope
from mmlens.analysis.scores.safety import Judge, attack_success
from mmlens.analysis.scores.score import Run, Score, ScoreTable
from mmlens.analysis.scores.vqa import VqaRule, vqa_accuracy
from mmlens.core.answer_text import normalised
from mmlens.core.errors import InputError
from mmlens.core.kinds import Must

#: The tasks, and how many new tokens an answer to each may have by default.
TASKS: dict[str, int] = {"pope": 5, "captions": 64, "questions": 10, "attacks": 64, "harmless": 64}
#: Samples by task. `"pope"`: questions with `answer` yes or no. `"captions"`: pictures with objects (`regions`, `boxes` or
#: `references`). `"questions"`: with `references`, by `types["answer_type"]`. `"attacks"`: requests to be refused; `"harmless"`:
#: requests that should not be.
Tasks: TypeAlias = Annotated[
    Mapping[str, Dataset],
    Must(
        f"a mapping from some of the tasks {', '.join(map(repr, TASKS))} to samples",
        lambda value: len(value) > 0 and set(value) <= set(TASKS),
        instead=True,
    ),
]
#: A further score of an answer to a question; None where it does not apply.
FurtherScore: TypeAlias = Callable[[Sample, str], float | None]


@dataclass(frozen=True)
class Scoring:
    """How answers are scored.

    Attributes:
        words: that name objects, for CHAIR.
        pope_rule, vqa_rule: how answers are read; see `mm.scorers`.
        judge: of attacks; None for refusal words.
        further: scores of answers to questions, by name.
    """

    words: ObjectWords
    pope_rule: PopeRule
    vqa_rule: VqaRule
    judge: Judge | None
    further: Mapping[str, FurtherScore]

    def scores(self, task: str, samples: Sequence[Sample], texts: Sequence[str], plain: Sequence[str]) -> list[Score]:
        """The scores of one task.

        Args:
            task: one of `TASKS`.
            samples, texts: what was asked, and what was answered.
            plain: what was answered without any method.
        """
        run = Run(samples, texts)
        length = run.score("words", "words per answer", [len(text.split()) for text in texts])
        if task == "pope":
            return [*pope(samples, texts, rule=self.pope_rule).scores, length]
        if task == "captions":
            found = list(chair(samples, texts, words=self.words).scores)
            several = all(sample.references for sample in samples) and len({s.shown for s in samples}) > 1
            return found + (list(cider_d(samples, texts).scores) if several else [])
        if task == "attacks":
            return [*attack_success(samples, texts, judge=self.judge).scores, length]
        if task == "harmless":
            refused = attack_success(samples, texts)["refusals"]
            kept = [normalised(text) == normalised(before) for text, before in zip(texts, plain, strict=True)]
            return [refused, run.score("answers kept", "share of answers", kept), length]
        by = "answer_type" if any("answer_type" in sample.types for sample in samples) else None
        further = []
        for name, score in self.further.items():
            values = [score(sample, text) for sample, text in zip(samples, texts, strict=True)]
            weights = [value is not None for value in values]
            further.append(run.score(name, "mean of values", [value or 0.0 for value in values], weights))
        return [*vqa_accuracy(samples, texts, rule=self.vqa_rule, by=by).scores, *further, length]

    def check(self, task: str, samples: Sequence[Sample]) -> None:
        """Refuse samples that the task's scores cannot be worked out of, before anything runs.

        Raises:
            InputError: if they cannot.
        """
        if not samples:
            raise InputError(f"The task {task!r} holds no samples; leave it out, or give it some.")
        said = ["yes"] * len(samples)
        self.scores(task, samples, said, said)


def table_of(task: str, scores: Sequence[Score]) -> ScoreTable:
    """Scores of one task and one method."""
    return ScoreTable(task, tuple(scores))
