"""Predicting the times of one size from those of the other sizes of the same work on the same machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, softmax
from scipy.stats import norm

from ktask.models.scaling.posterior import ENDS, Rows
from ktask.models.scaling.table import Curve, same_machine, same_work

Array = NDArray[np.float64]

# time = fixed + rate × size^(1 + power): the power is near 0 and much alike for all thread counts, and times
# scatter around that. A fixed part is there in one case of two.
POWERS = np.linspace(-0.2, 0.2, 9)
POWER_SD = 0.03
OWN_POWER_SD = 0.03
SCATTER = 0.05
FIXED_SHARES = np.concatenate([[0.0], np.geomspace(0.02, 0.98, 12)])
FIXED_PRIOR = np.array([0.5, *[0.5 / 12] * 12])
# A size beside its own few rows: how far all its times may be off by one factor, and by how much single rows,
# the one-thread row and the shape (per doubling) differ from the other sizes.
FACTOR_SD = 0.2
OWN_SD = 0.05
ONE_THREAD_SD = 0.2
SHAPE_SD = 0.08


class _Guess(NamedTuple):
    """Log evidence, and log time with its sd, per fixed part and power: shape (fixed parts, powers)."""

    log_evidence: Array
    log_time: Array
    sd: Array


def log_size(curve: Curve) -> float:
    """Return the logarithm of the size; NaN if the table has none."""
    return math.log(curve.size_bytes or math.nan)


def family_of(curve: Curve, others: Sequence[Curve]) -> list[Curve]:
    """Return the curves that differ from this one in nothing but the size; none without a size."""
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


def _known(family: Sequence[Curve], threads: int) -> Array:
    """Return log sizes, times and spreads of one thread count at the other sizes, shape (3, sizes)."""
    rows = [
        (log_size(one), one.time_s[at], one.spread[at])
        for one in family
        for at in np.flatnonzero(one.threads == threads)
    ]
    return np.array(rows, float).T


def _guess(known: Array, at_log_size: float, fixed_s: Array) -> _Guess:
    """Return the regression of log(time - fixed) - log(size) on log(size), its slope near each of `POWERS`.

    `fixed_s` has shape (f, 1, 1).
    """
    log_sizes, time_s, spread = known
    rest = time_s - fixed_s
    weight = (rest / time_s) ** 2 / (SCATTER**2 + spread**2)
    total = weight.sum(axis=-1, keepdims=True)
    rate = np.log(rest) - log_sizes
    middle = (weight * log_sizes).sum(axis=-1, keepdims=True) / total
    level = (weight * rate).sum(axis=-1, keepdims=True) / total
    x, off = log_sizes - middle, rate - level
    prior, power = OWN_POWER_SD**-2, POWERS[:, None]
    precision = prior + (weight * x**2).sum(axis=-1, keepdims=True)
    pull = prior * power + (weight * x * off).sum(axis=-1, keepdims=True)
    misfit = (weight * off**2).sum(axis=-1, keepdims=True) + prior * power**2 - pull**2 / precision
    at = at_log_size - middle
    scaled = np.exp(level + pull / precision * at + at_log_size)
    guess_s = fixed_s + scaled
    one = np.minimum(np.min(spread * time_s) / guess_s, 0.5)  # one measurement, such as its rounding
    sd = np.hypot(np.sqrt(1 / total + at**2 / precision + SCATTER**2) * scaled / guess_s, one)
    evidence = -0.5 * (misfit + np.log(precision / prior))
    return _Guess(evidence[..., 0], np.log(guess_s)[..., 0], sd[..., 0])


def times_from_sizes(curve: Curve, family: Sequence[Curve], threads: Sequence[int]) -> Array:
    """Return log time and its sd per thread count, over all fixed parts and powers that fit the other sizes.

    Every thread count has to be one of some curve of the family. Shape (2, n).
    """
    known = [_known(family, n) for n in threads]
    fixed_s = FIXED_SHARES[:, None, None] * min(time_s.min() for _, time_s, _ in known)
    guesses = [_guess(one, log_size(curve), fixed_s) for one in known]
    log_prior = np.log(FIXED_PRIOR)[:, None] + norm.logpdf(POWERS, 0, POWER_SD)
    weight = softmax(log_prior + np.sum([guess.log_evidence for guess in guesses], axis=0))
    means = [(weight * guess.log_time).sum() for guess in guesses]
    variances = [
        (weight * (guess.sd**2 + (guess.log_time - mean) ** 2)).sum()
        for guess, mean in zip(guesses, means, strict=True)
    ]
    return np.array([means, np.sqrt(variances)])


def interval_from_sizes(curve: Curve, family: Sequence[Curve], threads: Sequence[int]) -> Array:
    """Return low, median and high of the time per thread count, from the other sizes; shape (3, n)."""
    log_time, sd = times_from_sizes(curve, family, threads)
    return np.exp(log_time + np.array([[-1], [0], [1]]) * ndtri(ENDS[1]) * sd)


def shape_from_sizes(
    curve: Curve, family: Sequence[Curve], own: Rows, threads: int
) -> tuple[float, float] | None:
    """Return log time and its sd for a thread count, as the other sizes have it beside the rows of the curve.

    What the other sizes say about all thread counts may be off by one factor; the rows of the curve itself
    tell which. One thread alone tells least, since its cost of its own differs from size to size.
    """
    both = [int(n) for n in own.threads if any(n in other.threads for other in family)]
    having = sum(threads in other.threads for other in family)
    if not both or not having:
        return None
    *at_own, log_time = times_from_sizes(curve, family, [*both, threads])[0]
    off = own.log_time[np.isin(own.threads, both)] - at_own
    sds = np.array([ONE_THREAD_SD if n == 1 and len(both) > 1 else OWN_SD for n in both])
    precision = (sds**-2).sum() + FACTOR_SD**-2
    factor = (off * sds**-2).sum() / precision
    beyond = max(np.log2(threads / own.threads.max()), 0)
    shape = SHAPE_SD**2 * (1 + beyond) * (1 + 1 / having)
    return float(log_time + factor), float(np.sqrt(1 / precision + shape))
