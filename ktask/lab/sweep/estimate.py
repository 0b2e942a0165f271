"""What a sweep would take: time and memory of each cell, before anything is measured."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ktask import workloads
from ktask.common.resources import SAMPLE
from ktask.lab.measure.measurement import variants
from ktask.lab.records import load_run
from ktask.lab.sweep.cells import why_not
from ktask.lab.sweep.grid import Grid, cell_id
from ktask.workloads import Case

# Of a cell, beside its repetitions: its process, its figure, its files (37 cells measured: 0.36 to 2.9 s,
# half of them below 0.5).
START_S = 0.65
# A process with numba, pandas and matplotlib, and the one that runs the sweep.
PROCESS_BYTES = 500 << 20
WARM_UPS = 4  # serial repetitions until two are alike, and one of each other variant
UNKNOWN_S_PER_GIB = 0.5  # for work that no earlier run has done


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
    known = _known_repetitions(runs or [SAMPLE])
    return [_estimate(case, grid, known) for case in grid.cases]


def _estimate(case: Case, grid: Grid, known: pd.DataFrame) -> CellEstimate:
    reason = why_not(case)
    need = workloads.get(case.workload).memory_need(case) + PROCESS_BYTES
    time_s = 0.0 if reason else grid.passes * _cell_s(case, grid, known)
    return CellEstimate(case, time_s, need, reason)


def _cell_s(case: Case, grid: Grid, known: pd.DataFrame) -> float:
    """Return the seconds of a cell: its warm-ups, then rounds until the protocol has enough."""
    protocol, n_variants = grid.protocol, len(variants(grid.threads))
    n_variants += n_variants > 2  # one thread in chunks
    repetition_s = _repetition_s(case, known)
    round_s = n_variants * repetition_s
    rounds = np.clip(protocol.budget_s // round_s, protocol.least, protocol.most)
    warm_up_s = (
        min(WARM_UPS * repetition_s, protocol.warmup_s + repetition_s) + (n_variants - 2) * repetition_s
    )
    return float(min(START_S + warm_up_s + rounds * round_s, START_S + grid.limit_s))


def _repetition_s(case: Case, known: pd.DataFrame) -> float:
    """Return the seconds of one repetition with what comes before and after, from the nearest size known."""
    for keys in (("workload", "method", "page_kind"), ("workload", "page_kind"), ("workload",)):
        alike = known
        for key in keys:
            alike = alike[alike[key] == getattr(case, key)]
        if len(alike):
            distance = np.abs(np.log(alike["size_bytes"] / case.size_bytes)).to_numpy()
            nearest = alike.iloc[int(distance.argmin())]
            scale = max(1.0, case.size_bytes / nearest["size_bytes"])
            return float(nearest["repetition_s"] * scale)
    return UNKNOWN_S_PER_GIB * case.size_bytes / (1 << 30)


def _known_repetitions(runs: Sequence[Path]) -> pd.DataFrame:
    """Return the median time from one start to the next of every cell that was ever measured."""
    cell = ["cell_id", "workload", "method", "page_kind", "size_bytes"]
    found = [pd.DataFrame(columns=[*cell, "repetition_s"])]
    for run in runs:
        with contextlib.suppress(ValueError, OSError):  # an estimate does without
            records = load_run(run).records.sort_values("started_at")
            gaps = records.groupby(["cell_id", "pass"])["started_at"].diff().dt.total_seconds()
            medians = records.assign(repetition_s=gaps).groupby(cell)["repetition_s"].median()
            found.append(medians[medians > 0].reset_index())
    return pd.concat([table for table in found if len(table)] or found, ignore_index=True)


def to_json(grid: Grid, cells: Sequence[CellEstimate]) -> dict[str, Any]:
    """Return an estimate ready for JSON."""
    measured = [cell for cell in cells if cell.skipped is None]
    return {
        "grid": grid.name,
        "time_s": sum(cell.time_s for cell in cells),
        "memory_bytes": max((cell.memory_bytes for cell in measured), default=0),
        "cells": [
            {"cell_id": cell_id(cell.case)}
            | {name: getattr(cell, name) for name in ("time_s", "memory_bytes", "skipped")}
            for cell in cells
        ],
    }
