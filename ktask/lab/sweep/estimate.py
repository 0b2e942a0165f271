"""What a sweep would take: time and memory of each cell, before anything is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ktask import workloads
from ktask.common.resources import SAMPLE
from ktask.host import perf
from ktask.lab.measure.threads import CLOSE
from ktask.lab.records import load_run, unconditioned
from ktask.lab.sweep.cells import why_not
from ktask.lab.sweep.grid import Grid, cell_id
from ktask.lab.sweep.looks import SHARE, processes_due
from ktask.lab.sweep.passes import refines
from ktask.workloads import Case

# Of a cell, beside its repetitions: its process, its figure, its files (37 cells measured: 0.36 to 2.9 s,
# half of them below 0.5).
START_S = 0.65
LOOK_S = 0.7  # of a process at its case, by all ways to run it
# A process with numba, pandas and matplotlib, and the one that runs the sweep.
PROCESS_BYTES = 500 << 20
WARM_UPS = 4  # serial repetitions until two are alike, and one of each other variant
UNKNOWN_S_PER_GIB = 0.5  # for work that no earlier run has done
GAIN = 2  # what several threads are taken to gain: more on some paths, less than nothing on others
ADDED = 2  # thread counts that a pass adds to a cell at most, around its knee


@dataclass(frozen=True)
class CellEstimate:
    """What one cell would take.

    Attributes
    ----------
    time_s
        Seconds of all passes, at about the middle of what to expect.
    memory_bytes
        General memory, the process included; hugetlb pages come from their pools.
    skipped
        Why this machine would not measure it now, or None.
    """

    case: Case
    time_s: float
    memory_bytes: int
    skipped: str | None


def estimate_sweep(grid: Grid, runs: Sequence[Path] = ()) -> list[CellEstimate]:
    """Return what each cell of a grid would take, in the order of the grid; measures nothing.

    Parameters
    ----------
    grid
        From `ktask.lab.sweep.grid.load_grid`.
    runs
        Earlier runs, whose records tell how long a repetition takes with all that is around it; without any,
        the sample run that comes with the project.
    """
    known = _known_repetitions(runs) if runs else _known_of_sample()
    return [_estimate(case, grid, known) for case in grid.cases]


def _estimate(case: Case, grid: Grid, known: pd.DataFrame) -> CellEstimate:
    reason = why_not(case)
    need = workloads.get(case.workload).memory_need(case) + PROCESS_BYTES
    passes = range(1, grid.passes + 1)
    times = _times(case, known)
    time_s = 0.0 if reason else sum(_process_s(case, grid, number, times) for number in passes)
    return CellEstimate(case, time_s, need, reason)


class _Times(NamedTuple):
    """Seconds of a repetition: of the work by one thread, and of what comes before and after it."""

    work_s: float
    around_s: float

    def at(self, threads: int) -> float:
        """Return the seconds of a repetition with some threads."""
        return self.around_s + self.work_s / min(threads, GAIN)


def _process_s(case: Case, grid: Grid, number: int, times: _Times) -> float:
    """Return the seconds of a cell in a pass: its warm-ups, then rounds until the protocol has enough."""
    protocol, counts = grid.protocol, _counts(case, grid, number)
    one_s = times.at(1)
    several_s = sum(map(times.at, counts)) + one_s * bool(counts)  # one thread in chunks
    round_s = 2 * one_s + several_s
    rounds = np.clip(protocol.budget_s // round_s, protocol.least, protocol.most)
    warm_up_s = min(WARM_UPS * one_s, protocol.warmup_s + one_s) + several_s
    return float(START_S + min(warm_up_s + rounds * round_s, grid.limit_s))


def _counts(case: Case, grid: Grid, number: int) -> list[int]:
    """Return the thread counts above one of a cell in a pass, with as many more as may have been added."""
    most = -(-case.size_bytes // max(case.min_chunk_bytes, case.page_size))
    counts = sorted({min(n, most) for n in grid.threads if n > 1})
    has_room = any(high >= CLOSE**2 * low and high > 2 for low, high in pairwise([1, *counts]))
    added = ADDED * has_room * sum(refines(grid, earlier) for earlier in range(1, number + 1))
    return counts + counts[-1:] * added


def _times(case: Case, known: pd.DataFrame) -> _Times:
    """Return the times of one repetition, from the nearest size known."""
    for keys in (("workload", "method", "page_kind"), ("workload", "page_kind"), ("workload",)):
        alike = known
        for key in keys:
            alike = alike[alike[key] == getattr(case, key)]
        if len(alike):
            distance = np.abs(np.log(alike["size_bytes"] / case.size_bytes)).to_numpy()
            nearest = alike.iloc[int(distance.argmin())]
            scale = max(1.0, case.size_bytes / nearest["size_bytes"])
            return _Times(float(nearest["work_s"] * scale), float(nearest["around_s"] * scale))
    return _Times(UNKNOWN_S_PER_GIB * case.size_bytes / (1 << 30), 0.0)


@lru_cache(maxsize=1)
def _known_of_sample() -> pd.DataFrame:
    return _known_repetitions([SAMPLE])


_CELL = ["cell_id", "workload", "method", "page_kind", "size_bytes"]


def _known_repetitions(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the times of a repetition of every cell that was ever measured."""
    found = [pd.DataFrame(columns=[*_CELL, *_Times._fields])]
    for run in runs:
        with contextlib.suppress(ValueError, OSError):  # an estimate does without
            found.append(_times_of(unconditioned(load_run(run)).records))
    return pd.concat([table for table in found if len(table)] or found, ignore_index=True)


