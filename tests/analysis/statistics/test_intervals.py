"""Intervals against scipy's own, and against how often they cover a mean that is known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp

from mmlens.analysis.statistics.intervals import (
    Interval,
    as_rates,
    draws_interval,
    mean_bounds,
    mean_interval,
    paired_difference,
    standing,
)
from mmlens.core.errors import InputError

_DRAWS = 2_000


def covered(draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], mean: float, n: int) -> float:
    """How often the 95% interval of n values covers their distribution's mean."""
    values = draw(np.random.default_rng(n), (_DRAWS, n))
    bounds = np.concatenate([mean_bounds(values[i : i + 100], seed=i) for i in range(0, _DRAWS, 100)])
    return float(((bounds[:, 0] <= mean) & (mean <= bounds[:, 1])).mean())


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0.0, 2.0, shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.exp(rng.normal(size=shape))


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_intervals_of_normal_values_cover_their_mean_in_95_of_100(n: int) -> None:
    assert 0.93 <= covered(normal, 0.0, n) <= 0.97


@pytest.mark.parametrize(("n", "least"), [(10, 0.88), (15, 0.89), (30, 0.91)])
def test_intervals_of_very_skewed_values_cover_nearly_as_often(n: int, least: float) -> None:
    """.90, .91 and .93, found with 10,000 draws; the bounds are three standard errors of this test's draws below."""
    assert covered(lognormal, np.exp(0.5), n) >= least


@pytest.mark.parametrize("scenes", [4, 12, 30])
def test_intervals_of_clusters_cover_the_mean(scenes: int) -> None:
    rng, hits = np.random.default_rng(scenes), 0
    for seed in range(600):
        sizes = rng.integers(1, 5, size=scenes)
        values = np.repeat(rng.normal(size=scenes), sizes) + 0.3 * rng.normal(size=sizes.sum())
        found = mean_interval(values, groups=np.repeat(np.arange(scenes), sizes), seed=seed)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 600 <= 0.98


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("scenes", [5, 12, 30])
def test_intervals_of_rates_cover_them_also_in_clusters(scenes: int, rate: float) -> None:
    rng, hits = np.random.default_rng(scenes), 0
    for _ in range(600):
        own = rng.beta(3 * rate, 3 * (1 - rate), size=scenes)
        values = rng.random((scenes, 3)) < own[:, None]
        found = mean_interval(values.ravel(), groups=np.repeat(np.arange(scenes), 3))
        hits += found.low <= rate <= found.high
    assert hits / 600 >= 0.92


def test_few_values_have_students_interval_and_a_scene_counts_once() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        values = rng.normal(1.0, 2.0, size=n)
        theirs = ttest_1samp(values, 0).confidence_interval(0.9)
        found = mean_interval(values, level=0.9)
        assert (found.low, found.high) == pytest.approx(tuple(theirs))
        repeated = mean_interval(np.repeat(values, 7), groups=np.repeat(np.arange(n), 7), level=0.9)
        assert (repeated.low, repeated.high) == pytest.approx(tuple(theirs))
        assert repeated.count == 7 * n


def test_many_values_have_an_interval_that_leans_as_they_do() -> None:
    values = 2.0 ** np.arange(20)
    found = mean_interval(values)
    assert found.high - found.mean > 1.5 * (found.mean - found.low)
    mirrored = mean_interval(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), rel=0.05)
    even = np.random.default_rng(2).normal(size=400)
    theirs = ttest_1samp(even, 0).confidence_interval()
    assert (mean_interval(even).low, mean_interval(even).high) == pytest.approx(tuple(theirs), abs=0.01)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (1, 3), (7, 30)])
