"""Rollout: attention multiplied up through the layers, whatever is asked."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.relevance.method import RELEVANCE_METHODS, RelevanceMethod, require_square


@RELEVANCE_METHODS.register("rollout")
@dataclass(frozen=True)
class Rollout(RelevanceMethod):
    """Attention, averaged over heads and mixed with the residual stream, multiplied up through the layers.

        R = prod over layers of (A + I) / row sum,    A the mean over heads

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (https://arxiv.org/abs/2005.00928),
    section 3. *Departs:* rows that may attend to nothing (padding) keep themselves, where a division by their sum would give NaN.
    *Limits:* it knows neither the question's answer nor what values and MLPs do; every word of an answer has the same map but for
    where it stands.
    """

    def relevance(
        self, values: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> Float[torch.Tensor, "*entry query key"]:
        result: torch.Tensor | None = None
        for pattern in values.values():
            require_square(pattern)
            with_skip = pattern.float().mean(-3) + torch.eye(pattern.shape[-1], device=pattern.device)
            with_skip = with_skip / with_skip.sum(-1, keepdim=True)
            result = with_skip if result is None else with_skip @ result
        return result if result is not None else torch.zeros(0)
