"""Estimates over levels: a repetition lies in a process, a process in a boot.

Two processes of the same code differ by more than the repetitions within one: their pages lie elsewhere, and
the machine is in another state. An interval from within one process is a promise that the next run breaks.
So within a process there is a median, and the interval comes from how the processes differ (Kalibera and
Jones, "Rigorous benchmarking in reasonable time", 2013: repeat at the level that varies).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ktask.lab.measure import stats
from ktask.lab.measure.stats import LEVEL, NOTHING, Estimate

if TYPE_CHECKING:
    import pandas as pd

INTERVAL_KIND = "95 % interval over processes"
PROCESS = ["boot_id", "pass"]  # the columns of the records that tell processes of a cell apart
SAME = (0.95, 1.05)  # a speedup in here changes nothing that anybody would notice
# Below this significance the boots differ, and the interval comes from them, not from the processes. Pooling
# two levels needs a lenient test (Bancroft 1964; 0.25 is the usual choice).
BOOTS_DIFFER = 0.25
# Processes that follow each other are alike, so one sweep differs from the next by more than its processes
# show: times by about 0.7 times their spread, ratios of neighbours by half of that, neither by more than this
# much (KVM guest with two CPUs, docs/measuring.md; `ktask.lab.studies.coverage` measures it anew).
TIME_DRIFT, RATIO_DRIFT = 0.7, 0.35
MOST_DRIFT = 0.03

Verdict = Literal["faster", "slower", "same", "undecided"]


def mean_over_levels(values: NDArray, boots: Sequence[str] | None = None) -> tuple[float, float, float]:
    """Return the mean of one value per process, its standard error, and the degrees of freedom of that.

    Parameters
    ----------
    values
        At least two numbers on a scale where they add, such as logarithms of times.
    boots
        In which boot each process ran. Where boots differ by more than their processes do, their means are
        what varies: the error is that of boots, with one degree less than there are boots.
    """
    n = len(values)
    squares, freedom = float(((values - values.mean()) ** 2).sum()), n - 1
    groups = [values[np.asarray(boots) == boot] for boot in dict.fromkeys(boots or ())]
    if 1 < len(groups) < n:
        between = float(sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups))
        ways, rest = len(groups) - 1, n - len(groups)
        within = max((squares - between) / rest, 1e-30)
        if special.fdtrc(ways, rest, between / ways / within) < BOOTS_DIFFER:
            squares, freedom = between, ways
    return float(values.mean()), float(np.sqrt(squares / freedom / n)), float(freedom)


def across(
    processes: Sequence[Estimate],
    boots: Sequence[str] | None = None,
    *,
    scale: Literal["log", "linear"] = "log",
    best: Literal["low", "high"] = "low",
    drift: float = 0.0,
) -> Estimate:
    """Combine the estimates that several processes gave of one quantity.

    Parameters
    ----------
    processes
        One estimate per process; those without a value (n = 0) are left out.
    boots
        The boot of each.
    scale
        "log" for positive quantities (times, rates, ratios): the middle is a geometric mean. "linear" for
        shares that may be zero.
    best
        Whether the best value is the smallest or the largest.
    drift
        By how much one sweep differs from the next beyond its processes, over the spread of these.

    Returns
    -------
    Estimate
        Middle and 95 % interval over the processes, `n` repetitions in all, the number of `processes`, and
        `spread`, the standard deviation between them (of the logarithms with "log"). Of a single process: its
        own estimate, whose interval does not hold for the next process.
    """
    kept = [k for k, one in enumerate(processes) if one.n > 0]
    if len(kept) < 2:
        return processes[kept[0]] if kept else NOTHING
    known = [processes[k] for k in kept]
    medians = np.array([one.median for one in known])
    values = np.log(medians) if scale == "log" else medians
    middle, error, freedom = mean_over_levels(values, boots and [boots[k] for k in kept])
    spread = float(values.std(ddof=1))
    error = np.hypot(error, drift_of(spread, drift) / np.sqrt(len({*(boots or [""])})))
    reach = float(special.stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    ends = np.array([middle, middle - reach, middle + reach])
    centre, low, high = map(float, np.exp(ends) if scale == "log" else ends)
    bests = [one.best for one in known]
    return Estimate(
        centre,
        low,
        high,
        min(bests) if best == "low" else max(bests),
        sum(one.n for one in known),
        len(known),
        spread,
    )


def drift_of(spread: float, per_spread: float = TIME_DRIFT) -> float:
    """Return by how much a series of passes is off as a whole, from the spread between its processes."""
    return min(per_spread * spread, MOST_DRIFT)


def processes_of(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, int], NDArray[np.intp]]]:
    """Yield boot and pass of each process that the rows come from, with their positions, first ones first.

    Positions and not rows: a report asks some thousand times, and a part of a table takes longer to make than
    its median.
    """
    yield from rows.groupby(PROCESS, sort=False, dropna=False).indices.items()


def within(rows: pd.DataFrame, column: str) -> tuple[list[Estimate], list[str]]:
    """Return the estimate of a column in each process that the rows come from, and the boot of each."""
    values = rows[column].to_numpy()
    found = [(stats.estimate(values[at]), boot) for (boot, _), at in processes_of(rows)]
    return [one for one, _ in found], [boot for _, boot in found]


def time_of(rows: pd.DataFrame, column: str = "wall_s") -> Estimate:
    """Return the estimate of a positive column over the processes that `rows` come from.

    Parameters
    ----------
    rows
        Repetitions of one variant of one case, with the columns of the records.
    """
    return across(*within(rows, column), drift=TIME_DRIFT)


def _ratios(base: pd.DataFrame, new: pd.DataFrame, column: str) -> Iterator[tuple[Estimate, str]]:
    """Yield base over new and boot of each process that has both; paired where rounds are the same."""
    (rounds, values), (new_rounds, new_values) = (
        (rows["round"].to_numpy(), rows[column].to_numpy()) for rows in (base, new)
    )
    others = dict(processes_of(new))
    for key, at in processes_of(base):
        if key in others:
            to = others[key]
            yield _ratio_within(rounds[at], values[at], new_rounds[to], new_values[to]), key[0]


def _ratio_within(rounds: NDArray, base: NDArray, new_rounds: NDArray, new: NDArray) -> Estimate:
    if (base <= 0).any() or (new <= 0).any():
        return NOTHING
    order, new_order = (np.argsort(one, kind="stable") for one in (rounds, new_rounds))
    rounds, new_rounds = rounds[order], new_rounds[new_order]
    paired = np.array_equal(rounds, new_rounds) and bool((np.diff(rounds) != 0).all())
    return stats.ratio(base[order], new[new_order], paired=paired)


def ratio_of(base: pd.DataFrame, new: pd.DataFrame, column: str = "wall_s") -> Estimate:
    """Return base over new: neighbours in time within each process, then over the processes.

    For a speedup of times: the serial repetitions, then those with threads.
    """
    found = list(_ratios(base, new, column))
    return across([one for one, _ in found], [boot for _, boot in found], best="high", drift=RATIO_DRIFT)


def in_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the repetitions that enter an estimate: no warm-ups, no cold memory."""
    kept = rows[~rows["warmup"].astype(bool) & (rows["wall_s"] > 0)]
    return kept[~_has_flag(kept, "cold_memory")]


