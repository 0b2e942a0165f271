"""What a task costs in all: CPU seconds and joules against threads, and what a saved second is paid with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ktask.engine.task import CPU_TIME_FROM_S
from ktask.host import energy
from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.mean import over_processes
from ktask.lab.measure import levels, stats
from ktask.lab.measure.levels import PROCESS
from ktask.lab.measure.stats import Estimate

CASE = ["workload", "backend", "method", "page_kind", "options", "policy", "size_bytes", "min_chunk_size"]
LEAST_CPU_SHARE = 0.3  # of its wall time; below, other processes do the work of a serial call
ENDS = ("", "_low", "_high")


def total_costs(records: pd.DataFrame) -> pd.DataFrame:
    """Return what each case costs with each number of threads, over the processes that measured it.

    Cases whose CPU time is not known, or is that of other processes, are left out.

    Returns
    -------
    pandas.DataFrame
        One row per case and thread count above one (`CASE`, `threads`, `processes`). With `_low` and `_high`:
        `serial_cpu_s` and `cpu_s`, CPU seconds of one repetition; `saved_s`, wall seconds that the threads
        save; `paid_s`, CPU seconds that they take more; and `price`, paid over saved: CPU seconds for each
        second of wall time. Where nothing is saved there is no price (NaN).
    """
    rows = levels.in_rates(records)
    rows = rows[~_is_second_baseline(rows)].assign(cpu_s=rows["cpu_user_s"] + rows["cpu_system_s"])
    found = [row for key, case in rows.groupby(CASE, sort=False) for row in _of_case(key, case)]
    return pd.DataFrame(found, columns=COLUMNS)


QUANTITIES = ("serial_cpu_s", "cpu_s", "saved_s", "paid_s", "price")
COLUMNS = [*CASE, "threads", "processes", *(f"{name}{end}" for name in QUANTITIES for end in ENDS)]


def _is_second_baseline(rows: pd.DataFrame) -> np.ndarray:
    return np.array(["aa" in list(flags) for flags in rows["flags"]], dtype=bool)


def _of_case(key: tuple, case: pd.DataFrame) -> list[dict[str, Any]]:
    medians = case.groupby([*PROCESS, "baseline", "threads"])[["wall_s", "cpu_s"]].median()
    serial = _part(medians, True, 1)
    if serial.empty or not _has_cpu_time(serial):
        return []
    counts = sorted(set(case.loc[~case["baseline"].astype(bool) & (case["threads"] > 1), "threads"]))
    return [
        dict(zip(CASE, key, strict=True)) | {"threads": int(n)} | _row(serial, part)
        for n in counts
        if _has_cpu_time(part := _part(medians, False, n))
    ]


def _part(medians: pd.DataFrame, baseline: bool, threads: int) -> pd.DataFrame:
    """Return the medians of each process for one way to run a case."""
    index = medians.index
    wanted = (index.get_level_values("baseline") == baseline) & (index.get_level_values("threads") == threads)
    return medians[wanted].droplevel(["baseline", "threads"])


def _has_cpu_time(part: pd.DataFrame) -> bool:
    known = part["cpu_s"] > LEAST_CPU_SHARE * part["wall_s"]
    return bool(known.all() and part["wall_s"].median() > 1.5 * CPU_TIME_FROM_S)


def _row(serial: pd.DataFrame, several: pd.DataFrame) -> dict[str, Any]:
    both = serial.add_suffix("_serial").join(several.add_suffix("_threads"), how="inner")
    saved_s = both["wall_s_serial"] - both["wall_s_threads"]
    paid_s = both["cpu_s_threads"] - both["cpu_s_serial"]
    saved = _over(saved_s)
    # Of single processes that save next to nothing a price is anything: there is one only if all save.
    price = _over(paid_s / saved_s) if (saved_s > 0).all() else stats.NOTHING
    estimates = _over(both["cpu_s_serial"]), _over(both["cpu_s_threads"]), saved, _over(paid_s), price
    found: dict[str, Any] = {"processes": len(both)}
    for name, one in zip(QUANTITIES, estimates, strict=True):
        ends = zip(ENDS, (one.median, one.low, one.high), strict=True)
        found |= {f"{name}{end}": value for end, value in ends}
    return found


def _over(values: pd.Series) -> Estimate:
    """Return the estimate over processes of one number each, which may be below zero."""
    each = [Estimate(value, np.nan, np.nan, value, 1) for value in values]
    return levels.across(each, [boot for boot, _ in values.index], scale="linear", drift=levels.RATIO_DRIFT)


def threads_for(price: float, costs: pd.DataFrame) -> pd.DataFrame:
    """Return how many threads to use if a saved second of wall time is worth `price` CPU seconds.

    Returns
    -------
    pandas.DataFrame
        One row per case: `threads`, 1 where no number is worth its price, and `gain_s`, CPU seconds that the
        saved time is worth beyond what it was paid with.
    """
    if not price >= 0:
        raise ValueError(f"price={price} is not allowed; use 0 or more CPU seconds for a second")
    worth = costs.assign(gain_s=price * costs["saved_s"] - costs["paid_s"])
    rows = []
    for key, part in worth.groupby(CASE, sort=False):
        best = part.sort_values(["gain_s", "threads"], ascending=[False, True]).iloc[0]
        pays = best["gain_s"] > 0
        chosen = {"threads": int(best["threads"]) if pays else 1, "gain_s": best["gain_s"] if pays else 0.0}
        rows.append(dict(zip(CASE, key, strict=True)) | chosen)
    return pd.DataFrame(rows, columns=[*CASE, "threads", "gain_s"])


def energy_table(found: Mapping[Any, Evidence]) -> pd.DataFrame:
    """Return joules of one repetition, of the whole package, by case of the evidence; empty without counters.

    Columns: those of the case, `threads`, `serial_j` and `threads_j`, and the latter over the former, `ratio`
    with `_low` and `_high`, from `n` processes that looked.
    """
    rows = []
    for key, one in found.items():
        joules = _joules(one.serial), _joules(one.many)
        if all(joules):
            ratio = over_processes(one, lambda each: _joules(each.many) / _joules(each.serial))
            row = {"serial_j": joules[0], "threads_j": joules[1], "n": ratio.n, "processes": ratio.processes}
            ends = {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            rows.append(key._asdict() | row | ends)
    return pd.DataFrame(rows)


def _joules(look: Look | None) -> float:
    counters = look.counters if look else {}
    return sum(value for name, value in counters.items() if name.startswith(energy.PREFIX))