def test_rates_have_wilsons_interval(successes: int, count: int) -> None:
    found = mean_interval([True] * successes + [False] * (count - successes))
    theirs = binomtest(successes, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.low < found.high


def test_a_rate_of_clusters_that_are_all_alike_counts_each_once() -> None:
    together = mean_interval([True] * 12, groups=np.repeat(np.arange(3), 4))
    assert together.low < mean_interval([True] * 3).low < mean_interval([True] * 12).low


def test_clusters_of_opposite_rates_are_hardly_more_than_one_value() -> None:
    """Korn and Graubard by hand: two scenes of ten, all of one and none of the other, are worth 20 / 19 of a value."""
    found = mean_interval([True] * 10 + [False] * 10, groups=np.repeat(np.arange(2), 10))
    size, z = 20 / 19, t.ppf(0.975, 1)
    centre, reach = 0.5, z * np.sqrt(0.25 / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    assert (found.low, found.high) == pytest.approx((centre - reach, centre + reach))


def test_shares_are_rates_where_each_is_all_or_nothing() -> None:
    assert as_rates([0.0, 1.0], "share of captions").dtype == bool
    assert as_rates([0.0, 0.5], "share of captions").tolist() == [0.0, 0.5]
    assert as_rates([0.0, 1.0], "nats").dtype == float


def test_a_single_value_has_no_interval() -> None:
    for values, groups in (([0.7], None), ([True], None), ([0.7, 0.9], [3, 3])):
        found = mean_interval(values, groups=groups)
        assert np.isnan([found.low, found.high]).all()
        assert not found.excludes_zero
        assert str(found) == f"{found.mean:.3f} [no interval]"
    assert np.isnan(mean_bounds(np.array([[0.7], [0.2]]))).all()
    assert mean_interval([]).count == 0
    assert np.isnan(mean_interval([]).mean)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_carried_through(bad: float) -> None:
    found = mean_interval([1.0, bad, 3.0])
    assert not np.isfinite(found.mean)
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero
    data = np.random.default_rng(3).normal(size=(3, 12))
    whole = mean_bounds(data)
    data[1, 4] = bad
    bounds = mean_bounds(data)
    assert np.isnan(bounds[1]).all()
    assert np.array_equal(bounds[[0, 2]], whole[[0, 2]])


def test_values_that_are_all_equal_have_no_spread() -> None:
    for n in (2, 5, 8, 40):
        for value in (0.0, 1.0, 0.1):
            found = mean_interval([value] * n)
            assert (found.low, found.high) == pytest.approx((value, value), abs=1e-15)


def test_a_paired_difference_ignores_what_pairs_share() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(scale=100.0, size=50)
    found = paired_difference(shared + 1.0 + rng.normal(scale=0.1, size=50), shared)
    assert found.excludes_zero
    assert found.mean == pytest.approx(1.0, abs=0.1)


def test_many_intervals_at_once_are_those_of_each() -> None:
    rng = np.random.default_rng(5)
    data = rng.normal(loc=[[0.0], [3.0], [-1.0]], scale=[[1.0], [2.0], [0.0]], size=(3, 40))
    for bounds, values in zip(mean_bounds(data, level=0.9), data, strict=True):
        alone = mean_interval(values, level=0.9)
        assert bounds == pytest.approx([alone.low, alone.high])


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 2.0, True), (-2.0, -0.1, True), (-1.0, 1.0, False), (0.0, 1.0, False), (-1.0, 0.0, False)],
)
def test_an_interval_that_touches_zero_does_not_exclude_it(low: float, high: float, excludes: bool) -> None:
    assert Interval((low + high) / 2, low, high, 3).excludes_zero is excludes


def test_draws_lie_between_their_quantiles() -> None:
    found = draws_interval([4.0, 0.0, 1.0, 2.0, 3.0], level=0.5)
    assert (found.mean, found.low, found.high, found.count) == (2.0, 1.0, 3.0, 5)
    nothing = draws_interval([])
    assert nothing.count == 0
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


def test_where_a_number_stands_among_draws() -> None:
    draws = [0.1, 0.3, 0.3, 0.3]
    found = standing(0.3, draws)
    assert (found.value, found.at_least, found.draws) == (0.3, 3, draws_interval(draws))
    assert found.p == 4 / 5  # itself and three others of five
    assert not found.beyond
    assert standing(0.4, draws).beyond
    assert standing(0.4, draws).p == 1 / 5
    assert not standing(float("nan"), draws).beyond
    assert np.isnan(standing(float("nan"), draws).p)
    assert np.isnan(standing(0.3, []).p)
    assert str(found) == "0.300 beside 0.250 [0.115, 0.300], 3 of 4 draws as high"


def test_pairs_keep_their_groups_and_seed() -> None:
    rng = np.random.default_rng(4)
    first, second, groups = rng.normal(size=24), rng.normal(size=24), np.arange(24) // 2
    for seed in (0, 5):
        found = paired_difference(first, second, groups=groups, seed=seed)
        assert found == mean_interval(first - second, groups=groups, seed=seed)
    assert found != paired_difference(first, second, groups=groups)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draws_interval([1.0], level=2), "level=2 must be between 0 and 1"),
        (lambda: standing("high", [1.0]), "value='high'"),  # type: ignore[arg-type]
        (lambda: paired_difference(["a"], [1.0]), r"paired_difference: values"),  # type: ignore[list-item]
        (lambda: mean_interval(np.zeros((2, 2))), r"values must be \[sample\]"),
        (lambda: mean_interval([1.0], level=1.5), "level=1.5 must be between 0 and 1"),
        (lambda: mean_bounds(np.zeros((2, 3)), level=2), "level=2 must be between 0 and 1"),
        (lambda: mean_interval([1.0, 2.0], groups=[1]), "groups as many"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "Pairs need two values each"),
        (lambda: mean_bounds(np.zeros((3, 0))), "at least one sample"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
