"""The mean of the differences."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.steering.direction import DIRECTION_METHODS, DirectionMethod, require_pairs


@DIRECTION_METHODS.register("mean")
@dataclass(frozen=True)
class MeanDifference(DirectionMethod):
    """The mean of the differences of pairs, as long as it is.

        direction = mean_i (positive_i - negative_i)

    Source: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", ACL 2024
    (https://arxiv.org/abs/2312.06681), section 3.
    """

    def direction(
        self, negative: Float[torch.Tensor, "pair d_model"], positive: Float[torch.Tensor, "pair d_model"]
    ) -> Float[torch.Tensor, "d_model"]:
        require_pairs(negative, positive, least=1)
        return (positive - negative).mean(0)
