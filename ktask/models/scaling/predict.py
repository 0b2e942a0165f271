"""Predicting the times of more threads from those of few, and scoring that.

Rows to fit on and rows to be tested on never mix: a prediction sees the rows of its own curve with the fit
threads only. With pooling it also sees all rows of the other sizes of the same work, and the fit rows of
other work on the same machine; never another version of the same case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ktask.models.scaling import laws, sizes
from ktask.models.scaling.posterior import LEVEL, SCATTER, Fit, Rows, fit
from ktask.models.scaling.table import Curve, Table, same_machine, same_work
from ktask.models.simulation.machines import Machine

Array = NDArray[np.float64]

FIT_THREADS = (1, 2, 4)
# Published times are means or minima of a few runs, three in most mails; the spread of one run counts less.
RUNS = 3
# How far the curves of one machine lie apart, as a standard deviation of the logarithm: other sizes of the
# same work, and other work.
OTHER_SIZE_SD = 0.08
OTHER_WORK_SD = 0.6
MOST_RELATIVES = 8  # more of them say little more, and each costs as much as the curve itself
# A known roof: how far the measured saturation may be off the described one.
ROOF_SD = 0.2
# ... and how much less the laws without a roof count then.
UNROOFED = 0.07
EXTRAPOLATED = 2


@dataclass(frozen=True)
class Prediction:
    """A predicted time with its 90 % interval, and the measured one if there is any."""

    threads: int
    time_s: float
    low_s: float
    high_s: float
    observed_s: float | None = None

    @property
    def ape_pct(self) -> float:
        """Absolute error in percent of the measured time."""
        return abs(self.time_s / self.observed_s - 1) * 100 if self.observed_s else float("nan")

    @property
    def covered(self) -> bool:
        """Whether the measured time lies in the interval."""
        return self.observed_s is not None and self.low_s <= self.observed_s <= self.high_s


@dataclass(frozen=True)
class Predicted:
    """What came of one curve: its fit and predictions, or the reason why there are none."""

    curve: Curve
    fit: Fit | None = None
    fit_threads: tuple[int, ...] = ()
    pooled: int = 0
    predictions: tuple[Prediction, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Options:
    """How to predict.

    Attributes
    ----------
    fit_threads : tuple of int
        Thread counts whose times may be used.
    threads : tuple of int
        Thread counts to predict; by default all that the table has, and otherwise twice the largest.
    pool : bool
        Let other curves of the same machine inform a fit: other sizes of the same work with all their rows,
        other work with its fit rows.
    machine : Machine, optional
        Its bandwidths give the roof, its CPUs the end of all scaling.
    and_fitted : bool
        Give the law at the fit threads too, where `threads` has them.
    relatives : tuple of Curve
        The other curves of the table.
    laws : tuple of Law
        What the laws usually are; other ones only to leave tables out of what they were learned from.
    """

    fit_threads: tuple[int, ...] = FIT_THREADS
    threads: tuple[int, ...] = ()
    pool: bool = False
    machine: Machine | None = None
    and_fitted: bool = False
    relatives: tuple[Curve, ...] = field(default=(), repr=False)
    laws: tuple[laws.Law, ...] = field(default=laws.LAWS, repr=False)


def _cpus(curve: Curve, machine: Machine | None) -> int | None:
    return machine.cpus if machine else curve.cpus


def _effective(threads: Iterable[int], cpus: int | None) -> Array:
    """Return thread counts as far as there are CPUs for them."""
    return np.minimum(np.asarray(threads, float), cpus or np.inf)


def _rows(curve: Curve, fit_threads: Sequence[int], cpus: int | None, apart: float = 0.0) -> Rows:
    used = np.isin(curve.threads, fit_threads)
    spread = curve.spread[used] / np.sqrt(RUNS)
    sd = np.sqrt(SCATTER**2 + spread**2 + apart**2)
    return Rows(_effective(curve.threads[used], cpus), np.log(curve.time_s[used]), sd)


def curve_rows(curve: Curve) -> Rows:
    """Return all times of a curve as rows to fit on."""
    return _rows(curve, curve.threads, curve.cpus)


def _relatives(curve: Curve, options: Options) -> list[Rows]:
    """Return the fit rows of the other curves of this machine, the less certain the less they are alike."""
    found = []
    for other in options.relatives if options.pool else ():
        same_case = same_work(curve, other) and other.size_bytes == curve.size_bytes
        if other is curve or same_case or not same_machine(curve, other):
            continue
        apart = OTHER_SIZE_SD if same_work(curve, other) else OTHER_WORK_SD
        rows = _rows(other, options.fit_threads, _cpus(other, options.machine), apart)
        if len(rows.threads) > 1:
            found.append((apart, rows))
    found.sort(key=lambda one: one[0])
    return [rows for _, rows in found[:MOST_RELATIVES]]


def roof_threads(machine: Machine, per_thread: float | None = None) -> float:
    """Return how many threads saturate the memory of one node.

    Parameters
    ----------
    per_thread : float, optional
        Bytes per second of one thread of this work; by default what the description says.
    """
    return machine.node_bandwidth / (per_thread or machine.core_bandwidth)


def _laws_for(curve: Curve, own: Rows, options: Options) -> tuple[laws.Law, ...]:
    """Return the laws, with the roof of the described machine in place of the usual one."""
    machine = options.machine
    if machine is None or not np.isfinite(machine.node_bandwidth):
        return options.laws
    measured = curve.size_bytes and curve.size_bytes / np.exp((own.log_time + np.log(own.threads)).min())
    known = max(roof_threads(machine, measured), 1.0)
    return tuple(_roofed(law, known) for law in options.laws)


def _roofed(law: laws.Law, known: float) -> laws.Law:
    if law.name != "roof":
        return replace(law, weight=UNROOFED * law.weight)
    parameters = tuple(
        replace(p, median=known, spread=ROOF_SD) if p.name == "roof_threads" else p for p in law.parameters
    )
    return replace(law, parameters=parameters)


def _wanted(curve: Curve, options: Options) -> list[int]:
    """Return the thread counts to predict: those asked for, those of the table, or the next doublings."""
    cpus = _cpus(curve, options.machine)
    counts = {int(n) for other in options.relatives for n in other.threads if not cpus or n <= cpus}
    wanted = set(options.threads) or {*counts, *map(int, curve.threads)}
    if not options.and_fitted:
        wanted -= set(options.fit_threads)
    return sorted(wanted) or [EXTRAPOLATED * int(curve.threads.max())]


def _warnings(threads: Sequence[int], largest: int, cpus: int | None) -> tuple[str, ...]:
    far = [n for n in threads if n > EXTRAPOLATED * largest]
    said = []
    if far:
        reach = f"{far[0]}" if len(far) == 1 else f"{far[0]} to {far[-1]}"
        said.append(f"{reach} threads are beyond twice the measured range, which ends at {largest}")
    if cpus and any(n > cpus for n in threads):
        said.append(f"more threads than the {cpus} CPUs of the machine: taken as {cpus}")
    return tuple(said)


def _least_sd(curve: Curve, used: NDArray[np.bool_]) -> float:
    """Return the relative scatter of one measurement, as the fit rows have it."""
    return float(np.median(curve.spread[used])) / np.sqrt(RUNS)


def predict_curve(curve: Curve, options: Options = Options()) -> Predicted:
    """Return the predictions for one curve, fitted on its times with the fit threads.

    Fewer than two such times make no curve; then `reason` says so.
    """
    cpus = _cpus(curve, options.machine)
    used = np.isin(curve.threads, options.fit_threads)
    fitted = tuple(int(n) for n in curve.threads[used])
    if len(fitted) < 2:
        have = ", ".join(map(str, curve.threads))
        reason = f"has times for {have} threads, of which {len(fitted)} to fit on; a fit needs two"
        return Predicted(curve, fit_threads=fitted, reason=reason)
    own = _rows(curve, options.fit_threads, cpus)
    others = _relatives(curve, options)
    found = fit(own, others, _laws_for(curve, own, options))
    wanted = _wanted(curve, options)
    times = found.predict(_effective(wanted, cpus), _least_sd(curve, used))
    low, middle, high = _with_sizes(curve, options, wanted, times) if options.pool else times
    observed = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
    predictions = tuple(
        Prediction(n, float(m), float(lo), float(hi), observed.get(n))
        for n, m, lo, hi in zip(wanted, middle, low, high, strict=True)
    )
    warnings = _warnings(wanted, fitted[-1], cpus)
    return Predicted(curve, found, fitted, len(others), predictions, warnings)


def _with_sizes(curve: Curve, options: Options, wanted: Sequence[int], times: Array) -> Array:
    """Return low, median and high per thread count, the laws joined by what the other sizes say."""
    family = sizes.family_of(curve, options.relatives)
    own = _rows(curve, options.fit_threads, None)
    joined = np.log(times)
    for i, n in enumerate(wanted):
        guess = sizes.shape_from_sizes(curve, family, own, n)
        if guess is not None:
            law_sd = (joined[2, i] - joined[0, i]) / (2 * norm.ppf((1 + LEVEL) / 2))
            weight = np.array([law_sd**-2, guess[1] ** -2])
            middle = np.average([joined[1, i], guess[0]], weights=weight)
            joined[:, i] = middle + np.array([-1, 0, 1]) * norm.ppf((1 + LEVEL) / 2) / np.sqrt(weight.sum())
    return np.exp(joined)


def predict_table(
    table: Table,
    options: Options = Options(),
    progress: Callable[[Sequence[Curve]], Iterable[Curve]] | None = None,
) -> list[Predicted]:
    """Return the predictions for all curves of a table; `progress` wraps the curves meanwhile."""
    options = replace(options, relatives=table.curves)
    return [predict_curve(curve, options) for curve in (progress or iter)(table.curves)]


def predict_size(curve: Curve, others: Sequence[Curve]) -> Predicted:
    """Return the times of a curve from the curves of other sizes; none of its own rows is used."""
    family = sizes.family_of(curve, others)
    if not curve.size_bytes or not family:
        return Predicted(curve, reason="no other size of the same work on the same machine")
    both = [n for n in curve.threads.tolist() if any(n in other.threads for other in family)]
    if not both:
        return Predicted(curve, reason="no other size has times for these thread counts")
    observed = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
    times = sizes.interval_from_sizes(curve, family, both)
    predictions = tuple(
        Prediction(n, middle, low, high, observed[n])
        for n, (low, middle, high) in zip(both, times, strict=True)
    )
    known = [other.size_bytes for other in family]
    outside = not min(known) <= curve.size_bytes <= max(known)
    warnings = ("the size lies outside of those it is predicted from",) if outside else ()
    return Predicted(curve, pooled=len(family), predictions=predictions, warnings=warnings)


def predict_sizes(
    table: Table, progress: Callable[[Sequence[Curve]], Iterable[Curve]] | None = None
) -> list[Predicted]:
    """Return each curve predicted from the other sizes of the same work on the same machine."""
    return [predict_size(curve, table.curves) for curve in (progress or iter)(table.curves)]
