"""Medians and ratios of medians, each with a 95 % interval.

All intervals come from closed formulas over order statistics. There is no resampling, hence no seed: the
same values give the same interval, and thousands of intervals take a fraction of a second.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # not scipy.stats, which takes half a second to import

LEVEL = 0.95

# Below six values even the full range covers the median in less than 95 % of samples: there is an interval to
# show, but no verdict.
ENOUGH = 6
# Two intervals combined by squares cover more than each alone, because a long one and a short one make up
# for each other; most if both are equally long, not at all if one rules. So the ratio's is shortened by this
# factor over the root of the number of values, times the cube of how alike the lengths are. Measured over
# normal, lognormal, exponential, Student's t (2 degrees), Pareto and bimodal data, n = 7 to 31, spreads from
# equal to 1:10, 20,000 trials each: 94.4 to 96.3 %, without it up to 97.5 % (test_ratio_coverage).
MAKING_UP = 0.65
# The rank correlation of few rounds overstates how much drift the two medians share: by chance (so one part
# of its standard error is taken off), and because medians share less than single rounds do. With both, the
# paired interval covered 93 to 97 % at n = 7 to 31 and correlations from 0 to 0.97; without, 91 to 95 %.
PAIRING_CAUTION = 0.6
PAIRING_TRUST = 0.97


class Estimate(NamedTuple):
    """A median with its 95 % interval.

    Attributes
    ----------
    median, low, high : float
        In the unit of the values; `low` and `high` are NaN for a single value.
    best : float
        The smallest or the largest value, whichever is better.
    n : int
        Number of values.
    processes : int
        That they come from; the interval of a single one says nothing about the next.
    spread : float
        Standard deviation between processes (of logarithms, but for shares); NaN of a single one.
    """

    median: float
    low: float
    high: float
    best: float
    n: int
    processes: int = 1
    spread: float = np.nan

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the estimate as JSON can hold it: an interval that does not exist is None."""
        plain = {name: getattr(self, name) for name in ("median", "low", "high", "best", "n")}
        return {name: None if np.isnan(value) else value for name, value in plain.items()}


NOTHING = Estimate(np.nan, np.nan, np.nan, np.nan, 0, 0)


@lru_cache(maxsize=1024)
def _order_statistics(n: int, level: float) -> tuple[int, float]:
    """Rank and interpolation weight of the lower end (Hettmansperger and Sheather 1986)."""
    ranks = np.arange(1, n // 2 + 1)
    coverage = 1 - 2 * special.bdtr(ranks - 1, n, 0.5)
    rank = int(ranks[coverage >= level][-1])
    if rank == n // 2:
        return rank, 0.0
    wide, narrow = coverage[rank - 1], coverage[rank]
    share = (wide - level) / (wide - narrow)
    return rank, float((n - rank) * share / (rank + (n - 2 * rank) * share))


def median_interval(values: ArrayLike, level: float = LEVEL) -> tuple[NDArray, NDArray, NDArray]:
    """Return low, median and high along the last axis.

    From six values on, each end lies between two order statistics, interpolated so that the nominal level is
    met whatever the distribution. For two to five values it is the full range, which covers 50, 75, 88 and
    94 %. One value has no interval: `low` and `high` are NaN.

    Measured coverage of the 95 % interval in 20,000 trials of normal and lognormal data: 94.7 to 95.3 %
    for n = 6 to 30.

    Parameters
    ----------
    values : array_like
        Finite numbers, repetitions along the last axis.
    level : float
        Coverage aimed at, between 0 and 1.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=-1)
    n = ordered.shape[-1]
    median = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
    if n == 1:
        unknown = np.full_like(median, np.nan)
        return unknown, median, unknown
    if n < ENOUGH:
        return ordered[..., 0], median, ordered[..., -1]
    rank, weight = _order_statistics(n, level)
    low = (1 - weight) * ordered[..., rank - 1] + weight * ordered[..., rank]
    high = (1 - weight) * ordered[..., n - rank] + weight * ordered[..., n - rank - 1]
    return low, median, high


def _finite(values: ArrayLike, *, positive: bool) -> NDArray:
    array = np.asarray(values, dtype=float)
    wrong = array[~np.isfinite(array) | (positive & (array <= 0))]
    if wrong.size:
        allowed = "positive numbers" if positive else "finite numbers"
        raise ValueError(f"value {wrong[0]:g} has no place in an estimate; pass {allowed} only")
    return array


def estimate(values: ArrayLike, better: Literal["low", "high"] = "low") -> Estimate:
    """Return median, 95 % interval, best value and count of a one-dimensional sample.

    See `median_interval` for the method and the coverage.

    Parameters
    ----------
    values : array_like
        Finite numbers in one unit. An empty sample gives NaN and n = 0.
    better : {"low", "high"}
        Whether the best value is the smallest (times) or the largest (rates).

    Raises
    ------
    ValueError
        If a value is not finite or `better` is unknown.
    """
    if better not in ("low", "high"):
        raise ValueError(f"better={better!r} is unknown; use 'low' for times or 'high' for rates")
    array = _finite(values, positive=False)
    if array.size == 0:
        return NOTHING
    low, median, high = median_interval(array)
    best = array.min() if better == "low" else array.max()
    return Estimate(float(median), float(low), float(high), float(best), array.size)


def _rank_correlation(first: NDArray, second: NDArray) -> NDArray:
    """Spearman's correlation along the last axis, 0 where one side is constant."""
    from scipy.stats import rankdata  # noqa: PLC0415  (half a second, and only paired ratios need it)

    a = rankdata(first, axis=-1)
    b = rankdata(second, axis=-1)
    a -= a.mean(axis=-1, keepdims=True)
    b -= b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.zeros_like(scale), where=scale > 0)


