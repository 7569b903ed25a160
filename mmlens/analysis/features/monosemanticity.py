"""How alike the pictures are on which a feature is strong: its monosemanticity score.

    MS = sum over n < m of r_n r_m cos(e_n, e_m)  /  sum over n < m of r_n r_m  =  (|sum r e|^2 - sum r^2) / ((sum r)^2 - sum r^2)

r are the feature's codes over pictures, scaled to 0 ... 1, e embeddings of length 1 of the pictures, not by the model itself.

Source: Pach et al., "Sparse Autoencoders Learn Monosemantic Features in Vision-Language Models", 2025
(https://arxiv.org/abs/2504.02821), equations 5 to 8.
*Departs:* the right-hand side, which is equal and linear in the number of pictures.
"""

import torch
from jaxtyping import Float

from mmlens.core.contract import checked
from mmlens.core.errors import InputError


@checked
@torch.no_grad()
def monosemanticity(
    codes: Float[torch.Tensor, "image feature"], embeddings: Float[torch.Tensor, "image d"]
) -> Float[torch.Tensor, "feature"]:
    """The monosemanticity score of each feature: 1 where all pictures on which it is strong are alike.

    Args:
        codes: one a picture, e.g. the largest of its rows.
        embeddings: of the same pictures by an independent encoder; the mean is not taken off, so do that where all are alike.

    Returns:
        -1 to 1; NaN for a feature whose codes are equal on all pictures, or strong on one alone.

    Raises:
        InputError: for fewer than two pictures, another number of embeddings, or one that is all zeros.

    Example:
        >>> import torch
        >>> codes = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> monosemanticity(codes, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        tensor([1., 0.])
    """
    if len(codes) != len(embeddings) or len(codes) < 2:
        raise InputError(
            f"Monosemanticity compares at least two pictures, found codes of {len(codes)} and embeddings of {len(embeddings)}."
        )
    norms = embeddings.double().norm(dim=1, keepdim=True)
    if not norms.all():
        raise InputError(f"The embedding of picture {int(norms[:, 0].argmin())} is all zeros, so it points nowhere.")
    unit, low = embeddings.double() / norms, codes.double().amin(0)
    strength = (codes.double() - low) / (codes.double().amax(0) - low)
    squares = strength.square().sum(0)
    pairs = strength.sum(0).square() - squares
    return ((((strength.T @ unit).square().sum(1)) - squares) / torch.where(pairs > 1e-9, pairs, torch.nan)).float()
