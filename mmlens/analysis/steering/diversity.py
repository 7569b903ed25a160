"""How much a set of texts says: different words, repetitions, loops."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmlens.core.answer_text import words_of
from mmlens.core.errors import InputError


@dataclass(frozen=True)
class Diversity:
    """How much a set of texts says.

    Attributes:
        distinct_1, distinct_2: different words (pairs of neighbouring words) as a share of all.
        repeated: words that are the same as the one before them, as a share of all.
        looped: threes of neighbouring words that the same text has said before, as a share of all.
        length: words per text, mean.
        empty: texts without words, as a share.

    Source: distinct-n: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016
    (https://arxiv.org/abs/1510.03055), section 5; loops: seq-rep-n of Welleck et al., "Neural Text Generation with Unlikelihood
    Training", ICLR 2020 (https://arxiv.org/abs/1908.04319), section 6, here with n = 3.
    """

    distinct_1: float
    distinct_2: float
    repeated: float
    looped: float
    length: float
    empty: float


def diversity(texts: Sequence[str]) -> Diversity:
    """Measure a set of texts, word by word; what differs in case or punctuation is one word.

    Raises:
        InputError: for no texts.

    Example:
        >>> diversity(["a red cat", "a a cat"])
        Diversity(distinct_1=0.5, distinct_2=1.0, repeated=0.16666666666666666, looped=0.0, length=3.0, empty=0.0)
    """
    if not texts:
        raise InputError("Diversity is that of one or more texts; found none.")
    words = [words_of(text) for text in texts]
    pairs = [pair for word_list in words for pair in pairwise(word_list)]
    every = [word for word_list in words for word in word_list]
    threes = [list(zip(word_list, word_list[1:], word_list[2:], strict=False)) for word_list in words]
    return Diversity(
        len(set(every)) / max(len(every), 1),
        len(set(pairs)) / max(len(pairs), 1),
        sum(first == second for first, second in pairs) / max(len(every), 1),
        sum(len(word_list) - len(set(word_list)) for word_list in threes) / max(sum(map(len, threes)), 1),
        len(every) / len(texts),
        sum(not word_list for word_list in words) / len(texts),
    )
