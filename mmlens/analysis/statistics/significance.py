"""Whether means differ from zero: sign-flip permutation tests, and corrections for many of them.

Source: Westfall and Young, "Resampling-based multiple testing" (1993), algorithm 2.8 (step-down max-T); Holm, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979); Benjamini and Hochberg,
"Controlling the false discovery rate", Journal of the Royal Statistical Society B 57 (1995).
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.stats import false_discovery_control

from mmlens.core.errors import InputError

#: `"max-t"`, `"holm"`: any false finding among all is as rare as one in a single test. `"bh"`: the share of false ones among
#: the findings is small.
Correction = Literal["max-t", "holm", "bh"]


def sign_flip_p(
    values: Float[np.ndarray, "... sample"],
    *,
    beyond: float = 0.0,
    correction: Correction | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Float[np.ndarray, "..."]:
    """Two-sided p of means of zero: how often random signs of the samples give a mean as far from zero, for its spread.

    All tests see the same signs. Exact where there are fewer than `resamples` sign patterns (up to 13 samples), so that p is
    at least `2 / 2**samples`; else at least `1 / (resamples + 1)`.

    `"max-t"` compares each mean, in units of its own spread, with the largest of all under each pattern, so that tests that
    go together cost less, and thousands can be corrected: `"holm"` multiplies p by their number, and can find nothing among
    more than `resamples / 20` tests.

    Args:
        values: effects, one per sample along the last axis; any number of tests in front.
        beyond: the smallest size of a mean that matters: what is tested is whether it lies farther from zero.
        correction: for the number of tests; None for none.
        resamples: random sign patterns where there are too many to try all.
        seed: of these.

    Returns:
        One p per test; 1 where all effects are zero or the mean is not beyond, NaN where a value is not finite: such a test
        was not done, and does not count among the others.

    Raises:
        InputError: for fewer than two samples, a negative or NaN `beyond`, or an unknown correction.
    """
    data = np.asarray(values, dtype=float)
    if data.ndim < 1 or data.shape[-1] < 2:
        raise InputError(
            f"A sign-flip test needs at least two samples along the last axis, found shape {list(data.shape)}."
        )
    if not beyond >= 0:
        raise InputError(f"beyond={beyond} is the size of an effect; it must not be negative.")
    _require_correction(correction)
    count = data.shape[-1]
    tests = data.reshape(-1, count)
    p: np.ndarray = np.full(len(tests), np.nan)
    finite = np.isfinite(tests).all(-1)
    if finite.any():
        p[finite] = _counted(tests[finite], beyond, resamples, seed, step_down=correction == "max-t")
    result = p.reshape(data.shape[:-1])
    return result if correction is None or correction == "max-t" else corrected(result, correction)


def corrected(p: Float[np.ndarray, "..."], correction: Literal["holm", "bh"]) -> Float[np.ndarray, "..."]:
    """p values corrected for their number.

    Args:
        p: uncorrected p values, of any shape; NaN stays NaN, and does not count.
        correction: `"holm"` or `"bh"`; `"max-t"` needs the data: `sign_flip_p`.

    Returns:
        The corrected ones, in the same places, at most 1.

    Raises:
        InputError: for another correction, or p values outside 0..1.

    Example:
        >>> corrected(np.array([0.01, 0.04, 0.03, 0.005]), "holm").tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    _require_correction(correction, ("holm", "bh"))
    result = np.asarray(p, dtype=float).copy()
    finite = ~np.isnan(result)
    flat = result[finite]
    if ((flat < 0) | (flat > 1)).any():
        raise InputError(f"p values must lie in 0..1, found {flat.min():.3g}..{flat.max():.3g}.")
    if len(flat) and correction == "bh":
        result[finite] = false_discovery_control(flat, method="bh")
    elif len(flat):
        order = np.argsort(flat, kind="stable")
        steps = np.empty_like(flat)
        steps[order] = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
        result[finite] = np.minimum(steps, 1.0)
    return result


def _require_correction(correction: str | None, names: tuple[str, ...] = get_args(Correction)) -> None:
    if correction is not None and correction not in names:
        raise InputError(f"correction={correction!r} must be one of {', '.join(map(repr, names))}, or None.")


def _counted(
    tests: Float[np.ndarray, "test sample"], beyond: float, resamples: int, seed: int, *, step_down: bool
) -> Float[np.ndarray, "test"]:
    """The share of sign patterns under which a mean, or (`step_down`) the largest of those no farther out, is as extreme."""
    count = tests.shape[-1]
    mean = tests.mean(-1, keepdims=True)
    excess = tests - np.sign(mean) * beyond
    # flips leave the sum of squares as it is: |sum| in units of its root rises with |t|, and needs no spread of its own
    size = np.sqrt((excess**2).sum(-1, keepdims=True) * count)
    unit = np.divide(excess, size, out=np.zeros_like(excess), where=size > 0)
    statistics = np.where(np.abs(mean[:, 0]) < beyond, 0.0, np.abs(unit.sum(-1)))
    bound_of_test = statistics - 1e-10  # sums that are equal but for rounding count as equal
    exact = 2**count <= resamples
    # a pattern and its opposite give means of one size, so that half of all patterns tell the whole distribution
    signs = (
        _half_of_all_signs(count) if exact else np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, count))
    )
    order = np.argsort(statistics, kind="stable")
    extreme = np.zeros(len(tests))
    step = max(1, 2**22 // len(tests))
    for start in range(0, len(signs), step):
        # one product of matrices: 30 times as fast as scipy's permutation_test for the thousands of cells of a sweep
        sums = np.abs(signs[start : start + step] @ unit[order].T)
        if step_down:
            np.maximum.accumulate(sums, axis=1, out=sums)
        extreme += (sums >= bound_of_test[order]).sum(0)
    p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    result = np.empty_like(p)
    # a mean that is farther out has no larger p
    result[order] = np.maximum.accumulate(p[::-1])[::-1] if step_down else p
    return result


def _half_of_all_signs(count: int) -> np.ndarray:
    """All patterns of `count` signs whose first is plus, `[pattern sample]`."""
    bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count - 1)
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2.0 * (bits & 1)], axis=1)