def _has_flag(rows: pd.DataFrame, flag: str) -> NDArray[np.bool_]:
    return np.array([flag in list(flags) for flags in rows["flags"]], dtype=bool)


def speedups(rows: pd.DataFrame) -> dict[int, Estimate]:
    """Return the speedup of each thread count above one over the serial call, for the rows of one case.

    Parameters
    ----------
    rows
        What `in_rates` returns.
    """
    base = serial(rows)
    several = rows[~rows["baseline"].astype(bool) & (rows["threads_requested"] > 1)]
    return {int(n): ratio_of(base, part) for n, part in several.groupby("threads_requested")}


def serial(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the repetitions of the serial call, without the second baseline."""
    return rows[rows["baseline"].astype(bool) & ~_has_flag(rows, "aa")]


def verdict(change: Estimate) -> Verdict:
    """Return what is known about a speedup.

    "faster" or "slower" if the interval over processes excludes 1, "same" if it lies inside `SAME`. All
    else is "undecided", and so is what a single process says.
    """
    if change.processes < 2 or not np.isfinite([change.low, change.high]).all():
        return "undecided"
    if change.low > 1:
        return "faster"
    if change.high < 1:
        return "slower"
    return "same" if change.low >= SAME[0] and change.high <= SAME[1] else "undecided"
