"""What the measured times say about the parameters of the laws, and hence about other thread counts.

Three times cannot settle three parameters, and a least-squares fit then follows their noise: it ends at a
bound, or predicts ten times too much. So every law starts from what its parameters usually are; random draws
of them are weighted by how well they explain the measured times, and all predictions are taken over the
weighted draws of all laws. A start that is faster than linear is one of the things a draw can explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri
from scipy.stats import qmc

from ktask.models.scaling.laws import LAWS, Law, log_times

Array = NDArray[np.float64]

DRAWS = 1 << 12
# Below this many effective draws the sampler moves to where the weight is and draws again.
ENOUGH_DRAWS = 300
MOVES = 8
FLATTENINGS = 20
# No law is exact: around it published times scatter by 2 % inside the measured range, and by 4 % more per
# doubling beyond. Found together with the numbers of the laws.
SCATTER = 0.02
SCATTER_PER_DOUBLING = 0.04
TAIL = 4  # degrees of freedom of the scatter: single outliers happen
LEVEL = 0.90
# A parameter is settled if its 90 % interval is less than this share of the one before any measurement.
SETTLED = 0.6


class Rows(NamedTuple):
    """Measured times of one source.

    Attributes
    ----------
    threads, log_time, sd : ndarray, shape (n,)
        `sd` is the standard deviation of log_time.
    """

    threads: Array
    log_time: Array
    sd: Array


@dataclass(frozen=True)
class LawFit:
    """Weighted draws of one law.

    Attributes
    ----------
    normals : ndarray, shape (draws, d)
    log_weight : ndarray, shape (draws,)
        Normalised to a sum of 1.
    log_evidence : float
        Logarithm of the probability of the measured times under this law.
    """

    law: Law
    normals: Array
    log_weight: Array
    log_evidence: float

    def parameters(self) -> dict[str, dict[str, float]]:
        """Return median and 90 % interval per parameter."""
        weight = np.exp(self.log_weight)
        ends = [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]
        found = {}
        for i, parameter in enumerate(self.law.parameters):
            low, middle, high = weighted_quantiles(parameter.value(self.normals[:, i]), weight, ends)
            found[parameter.name] = {"value": middle, "low": low, "high": high}
        return found

    def settled(self, parameter: str) -> bool:
        """Return whether the times said more about a parameter than was known before."""
        at = [p.name for p in self.law.parameters].index(parameter)
        low, high = weighted_quantiles(self.normals[:, at], np.exp(self.log_weight), [0.05, 0.95])
        return high - low < SETTLED * 2 * ndtri(0.95)

    def fitted(self, own: Rows) -> Array:
        """Return the times that the law gives for the rows, the median over the draws."""
        times = log_times(self.law, self.normals, own.threads)
        times = times + log_scale(times, own)[:, None]
        return np.exp([weighted_quantiles(t, np.exp(self.log_weight), [0.5])[0] for t in times.T])

    def held_out(self, own: Rows) -> Array:
        """Return the times that the law predicts for each row from the others; NaN for the first row.

        The fewest threads are never left out: a law cannot know what one thread alone may cost.
        """
        times = log_times(self.law, self.normals, own.threads)
        whole = log_likelihood(self.law, self.normals, [own])
        predicted = np.full(len(own.threads), np.nan)
        for i in range(1, len(own.threads)):
            rest = Rows(*(np.delete(column, i) for column in own))
            weight = self.log_weight - whole + log_likelihood(self.law, self.normals, [rest])
            values = times[:, i] + log_scale(np.delete(times, i, axis=1), rest)
            predicted[i] = np.exp(weighted_quantiles(values, np.exp(weight - weight.max()), [0.5])[0])
        return predicted


def weighted_quantiles(values: Array, weight: Array, at: list[float]) -> list[float]:
    """Return quantiles of weighted values, at the middle of each weight."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) - weight[order] / 2
    return [float(q) for q in np.interp(np.asarray(at) * weight.sum(), reached, values[order])]


@lru_cache(maxsize=16)
def _first_draws(d: int) -> Array:
    """Return standard normal numbers, evenly spread (a Sobol sequence)."""
    even = qmc.Sobol(d, seed=d).random(DRAWS)
    return ndtri(np.clip(even, 1e-9, 1 - 1e-9))


def _log_normal(normals: Array) -> Array:
    return -0.5 * (normals**2).sum(axis=1) - 0.5 * normals.shape[1] * np.log(2 * np.pi)


def log_scale(times: Array, rows: Rows) -> Array:
    """Return the logarithm of the one-thread time of each draw, the weighted mean over the rows."""
    weight = rows.sd**-2
    return ((rows.log_time - times) * weight).sum(axis=1) / weight.sum()


def log_likelihood(law: Law, normals: Array, sources: list[Rows]) -> Array:
    """Return how well each draw explains all sources, each of which has a scale of its own."""
    total = np.zeros(len(normals))
    for rows in sources:
        times = log_times(law, normals, rows.threads)
        off = (rows.log_time - times - log_scale(times, rows)[:, None]) / rows.sd
        total -= (TAIL + 1) / 2 * np.log1p(off**2 / TAIL).sum(axis=1)
    return total


def _times_matrix(rows: Array, matrix: Array) -> Array:
    """Return the matrix times each row. The threads that BLAS starts for it cost more than it does."""
    return np.einsum("nd,ed->ne", rows, matrix)


