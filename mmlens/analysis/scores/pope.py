"""POPE: how often a model says of objects that are not in the picture that they are.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models", EMNLP 2023
(https://arxiv.org/abs/2305.10355), as https://github.com/RUCAIBox/POPE evaluates.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from mmlens.analysis.samples.sample import Dataset
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.answer_text import is_answer, words_of
from mmlens.core.contract import checked

#: How answers are read. `"official"`: no, if the text up to the first full stop, without commas and parted at blanks, has the
#: word "No", "not" or "no"; else yes. `"strict"`: by the first word, yes or no whatever its case and punctuation; anything
#: else is neither.
PopeRule: TypeAlias = Literal["official", "strict"]


@checked
def says_yes(answer: str, *, rule: PopeRule = "official") -> bool | None:
    """Whether an answer says yes; None where the strict rule finds neither yes nor no.

    Args:
        answer: the model's.
        rule: see `PopeRule`.

    Example:
        >>> [says_yes(text) for text in ("Yes, and snow", "No, there is not", "NO", "No!", "There isn't one.", "")]
        [True, False, True, True, True, True]
        >>> [says_yes(text, rule="strict") for text in ("Yes, and snow", "NO", "No!", "There isn't one.", "")]
        [True, False, False, None, None]
    """
    if rule == "official":
        words = answer.split(".")[0].replace(",", "").split(" ")
        return not {"No", "not", "no"} & set(words)
    first = next(iter(words_of(answer)), "")
    return {"yes": True, "no": False}.get(first)


@checked
def pope(dataset: Dataset, answers: Sequence[str], *, rule: PopeRule = "official") -> ScoreTable:
    """Accuracy, precision, recall, F1 (of yes) and the share of yes, over questions about objects.

    F1 is the share of right ones among all that are yes or were answered so, the right ones counted twice.

    Args:
        dataset: the questions, with `answer` yes or no: `mm.data.pope(...)`.
        answers: the model's, one per question.
        rule: how answers are read. By the strict one, answers that are neither count as wrong, and are counted.

    Raises:
        InputError: for another number of answers, or questions whose answer is not known.

    Example:
        >>> from mmlens.analysis.samples.sample import Sample
        >>> questions = [Sample((), "is there a dog", answer=truth) for truth in ("yes", "yes", "no", "no")]
        >>> table = pope(questions, ["Yes", "no", "Yes, there is", "No, there is not"])
        >>> [table[name].value for name in ("accuracy", "precision", "recall", "F1", "yes")]
        [0.5, 0.5, 0.5, 0.5, 0.5]
    """
    run = Run(dataset, answers)
    run.require(
        lambda sample: sample.answer is not None and any(is_answer(word, sample.answer) for word in ("yes", "no")),
        "answer yes or no",
    )
    replies = [says_yes(answer, rule=rule) for answer in run.texts]
    truth = np.array([is_answer("yes", sample.answer or "") for sample in run.samples])
    yes, no = (np.array([reply is value for reply in replies]) for value in (True, False))
    hits, right = truth & yes, np.where(truth, yes, no)
    unit = "share of questions"
    scores = [
        run.score("accuracy", unit, right),
        run.score("precision", "share of answers yes", hits, yes),
        run.score("recall", "share of objects that are there", hits, truth),
        run.score("F1", "share", 2 * hits, truth.astype(int) + yes),
        run.score("yes", unit, yes),
    ]
    if rule == "strict":
        scores.append(run.score("neither", unit, ~yes & ~no))
    return ScoreTable(f"POPE, {rule}", tuple(scores))
