"""Sign-flip tests and corrections: against scipy's, counts by hand, and how often they find what is not there."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import false_discovery_control, permutation_test

from mmlens.analysis.statistics.significance import corrected, sign_flip_p
from mmlens.core.errors import InputError


def signs_of(count: int) -> np.ndarray:
    """All patterns of signs, `[pattern sample]`."""
    return np.array(np.meshgrid(*[[-1.0, 1.0]] * count)).reshape(count, -1).T


def test_p_is_exact_for_few_samples() -> None:
    # all of one sign: of the 2 ** 6 patterns two are as extreme
    assert sign_flip_p(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)


def test_p_is_uniform_without_an_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(3)
    for count in (6, 12, 25):
        none = sign_flip_p(rng.normal(size=(1500, count)), resamples=2000)
        assert np.mean(none <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)
        assert np.mean(none <= 0.5) == pytest.approx(0.5, abs=0.05)
    assert (sign_flip_p(rng.normal(loc=3.0, size=(20, 12))) < 0.01).all()


def test_p_is_that_of_scipys_permutation_test() -> None:
    rng = np.random.default_rng(4)
    for count, tolerance in ((9, 1e-12), (20, 0.03)):  # all patterns; patterns drawn at random
        data = rng.normal(loc=0.3, size=(6, count))
        theirs = permutation_test(
            (data,), np.mean, permutation_type="samples", vectorized=True, n_resamples=4000, axis=-1, rng=rng
        )
        np.testing.assert_allclose(sign_flip_p(data, resamples=4000), theirs.pvalue, rtol=0, atol=tolerance)


def test_drawn_patterns_never_give_p_zero() -> None:
    """The data's own pattern counts as one of those drawn: (0 + 1) / (draws + 1) where none is as extreme."""
    for correction in (None, "max-t"):
        assert sign_flip_p(np.linspace(1.0, 2.0, 40), resamples=999, correction=correction) == pytest.approx(1 / 1000)
    assert sign_flip_p(np.linspace(1.0, 2.0, 40)) == pytest.approx(1 / 10_001, rel=1e-6)


@pytest.mark.parametrize("correction", [None, "max-t", "holm", "bh"])
def test_zero_effects_have_p_one_and_what_is_not_finite_has_none(correction: str | None) -> None:
    assert (sign_flip_p(np.zeros((3, 8)), correction=correction) == 1).all()
    data = np.random.default_rng(6).normal(loc=1.0, size=(5, 10))
    whole = sign_flip_p(data[[0, 2, 4]], correction=correction)
    data[1, 3], data[3, 0] = np.nan, np.inf
    found = sign_flip_p(data, correction=correction)
    assert np.isnan(found[[1, 3]]).all()
    np.testing.assert_allclose(found[[0, 2, 4]], whole)  # a test that was not done does not count among the others
    assert np.isnan(sign_flip_p(np.full((2, 4), np.nan), correction=correction)).all()


def test_max_t_is_counted_by_hand() -> None:
    """Step-down: each |t|, against the largest |t| of it and all weaker ones, under every pattern of signs."""
    data = np.random.default_rng(7).normal(loc=[[1.2], [0.4], [0.0], [0.8]], scale=[[1], [9], [1], [0.2]], size=(4, 8))
    flipped = signs_of(8)[:, None, :] * data
    t = np.abs(flipped.mean(-1)) / (flipped.std(-1, ddof=1) / np.sqrt(8))
    observed = np.abs(data.mean(-1)) / (data.std(-1, ddof=1) / np.sqrt(8))
    order = np.argsort(-observed)
    expected, least = np.empty(4), 0.0
    for place, test in enumerate(order):
        least = max(least, float((t[:, order[place:]].max(1) >= observed[test] * (1 - 1e-9)).mean()))
        expected[test] = least
    np.testing.assert_allclose(sign_flip_p(data, correction="max-t"), expected, atol=1e-12)


@pytest.mark.parametrize("correction", ["max-t", "holm"])
@pytest.mark.parametrize(("count", "together"), [(8, 0.0), (20, 0.0), (20, 0.8)])
def test_no_correction_finds_more_than_one_in_twenty_grids_of_nothing(
    correction: str, count: int, together: float
) -> None:
    rng, hits = np.random.default_rng(8), 0
    for seed in range(400):
        shared, own = rng.normal(size=(1, count)), rng.normal(size=(30, count))
        grid = np.sqrt(together) * shared + np.sqrt(1 - together) * own
        hits += (sign_flip_p(grid, correction=correction, resamples=1000, seed=seed) <= 0.05).any()
    assert hits / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_max_t_finds_among_thousands_where_holm_cannot() -> None:
    rng = np.random.default_rng(9)
    data = rng.normal(size=(2000, 20))
    data[:5] += 3.0
    assert (sign_flip_p(data, correction="max-t")[:5] < 0.05).all()
    assert (sign_flip_p(data, correction="holm") > 0.05).all()  # 2000 / 10001


def test_benjamini_hochberg_keeps_the_share_of_false_findings() -> None:
    rng, shares = np.random.default_rng(10), []
    for seed in range(60):
        data = rng.normal(size=(100, 20))
        data[:30] += 1.0
        found = sign_flip_p(data, correction="bh", resamples=2000, seed=seed) <= 0.1
        assert found[:30].mean() > 0.5
        shares.append(found[30:].sum() / max(1, found.sum()))
    assert np.mean(shares) <= 0.1


def test_corrections_against_the_worked_example_and_scipy() -> None:
    # Holm (1979): 0.01 * 4, 0.02 * 3, max so far, ...
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert corrected(p, "holm")[[0, 1, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    known = ~np.isnan(p)
    np.testing.assert_allclose(corrected(p, "bh")[known], false_discovery_control(p[known]))
    assert np.isnan(corrected(p, "holm")[2])
    assert corrected(np.array(0.2), "bh") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_p(np.array([1.0])), "at least two samples"),
        (lambda: sign_flip_p(np.ones((2, 3)), beyond=float("nan")), "must not be negative"),
        (
            lambda: sign_flip_p(np.ones((2, 3)), correction="fdr"),
            "correction='fdr' must be one of 'max-t', 'holm', 'bh'",
        ),
        (lambda: corrected(np.array([0.1]), "max-t"), "correction='max-t' must be one of 'holm', 'bh'"),
        (lambda: corrected(np.array([1.1]), "holm"), r"must lie in 0\.\.1"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
