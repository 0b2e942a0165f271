"""Laws of scaling: what each says about time against threads, and the priors of its parameters.

A law gives the time of n threads relative to one thread. All parameters are made from standard normal numbers
(`Parameter.value`), so that bounds hold by construction and one sampler serves every law. The priors are
learned from the tables named in `DESIGN_TABLES`, by `ktask.models.scaling.learn`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri

Array = NDArray[np.float64]

# What the priors below are learned from; a score on these tables is no blind test.
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
    """A parameter of a law and its prior.

    Attributes
    ----------
    median, spread : float
        Of a lognormal distribution; of a logit-normal one if `is_fraction`, which keeps the value below 1.
    about : str
        A statement with the value as {}; empty if no reader needs the value.
    """

    name: str
    median: float
    spread: float
    about: str = ""
    is_fraction: bool = False

    def value(self, normal: Array) -> Array:
        """Return the value for standard normal numbers."""
        if self.is_fraction:
            return expit(logit(self.median) + self.spread * normal)
        return self.median * np.exp(self.spread * normal)


@dataclass(frozen=True)
class SlowStart:
    """One thread alone may be slower than its part of many: it reaches across nodes, or its caches are cold.

    That has the prior probability `slow`, and a factor whose logarithm is exponentially distributed. One
    thread may be faster, too (`fast`): it waits for no lock, and then two threads do not predict three.
    """

    slow: float = 0.211
    slow_mean: float = 0.2
    fast: float = 0.2
    fast_mean: float = 0.1

    def value(self, which: Array, how_much: Array) -> Array:
        """Return the logarithm of the factor by which one thread is slower than the law, from two normals."""
        size = -np.log(ndtr(how_much))
        fast = np.where(which > ndtri(1 - self.fast), -self.fast_mean * size, 0.0)
        return np.where(which < ndtri(self.slow), self.slow_mean * size, fast)


@dataclass(frozen=True)
class Law:
    """A law of scaling.

    Attributes
    ----------
    time : callable
        (threads of shape (n,), one array of shape (draws, 1) per parameter) -> times relative to one thread,
        shape (draws, n).
    prior_weight : float
        How often it is the best one, over the design tables.
    """

    name: str
    about: str
    time: Callable[..., Array]
    prior_weight: float
    parameters: tuple[Parameter, ...]
    slow_start: SlowStart = SlowStart()


def amdahl(threads: Array, serial: Array) -> Array:
    """Return serial + (1 - serial) / n (Amdahl 1967)."""
    return serial + (1 - serial) / threads


def gustafson(threads: Array, serial: Array) -> Array:
    """Return the time per unit of work that grows with the threads: 1 / (n - serial (n - 1)).

    Gustafson 1988, Reevaluating Amdahl's law.
    """
    return 1 / (threads - serial * (threads - 1))


def usl(threads: Array, contention: Array, crosstalk: Array) -> Array:
    """Return (1 + contention (n - 1) + crosstalk n (n - 1)) / n (Gunther 1993)."""
    return (1 + contention * (threads - 1) + crosstalk * threads * (threads - 1)) / threads


def roof(threads: Array, serial: Array, roof_threads: Array, sharpness: Array) -> Array:
    """Return Amdahl's law whose parallel part gets no faster than `roof_threads` threads would make it.

    Williams, Waterman, Patterson 2009 (Roofline). The corner is a p-norm: 1/n and 1/roof add up as
    (n^-p + roof^-p)^(1/p).
    """
    far = -sharpness * np.log(roof_threads)  # logarithms throughout: 64^-300 underflows
    both = np.logaddexp(-sharpness * np.log(threads), far) / sharpness
    return serial + (1 - serial) * np.exp(both - np.logaddexp(0, far) / sharpness)


# The queue at a lock is built up thread by thread; more than so many would take minutes, and by then almost
# any lock is always held.
MOST_QUEUED = 4096


def lock(threads: Array, lock_share: Array, handover: Array, active_workers: Array) -> Array:
    """Return the time of threads that take turns at one lock.

    A closed queue with one server and think time 1 - lock_share, solved by mean value analysis (Reiser and
    Lavenberg 1980). Each waiter lengthens the hold by the share `handover`, as contended cache lines do, but
    all together by no more than `active_workers` of them: queued locks have only so many spin on their line.
    """
    counts = np.minimum(threads, MOST_QUEUED).astype(int)
    queue, rates = np.zeros_like(lock_share), {}
    for n in range(1, counts.max() + 1):
        hold = lock_share * (1 + handover * queue / (1 + queue / active_workers))
        wait = hold * (1 + queue)
        rate = n / (1 - lock_share + wait)
        queue = rate * wait
        if n == 1 or n in counts:
            rates[n] = rate
    return np.hstack([rates[1] / rates[n] for n in counts])


def _serial(median: float, spread: float) -> Parameter:
    return Parameter("serial", median, spread, "{:.1%} of the work is serial", is_fraction=True)


# Priors as `learn` finds them over the design tables.
LAWS: tuple[Law, ...] = (
    Law("amdahl", "a serial share, the rest scales", amdahl, 0.057, (_serial(0.0627, 1.99),)),
    Law(
        "gustafson",
        "the work grows with the threads; a serial share does not scale",
        gustafson,
        0.016,
        (_serial(0.0966, 2.72),),
    ),
    Law(
        "usl",
        "queueing for something shared, and pairwise crosstalk that turns the curve back",
        usl,
        0.102,
        (
            Parameter("contention", 0.0649, 2.05, "{:.1%} of the work queues", is_fraction=True),
            Parameter("crosstalk", 0.00118, 1.54, "each pair of threads costs {:.3%} of the work"),
        ),
    ),
    Law(
        "roof",
        "a serial share, and a roof such as memory bandwidth for the rest",
        roof,
        0.705,
        (
            _serial(0.0993, 2.87),
            Parameter("roof_threads", 10.5, 0.564, "saturates at {:.1f} threads"),
            Parameter("sharpness", 5.1, 0.889),
        ),
    ),
    Law(
        "lock",
        "threads take turns at one lock, and waiters slow the turn",
        lock,
        0.12,
        (
            Parameter(
                "lock_share", 0.0815, 1.52, "{:.1%} of the work is done under one lock", is_fraction=True
            ),
            Parameter("handover", 0.0267, 1.62, "each waiter lengthens a lock hold by {:.1%}"),
            Parameter("active_workers", 7.85, 0.722),
        ),
    ),
)


def log_times(law: Law, normals: Array, threads: Array) -> Array:
    """Return the logarithm of the relative times, shape (draws, n).

    Parameters
    ----------
    normals : ndarray, shape (draws, parameters + 2)
        Standard normal numbers: one column per parameter, then the two of `SlowStart`.
    threads : ndarray, shape (n,)
    """
    values = [p.value(normals[:, [i]]) for i, p in enumerate(law.parameters)]
    slow = law.slow_start.value(normals[:, [-2]], normals[:, [-1]])
    return np.log(law.time(np.asarray(threads, float), *values)) + np.where(threads == 1, slow, 0.0)
