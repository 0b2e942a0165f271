"""Predicting the times of one size from those of the other sizes of the same work on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from ktask.models.posterior import LEVEL
from ktask.models.predict import Predicted, Prediction, differs, same_machine
from ktask.models.table import Curve, Table

Array = NDArray[np.float64]

# time = fixed + rate × size^(1 + power): the power is near 0 and much alike for all thread counts, and times
# scatter around that. A fixed part is there in one case of three.
POWERS = np.linspace(-0.2, 0.2, 9)
POWER_SD = 0.08
OWN_POWER_SD = 0.06
SCATTER = 0.05
FIXED_ODDS = 1 / 3
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


def predict_times(known: Sequence[_Known], log_size: float) -> list[tuple[float, float, float]]:
    """Return low, median and high per thread count, over all fixed parts and powers that fit."""
    least = min(float(times.time_s.min()) for times in known)
    guesses = [_guess(times, log_size, FIXED_SHARES[:, None, None] * least) for times in known]
    log_weight = _log_prior() + sum(guess.log_evidence for guess in guesses)
    weight = np.exp(log_weight - logsumexp(log_weight))
    found = []
    for guess in guesses:
        mean = (weight * guess.log_time).sum()
        variance = (weight * (guess.sd**2 + (guess.log_time - mean) ** 2)).sum()
        reach = norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
        found.append(tuple(map(float, np.exp([mean - reach, mean, mean + reach]))))
    return found


def _family(curve: Curve, others: Sequence[Curve]) -> list[Curve]:
    """Return the curves that differ from this one in nothing but the size."""
    version = curve.group.get("patch_version")
    return [
        other
        for other in others
        if other.size_bytes
        and other.size_bytes != curve.size_bytes
        and other.group.get("patch_version") == version
        and same_machine(curve, other)
        and not differs(curve, other)
    ]


def _known(family: Sequence[Curve], threads: int) -> _Known:
    rows = [
        (c.size_bytes, c.time_s[at], c.spread[at])
        for c in family
        for at in np.flatnonzero(c.threads == threads)
    ]
    sizes, times, spreads = np.array(rows, float).T
    return _Known(np.log(sizes), times, spreads)


def predict_size(curve: Curve, others: Sequence[Curve]) -> Predicted:
    """Return the times of a curve from the curves of other sizes; none of its own rows is used."""
    family = _family(curve, others)
    if not curve.size_bytes or not family:
        return Predicted(curve, reason="no other size of the same work on the same machine")
    both = [n for n in curve.threads.tolist() if any(n in other.threads for other in family)]
    if not both:
        return Predicted(curve, reason="no other size has times for these thread counts")
    observed = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
    times = predict_times([_known(family, n) for n in both], float(np.log(curve.size_bytes)))
    predictions = tuple(
        Prediction(n, middle, low, high, observed[n])
        for n, (low, middle, high) in zip(both, times, strict=True)
    )
    sizes = [other.size_bytes for other in family]
    outside = not min(sizes) <= curve.size_bytes <= max(sizes)
    warnings = ("the size lies outside of those it is predicted from",) if outside else ()
    return Predicted(curve, pooled=len(family), predictions=predictions, warnings=warnings)


def predict_sizes(
    table: Table, progress: Callable[[Sequence[Curve]], Iterable[Curve]] | None = None
) -> list[Predicted]:
    """Return each curve predicted from the other sizes of the same work on the same machine."""
    return [predict_size(curve, table.curves) for curve in (progress or iter)(table.curves)]
