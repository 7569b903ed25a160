"""Sequences without meaning that come twice: only what was there before tells how they go on."""

from __future__ import annotations

import random

from mmlens.lab.tales.facts import WRITERS
from mmlens.lab.tales.stories import stranger
from mmlens.lab.world import COLORS, MOODS, NOUNS, PLACES

_WORDS = (
    *NOUNS,
    *COLORS,
    *PLACES,
    *MOODS,
    *WRITERS,
    "one",
    "two",
    "three",
    "small",
    "big",
    "left",
    "right",
    "the",
    "a",
)


def words_again(rng: random.Random) -> str:
    """Draw words and strangers' names, and repeat them; the repeats stand in ⟦ ⟧."""
    words = [stranger(rng) if rng.random() < 0.15 else rng.choice(_WORDS) for _ in range(rng.randint(8, 30))]
    once = " ".join(words)
    return f"{once} ⟦{once}⟧"


def tokens_again(rng: random.Random, first: int, last: int) -> tuple[list[int], int]:
    """Draw token ids and repeat them.

    Args:
        rng: Decides which.
        first: The smallest id that may be drawn.
        last: The largest.

    Returns:
        The ids, and the index at which the repeat begins.
    """
    once = [rng.randint(first, last) for _ in range(rng.randint(12, 60))]
    return once + once, len(once)
