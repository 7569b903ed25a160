"""What answers are of: words of a class, and types of answers.

Source: the evaluation of Khayatan et al., "Analyzing Fine-tuning Representation Shift for Multimodal LLMs Steering Alignment",
ICCV 2025 (https://arxiv.org/abs/2501.03012), and its code, https://github.com/mshukor/xl-vlms.
*Departs:* words are whole words: "red" is not in "covered"; counts have intervals.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mmlens.analysis.samples.sample import Dataset, Sample, as_samples
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.analysis.scores.vqa import normalised
from mmlens.core.answer_text import normalised as bare
from mmlens.core.answer_text import says
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Named, Several, Text

#: Of answers whose type is not known.
UNKNOWN = "unrecognised"


@checked
def word_counts(dataset: Dataset, texts: Sequence[str], words: Named[str, Several[str]]) -> ScoreTable:
    """The share of texts that have a word of a class, and how many such words they have.

    Args:
        dataset: what the texts are about.
        texts: the model's, one per sample.
        words: classes of words by name: `{"color": mm.scorers.COLORS, "gendered": ["man", "woman"]}`.

    Raises:
        InputError: for another number of texts.

    Example:
        >>> from mmlens.analysis.scores.class_words import COLORS
        >>> table = word_counts([Sample((), "describe")] * 2, ["a red and blue moon", "a covered house"], {"color": COLORS})
        >>> table["color"].value, table["color, words"].value
        (0.5, 1.0)
    """
    run = Run(dataset, texts, "texts")
    scores = []
    for name, word_list in words.items():
        scores.append(run.score(name, "share of texts", [says(text, word_list) for text in run.texts]))
        phrases = {bare(word) for word in word_list}
        scores.append(run.score(f"{name}, words", "words per text", [_count(text, phrases) for text in run.texts]))
    return ScoreTable("words", tuple(scores))


def _count(text: str, phrases: set[str]) -> int:
    text_with_blanks = f" {bare(text)} ".replace(" ", "  ")
    return sum(text_with_blanks.count(f" {phrase.replace(' ', '  ')} ") for phrase in phrases if phrase)


@checked
def answer_types(
    dataset: Dataset, answers: Sequence[str], *, known: Dataset | None = None, type: Text = "answer_type"
) -> ScoreTable:
    """The share of answers of each type, whatever was asked: the type that people's equal answers have most often.

    Args:
        dataset: the questions.
        answers: the model's, one per question.
        known: questions whose `references` and `types` say which answers are of which type; those of `dataset` by default.
        type: which of the types.

    Returns:
        One score per type; numbers that nobody gave are `"number"`, other answers `"unrecognised"`.

    Raises:
        InputError: for another number of answers, or if no question has that type and references.

    Example:
        >>> people = {"yes/no": "yes", "number": "2", "other": "red"}
        >>> questions = [Sample((), "q", references=(text,) * 3, types={"answer_type": kind}) for kind, text in people.items()]
        >>> table = answer_types(questions, ["Yes.", "yes", "7"])
        >>> {score.name: round(score.value, 2) for score in table.scores}
        {'number': 0.33, 'other': 0.0, 'yes/no': 0.67, 'unrecognised': 0.0}
    """
    run = Run(dataset, answers)
    kinds = _kinds(run.samples if known is None else list(as_samples(known)), type)
    if not kinds:
        raise InputError(f"No question has references and the type {type!r}, by which answers would be told apart.")
    of = [kinds.get(text) or ("number" if _is_number(text) else UNKNOWN) for text in map(normalised, run.texts)]
    names = dict.fromkeys([*sorted({*kinds.values(), *of} - {UNKNOWN}), UNKNOWN])
    return ScoreTable(
        f"answers by {type}",
        tuple(run.score(name, "share of answers", np.array([kind == name for kind in of])) for name in names),
    )


def _kinds(samples: Sequence[Sample], type: str) -> Mapping[str, str]:
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        if type in sample.types:
            for text in sample.references:
                counts.setdefault(normalised(text), Counter())[sample.types[type]] += 1
    return {text: kinds.most_common(1)[0][0] for text, kinds in counts.items()}


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
