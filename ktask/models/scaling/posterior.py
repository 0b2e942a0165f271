"""What the measured times say about the parameters of the laws, and hence about other thread counts.

Three times do not determine three parameters, and a least-squares fit then follows their noise: it ends at a
bound, or predicts ten times too much. So random draws of the parameters from their priors are weighted by how
well they explain the measured times, and all predictions are taken over the weighted draws of all laws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri, softmax
from scipy.stats import multivariate_normal, qmc

from ktask.models.scaling.laws import LAWS, Law, log_times

Array = NDArray[np.float64]

DRAWS = 1 << 12
# Below this many effective draws the sampler moves to where the weight is and draws again.
ENOUGH_DRAWS = 300
MOVES = 8
FROM_PRIOR = DRAWS // 5
MOST_HALVINGS = 20
NEGLIGIBLE = 1e-6  # posterior probability of a law
# No law is exact: around it published times scatter by 2 % inside the measured range, and by 4 % more per
# doubling beyond. Found together with the numbers of the laws.
SCATTER = 0.02
SCATTER_PER_DOUBLING = 0.04
TAIL = 4  # degrees of freedom of the scatter: single outliers happen
LEVEL = 0.90
ENDS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
# A parameter is determined if its 90 % interval is less than this share of that of its prior.
DETERMINED = 0.6
WIDE = 3.0  # an interval whose ends are farther apart than this gives a bound, and no value
NOTABLE_SLOW_START = 1.05


class Rows(NamedTuple):
    """Measured times of one source; `sd` is the standard deviation of `log_time`. Arrays of shape (n,)."""

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
        found = {}
        for i, parameter in enumerate(self.law.parameters):
            value, weight = parameter.value(self.normals[:, i]), np.exp(self.log_weight)
            low, middle, high = weighted_quantiles(value, weight, [ENDS[0], 0.5, ENDS[1]])
            found[parameter.name] = {"value": middle, "low": low, "high": high}
        return found

    def says(self, slow_start: float = 1.0) -> str:
        """Return what the law says: "2.1% of the work is serial; saturates at 9.3 threads".

        A fraction of which only the upper end is known is given as "at most"; other such parameters are not
        mentioned.
        """
        parts, known = [], self.parameters()
        for parameter in self.law.parameters:
            value = known[parameter.name]
            if not (parameter.about and self.is_determined(parameter.name)):
                continue
            if value["high"] <= WIDE * value["low"]:
                parts.append(parameter.about.format(value["value"]))
            elif parameter.is_fraction:
                parts.append("at most " + parameter.about.format(value["high"]))
        if slow_start > NOTABLE_SLOW_START:
            parts.append(f"one thread alone is {slow_start:.2f} times slower than its share")
        return "; ".join(parts) or "the times do not determine its parameters"

    def is_determined(self, parameter: str) -> bool:
        """Return whether the times say more about a parameter than its prior does."""
        at = [p.name for p in self.law.parameters].index(parameter)
        low, high = weighted_quantiles(self.normals[:, at], np.exp(self.log_weight), ENDS)
        return high - low < DETERMINED * 2 * ndtri(ENDS[1])

    def log_times(self, threads: Array, own: Rows) -> Array:
        """Return the logarithm of the time of each draw in the scale of the rows, shape (draws, n)."""
        scale = _log_scale(log_times(self.law, self.normals, own.threads), own)
        return log_times(self.law, self.normals, threads) + scale[:, None]

    def fitted(self, own: Rows) -> Array:
        """Return the times that the law gives for the rows, the median over the draws."""
        times, weight = self.log_times(own.threads, own), np.exp(self.log_weight)
        return np.exp([weighted_quantiles(column, weight, [0.5])[0] for column in times.T])

    def held_out(self, own: Rows) -> Array:
        """Return the times that the law predicts for each row from the others; NaN for the first row.

        The fewest threads are never left out: a law cannot know what one thread alone may cost.
        """
        all_rows = log_likelihood(self.law, self.normals, [own])
        predicted = np.full(len(own.threads), np.nan)
        for i in range(1, len(own.threads)):
            rest = Rows(*(np.delete(column, i) for column in own))
            weight = softmax(self.log_weight - all_rows + log_likelihood(self.law, self.normals, [rest]))
            values = self.log_times(own.threads[i : i + 1], rest)[:, 0]
            predicted[i] = np.exp(weighted_quantiles(values, weight, [0.5])[0])
        return predicted


def weighted_quantiles(values: Array, weight: Array, at: Sequence[float]) -> list[float]:
    """Return quantiles of weighted values, at the middle of each weight."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) - weight[order] / 2
    return [float(q) for q in np.interp(np.asarray(at) * weight.sum(), reached, values[order])]


@lru_cache(maxsize=16)
def _prior_draws(d: int) -> Array:
    """Return standard normal numbers, evenly spread (a Sobol sequence)."""
    even = qmc.Sobol(d, seed=d).random(DRAWS)
    return ndtri(np.clip(even, 1e-9, 1 - 1e-9))


def _log_normal(normals: Array) -> Array:
    return -0.5 * (normals**2).sum(axis=1) - 0.5 * normals.shape[1] * np.log(2 * np.pi)


def _log_scale(times: Array, rows: Rows) -> Array:
    """Return the logarithm of the one-thread time of each draw, the weighted mean over the rows."""
    return np.average(rows.log_time - times, axis=1, weights=rows.sd**-2)


def log_likelihood(law: Law, normals: Array, sources: Sequence[Rows]) -> Array:
    """Return how well each draw explains all sources, each of which has a scale of its own."""
    total = np.zeros(len(normals))
    for rows in sources:
        times = log_times(law, normals, rows.threads)
        off = (rows.log_time - times - _log_scale(times, rows)[:, None]) / rows.sd
        total -= (TAIL + 1) / 2 * np.log1p(off**2 / TAIL).sum(axis=1)
    return total


