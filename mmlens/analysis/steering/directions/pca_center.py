"""The first principal component of states about the middle of their pair."""

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


@DIRECTION_METHODS.register("pca_center")
@dataclass(frozen=True)
class PcaCenter(DirectionMethod):
    """The direction of unit length along which the two states of a pair lie apart most.

        direction = +- first principal component of the states, each less the middle of its pair

    with the sign that has most positive states further along it. Both states of a pair lie equally far from its middle, so
    that the mean of all rows is zero: the part of the differences that all pairs share counts, unlike in `pca_diff`.

    Source: repeng (https://github.com/vgel/repeng), `method="pca_center"`, after Zou et al., "Representation Engineering: A
    Top-Down Approach to AI Transparency", 2023 (https://arxiv.org/abs/2310.01405).
    """

    def direction(
        self, negative: Float[torch.Tensor, "pair d_model"], positive: Float[torch.Tensor, "pair d_model"]
    ) -> Float[torch.Tensor, "d_model"]:
        require_pairs(negative, positive, least=1)
        half = (positive - negative) / 2
        return facing(first_component(torch.cat([half, -half])), negative, positive)
