"""The accuracy of visual question answering against several people's answers.

Two scorers. Simple: `min(1, n / 3)`, with n people who gave the answer. Official: the mean of that over all ways to leave
one person out, after answers were normalised.

Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015 (https://arxiv.org/abs/1505.00468), and the evaluation
page of the challenge (https://visualqa.org/evaluation.html).
Departs: a full stop is dropped unless a digit stands on one of its sides ("3.5", ".5"), which the page says and whose
published pattern misses. Contractions are told by their letters alone, so all spellings without apostrophes are found.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError
from mmlens.core.kinds import Several

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that'd that'd've that's there'd there'd've there're
    there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    you'd you'd've you'll you're you've
    """.split()  # noqa: SIM905 - a list literal would be a hundred lines
#: By their letters alone. Contractions that are another word without their apostrophe ("it's", "he'll") are left out.
_WITHOUT_APOSTROPHES = {word.replace("'", ""): word for word in _CONTRACTIONS}


def normalised(answer: str) -> str:
    """An answer as the challenge compares it: lower case, digits for number words, no articles and punctuation.

    Example:
        >>> normalised("The Two  dogs."), normalised("dont know"), normalised("1,000"), normalised("black-and-white")
        ('2 dogs', "don't know", '1000', 'black and white')
    """
    text = " ".join(answer.split())
    in_number = re.search(r"\d,\d", text) is not None
    result = text
    for sign in _PUNCTUATION:
        if sign in text:
            beside_space = f"{sign} " in text or f" {sign}" in text
            result = result.replace(sign, "" if beside_space or in_number else " ")
    result = re.sub(r"(?<!\d)\.(?!\d)|(?<=\d)\.(?!\d)", "", result)
    words = [_DIGITS.get(word, word) for word in result.lower().split()]
    return " ".join(_WITHOUT_APOSTROPHES.get(word.replace("'", ""), word) for word in words if word not in _ARTICLES)


@checked
def vqa_accuracy(
    answers: Sequence[str],
    references: Sequence[Several[str]],
    *,
    scorer: Literal["official", "simple"] = "official",
) -> Float[np.ndarray, "sample"]:
    """Score answers against several people's.

    Args:
        answers: the model's, one per question.
        references: people's answers to each question, usually ten.
        scorer: see the module; both compare normalised answers.

    Returns:
        One score from 0 to 1 per question.

    Raises:
        InputError: for another number of questions on the two sides, or a question without references.

    Example:
        >>> vqa_accuracy(["yes"], [["Yes"] * 3 + ["no"] * 7]).round(2).tolist()
        [0.9]
        >>> vqa_accuracy(["yes"], [["Yes"] * 3 + ["no"] * 7], scorer="simple").tolist()
        [1.0]
    """
    if len(answers) != len(references):
        raise InputError(f"There are {len(answers)} answers for {len(references)} questions; give one each.")
    return np.array([_score(answer, people, scorer) for answer, people in zip(answers, references, strict=True)])


def _score(answer: str, people: Sequence[str], scorer: str) -> float:
    answer_text = normalised(answer)
    agree = np.array([normalised(person) == answer_text for person in people], dtype=float)
    if scorer == "simple" or len(people) == 1:
        return float(min(1.0, agree.sum() / min(3, len(people))))
    rest = agree.sum() - agree  # without each person in turn
    return float(np.minimum(1.0, rest / min(3, len(people) - 1)).mean())