def _move(normals: Array, log_weight: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return new draws around the weighted ones, and the logarithm of their density.

    One in five comes from the wide first distribution, so that no draw gets a boundless weight.
    """
    d = normals.shape[1]
    weight = np.exp(log_weight)
    # Too few to tell a covariance: flatten them first, as much as it takes. By a fixed power, times that turn
    # back after two threads ended with a single draw, and 128 threads differed 2.6-fold from seed to seed.
    for _ in range(FLATTENINGS):
        if 1 / (weight**2).sum() >= 10 * d:
            break
        log_weight = log_weight / 2
        weight = np.exp(log_weight - logsumexp(log_weight))
    mean = weight @ normals
    covariance = 1.3 * ((normals - mean).T * weight) @ (normals - mean) + 0.02 * np.eye(d)
    factor, wide = np.linalg.cholesky(covariance), DRAWS // 5
    standard = rng.standard_normal((DRAWS, d))  # each draw, as the distribution around `mean` sees it
    fresh = np.vstack([standard[:wide], mean + _times_matrix(standard[wide:], factor)])
    standard[:wide] = _times_matrix(fresh[:wide] - mean, np.linalg.inv(factor))
    near = _log_normal(standard) - np.log(np.diag(factor)).sum()
    share = wide / DRAWS
    return fresh, np.logaddexp(np.log(share) + _log_normal(fresh), np.log1p(-share) + near)


def fit_law(law: Law, sources: list[Rows]) -> LawFit:
    """Return the weighted draws of a law (population Monte Carlo; the same input gives the same draws)."""
    rng = np.random.default_rng(0)
    normals = _first_draws(len(law.parameters) + 2)
    density = _log_normal(normals)
    for move in range(MOVES):
        weight = log_likelihood(law, normals, sources) + _log_normal(normals) - density
        total = logsumexp(weight)
        weight = weight - total
        if move == MOVES - 1 or 1 / np.exp(2 * weight).sum() > ENOUGH_DRAWS:
            break
        normals, density = _move(normals, weight, rng)
    return LawFit(law, normals, weight, float(total - np.log(DRAWS)))


@dataclass(frozen=True)
class Fit:
    """All laws, fitted to one curve.

    Attributes
    ----------
    own : Rows
        The fit rows of the curve itself; they set its scale.
    """

    laws: tuple[LawFit, ...]
    own: Rows

    def shares(self) -> dict[str, float]:
        """Return the probability of each law; they add up to 1."""
        odds = np.array([fit.log_evidence + np.log(fit.law.weight) for fit in self.laws])
        share = np.exp(odds - logsumexp(odds))
        return {fit.law.name: float(p) for fit, p in zip(self.laws, share, strict=True)}

    def best(self) -> LawFit:
        """Return the most probable law."""
        shares = self.shares()
        return max(self.laws, key=lambda fit: shares[fit.law.name])

    def slow_start(self) -> float:
        """Return the median factor by which one thread is slower than the law says."""
        log_factor, weight = self._draws(np.array([1.0]), slow=True)
        return float(np.exp(weighted_quantiles(log_factor[:, 0], weight, [0.5])[0]))

    def _draws(self, threads: Array, slow: bool = False) -> tuple[Array, Array]:
        """Return log times over all laws, and their weights; the excess of one thread alone if `slow`."""
        shares = self.shares()
        times, weights = [], []
        for fit in self.laws:
            if shares[fit.law.name] < 1e-6:
                continue
            law_times = log_times(fit.law, fit.normals, threads)
            if slow:
                law_times = law_times - log_times(fit.law, _never_slow(fit.normals), threads)
            else:
                law_times = (
                    law_times
                    + log_scale(log_times(fit.law, fit.normals, self.own.threads), self.own)[:, None]
                )
            times.append(law_times)
            weights.append(np.exp(fit.log_weight) * shares[fit.law.name])
        return np.vstack(times), np.concatenate(weights)

    def predict(self, threads: Array, least_sd: Array | float = 0.0) -> Array:
        """Return low, middle and high of the time per thread count, shape (3, n).

        The middle is the time of the expected speedup, 1 / E[1 / t]. Where little is known, few draws say
        almost anything above, and none less than the work divided by the threads; what is to be expected then
        is no median. Held out by machine, the 90th percentile of the errors of rates is 90 % so, and 141 % by
        the median; that of times 22 % and 20 %.

        Parameters
        ----------
        threads : ndarray, shape (n,)
        least_sd : float or ndarray, shape (n,)
            Relative scatter of a single measurement, such as rounding.
        """
        times, weight = self._draws(np.asarray(threads, float))
        beyond = np.maximum(np.log2(threads / self.own.threads.max()), 0)
        sd = np.sqrt(SCATTER**2 + np.square(least_sd) + (SCATTER_PER_DOUBLING * beyond) ** 2)
        picked, noise = _even_picks(weight)
        sample = times[picked] + noise[:, None] * sd
        low, high = np.exp(np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
        return np.array([low, np.clip(1 / np.exp(-sample).mean(axis=0), low, high), high])


def _never_slow(normals: Array) -> Array:
    plain = normals.copy()
    plain[:, -1] = np.inf  # of which the factor is 1, whether slow or fast
    return plain


def _even_picks(weight: Array) -> tuple[NDArray[np.intp], Array]:
    """Return draws picked by weight, and a standard normal number for each; only shuffled at random."""
    steps = (np.arange(DRAWS) + 0.5) / DRAWS
    picked = np.minimum(np.searchsorted(np.cumsum(weight) / weight.sum(), steps), len(weight) - 1)
    return picked, np.random.default_rng(0).permutation(ndtri(steps))


def fit(own: Rows, others: list[Rows] | None = None, laws: tuple[Law, ...] = LAWS) -> Fit:
    """Return the laws fitted to the rows of a curve, and to those of its relatives if there are any."""
    sources = [own, *(others or [])]
    return Fit(tuple(fit_law(law, sources) for law in laws), own)
