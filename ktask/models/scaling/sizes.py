"""Predicting the times of one size from those of the other sizes of the same work on the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from ktask.models.scaling.posterior import LEVEL, Rows
from ktask.models.scaling.table import Curve, same_machine, same_work

Array = NDArray[np.float64]

# time = fixed + rate × size^(1 + power): the power is near 0 and much alike for all thread counts, and times
# scatter around that. A fixed part is there in one case of two.
POWERS = np.linspace(-0.2, 0.2, 9)
POWER_SD = 0.03
OWN_POWER_SD = 0.03
SCATTER = 0.05
FIXED_ODDS = 1 / 2
# A size beside its own few rows: how far all its times may be off by one factor, and by how much single rows,
# the one-thread row and the shape (per doubling) differ from the other sizes.
FACTOR_SD = 0.2
OWN_SD = 0.05
ONE_THREAD_SD = 0.2
SHAPE_SD = 0.08
FIXED_SHARES = np.concatenate([[0.0], np.geomspace(0.02, 0.98, 12)])


class _Known(NamedTuple):
    """Times of one thread count at the other sizes."""

    log_size: Array
    time_s: Array
    spread: Array


class _Guess(NamedTuple):
    """What the known times say per fixed part and power: log evidence, and log time with its sd."""

    log_evidence: Array
    log_time: Array
    sd: Array


def _guess(known: _Known, log_size: float, fixed_s: Array) -> _Guess:
    """Return the regression of log(time - fixed) - log(size) on log(size), its slope near each of `POWERS`.

    Parameters
    ----------
    fixed_s : ndarray, shape (f, 1, 1)

    Returns
    -------
    _Guess
        Arrays of shape (f, powers).
    """
    rest = known.time_s - fixed_s
    weight = (rest / known.time_s) ** 2 / (SCATTER**2 + known.spread**2)
    total = weight.sum(axis=-1, keepdims=True)
    rate = np.log(rest) - known.log_size
    middle = (weight * known.log_size).sum(axis=-1, keepdims=True) / total
    level = (weight * rate).sum(axis=-1, keepdims=True) / total
    x, off = known.log_size - middle, rate - level
    prior, power = OWN_POWER_SD**-2, POWERS[:, None]
    precision = prior + (weight * x**2).sum(axis=-1, keepdims=True)
    pull = prior * power + (weight * x * off).sum(axis=-1, keepdims=True)
    misfit = (weight * off**2).sum(axis=-1, keepdims=True) + prior * power**2 - pull**2 / precision
    at = log_size - middle
    scaled = np.exp(level + pull / precision * at + log_size)
    time_s = fixed_s + scaled
    one = np.minimum(
        np.min(known.spread * known.time_s) / time_s, 0.5
    )  # one measurement, such as its rounding
    spread = np.sqrt(1 / total + at**2 / precision + SCATTER**2) * scaled / time_s
    evidence = -0.5 * (misfit + np.log(precision / prior))
    return _Guess(evidence[..., 0], np.log(time_s)[..., 0], np.hypot(spread, one)[..., 0])


def _log_prior() -> Array:
    """Return the logarithm of the odds of each fixed part and power, shape (fixed parts, powers)."""
    odds = np.full(len(FIXED_SHARES), FIXED_ODDS / (len(FIXED_SHARES) - 1))
    odds[0] = 1 - FIXED_ODDS
    return np.log(odds)[:, None] + norm.logpdf(POWERS, 0, POWER_SD)


def times_from_sizes(
    curve: Curve, family: Sequence[Curve], threads: Sequence[int]
) -> list[tuple[float, float]]:
    """Return log time and its sd per thread count, over all fixed parts and powers that fit the other sizes.

    Every thread count has to be one of some curve of the family.
    """
    known = [_known(family, n) for n in threads]
    least = min(float(times.time_s.min()) for times in known)
    log_size = float(np.log(curve.size_bytes))
    guesses = [_guess(times, log_size, FIXED_SHARES[:, None, None] * least) for times in known]
    log_weight = _log_prior() + sum(guess.log_evidence for guess in guesses)
    weight = np.exp(log_weight - logsumexp(log_weight))
    found = []
    for guess in guesses:
        mean = float((weight * guess.log_time).sum())
        variance = float((weight * (guess.sd**2 + (guess.log_time - mean) ** 2)).sum())
        found.append((mean, variance**0.5))
    return found


def interval_from_sizes(
    curve: Curve, family: Sequence[Curve], threads: Sequence[int]
) -> list[tuple[float, float, float]]:
    """Return low, median and high of the time per thread count, from the other sizes."""
    reach = norm.ppf((1 + LEVEL) / 2)
    found = times_from_sizes(curve, family, threads)
    return [tuple(map(float, np.exp([log - reach * sd, log, log + reach * sd]))) for log, sd in found]


def shape_from_sizes(
    curve: Curve, family: Sequence[Curve], own: Rows, threads: int
) -> tuple[float, float] | None:
    """Return log time and its sd for a thread count, as the other sizes have it beside the rows of the curve.

    What the other sizes say about all thread counts may be off by one factor; the rows of the curve itself
    tell which. One thread alone tells least, since its cost of its own differs from size to size.
    """
    both = [int(n) for n in own.threads if any(n in other.threads for other in family)]
    if not both or not any(threads in other.threads for other in family):
        return None
    *at_own, (log_time, _) = times_from_sizes(curve, family, [*both, threads])
    off = own.log_time[np.isin(own.threads, both)] - [log for log, _ in at_own]
    sds = np.array([ONE_THREAD_SD if n == 1 and len(both) > 1 else OWN_SD for n in both])
    precision = (sds**-2).sum() + FACTOR_SD**-2
    factor = (off * sds**-2).sum() / precision
    beyond = max(np.log2(threads / own.threads.max()), 0)
    sizes = sum(threads in other.threads for other in family)
    shape = SHAPE_SD**2 * (1 + beyond) * (1 + 1 / sizes)
    return log_time + float(factor), float(np.sqrt(1 / precision + shape))


def family_of(curve: Curve, others: Sequence[Curve]) -> list[Curve]:
    """Return the curves that differ from this one in nothing but the size."""
    version = curve.group.get("patch_version")
    return [
        other
        for other in others
        if other.size_bytes
        and other.size_bytes != curve.size_bytes
        and curve.size_bytes
        and other.group.get("patch_version") == version
        and same_machine(curve, other)
        and same_work(curve, other)
    ]


def _known(family: Sequence[Curve], threads: int) -> _Known:
    rows = [
        (c.size_bytes, c.time_s[at], c.spread[at])
        for c in family
        for at in np.flatnonzero(c.threads == threads)
    ]
    sizes, times, spreads = np.array(rows, float).T
    return _Known(np.log(sizes), times, spreads)
