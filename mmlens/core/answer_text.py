"""The one way in which answers and captions are compared: what differs in case, punctuation, accents or figures is the same.

Scores of visual question answering have the challenge's own rules: `mmlens.analysis.scores.vqa`.
"""

import re
import unicodedata
from collections.abc import Sequence

from mmlens.core.contract import checked

_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
#: Apostrophes as keyboards, typographers and accents write them.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4`", "'"))
#: A number with its decimals, or letters and figures; commas between thousands are taken out before.
_WORD = re.compile(r"\d+\.\d+|[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words of a text: lower case, without accents and punctuation, number words as figures, possessives as their owner.

    Example:
        >>> words_of("A man\u2019s dog, in the CAF\u00c9: two black-and-white cats (3.5 kg; 1,000 hairs).")
        ['a', 'man', 'dog', 'in', 'the', 'cafe', '2', 'black', 'and', 'white', 'cats', '3.5', 'kg', '1000', 'hairs']
    """
    letters = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).casefold())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    bare = re.sub(r"(?<=\w)'s\b", "", bare).replace("'", "")
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare)
    return [_DIGITS.get(word, word) for word in _WORD.findall(bare)]


@checked
def normalised(text: str) -> str:
    """A text as answers are compared: its words in lower case, without accents and punctuation, number words as figures.

    Example:
        >>> normalised("Yes."), normalised("  Two RED circles!"), normalised("don\u2019t know")
        ('yes', '2 red circles', 'dont know')
    """
    return " ".join(words_of(text))


@checked
def says(text: str, phrases: str | Sequence[str]) -> bool:
    """Whether a text has one of some words or phrases, as whole words; "no" is not in "nose".

    Example:
        >>> says("A man holding a dog.", "dog"), says("a woman in red", "man"), says("a man in red", ["dog", "in Red"])
        (True, False, True)
    """
    words = f" {normalised(text)} "
    texts = [phrases] if isinstance(phrases, str) else phrases
    targets = [normalised(phrase) for phrase in texts]
    return any(f" {phrase} " in words for phrase in targets if phrase)


def is_answer(text: str, truth: str | Sequence[str]) -> bool:
    """Whether a text is an answer, or one of several that count, once both are normalised.

    Example:
        >>> is_answer("Red.", "red"), is_answer("a red one", "red"), is_answer("grey", ["gray", "grey"])
        (True, False, True)
    """
    truths = [truth] if isinstance(truth, str) else truth
    return normalised(text) in {normalised(answer) for answer in truths}
