"""What is measured of shifts: their average, whether they agree, and how near they bring a concept to its match."""

from typing import Literal

import torch
from jaxtyping import Float
from scipy.stats import trim_mean

from mmlens.core.contract import checked

#: How the shifts of a concept's samples become one; trimmed leaves a tenth out at each end, coordinate by coordinate.
Average = Literal["mean", "median", "trimmed"]
_TRIMMED = 0.1


@checked
def average_shift(values: Float[torch.Tensor, "sample d_model"], average: Average) -> Float[torch.Tensor, "d_model"]:
    """The mean, median or trimmed mean of each coordinate; NaN without samples.

    Of the samples' own shifts: the median of differences, which is not the difference of medians.

    Raises:
        InputError: for another average.
    """
    if not len(values):
        return values.new_full(values.shape[1:], torch.nan)
    if average == "mean":
        return values.mean(0)
    if average == "median":
        return values.quantile(0.5, dim=0)  # of an even number the middle of both; torch's median is the lower one
    return torch.from_numpy(trim_mean(values.numpy(), _TRIMMED, axis=0))


def consistency_of(shifts: Float[torch.Tensor, "sample d_model"]) -> float:
    """Whether samples move alike: the mean cosine over all pairs of shifts.

        mean_{m < n} cos(d_m, d_n) = (||sum_m d_m / ||d_m|| ||^2 - M) / (M (M - 1))

    Args:
        shifts: one per sample; those that are zero have no direction and are left out.

    Returns:
        -1 to 1; about 0 for random directions; NaN for fewer than two shifts.

    Example:
        >>> consistency_of(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        0.333...
    """
    lengths = shifts.double().norm(dim=1)
    units = shifts.double()[lengths > 0] / lengths[lengths > 0, None]
    count = len(units)
    if count < 2:
        return float("nan")
    return float((units.sum(0).square().sum() - count) / (count * (count - 1)))


def share_of(words: set[str], reference: set[str]) -> float:
    """Which share of what is wanted was found; NaN if nothing is wanted."""
    return len(words & reference) / len(reference) if reference else float("nan")
