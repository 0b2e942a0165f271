"""Laws of scaling: what each says about time against threads, and what its parameters usually are.

A law gives the time of n threads relative to one thread. All parameters are made from standard normal numbers
(`Parameter.value`), so that bounds hold by construction and one sampler serves every law. The medians and
spreads are learned from the tables named in `DESIGN_TABLES`, by `ktask.models.scaling.learn`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

Array = NDArray[np.float64]

# What the medians, spreads and weights below are learned from; a score on these tables is no blind test.
DESIGN_TABLES = (
    "hugetlb_parallel_boot_init",
    "ktask_clear_gigantic_page",
    "ktask_clear_page_per_thread_bandwidth",
    "ktask_hugetlbfs_fallocate",
    "ktask_vfio_pinning",
    "lock_scalability_page_fault1",
    "padata_deferred_init_2020",
    "padata_vfio_pinning_2022",
    "page_migration_multithread",
    "parallel_free_exit",
)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a law and what is known about it before the first measurement.

    Attributes
    ----------
    name, about : str
        `about` completes "the law says that ...", with the value as {}; empty if it tells nobody anything.
    median, spread : float
        Of a lognormal distribution; of a logit-normal one if `share`, which keeps the value below 1.
    """

    name: str
    about: str
    median: float
    spread: float
    share: bool = False

    def value(self, normal: Array) -> Array:
        """Return the value for standard normal numbers."""
        if self.share:
            return expit(np.log(self.median / (1 - self.median)) + self.spread * normal)
        return self.median * np.exp(self.spread * normal)


@dataclass(frozen=True)
class SlowStart:
    """One thread alone may be slower than its share of many: it reaches across nodes, or its caches are cold.

    This happens to a part of the curves (`odds`), by a factor whose logarithm is exponentially distributed.
    To some (`fast_odds`) the opposite happens: with nobody beside it, one thread waits for no lock, and
    what the second one costs tells nothing about the third.
    """

    odds: float = 0.211
    mean: float = 0.2
    fast_odds: float = 0.2
    fast_mean: float = 0.1

    def value(self, whether: Array, how_much: Array) -> Array:
        """Return the logarithm of the factor by which one thread is slower than the law, from two normals."""
        size = -np.log(ndtr(how_much))
        fast = np.where(whether > ndtri(1 - self.fast_odds), -self.fast_mean * size, 0.0)
        return np.where(whether < ndtri(self.odds), self.mean * size, fast)


@dataclass(frozen=True)
class Law:
    """A law of scaling.

    Attributes
    ----------
    weight : float
        How often it is the best one, over the design tables.
    time : callable
        (threads of shape (n,), one array of shape (draws, 1) per parameter) -> times relative to one thread,
        shape (draws, n).
    """

    name: str
    about: str
    source: str
    weight: float
    parameters: tuple[Parameter, ...]
    time: Callable[..., Array]
    slow_start: SlowStart = SlowStart()


def amdahl(threads: Array, serial: Array) -> Array:
    """Return serial + (1 - serial) / n."""
    return serial + (1 - serial) / threads


def gustafson(threads: Array, serial: Array) -> Array:
    """Return the time per unit of work when the work grows with the threads: 1 / (n - serial (n - 1))."""
    return 1 / (threads - serial * (threads - 1))


def usl(threads: Array, contention: Array, crosstalk: Array) -> Array:
    """Return (1 + contention (n - 1) + crosstalk n (n - 1)) / n."""
    return (1 + contention * (threads - 1) + crosstalk * threads * (threads - 1)) / threads


def roof(threads: Array, serial: Array, roof_threads: Array, sharpness: Array) -> Array:
    """Return Amdahl's law whose parallel part gets no faster than `roof_threads` threads alone would make it.

    The corner is a p-norm: 1/n and 1/roof add up as (n^-p + roof^-p)^(1/p).
    """
    far = -sharpness * np.log(roof_threads)  # logarithms throughout: 64^-300 is no number any more
    both = np.logaddexp(-sharpness * np.log(threads), far) / sharpness
    return serial + (1 - serial) * np.exp(both - np.logaddexp(0, far) / sharpness)


def lock(threads: Array, lock_share: Array, handover: Array, crowd: Array) -> Array:
    """Return the time of threads that take turns at one lock.

    A closed queue with one server and think time 1 - lock_share, solved by mean value analysis (Reiser and
    Lavenberg 1980); each waiter lengthens the turn by the share `handover`, as contended cache lines do, but
    all together by no more than `crowd` of them: queued locks have only so many spin on the line of the lock.
    """
    queue = np.zeros_like(lock_share)
    wanted = {int(n) for n in threads}
    rates = {}
    for n in range(1, min(max(wanted), MOST_EXACT) + 1):
        queue, rate = _turn(n, queue, lock_share, handover, crowd)
        if n in wanted or n == 1:
            rates[n] = rate
    for n in wanted - rates.keys():
        rates[n] = _crowded(n, lock_share, handover, crowd)
    return np.hstack([rates[1] / rates[int(n)] for n in threads])


