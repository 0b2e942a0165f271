"""What is noticed about the repetitions of a cell once they are there, and what flagged ones do to a result.

A flag marks; only `cold_memory` keeps a repetition out of the rates, because such a time measures the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ktask.host.counters import MEANINGS
from ktask.lab.measure import stats

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

# Memory that the host has taken away comes back so slowly that one cold huge page among many shows in the
# time of all. A repetition is called cold if both its wall time and its CPU time exceed those of the warm
# ones of its variant by this factor, where that can happen: on a virtual machine, in a path that allocates.
# Warm is the fastest quarter of the times, or the best and a quarter more if most were cold. A lower factor
# flags hugetlb pages, which no host takes away: their times just spread. A repetition that only lost its CPU
# for a while has the wall time, not the CPU time.
COLD_FACTOR = 2.0
WARM_SHARE = 0.25
WARM_SPREAD = 1.25

# Iglewicz and Hoaglin (1993): farther than 3.5 robust standard deviations from the median, here of the
# logarithm. A spread below 1 % is taken for 1 %: a clock tick must not make an outlier.
OUTLIER_DEVIATIONS = 3.5
LEAST_DEVIATION = 0.01
ROUNDING = 1e-9  # of floating point: twice as fast is no more than twice

ABOVE_THREADS = (
    "more than the number of threads: either the serial call started from a worse state (who filled the "
    "memory?), or the work fits the caches of several CPUs and not those of one"
)


def mark(rows: Sequence[Row], flag: str, marked: Iterable[bool]) -> None:
    """Set or remove `flag` on each of `rows`."""
    for row, is_marked in zip(rows, marked, strict=True):
        row["flags"] = [one for one in row["flags"] if one != flag] + [flag] * bool(is_marked)


def mark_all(rows: Sequence[Row], may_be_cold: bool, sample_s: float) -> None:
    """Set the flags of a cell that is over."""
    if may_be_cold:
        mark_cold(rows)
    mark_outliers(rows)
    mark_short(rows, sample_s)


def by_variant(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each thread count, both baselines together, and apart from one thread in chunks."""
    variants: dict[tuple[int, bool], list[Row]] = {}
    for row in rows:
        variants.setdefault((row["threads_requested"], row["baseline"]), []).append(row)
    return list(variants.values())


def mark_cold(rows: Sequence[Row]) -> None:
    """Flag the repetitions that ran on memory which the host had to bring back first."""
    for variant in by_variant(rows):
        walls = np.array([row["wall_s"] for row in variant])
        cpus = np.array([row["cpu_user_s"] + row["cpu_system_s"] for row in variant])
        mark(variant, "cold_memory", are_cold(walls, cpus))


def mark_cold_over_processes(records: pd.DataFrame) -> pd.DataFrame:
    """Return records with `cold_memory` also on what is cold beside the other processes of its cell.

    A process whose every repetition was cold looks warm to itself.

    Parameters
    ----------
    records
        Of a virtual machine, as they were written.
    """
    is_cold = np.zeros(len(records), dtype=bool)
    for (workload, method, *_), part in records.groupby([*_CELL, *_VARIANT], sort=False):
        if part["pass"].nunique() > 1 and _allocates(workload, method):
            cpus = (part["cpu_user_s"] + part["cpu_system_s"]).to_numpy()
            is_cold[records.index.get_indexer(part.index)] = are_cold(part["wall_s"].to_numpy(), cpus)
    flags = [[*row] for row in records["flags"]]
    for at in np.flatnonzero(is_cold):
        flags[at] = [*dict.fromkeys([*flags[at], "cold_memory"])]
    return records.assign(flags=flags)


_CELL, _VARIANT = ["workload", "method", "host_id", "cell_id"], ["threads_requested", "baseline"]


def _allocates(workload: str, method: str) -> bool:
    from ktask import workloads  # noqa: PLC0415  (half a second, and a run of one pass does without)

    try:
        return workloads.get(workload).method(method).allocates
    except ValueError:  # of another version
        return False


def are_cold(walls: np.ndarray, cpus: np.ndarray) -> np.ndarray:
    """Return which repetitions of one kind took far more wall time and CPU time than the fast ones."""
    cpus = np.nan_to_num(cpus)  # unknown for those that are too short for the clocks of threads
    return (walls > COLD_FACTOR * _warm(walls)) & (cpus > COLD_FACTOR * _warm(cpus))