def _times_of(records: pd.DataFrame) -> pd.DataFrame:
    """Return the medians over each cell: of the serial work, and of the time between two pieces of work."""
    rows = records.sort_values("started_at")
    work_s = rows["wall_s"] * rows["calls"].fillna(1)
    processes = [rows["cell_id"], rows["pass"]]
    gaps_s = rows["started_at"].groupby(processes).diff().dt.total_seconds()
    around_s = (gaps_s - work_s.groupby(processes).shift()).clip(lower=0)
    serial_s = work_s.where(rows["threads"] == 1)
    medians = rows.assign(work_s=serial_s, around_s=around_s).groupby(_CELL)[[*_Times._fields]].median()
    return medians.dropna()[lambda table: table["work_s"] > 0].reset_index()


def evidence_s(grid: Grid, cells: Sequence[CellEstimate]) -> float:
    """Return the seconds for looking at what can be measured: a share of all the time at most."""
    if grid.threads[-1] == 1 or perf.why_not():
        return 0.0
    measured = [cell.case for cell in cells if cell.skipped is None]
    most_s = sum(cell.time_s for cell in cells) * SHARE / (1 - SHARE)
    n_looks = sum(min(n, grid.passes) for n in processes_due(measured).values())
    return min(most_s, LOOK_S * n_looks)


def to_json(
    grid: Grid, cells: Sequence[CellEstimate], evidence: bool = False, bystanders: bool = False
) -> dict[str, Any]:
    """Return an estimate ready for JSON, perhaps with what it takes to look at each case and to probe."""
    measured = [cell for cell in cells if cell.skipped is None]
    looks_s = evidence_s(grid, cells) if evidence else 0.0
    probing_s = grid.bystanders_s * grid.passes if bystanders and measured and grid.threads[-1] > 1 else 0.0
    return {
        "grid": grid.name,
        "time_s": sum(cell.time_s for cell in cells) + looks_s + probing_s,
        "evidence_s": looks_s,
        "bystanders_s": probing_s,
        "memory_bytes": max((cell.memory_bytes for cell in measured), default=0),
        "cells": [
            {"cell_id": cell_id(cell.case)}
            | {name: getattr(cell, name) for name in ("time_s", "memory_bytes", "skipped")}
            for cell in cells
        ],
    }
