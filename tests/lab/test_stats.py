"""Medians and ratios: exact values, and how often the intervals hold the truth."""

import time

import numpy as np
import pytest
from scipy import stats as reference

from ktask.lab.measure import stats
from ktask.lab.measure.stats import Estimate

TRIALS = 4000
# Every distribution has the median 1; the sizes are least and most rounds of the grids, and some between.
SIZES = [7, 9, 11, 15, 31]


def normal(rng, shape):
    return 1 + 0.05 * rng.standard_normal(shape)


def lognormal(rng, shape):
    return np.exp(0.5 * rng.standard_normal(shape))


def skewed(rng, shape):
    return (1 + rng.exponential(1, shape)) / (1 + np.log(2))


def heavy_tailed(rng, shape):
    """A floor, and a tail without a variance: what a busy machine does to times."""
    return (1 + 0.1 * rng.pareto(1.5, shape)) / (1 + 0.1 * (2 ** (1 / 1.5) - 1))


def two_sided_heavy(rng, shape):
    return np.exp(0.05 * rng.standard_t(2, shape))


def bimodal(rng, shape):
    """Three in ten are a fifth slower."""
    slow = rng.random(shape) < 0.3
    return np.exp(0.02 * rng.standard_normal(shape)) * np.where(slow, 1.2, 1) / 1.0114


SAMPLERS = [normal, lognormal, skewed, heavy_tailed, two_sided_heavy, bimodal]


@pytest.fixture
def rng():
    return np.random.default_rng(20250301)


def covered(low, high, truth=1.0):
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("n", SIZES)
def test_median_coverage(sample, n, rng):
    low, _, high = stats.median_interval(sample(rng, (TRIALS, n)))
    assert 0.93 <= covered(low, high) <= 0.97


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("spread", [1, 2])
def test_ratio_coverage(sample, n, spread, rng):
    numerator, denominator = sample(rng, (TRIALS, n)), sample(rng, (TRIALS, n)) ** spread
    low, _, high = stats.ratio_interval(numerator, denominator)
    assert 0.93 <= covered(low, high) <= 0.97


@pytest.mark.parametrize("sample", SAMPLERS)
@pytest.mark.parametrize("sizes", [(31, 7), (14, 7), (18, 9), (15, 62)])
def test_ratio_coverage_of_unequal_samples(sample, sizes, rng):
    numerator, denominator = (sample(rng, (TRIALS, n)) for n in sizes)
    low, _, high = stats.ratio_interval(numerator, denominator)
    assert 0.93 <= covered(low, high) <= 0.97


@pytest.mark.parametrize("n", [7, 15, 31])
@pytest.mark.parametrize("correlation", [0, 0.5, 0.9, 0.97])
def test_paired_ratio_coverage(n, correlation, rng):
    drift, noise = np.sqrt(correlation), np.sqrt(1 - correlation)
    shared = drift * rng.standard_normal((TRIALS, n))
    sides = [np.exp(0.1 * (shared + noise * rng.standard_normal((TRIALS, n)))) for _ in range(2)]
    low, _, high = stats.ratio_interval(*sides, paired=True)
    assert 0.92 <= covered(low, high) <= 0.97


def test_pairing_narrows_the_interval_under_shared_drift(rng):
    drift = np.exp(np.cumsum(0.1 * rng.standard_normal(15)))
    first, second = (2 * drift, drift * np.exp(0.01 * rng.standard_normal(15)))
    paired, apart = stats.ratio(first, second, paired=True), stats.ratio(first, second)
    assert paired.median == apart.median
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_the_interval_lies_between_the_exact_ones():
    # n = 10: ranks 2 and 9 cover 97.9 %, ranks 3 and 8 cover 89.1 %, so the ends lie between.
    values = np.arange(1.0, 11.0)
    one = stats.estimate(values)
    assert 2 < one.low < 3
    assert 8 < one.high < 9
    assert one.low + one.high == pytest.approx(11)
    assert reference.binom.cdf(1, 10, 0.5) < 0.025 < reference.binom.cdf(2, 10, 0.5)


def test_estimate_by_hand():
    assert stats.estimate([3.0, 1.0, 2.0]) == Estimate(2.0, 1.0, 3.0, 1.0, 3)
    assert stats.estimate([3.0, 1.0, 2.0, 4.0], better="high") == Estimate(2.5, 1.0, 4.0, 4.0, 4)
    assert stats.estimate([5.0] * 7) == Estimate(5.0, 5.0, 5.0, 5.0, 7)


def test_one_value_has_no_interval_and_none_has_nothing():
    one = stats.estimate([2.0])
    assert (one.median, one.n) == (2.0, 1)
    assert np.isnan([one.low, one.high]).all()
    assert stats.estimate([]).n == 0
    assert stats.ratio([], [1.0]).n == 0


def test_ratio_is_the_ratio_of_medians_and_of_smallest_values():
    one = stats.ratio([4.0, 6.0, 8.0, 5.0, 7.0, 6.0, 6.0], [2.0, 3.0, 4.0, 3.0, 3.0, 3.0, 3.0])
    assert one.median == 2.0
    assert one.best == 2.0
    assert one.low < 2.0 < one.high
    assert one.n == 7


def test_ratio_turns_round(rng):
    first, second = lognormal(rng, 9), lognormal(rng, 9)
    there, back = stats.ratio(first, second), stats.ratio(second, first)
    assert np.allclose([there.median, there.low, there.high], [1 / back.median, 1 / back.high, 1 / back.low])


def test_ratio_does_not_depend_on_the_unit(rng):
    first, second = lognormal(rng, 9), lognormal(rng, 9)
    assert np.allclose(stats.ratio(first, second)[:3], stats.ratio(1e-9 * first, 1e-9 * second)[:3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.estimate([1.0, np.nan]), "value nan .* finite numbers"),
        (lambda: stats.ratio([1.0], [0.0]), "value 0 .* positive numbers"),
        (lambda: stats.estimate([1.0], better="fast"), "better='fast' is unknown; use 'low'"),
        (lambda: stats.ratio([1.0, 2.0], [1.0], paired=True), "2 and 1 values; pass one value per round"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_same_values_give_the_same_interval(rng):
    values = lognormal(rng, 15)
    assert stats.estimate(values) == stats.estimate(rng.permutation(values))


def test_thousands_of_estimates_take_less_than_two_seconds(rng):
    values = lognormal(rng, (2, 2000, 15))
    start_s = time.process_time()
    for first, second in zip(*values, strict=True):
        stats.estimate(first)
        stats.ratio(first, second, paired=True)
    assert time.process_time() - start_s < 2
