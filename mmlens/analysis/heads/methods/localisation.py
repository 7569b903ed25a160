"""Localisation heads: heads that look at the picture, and at one place in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from mmlens.analysis.heads.method import HEAD_METHODS, HeadMethod
from mmlens.core.kinds import Count, NonNegative


@HEAD_METHODS.register("localisation")
@dataclass(frozen=True)
class LocalisationHeads(HeadMethod):
    """How often a head is among those whose attention lies most in one place, of the heads that look at the picture enough.

    Of the attention A of a sample::

        S   = mean over samples of the attention to the picture;  heads with S at or above the elbow of the sorted S
              (farthest from the chord between its ends) are candidates
        B   = relu(A - mean A), components of neighbours (8) above `least`
        H   = -sum p ln p,   p = a component's share of the sum of B
        score = share of the samples in which the head is among the `best` candidates with the smallest H

    Attributes:
        best: how many heads of each sample count.
        least: what a patch must have, in shares of attention above the mean, to be part of a component.

    Source: Kang et al., "Your Large Vision-Language Model Only Needs a Few Attention Heads for Visual Grounding", CVPR 2025
    (https://arxiv.org/abs/2503.06287), section 3; github.com/seilk/LocalizationHeads. *Departs:* the published code takes the
    elbow's *number* for its height, so that hundreds of heads stay where tens are meant; and a head with nothing above `least`
    has H = 0 there and is ranked first, here it is ranked in no sample. Heads of equal score are ordered by their mean H.
    *Limits:* H of two equal blobs is ln 2 wherever they lie: it tells a place, not the right one; compare with boxes.
    """

    best: Count = 10
    least: NonNegative = 0.001

    def read(
        self, attention: Float[torch.Tensor, "layer head patch"], raster: Float[torch.Tensor, "layer head row column"]
    ) -> dict[str, Float[torch.Tensor, "layer head"]]:
        entropy = torch.stack([torch.tensor([self._entropy(m) for m in heads]) for heads in raster.double().numpy()])
        return {"attention": attention.sum(-1).double(), "entropy": entropy}

    def score(
        self, readings: Mapping[str, Float[torch.Tensor, "sample layer head"]]
    ) -> tuple[Float[torch.Tensor, "layer head"], Float[torch.Tensor, "layer head"]]:
        entropy = readings["entropy"].clone()
        mean = readings["attention"].mean(0)
        is_candidate = mean >= elbow(mean.flatten())
        entropy[:, ~is_candidate] = torch.inf
        flat = entropy.flatten(1)
        mask = torch.zeros_like(flat)
        k = min(self.best, flat.shape[1])
        mask.scatter_(1, flat.argsort(dim=1, stable=True)[:, :k], 1.0)
        mask[flat.isinf()] = 0.0
        score = mask.mean(0).reshape(mean.shape)
        tie = torch.where(entropy.isinf(), torch.tensor(1e9, dtype=entropy.dtype), entropy).mean(0)
        return score.masked_fill(~is_candidate, 0.0), tie

    def _entropy(self, attention: np.ndarray) -> float:
        above = np.maximum(attention - attention.mean(), 0)
        labels, count = ndimage.label(above > self.least, structure=np.ones((3, 3)))
        if not count:
            return float("inf")
        shares = ndimage.sum(above, labels, range(1, count + 1))
        shares = shares / shares.sum()
        return float(-(shares * np.log(shares)).sum())


def elbow(values: Float[torch.Tensor, "value"]) -> float:
    """The height of the elbow of sorted values: of the one that lies farthest from the chord between the ends.

    Example:
        >>> elbow(torch.tensor([0.0, 0.1, 0.1, 0.2, 0.9, 1.0]))
        0.2...
    """
    heights = values.sort().values.double()
    if len(heights) < 3 or float(heights[-1]) <= float(heights[0]):
        return float(heights[0])
    # the ends lie on the chord; distances from it are proportional to these differences
    chord = torch.linspace(float(heights[0]), float(heights[-1]), len(heights), dtype=torch.double)
    return float(heights[int((chord - heights).abs().argmax())])