# Beyond so many threads the queue is not built up thread by thread, which would take minutes.
MOST_EXACT = 4096


def _turn(
    threads: float, queue: Array, lock_share: Array, handover: Array, crowd: Array
) -> tuple[Array, Array]:
    """Return queue and rate of n threads, of which one finds the queue that the others make."""
    turn = lock_share * (1 + handover * queue / (1 + queue / crowd))
    wait = turn * (1 + queue)
    rate = threads / (1 - lock_share + wait)
    return rate * wait, rate


def _crowded(threads: int, lock_share: Array, handover: Array, crowd: Array) -> Array:
    """Return the rate where one thread more or less changes the queue in proportion (Schweitzer 1979)."""
    low, high = np.zeros_like(lock_share), np.full_like(lock_share, threads)
    for _ in range(60):
        queue = (low + high) / 2
        longer = _turn(threads, queue * (threads - 1) / threads, lock_share, handover, crowd)[0] > queue
        low, high = np.where(longer, queue, low), np.where(longer, high, queue)
    return _turn(threads, high * (threads - 1) / threads, lock_share, handover, crowd)[1]


# What is usual over the design tables, as `learn` finds it: how often a law is the best one, and
# median and spread of each of its parameters.
USUAL: dict[str, tuple[float, dict[str, tuple[float, float]]]] = {
    "amdahl": (0.057, {"serial": (0.0627, 1.99)}),
    "gustafson": (0.016, {"serial": (0.0966, 2.72)}),
    "usl": (0.102, {"contention": (0.0649, 2.05), "crosstalk": (0.00118, 1.54)}),
    "roof": (0.705, {"serial": (0.0993, 2.87), "roof_threads": (10.5, 0.564), "sharpness": (5.1, 0.889)}),
    "lock": (0.12, {"lock_share": (0.0815, 1.52), "handover": (0.0267, 1.62), "crowd": (7.85, 0.722)}),
}
ABOUT = {
    "serial": "{:.1%} of the work is serial",
    "contention": "{:.1%} of the work queues",
    "crosstalk": "each pair of threads costs {:.3%} of the work",
    "roof_threads": "saturates at {:.1f} threads",
    "sharpness": "",
    "lock_share": "{:.1%} of the work is done under one lock",
    "handover": "each waiter lengthens a turn by {:.1%}",
    "crowd": "",
}
SHARES = ("serial", "contention", "lock_share")


def _law(time: Callable[..., Array], about: str, source: str) -> Law:
    weight, usual = USUAL[time.__name__]
    parameters = (Parameter(name, ABOUT[name], *usual[name], share=name in SHARES) for name in usual)
    return Law(time.__name__, about, source, weight, tuple(parameters), time)


LAWS: tuple[Law, ...] = (
    _law(
        amdahl,
        "a serial share, the rest scales",
        "Amdahl 1967, Validity of the single processor approach",
    ),
    _law(
        gustafson,
        "the work grows with the threads; a serial share does not scale",
        "Gustafson 1988, Reevaluating Amdahl's law",
    ),
    _law(
        usl,
        "queueing for something shared, and pairwise crosstalk that turns the curve back",
        "Gunther 1993, Universal Scalability Law",
    ),
    _law(
        roof,
        "a serial share, and a roof such as memory bandwidth for the rest",
        "Williams, Waterman, Patterson 2009, Roofline; corner as a p-norm",
    ),
    _law(
        lock,
        "threads take turns at one lock, and waiters slow the turn",
        "Reiser, Lavenberg 1980, Mean value analysis of closed queues",
    ),
)
BY_NAME = {law.name: law for law in LAWS}


def log_times(law: Law, normals: Array, threads: Array) -> Array:
    """Return the logarithm of the relative times, shape (draws, n).

    Parameters
    ----------
    normals : ndarray, shape (draws, parameters + 2)
        Standard normal numbers: one column per parameter, then the two of `SlowStart`.
    threads : ndarray, shape (n,)
    """
    values = [p.value(normals[:, [i]]) for i, p in enumerate(law.parameters)]
    times = np.log(law.time(np.asarray(threads, float), *values))
    slow = law.slow_start.value(normals[:, [-2]], normals[:, [-1]])
    return times + np.where(np.asarray(threads) == 1, slow, 0.0)
