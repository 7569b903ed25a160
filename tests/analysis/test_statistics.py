"""Intervals and tests against scipy's own, and against what is known of the distribution."""

import numpy as np
import pytest
from scipy.stats import norm, permutation_test

from mmlens.analysis.statistics import holm, mean_bounds, mean_interval, paired_difference, sign_flip_p
from mmlens.core.errors import InputError


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = mean_interval(rng.normal(1.0, 2.0, size=60), seed=seed)
        covered += found.low <= 1.0 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_values_of_one_group_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    per_scene = rng.normal(size=30)
    values, groups = np.repeat(per_scene, 10), np.repeat(np.arange(30), 10)
    alone, together = mean_interval(values), mean_interval(values, groups=groups)
    expected = 2 * norm.ppf(0.975) * per_scene.std() / np.sqrt(30)
    assert together.high - together.low == pytest.approx(expected, rel=0.15)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(10), rel=0.2)


def test_missing_values_are_left_out_and_none_give_none() -> None:
    found = mean_interval([1.0, float("nan"), 3.0])
    assert (found.mean, found.count) == (2.0, 2)
    assert np.isnan(mean_interval([float("nan")]).mean)


def test_a_paired_difference_ignores_what_pairs_share() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(scale=100.0, size=50)
    found = paired_difference(shared + 1.0 + rng.normal(scale=0.1, size=50), shared)
    assert found.excludes_zero
    assert found.mean == pytest.approx(1.0, abs=0.1)


def test_p_is_exact_for_few_samples() -> None:
    # all of one sign: of the 2 ** 6 patterns two are as extreme
    assert sign_flip_p(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)


def test_p_is_uniform_without_an_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(3)
    none = sign_flip_p(rng.normal(size=(400, 12)))
    assert none.shape == (400,)
    assert np.mean(none < 0.05) == pytest.approx(0.05, abs=0.035)
    assert (sign_flip_p(rng.normal(loc=3.0, size=(20, 12))) < 0.01).all()


def test_many_intervals_at_once_are_those_of_each() -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(loc=[[0.0], [3.0], [-1.0]], scale=[[1.0], [2.0], [0.0]], size=(3, 40))
    found = mean_bounds(data, level=0.9)
    for bounds, values in zip(found, data, strict=True):
        each = mean_interval(values, level=0.9)
        assert bounds == pytest.approx([each.low, each.high], abs=0.05 * values.std() + 1e-9)
    with pytest.raises(InputError, match=r"level=2 must lie between 0 and 1"):
        mean_bounds(data, level=2)
    with pytest.raises(InputError, match="at least one sample"):
        mean_bounds(np.zeros((3, 0)))


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
    assert sign_flip_p(np.linspace(1.0, 2.0, 40), resamples=999) == pytest.approx(1 / 1000)


def test_zero_effects_have_p_one() -> None:
    assert (sign_flip_p(np.zeros((3, 8))) == 1).all()


def test_holm_against_the_worked_example() -> None:
    # Holm (1979): 0.01 * 4, 0.02 * 3, max so far, ...
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0], level=1.5), "level=1.5 must lie between 0 and 1"),
        (lambda: mean_interval([1.0, 2.0], groups=[1]), "groups as many"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "Pairs need two values each"),
        (lambda: sign_flip_p(np.array([1.0])), "at least two samples"),
    ],
)
def test_bad_input_is_refused(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()
