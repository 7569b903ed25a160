"""The accuracy of visual question answering against several people's answers, by three rules.

- `"script"`: what the challenge's program computes, its quirks included. It is the mean of `min(1, n / 3)` over all ways to leave
  one person out, with n of the others who gave the answer. Answers are normalised (punctuation, lower case, number words,
  articles, contractions) only if people's differ: "Dog." is wrong where ten people say "dog". Full stops go wherever no digit
  follows, 32 at most; contractions with capitals, and "lets", are never found.
- `"corrected"`: the same mean, with both sides normalised in one way.
- `"simple"`: `min(1, n / 3)` of all people, both sides normalised, as xl-vlms and others compute.

Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015 (https://arxiv.org/abs/1505.00468); the evaluation page
(https://visualqa.org/evaluation.html); the program, https://github.com/GT-Vision-Lab/VQA, `vqaEval.py`.
Departs: nothing under `"script"`, for annotations whose answers are numbered, as all published ones are. Under the others a full
stop is dropped unless a digit stands on one of its sides ("3.5", ".5"), which the page says and whose published pattern misses,
and contractions are told by their letters alone, so that all spellings without apostrophes are found.
"""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from mmlens.analysis.samples.sample import Dataset
from mmlens.analysis.scores.score import Run, ScoreTable
from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several, Text

VqaRule: TypeAlias = Literal["script", "corrected", "simple"]

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that'd that'd've
    that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
    """.split()  # noqa: SIM905 - a list literal would be a hundred lines
#: By their letters alone. Contractions that are another word without their apostrophe ("it's", "he'll") are left out.
_WITHOUT_APOSTROPHES = {word.replace("'", ""): word for word in _CONTRACTIONS}
_SCRIPT_ONLY = ("'ow's'at", "'twas")
#: Left alone by the program: those that it looks for with capitals, in lower case, and those that stand for themselves.
_SCRIPT_LACKS = ("i'd've", "i'm", "i've", "let's", "she's", "somebody'd", "that'd", "that'd've")


def _script_contractions() -> dict[str, str]:
    """The program's contractions: each without one of its apostrophes; and one that it has the wrong way round."""
    contractions = {"somebody'd": "somebodyd"}
    for word in (*(word for word in _CONTRACTIONS if word not in _SCRIPT_LACKS), *_SCRIPT_ONLY):
        for at in (number for number, letter in enumerate(word) if letter == "'"):
            contractions[word[:at] + word[at + 1 :]] = word
    return contractions


_SCRIPT_CONTRACTIONS = _script_contractions()


def _without_punctuation(text: str) -> str:
    """Punctuation becomes a blank, or nothing where a blank stands beside that sign or the text has a number with a comma."""
    in_number = re.search(r"\d,\d", text) is not None
    result = text
    for sign in _PUNCTUATION:
        if sign in text:
            beside_space = f"{sign} " in text or f" {sign}" in text
            result = result.replace(sign, "" if beside_space or in_number else " ")
    return result


def normalised(answer: str) -> str:
    """An answer as the corrected rule compares it: lower case, digits for number words, no articles and punctuation.

    Example:
        >>> normalised("The Two  dogs."), normalised("dont know"), normalised("1,000"), normalised("black-and-white")
        ('2 dogs', "don't know", '1000', 'black and white')
    """
    result = _without_punctuation(" ".join(answer.split()))
    result = re.sub(r"(?<!\d)\.(?!\d)|(?<=\d)\.(?!\d)", "", result)
    words = [_DIGITS.get(word, word) for word in result.lower().split()]
    return " ".join(_WITHOUT_APOSTROPHES.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


def _script_normalised(answer: str) -> str:
    """An answer as the program compares it, where people's answers differ."""
    text = re.sub(r"\.(?!\d)", "", _without_punctuation(answer), count=int(re.UNICODE))
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_SCRIPT_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@checked
def vqa_score(answer: str, people: Several[str], *, rule: VqaRule = "script") -> float:
    """The score of one answer against several people's, 0 to 1.

    Args:
        answer: the model's.
        people: theirs, usually ten.
        rule: see the module.

    Example:
        >>> people = ["yes"] * 3 + ["no"] * 7
        >>> round(vqa_score("Yes.", people), 2), vqa_score("Yes.", people, rule="simple")
        (0.9, 1.0)
        >>> vqa_score("Dog.", ["dog"] * 10), vqa_score("Dog.", ["dog"] * 10, rule="corrected")
        (0.0, 1.0)
    """
    if rule == "script":
        text, *replies = (item.replace("\n", " ").replace("\t", " ").strip() for item in (answer, *people))
        if len(set(replies)) > 1:
            text, replies = _script_normalised(text), list(map(_script_normalised, replies))
    else:
        text, replies = normalised(answer), list(map(normalised, people))
    agree = np.array([reply == text for reply in replies], dtype=float)
    if rule == "simple":
        return float(min(1.0, agree.sum() / min(3, len(people))))
    if rule == "corrected" and len(people) == 1:
        return float(agree[0])
    rest = agree.sum() - agree  # without each person in turn
    return float(np.minimum(1.0, rest / (3 if rule == "script" else min(3, len(people) - 1))).mean())


@checked
def vqa_accuracy(
    dataset: Dataset, answers: Sequence[str], *, rule: VqaRule = "script", by: Text | None = "answer_type"
) -> ScoreTable:
    """The accuracy of answers against several people's, over all questions and over those of each type.

    Args:
        dataset: the questions, with `references`, people's answers: `mm.data.vqa_v2(...)`.
        answers: the model's, one per question.
        rule: see the module.
        by: the type by which questions are parted; None for no parts. Questions without it are in the first score alone.

    Returns:
        `"accuracy"`, a mean over questions, and `"accuracy, yes/no"`, ... .

    Raises:
        InputError: for another number of answers, a question without references, or a type that no question has.

    Example:
        >>> from mmlens.analysis.samples.sample import Sample
        >>> questions = [Sample((), "is it red", references=("yes",) * 3 + ("no",) * 7, types={"answer_type": "yes/no"})]
        >>> vqa_accuracy(questions, ["yes"])["accuracy, yes/no"].value.__round__(2)
        0.9
    """
    run = Run(dataset, answers)
    run.require(lambda sample: bool(sample.references), "references, people's answers")
    values = [
        vqa_score(text, sample.references, rule=rule) for text, sample in zip(run.texts, run.samples, strict=True)
    ]
    kinds = [sample.types.get(by) if by else None for sample in run.samples]
    types = sorted({name for sample in run.samples for name in sample.types})
    if by is not None and not any(kinds) and (types or by != "answer_type"):
        raise InputError(f"No question has the type {by!r}; they have {', '.join(map(repr, types)) or 'none'}.")
    scores = [run.score("accuracy", "0 to 1", values)]
    for kind in sorted({kind for kind in kinds if kind is not None}):
        inside = np.array([of == kind for of in kinds])
        scores.append(run.score(f"accuracy, {kind}", "0 to 1", np.where(inside, values, 0.0), inside))
    return ScoreTable(f"VQA accuracy, {rule}", tuple(scores))
