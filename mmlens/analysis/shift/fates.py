"""What becomes of each concept: kept, refined, expanded, vanished, appeared.

All by where samples go. `A_k` are the samples of base concept k, `B_j` those of its match j:

                                   of B_j, at least half from A_k     less than half
    of A_k, at least half in B_j   kept                               expanded: it holds others as well
    less than half                 refined: a part of it, no more     vanished: its samples scatter

A base concept without match or whose match has no samples has vanished too. A tuned concept has appeared if no base concept
is the origin of half of its samples, or has half of its own there. A base concept without samples tells nothing: it is empty.

*Departs:* Khayatan et al. (ICCV 2025, https://arxiv.org/abs/2501.03012) describe these patterns by example; the rule is ours.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int

#: What becomes of a base concept.
Fate = Literal["kept", "refined", "expanded", "vanished", "empty"]
HALF = 0.5


def contingency(
    before: Int[torch.Tensor, "sample"], after: Int[torch.Tensor, "sample"], shape: tuple[int, int]
) -> Float[torch.Tensor, "concept other"]:
    """How many samples go from each base concept to each tuned one; samples of none (-1) are left out."""
    table = torch.zeros(shape, dtype=torch.double)
    finite = (before >= 0) & (after >= 0)
    return table.index_put_((before[finite], after[finite]), torch.ones(int(finite.sum()), dtype=torch.double), True)


def fates(
    table: Float[torch.Tensor, "concept other"], match: Int[torch.Tensor, "concept"]
) -> tuple[tuple[Fate, ...], tuple[int, ...]]:
    """The fate of each base concept, and the tuned concepts that have appeared.

    Args:
        table: from `contingency`.
        match: from `match_concepts`.

    Example:
        >>> table = torch.tensor([[9.0, 1.0, 0.0], [0.0, 5.0, 5.0]])
        >>> fates(table, torch.tensor([0, 1]))
        (('kept', 'kept'), ())
    """
    stay = table / table.sum(1, keepdim=True).clamp_min(1)
    origin = table / table.sum(0, keepdim=True).clamp_min(1)
    result: list[Fate] = []
    for concept, other in enumerate(match.tolist()):
        if not float(table[concept].sum()):
            result.append("empty")
            continue
        stays = other >= 0 and float(stay[concept, other]) >= HALF
        fills = other >= 0 and float(origin[concept, other]) >= HALF
        result.append("kept" if stays and fills else "expanded" if stays else "refined" if fills else "vanished")
    new = (table.sum(0) > 0) & (origin.max(0).values < HALF) & (stay.max(0).values < HALF)
    return tuple(result), tuple(new.nonzero().flatten().tolist())