def _shared_drift(first: NDArray, second: NDArray) -> NDArray | float:
    if first.shape[-1] < ENOUGH:
        return 0.0
    seen = _rank_correlation(first, second)
    by_chance = PAIRING_CAUTION * (1 - seen**2) / np.sqrt(first.shape[-1])
    return PAIRING_TRUST * np.clip(seen - by_chance, 0, 1)


def _part_level(values: NDArray) -> float:
    """Return the level of a ratio's part: of few values the interpolated interval covers 0.5 % less."""
    return LEVEL + 0.05 / values.shape[-1]


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, paired: bool = False
) -> tuple[NDArray, NDArray, NDArray]:
    """Return low, ratio of medians and high along the last axis; arguments as in `ratio`."""
    upper, lower = np.log(numerator), np.log(denominator)
    low_1, median_1, high_1 = median_interval(upper, _part_level(upper))
    low_2, median_2, high_2 = median_interval(lower, _part_level(lower))
    drift = _shared_drift(upper, lower) if paired else 0.0
    shortening = MAKING_UP * np.sqrt((1 / upper.shape[-1] + 1 / lower.shape[-1]) / 2)

    def reach(a: NDArray, b: NDArray) -> NDArray:
        squares = a**2 + b**2
        alike = np.divide(2 * a * b, squares, out=np.zeros_like(squares), where=squares > 0)
        return (1 - shortening * alike**3) * np.sqrt(np.maximum(squares - 2 * drift * a * b, 0))

    middle = median_1 - median_2
    low = middle - reach(median_1 - low_1, high_2 - median_2)
    high = middle + reach(high_1 - median_1, median_2 - low_2)
    centre = np.median(np.asarray(numerator), axis=-1) / np.median(np.asarray(denominator), axis=-1)
    return np.minimum(np.exp(low), centre), centre, np.maximum(np.exp(high), centre)


def ratio(numerator: ArrayLike, denominator: ArrayLike, *, paired: bool = False) -> Estimate:
    """Return the ratio of two medians with its 95 % interval; `best` is the ratio of the smallest values.

    The intervals of both medians, on a logarithmic scale, are combined by the method of variance estimates
    recovery (Zou and Donner 2008). Pairing by rounds narrows the interval by the drift that both sides share.

    Measured coverage in 20,000 trials for n = 7 to 31: 94.4 to 96.3 % unpaired (normal, skewed, heavy-tailed
    and bimodal data, spreads from 1:1 to 1:10); 93 to 97 % paired with correlations from 0 to 0.97. Stronger
    shared drift makes it wider than needed (up to 99 %). Below six values it is a combination of ranges, not
    calibrated.

    Parameters
    ----------
    numerator, denominator : array_like
        Positive one-dimensional samples in the same unit. For a speedup of times: baseline, then new.
    paired : bool
        Whether equal positions belong to the same round; the samples then have equal length.

    Raises
    ------
    ValueError
        If a value is not positive and finite, or paired samples differ in length.
    """
    upper = _finite(numerator, positive=True)
    lower = _finite(denominator, positive=True)
    if paired and upper.size != lower.size:
        raise ValueError(
            f"paired samples have {upper.size} and {lower.size} values; "
            "pass one value per round on both sides or use paired=False"
        )
    if upper.size == 0 or lower.size == 0:
        return NOTHING
    low, centre, high = ratio_interval(upper, lower, paired=paired)
    return Estimate(
        float(centre), float(low), float(high), float(upper.min() / lower.min()), min(upper.size, lower.size)
    )
