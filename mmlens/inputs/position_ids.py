"""Numbers of positions, counted by the mask: what lies in front of a sample's first token is not counted."""

import torch
from jaxtyping import Int


def counted_positions(mask: Int[torch.Tensor, "batch pos"]) -> Int[torch.Tensor, "batch pos"]:
    """Each token's number in its own sample, from 0, as transformers' generation counts; 0 in padding.

    Args:
        mask: 1 where there is a token.
    """
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def is_padded_left(mask: torch.Tensor) -> bool:
    """Whether some sample of `[batch pos]` begins with padding."""
    return not bool(mask[:, 0].all())
