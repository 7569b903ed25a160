"""How sure ratios of means are, and areas under curves of them: scenes are drawn anew, and the ratio is taken of each draw.

    f_k = (mean m_k - mean m_0) / (mean m_N - mean m_0)

Each draw is measured by its own standard error (bootstrap-t), which comes from what each scene adds to the ratio to first order.
Up to five scenes have Student's interval.

Source: Hesterberg, "What teachers should know about the bootstrap", American Statistician 69 (2015), sections 5.3 and 5.4.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import t

from mmlens.analysis.statistics.intervals import Interval

_RESAMPLES, _FEW = 2_000, 5
#: From ratios `[draw size]` to a number of each draw and its derivative by the ratios, `[draw]` and `[draw size]`.
Functional = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def ratio_interval(
    numerators: Float[np.ndarray, "size sample"],
    denominators: Float[np.ndarray, "sample"],
    functional: Functional,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A number made of ratios of means, with its interval.

    Args:
        numerators: of each ratio, a number per sample.
        denominators: the same of all ratios.
        functional: makes the number of the ratios.
        groups: which scene each sample is of; each its own by default.
        level: of the interval.
        seed: of the draws.
    """
    labels = np.arange(len(denominators)) if groups is None else np.asarray(groups)
    _, label = np.unique(labels, return_inverse=True)
    below = np.bincount(label, denominators)
    above = np.stack([np.bincount(label, row) for row in numerators])
    count, tail = len(below), (1 - level) / 2
    value, error = _measured(np.ones((1, count)), above, below, functional)
    if count < 2:
        return Interval(float(value[0]), np.nan, np.nan, len(denominators))
    low, high = t.ppf([tail, 1 - tail], count - 1)
    if count > _FEW and error[0] > 0:
        weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
        values, errors = _measured(weights.astype(float), above, below, functional)
        usable = np.isfinite(values) & (errors > 1e-9 * error[0])
        if usable.mean() > 1 - tail:
            low, high = np.quantile((values[usable] - value[0]) / errors[usable], [tail, 1 - tail])
    return Interval(
        float(value[0]), float(value[0] - high * error[0]), float(value[0] - low * error[0]), len(denominators)
    )


def _measured(
    weights: np.ndarray, above: np.ndarray, below: np.ndarray, functional: Functional
) -> tuple[np.ndarray, np.ndarray]:
    """The number of each draw, and its standard error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        totals = weights @ below
        ratios = weights @ above.T / totals[:, None]
        values, slopes = functional(ratios)
        # what each scene adds: slope . (its numerators - ratio * its denominator) / total
        parts = (slopes @ above - (slopes * ratios).sum(-1, keepdims=True) * below) / totals[:, None]
        count = len(below)
        return values, np.sqrt(count / (count - 1) * (weights * parts**2).sum(-1)) if count > 1 else np.zeros(1)
