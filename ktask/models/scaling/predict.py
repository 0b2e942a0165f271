"""Predicting the times of more threads from those of few.

Rows to fit on and rows to be tested on never mix: a prediction sees the rows of its own curve with the fit
threads only. With pooling it also sees all rows of the other sizes of the same work, and the fit rows of
other work on the same machine; never another version of the same case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from ktask.models.scaling import laws, sizes
from ktask.models.scaling.posterior import ENDS, SCATTER, Fit, Rows, fit
from ktask.models.scaling.table import Curve, Table, same_machine, same_work
from ktask.models.simulation.machines import Machine

Array = NDArray[np.float64]
Progress = Callable[[Sequence[Curve]], Iterable[Curve]]

FIT_THREADS = (1, 2, 4)
# Published times are means or minima of a few runs, three in most mails; the spread of one run counts less.
RUNS = 3
# How far the curves of one machine differ, as a standard deviation of the logarithm: other sizes of the
# same work, and other work.
OTHER_SIZE_SD = 0.08
OTHER_WORK_SD = 0.6
MOST_POOLED = 8  # more of them say little more, and each costs as much as the curve itself
# A known roof: how far the measured saturation may be off the described one.
ROOF_SD = 0.2
# ... and by how much it lowers the prior weight of the laws without a roof.
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
    """Fit and predictions of one curve, or the reason why there are none; `cpus` caps its threads."""

    curve: Curve
    fit: Fit | None = None
    fit_threads: tuple[int, ...] = ()
    pooled: int = 0
    predictions: tuple[Prediction, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    cpus: int | None = None

    def times(self, threads: Iterable[int]) -> Array:
        """Return low, middle and high of the time by the fitted laws, shape (3, n)."""
        if self.fit is None:
            raise ValueError(f"no law is fitted: the curve {self.reason}")
        used = np.isin(self.curve.threads, self.fit_threads)
        least_sd = float(np.median(self.curve.spread[used])) / np.sqrt(RUNS)
        return self.fit.predict(_effective(threads, self.cpus), least_sd)

    def table(self, threads: Iterable[int]) -> pd.DataFrame:
        """Return one row per thread count.

        Columns: `threads`; `measured_s` (NaN if not measured); `time_s`, `low_s`, `high_s` with a 90 %
        interval; `speedup`, `speedup_low`, `speedup_high` against the measured time of the fewest threads;
        `beyond`, whether that is more than twice the range of the fit.
        """
        counts, first_s = sorted(threads), self.curve.time_s[0]
        low, middle, high = self.times(counts)
        measured = pd.Series(self.curve.time_s, self.curve.threads).reindex(counts)
        return pd.DataFrame(
            {
                **{"threads": counts, "measured_s": measured.to_numpy()},
                **{"time_s": middle, "low_s": low, "high_s": high, "speedup": first_s / middle},
                **{"speedup_low": first_s / high, "speedup_high": first_s / low},
                "beyond": np.array(counts) > EXTRAPOLATED * max(self.fit_threads),
            }
        )


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
    others : tuple of Curve
        All curves of the table.
    laws : tuple of Law
        The laws with their priors; other ones only to leave tables out of what they were learned from.
    """

    fit_threads: tuple[int, ...] = FIT_THREADS
    threads: tuple[int, ...] = ()
    pool: bool = False
    machine: Machine | None = None
    others: tuple[Curve, ...] = field(default=(), repr=False)
    laws: tuple[laws.Law, ...] = field(default=laws.LAWS, repr=False)

    def cpus(self, curve: Curve) -> int | None:
        """Return how many CPUs the machine of a curve has, if that is known."""
        return self.machine.cpus if self.machine else curve.cpus


def _effective(threads: Iterable[int], cpus: int | None) -> Array:
    """Return thread counts as far as there are CPUs for them."""
    return np.minimum(np.fromiter(threads, float), cpus or np.inf)


def _rows(curve: Curve, fit_threads: Iterable[int], cpus: int | None, other_sd: float = 0.0) -> Rows:
    used = np.isin(curve.threads, list(fit_threads))
    spread = curve.spread[used] / np.sqrt(RUNS)
    sd = np.sqrt(SCATTER**2 + spread**2 + other_sd**2)
    return Rows(_effective(curve.threads[used], cpus), np.log(curve.time_s[used]), sd)


def curve_rows(curve: Curve) -> Rows:
    """Return all times of a curve as rows to fit on."""
    return _rows(curve, curve.threads, curve.cpus)


def _pooled(curve: Curve, options: Options) -> list[Rows]:
    """Return the fit rows of the other curves of this machine, the same work first."""
    found: dict[bool, list[Rows]] = {True: [], False: []}
    for other in options.others if options.pool else ():
        alike = same_work(curve, other)
        same_case = alike and other.size_bytes == curve.size_bytes
        if other is curve or same_case or not same_machine(curve, other):
            continue
        sd = OTHER_SIZE_SD if alike else OTHER_WORK_SD
        rows = _rows(other, options.fit_threads, options.cpus(other), sd)
        if len(rows.threads) > 1:
            found[alike].append(rows)
    return [*found[True], *found[False]][:MOST_POOLED]


