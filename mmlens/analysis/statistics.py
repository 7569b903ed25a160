"""How sure a mean is: bootstrap intervals, sign-flip permutation tests, and correction for many tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from mmlens.core.errors import InputError

_RESAMPLES = 5_000


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean, low, high: in the unit of the values; NaN where there were none.
        count: number of values.

    Example:
        >>> print(mean_interval([1.0, 1.0, 1.0]))
        1.000 [1.000, 1.000]
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def mean_interval(
    values: Sequence[float] | np.ndarray,
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean with its percentile-bootstrap interval (5,000 resamples).

    Args:
        values: one number each; NaNs are left out.
        groups: which group each value belongs to (a scene with several nouns); whole groups are then drawn again, since
            values of one group are not independent.
        level: of the interval, 0 to 1.
        seed: of the resampling.

    Raises:
        InputError: for a level outside (0, 1), or groups of another length.
    """
    if not 0 < level < 1:
        raise InputError(f"level={level} must lie between 0 and 1, both excluded.")
    data = np.asarray(values, dtype=float)
    labels = np.arange(len(data)) if groups is None else np.asarray(groups)
    if data.ndim != 1 or labels.shape != data.shape:
        raise InputError(
            f"values must be [sample] and groups as many, found {list(data.shape)} and {list(labels.shape)}."
        )
    known = ~np.isnan(data)
    data, labels = data[known], labels[known]
    if not len(data):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(data.mean())
    _, label = np.unique(labels, return_inverse=True)
    sums, counts = np.bincount(label, data), np.bincount(label)
    if len(sums) == 1 or np.ptp(sums / counts) == 0:
        return Interval(mean, mean, mean, len(data))

    def ratio(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis=axis) / count.sum(axis=axis)

    drawn = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = drawn.confidence_interval
    return Interval(mean, float(low), float(high), len(data))


def mean_bounds(
    values: Float[np.ndarray, "... sample"], *, level: float = 0.95, seed: int = 0
) -> Float[np.ndarray, "... bound"]:
    """Percentile-bootstrap intervals of many means at once, all from the same 5,000 resamples.

    Args:
        values: one number per sample along the last axis; any number of means in front.
        level: of the intervals, 0 to 1.
        seed: of the resampling.

    Returns:
        Lower and upper bound of each mean.

    Raises:
        InputError: for a level outside (0, 1), or no samples.
    """
    if not 0 < level < 1:
        raise InputError(f"level={level} must lie between 0 and 1, both excluded.")
    data = np.asarray(values, dtype=float)
    count = data.shape[-1]
    if not count:
        raise InputError("A mean needs at least one sample.")
    # how often each sample is drawn: the means of all resamples are one product of matrices
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    means = data.reshape(-1, count)
    bounds = np.empty((len(means), 2))
    step = 1024
    for start in range(0, len(means), step):
        drawn = weights @ means[start : start + step].T
        bounds[start : start + step] = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return bounds.reshape(*data.shape[:-1], 2)


def paired_difference(
    values: Sequence[float] | np.ndarray,
    others: Sequence[float] | np.ndarray,
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> Interval:
    """The mean of `values - others`, pair by pair, with its interval.

    Raises:
        InputError: if the two are not of one length.
    """
    left, right = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    if left.shape != right.shape:
        raise InputError(f"Pairs need two values each, found {list(left.shape)} and {list(right.shape)}.")
    return mean_interval(left - right, groups=groups, seed=seed)


def sign_flip_p(
    values: Float[np.ndarray, "... sample"], *, resamples: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "..."]:
    """Two-sided p of a mean of zero: how often random signs give a mean as far from zero.

    Exact where there are fewer than `resamples` sign patterns (up to 13 samples), so that p is at least `2 / 2**samples`.

    Args:
        values: effects, one per sample along the last axis; any number of tests in front.
        resamples: random sign patterns where there are too many to try all.
        seed: of these.

    Returns:
        One p per test; 1 where all effects are zero.

    Raises:
        InputError: for fewer than two samples.
    """
    data = np.asarray(values, dtype=float)
    if data.ndim < 1 or data.shape[-1] < 2:
        raise InputError(
            f"A sign-flip test needs at least two samples along the last axis, found shape {list(data.shape)}."
        )
    rng = np.random.default_rng(seed)
    count = data.shape[-1]
    exact = 2**count <= resamples
    # a pattern and its opposite give means of one size, so that half of all patterns tell the whole distribution
    signs = _half_of_all_signs(count) if exact else rng.choice([-1.0, 1.0], size=(resamples, count))
    tests = data.reshape(-1, count)
    # sums that are equal but for rounding count as equal
    least = np.abs(tests.sum(-1)) - 1e-12 * np.abs(tests).sum(-1)
    extreme = np.zeros(len(tests))
    step = max(1, 2**22 // len(signs))
    for start in range(0, len(tests), step):
        some = slice(start, start + step)
        # one product of matrices: 30 times as fast as scipy's permutation_test for the thousands of cells of a sweep
        extreme[some] = (np.abs(signs @ tests[some].T) >= least[some]).sum(0)
    p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    return p.reshape(data.shape[:-1])


def _half_of_all_signs(count: int) -> np.ndarray:
    """All patterns of `count` signs whose first is plus, `[pattern sample]`."""
    bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count - 1)
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2.0 * (bits & 1)], axis=1)


def holm(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """p values corrected for their number, so that any false one among them stays as rare as a single one.

    Args:
        p: uncorrected p values, of any shape.

    Returns:
        The corrected ones, in the same places, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    flat = np.asarray(p, dtype=float).ravel()
    order = np.argsort(flat, kind="stable")
    scaled = flat[order] * np.arange(len(flat), 0, -1)
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.reshape(np.shape(p))