def _warm(times: np.ndarray) -> float:
    best = times.min()
    return float(min(np.quantile(times, WARM_SHARE), WARM_SPREAD * best))


def mark_outliers(rows: Sequence[Row]) -> None:
    """Flag what is far from the others of its variant; it stays in every estimate."""
    for variant in by_variant(rows):
        kept = [row for row in variant if not row["warmup"] and "cold_memory" not in row["flags"]]
        if len(kept) < stats.ENOUGH:
            continue
        logs = np.log([row["wall_s"] for row in kept])
        distances = np.abs(logs - np.median(logs))
        deviation = max(1.4826 * np.median(distances), LEAST_DEVIATION)
        mark(kept, "outlier", distances > OUTLIER_DEVIATIONS * deviation)


def mark_short(rows: Sequence[Row], sample_s: float) -> None:
    """Flag the repetitions that even many calls did not bring to half of the time a sample should take."""
    mark(rows, "short", (not row["warmup"] and row["calls"] * row["wall_s"] < sample_s / 2 for row in rows))


def superlinear(speedup_low: float, threads: int) -> bool:
    """Return whether a speedup lies above the number of threads with its whole interval.

    More threads do not make work less. So the two sides started from different states, or the threads have
    caches that one thread has not. Such a speedup carries the flag `above_threads` in the JSON of `ktask
    run`, and whoever prints it says why beside it: `ABOVE_THREADS` has the words.

    Parameters
    ----------
    speedup_low
        Lower end of the interval of a speedup; NaN, without an interval, is never above.
    threads
        How many threads it was reached with.
    """
    return threads > 1 and speedup_low > threads * (1 + ROUNDING)


def flag_effects(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row per workload and flag: how many repetitions carry it, and what they did to the result.

    Parameters
    ----------
    records
        As `ktask.lab.records.load_run` returns them.

    Returns
    -------
    pandas.DataFrame
        `workload`, `flag`, `meaning`, `repetitions` and `of` (how many the workload has, warm-ups apart),
        `slower`, `slower_low`, `slower_high`: geometric mean, over the variants that have both kinds, of the
        median time of flagged repetitions over that of unflagged ones, and the smallest and largest of them;
        NaN where no variant has both. `shift`: the largest factor by which leaving the flagged ones out (for
        `cold_memory`: putting them in) would change a variant's median, as a factor minus one.
    """
    import pandas as pd  # noqa: PLC0415  (not needed to measure)

    rows = records[~records["warmup"].astype(bool) & (records["wall_s"] > 0)].dropna(subset=["flags"])
    effects = [
        {"workload": workload, "flag": flag, "meaning": MEANINGS.get(flag, ""), **_effect(part, flag)}
        for workload, part in rows.groupby("workload", sort=False)
        for flag in sorted({flag for flags in part["flags"] for flag in flags} - {"aa"})
    ]
    factors = ["slower", "slower_low", "slower_high", "shift"]
    return pd.DataFrame(effects, columns=["workload", "flag", "meaning", "repetitions", "of", *factors])


def _effect(rows: pd.DataFrame, flag: str) -> dict[str, Any]:
    has = rows["flags"].map(lambda flags: flag in list(flags)).astype(bool)
    factors, shifts = [], []
    for _, variant in rows.groupby(["cell_id", "threads_requested", "baseline"], sort=False):
        marked = variant.loc[has[variant.index], "wall_s"]
        others = variant.loc[~has[variant.index], "wall_s"]
        if len(marked) and len(others):
            factors.append(np.log(marked.median() / others.median()))
            shifts.append(abs(np.log(variant["wall_s"].median() / others.median())))
    known = bool(factors)
    return {
        "repetitions": int(has.sum()),
        "of": len(rows),
        "slower": float(np.exp(np.mean(factors))) if known else np.nan,
        "slower_low": float(np.exp(min(factors))) if known else np.nan,
        "slower_high": float(np.exp(max(factors))) if known else np.nan,
        "shift": float(np.expm1(max(shifts))) if known else np.nan,
    }
