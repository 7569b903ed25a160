"""Visual heads: heads that look at the picture."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float

from mmlens.analysis.heads.method import HEAD_METHODS, HeadMethod


@HEAD_METHODS.register("visual")
@dataclass(frozen=True)
class VisualHeads(HeadMethod):
    """The share of a head's attention that goes to the picture, where the first new token is predicted.

        score = mean over samples of sum_j A_j,     H = -sum_j p_j ln p_j over the patches, in nats, beside it

    Heads of equal score are ordered by H, the most concentrated first.

    Source: Bi et al., "Unveiling Visual Perception in Language Models: An Attention Head Analysis Approach", CVPR 2025
    (https://arxiv.org/abs/2412.18108), section 3; github.com/jing-bi/visual-head. *Departs:* to switch heads off, the published
    code zeroes their scores behind the mask, which makes them look evenly at everything, the future among it; here
    `mm.Ablate(ranking.top(k))` takes away what they write. *Limits:* a head may look and do nothing with it.
    """

    def read(
        self, attention: Float[torch.Tensor, "layer head patch"], raster: Float[torch.Tensor, "layer head row column"]
    ) -> dict[str, Float[torch.Tensor, "layer head"]]:
        total = attention.double().sum(-1)
        shares = attention.double() / total[..., None].clamp_min(1e-12)
        return {"attention": total, "entropy": torch.special.entr(shares).sum(-1)}

    def score(
        self, readings: Mapping[str, Float[torch.Tensor, "sample layer head"]]
    ) -> tuple[Float[torch.Tensor, "layer head"], Float[torch.Tensor, "layer head"]]:
        return readings["attention"].mean(0), readings["entropy"].mean(0)
