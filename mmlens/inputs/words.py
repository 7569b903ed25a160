"""Where a word stands among token ids: all of its pieces, however a tokenizer splits and marks them."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

#: What a tokenizer decodes the first bytes of a letter to.
INCOMPLETE = "\ufffd"


def word_occurrences(tokenizer: Any, ids: Sequence[int], word: str, apart: Sequence[bool]) -> list[list[int]]:
    """The positions of every occurrence of a word, first to last; pieces that hold more than the word count too.

    Words are found in the decoded text and traced back by its length after each token, so it does not matter how a
    tokenizer splits or marks them.

    Args:
        tokenizer: decodes ids.
        ids: token ids of one sample.
        word: the word, or several with single spaces between them.
        apart: True at ids that are no text (pictures, padding); words do not reach across them, nor across special tokens.
    """
    special = set(tokenizer.all_special_ids)
    pattern = _pattern(word)
    result: list[list[int]] = []
    start = 0
    for end in range(len(ids) + 1):
        if end == len(ids) or apart[end] or ids[end] in special:
            if end > start:
                result += [
                    [start + at for at in numbers] for numbers in _within(tokenizer, list(ids[start:end]), pattern)
                ]
            start = end + 1
    return result


def _within(tokenizer: Any, ids: list[int], pattern: re.Pattern[str]) -> list[list[int]]:
    """The same in a run of ids that is text throughout."""

    def length(count: int, whole: bool) -> int:
        """Letters after so many ids; one of which only some bytes are there yet counts unless whole ones are asked for."""
        text = tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return len(text.rstrip(INCOMPLETE)) + (text.endswith(INCOMPLETE) and not whole)

    def reaches(at: int, whole: bool = False) -> int:
        """The number of ids after which the text is at least so long."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if length(middle, whole) >= at else (middle + 1, high)
        return low

    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return [list(range(reaches(m.start() + 1) - 1, reaches(m.end(), whole=True))) for m in pattern.finditer(text)]


def _pattern(word: str) -> re.Pattern[str]:
    """A word between what is no letter or digit; scripts without spaces have no such edges."""
    before, after = ("" if unicodedata.category(edge) == "Lo" else r"\w" for edge in (word[0], word[-1]))
    expression = r"\s+".join(map(re.escape, word.split()))
    return re.compile(f"{before and '(?<!' + before + ')'}{expression}{after and '(?!' + after + ')'}", re.IGNORECASE)
