"""Words of nothing: what a random direction writes, as the baseline of grounding in words."""

from collections.abc import Sequence

import torch

from mmlens.analysis.concepts.bank import ConceptBank
from mmlens.analysis.concepts.words import Keep, direction_words
from mmlens.models.hooked import HookedMultimodal


def random_words(
    model: HookedMultimodal,
    bank: ConceptBank,
    *,
    like: Sequence[Sequence[str]],
    seed: int,
    through_norm: bool = True,
    keep: Keep | None = None,
) -> list[list[str]]:
    """As many words as each concept has, of random directions: same filter, same numbers.

    Args:
        model: the hooked model.
        bank: whose concepts.
        like: their words.
        seed: of the directions.
        through_norm, keep: as for `concept_words`.

    Source: the baseline "Rnd-Words" of Parekh et al., NeurIPS 2024 (https://arxiv.org/abs/2406.08074), section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(like), bank.vectors.shape[1], generator=generator)
    longest = max((len(words) for words in like), default=0)
    lists = direction_words(model, directions, at=bank.at, k=max(longest, 1), through_norm=through_norm, keep=keep)
    return [words[: len(reference)] for words, reference in zip(lists, like, strict=True)]