def _laws_for(curve: Curve, own: Rows, options: Options) -> tuple[laws.Law, ...]:
    """Return the laws, with the roof of the described machine as the prior: what saturates one node."""
    machine = options.machine
    if machine is None or not np.isfinite(machine.node_bandwidth):
        return options.laws
    per_thread = machine.core_bandwidth
    if curve.size_bytes:
        per_thread = float(curve.size_bytes / np.exp((own.log_time + np.log(own.threads)).min()))
    return tuple(_roofed(law, max(machine.node_bandwidth / per_thread, 1.0)) for law in options.laws)


def _roofed(law: laws.Law, known: float) -> laws.Law:
    if law.name != "roof":
        return replace(law, prior_weight=UNROOFED * law.prior_weight)
    parameters = tuple(
        replace(p, median=known, spread=ROOF_SD) if p.name == "roof_threads" else p for p in law.parameters
    )
    return replace(law, parameters=parameters)


def _wanted(curve: Curve, options: Options) -> list[int]:
    """Return the thread counts to predict: those asked for, those of the table, or the next doubling."""
    cpus = options.cpus(curve)
    counts = {int(n) for other in options.others for n in other.threads if not cpus or n <= cpus}
    wanted = set(options.threads) or {*counts, *map(int, curve.threads)}
    return sorted(wanted - set(options.fit_threads)) or [EXTRAPOLATED * int(curve.threads.max())]


def _warnings(threads: Sequence[int], largest: int, cpus: int | None) -> tuple[str, ...]:
    far = [n for n in threads if n > EXTRAPOLATED * largest]
    found = []
    if far:
        reach = f"{far[0]}" if len(far) == 1 else f"{far[0]} to {far[-1]}"
        found.append(f"{reach} threads are beyond twice the measured range, which ends at {largest}")
    if cpus and any(n > cpus for n in threads):
        found.append(f"more threads than the {cpus} CPUs of the machine: taken as {cpus}")
    return tuple(found)


def _predictions(curve: Curve, threads: Sequence[int], times: Array) -> tuple[Prediction, ...]:
    """Return predictions from low, middle and high per thread count, beside what was measured."""
    observed = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
    rows = zip(threads, *times.tolist(), strict=True)
    return tuple(Prediction(n, middle, low, high, observed.get(n)) for n, low, middle, high in rows)


def predict_curve(curve: Curve, options: Options = Options()) -> Predicted:
    """Return the predictions for one curve, fitted on its times with the fit threads.

    A fit needs two of them; else `reason` says so.
    """
    fit_threads = tuple(int(n) for n in curve.threads if n in options.fit_threads)
    if len(fit_threads) < 2:
        have = ", ".join(map(str, curve.threads))
        reason = f"has times for {have} threads, of which {len(fit_threads)} to fit on; a fit needs two"
        return Predicted(curve, fit_threads=fit_threads, reason=reason)
    cpus, pooled, wanted = options.cpus(curve), _pooled(curve, options), _wanted(curve, options)
    own = _rows(curve, fit_threads, cpus)
    warnings = _warnings(wanted, fit_threads[-1], cpus)
    found = fit(own, pooled, _laws_for(curve, own, options))
    predicted = Predicted(curve, found, fit_threads, len(pooled), warnings=warnings, cpus=cpus)
    times = predicted.times(wanted)
    if options.pool:
        times = _with_sizes(curve, options, wanted, times)
    return replace(predicted, predictions=_predictions(curve, wanted, times))


def _with_sizes(curve: Curve, options: Options, wanted: Sequence[int], times: Array) -> Array:
    """Return low, middle and high per thread count: the laws averaged with what the other sizes say."""
    family = sizes.family_of(curve, options.others)
    own = _rows(curve, options.fit_threads, None)
    joined, reach = np.log(times), ndtri(ENDS[1])
    for i, n in enumerate(wanted):
        guess = sizes.shape_from_sizes(curve, family, own, n)
        if guess is not None:
            law_sd = (joined[2, i] - joined[0, i]) / (2 * reach)
            weight = np.array([law_sd**-2, guess[1] ** -2])
            middle = np.average([joined[1, i], guess[0]], weights=weight)
            joined[:, i] = middle + np.array([-1, 0, 1]) * reach / np.sqrt(weight.sum())
    return np.exp(joined)


def predict_table(
    table: Table, options: Options = Options(), progress: Progress | None = None
) -> list[Predicted]:
    """Return the predictions for all curves of a table; `progress` wraps the curves meanwhile."""
    options = replace(options, others=table.curves)
    return [predict_curve(curve, options) for curve in (progress or iter)(table.curves)]


def predict_size(curve: Curve, others: Sequence[Curve]) -> Predicted:
    """Return the times of a curve from the curves of other sizes; none of its own rows is used."""
    family = sizes.family_of(curve, others)
    if not family:
        return Predicted(curve, reason="no other size of the same work on the same machine")
    both = [n for n in curve.threads.tolist() if any(n in other.threads for other in family)]
    if not both:
        return Predicted(curve, reason="no other size has times for these thread counts")
    predictions = _predictions(curve, both, sizes.interval_from_sizes(curve, family, both))
    known = [sizes.log_size(other) for other in family]
    outside = not min(known) <= sizes.log_size(curve) <= max(known)
    warnings = ("the size lies outside of those it is predicted from",) if outside else ()
    return Predicted(curve, pooled=len(family), predictions=predictions, warnings=warnings)


def predict_sizes(table: Table, progress: Progress | None = None) -> list[Predicted]:
    """Return each curve predicted from the other sizes of the same work on the same machine."""
    return [predict_size(curve, table.curves) for curve in (progress or iter)(table.curves)]