def _effective_draws(weight: Array) -> float:
    return 1 / (weight**2).sum()


def _move(normals: Array, log_weight: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return new draws around the weighted ones, and the logarithm of their density.

    Some come from the prior, so that no draw gets a boundless weight.
    """
    d = normals.shape[1]
    # Too few effective draws give no covariance, so temper their weights first, as much as it takes. With a
    # fixed power, times that turn back after two threads ended with a single draw, and 128 threads differed
    # 2.6-fold from seed to seed.
    for _ in range(MOST_HALVINGS):
        if _effective_draws(softmax(log_weight)) >= 10 * d:
            break
        log_weight = log_weight / 2
    weight = softmax(log_weight)
    covariance = 1.3 * np.cov(normals.T, aweights=weight, ddof=0) + 0.02 * np.eye(d)
    mean, share = weight @ normals, FROM_PRIOR / DRAWS
    fresh = rng.standard_normal((DRAWS, d))
    fresh[FROM_PRIOR:] = mean + np.einsum("nd,ed->ne", fresh[FROM_PRIOR:], np.linalg.cholesky(covariance))
    near = multivariate_normal(mean, covariance).logpdf(fresh)
    return fresh, np.logaddexp(np.log(share) + _log_normal(fresh), np.log1p(-share) + near)


def fit_law(law: Law, sources: Sequence[Rows]) -> LawFit:
    """Return the weighted draws of a law (population Monte Carlo; the same input gives the same draws)."""
    rng = np.random.default_rng(0)
    normals = _prior_draws(len(law.parameters) + 2)
    density = _log_normal(normals)
    for move in range(MOVES):
        weight = log_likelihood(law, normals, sources) + _log_normal(normals) - density
        total = logsumexp(weight)
        weight = weight - total
        if move == MOVES - 1 or _effective_draws(np.exp(weight)) > ENOUGH_DRAWS:
            break
        normals, density = _move(normals, weight, rng)
    return LawFit(law, normals, weight, float(total - np.log(DRAWS)))


@dataclass(frozen=True)
class Fit:
    """All laws, fitted to one curve, whose own rows set the scale."""

    laws: tuple[LawFit, ...]
    own: Rows

    def probabilities(self) -> dict[str, float]:
        """Return the posterior probability of each law."""
        p = softmax([fit.log_evidence + np.log(fit.law.prior_weight) for fit in self.laws])
        return {fit.law.name: float(one) for fit, one in zip(self.laws, p, strict=True)}

    def best(self) -> LawFit:
        """Return the most probable law."""
        p = self.probabilities()
        return max(self.laws, key=lambda fit: p[fit.law.name])

    def says(self) -> str:
        """Return what the most probable law says."""
        return self.best().says(self.slow_start() if self.own.threads[0] == 1 else 1.0)

    def slow_start(self) -> float:
        """Return the median factor by which one thread is slower than the law says."""
        factors, weight = self._over_laws(lambda fit: fit.law.slow_start.value(*fit.normals.T[-2:]))
        return float(np.exp(weighted_quantiles(factors, weight, [0.5])[0]))

    def _over_laws(self, of: Callable[[LawFit], Array]) -> tuple[Array, Array]:
        """Return something of every draw of every law, and the weights of the draws."""
        p = self.probabilities()
        likely = [fit for fit in self.laws if p[fit.law.name] >= NEGLIGIBLE]
        weight = [np.exp(fit.log_weight) * p[fit.law.name] for fit in likely]
        return np.concatenate([of(fit) for fit in likely]), np.concatenate(weight)

    def predict(self, threads: Array, least_sd: Array | float = 0.0) -> Array:
        """Return low, middle and high of the time per thread count, shape (3, n).

        The middle is the time of the expected speedup, 1 / E[1 / t]. Where little is known, few draws say
        almost anything above, and none less than the work divided by the threads, so the median says little.
        Held out by machine, the 90th percentile of the errors of rates is 90 % so, and 141 % by the median;
        that of times 22 % and 20 %.

        Parameters
        ----------
        threads : ndarray, shape (n,)
        least_sd : float or ndarray, shape (n,)
            Relative scatter of a single measurement, such as rounding.
        """
        times, weight = self._over_laws(lambda fit: fit.log_times(threads, self.own))
        beyond = np.maximum(np.log2(threads / self.own.threads.max()), 0)
        sd = np.sqrt(SCATTER**2 + np.square(least_sd) + (SCATTER_PER_DOUBLING * beyond) ** 2)
        picked = picks(weight, DRAWS)
        noise = np.random.default_rng(0).permutation(ndtri((np.arange(DRAWS) + 0.5) / DRAWS))
        sample = times[picked] + noise[:, None] * sd
        low, high = np.exp(np.quantile(sample, ENDS, axis=0))
        return np.array([low, np.clip(1 / np.exp(-sample).mean(axis=0), low, high), high])


def picks(weight: Array, count: int) -> NDArray[np.intp]:
    """Return indices of `count` draws, evenly picked by weight."""
    reached = np.cumsum(weight)
    at = np.searchsorted(reached / reached[-1], (np.arange(count) + 0.5) / count)
    return np.minimum(at, len(weight) - 1)


def fit(own: Rows, others: Sequence[Rows] = (), laws: tuple[Law, ...] = LAWS) -> Fit:
    """Return the laws fitted to the rows of a curve, and to those of other curves if there are any."""
    return Fit(tuple(fit_law(law, [own, *others]) for law in laws), own)
