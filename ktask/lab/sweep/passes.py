"""The passes of a sweep: which process is next, and where the time of a pass goes.

Each pass measures every cell once, in a fresh process and in another random order, so that the processes of a
cell are spread over the whole sweep. All cells have the same number of processes; what later passes shift is
the rounds within a process, from cells whose every speedup is decided to those where it is not. On a machine
with many CPUs the first pass measures few thread counts, and the ones that follow add some around the knee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ktask.lab import records, run_files
from ktask.lab.measure import levels
from ktask.lab.measure.measurement import Protocol
from ktask.lab.measure.threads import around_knee
from ktask.lab.sweep.cells import CellTask, is_done, process_name
from ktask.lab.sweep.grid import Grid
from ktask.workloads import Case

DECIDED_AFTER = 2  # passes before which no time is shifted: two processes may agree by chance
MOST_TIMES_BUDGET = 2.0


def tasks_to_do(path: Path, grid: Grid) -> Iterator[CellTask]:
    """Yield what the run in `path` still lacks, pass by pass, in the order of measuring.

    What later passes measure depends on the records of earlier ones, so take one task at a time.
    """
    host_id = run_files.read_machine(path).get("host_id", "")
    for number in range(1, grid.passes + 1):
        cases = [case for case in in_random_order(grid, number) if not is_done(case, number, path)]
        protocols = _protocols(path, grid, number) if cases else {}
        for case in cases:
            counts = thread_counts(case, number, path, grid)
            rules = protocols[case], path.name, host_id, grid.limit_s, number, grid.cpus
            yield CellTask(case, counts, *rules)


def refines(grid: Grid, number: int) -> bool:
    """Return whether a pass adds thread counts: those added late would have too few processes."""
    return grid.refined and 1 < number <= (grid.passes + 1) // 2


def thread_counts(case: Case, number: int, path: Path, grid: Grid) -> tuple[int, ...]:
    """Return the thread counts of a cell in a pass: those measured before, perhaps some around its knee."""
    rows = _rows_of(case, number - 1, path) if grid.refined else None
    if rows is None:
        return grid.threads
    found = {n: one.median for n, one in levels.speedups(rows).items()}
    added = around_knee(found) if refines(grid, number) else ()
    return tuple(sorted({*grid.threads, *found, *added}))


def in_random_order(grid: Grid, pass_number: int = 1) -> list[Case]:
    """Return the cells in the order of a pass: shuffled by the seed, so that no size is always last."""
    order = np.random.default_rng(grid.seed + pass_number - 1).permutation(len(grid.cases))
    return [grid.cases[k] for k in order]


def _protocols(path: Path, grid: Grid, number: int) -> dict[Case, Protocol]:
    """Return how often each cell is measured in a pass.

    Decided cells take the least rounds; their budget goes to the others, who get at most
    `MOST_TIMES_BUDGET` of it.
    """
    usual = replace(grid.protocol, seed=grid.seed + number - 1)
    if number <= DECIDED_AFTER:
        return dict.fromkeys(grid.cases, usual)
    decided = {case for case in grid.cases if is_decided(case, number - 1, path)}
    times = min(MOST_TIMES_BUDGET, len(grid.cases) / max(1, len(grid.cases) - len(decided)))
    brief, long = replace(usual, most=usual.least), replace(usual, budget_s=usual.budget_s * times)
    return {case: brief if case in decided else long for case in grid.cases}


def is_decided(case: Case, passes: int, path: Path) -> bool:
    """Return whether the first passes decide what each thread count does to a cell."""
    rows = _rows_of(case, passes, path)
    found = {} if rows is None else levels.speedups(rows)
    return bool(found) and all(levels.verdict(one) != "undecided" for one in found.values())


def _rows_of(case: Case, passes: int, path: Path) -> pd.DataFrame | None:
    """Return the repetitions of a cell in the first passes that enter an estimate, None without records."""
    files = [path / f"records/{process_name(case, number)}.parquet" for number in range(1, passes + 1)]
    frames = [records.read_records(file) for file in files if file.exists()]
    return levels.in_rates(pd.concat(frames, ignore_index=True)) if frames else None
