"""The first principal component of the differences."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.steering.direction import (
    DIRECTION_METHODS,
    DirectionMethod,
    facing,
    first_component,
    require_pairs,
)


@DIRECTION_METHODS.register("pca_diff")
@dataclass(frozen=True)
class PcaDiff(DirectionMethod):
    """The direction of unit length in which the differences of pairs vary most about their mean.

        direction = +- first principal component of (positive_i - negative_i)

    with the sign that has most positive states further along it. What all differences share is their mean, and that is taken out:
    a direction in which every pair moves by the same amount is not found (`pca_center` finds it).

    Source: Zou et al., "Representation Engineering: A Top-Down Approach to AI Transparency", 2023
    (https://arxiv.org/abs/2310.01405), section 3.1; as in repeng (https://github.com/vgel/repeng), `method="pca_diff"`.
    """

    def direction(
        self, negative: Float[torch.Tensor, "pair d_model"], positive: Float[torch.Tensor, "pair d_model"]
    ) -> Float[torch.Tensor, "d_model"]:
        require_pairs(negative, positive, least=2)
        return facing(first_component(positive - negative), negative, positive)
