"""Beside which processes of a sweep neighbours probe, so that all of it keeps to the seconds of the grid.

Each path is probed at one size, in each pass but the first, which tells how long each size takes; so there is
an interval over processes. A process probes after it has measured its cell and written its records. Where
there is no time for all paths, later passes go on with those that have been probed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ktask import workloads
from ktask.lab import records
from ktask.lab.bystanders import BUDGET_S, store
from ktask.lab.measure import levels
from ktask.lab.sweep.cells import CellTask
from ktask.lab.sweep.grid import Grid, cell_id
from ktask.workloads import Case

LONG_ENOUGH_S = 0.005  # of a serial call: fifty samples; what is shorter has too few in each repetition
MODEL = "model"


def cases_to_probe(serial_s: Mapping[Case, float]) -> list[Case]:
    """Return one case of each path, given how long the serial calls take: the shortest that is long enough.

    Models and cases under a condition are left out; of cases that differ in their chunks or policy the first
    is taken.
    """
    paths: dict[tuple, dict[int, Case]] = {}
    for case in serial_s:
        if not case.is_conditioned and workloads.get(case.workload).method(case.method).backend != MODEL:
            path = case.workload, case.method, case.page_kind, case.options
            paths.setdefault(path, {}).setdefault(case.size_bytes, case)
    return [_shortest_of(found.values(), serial_s) for found in paths.values()]


def _shortest_of(cases: Iterable[Case], serial_s: Mapping[Case, float]) -> Case:
    by_time = sorted(cases, key=lambda case: serial_s[case])
    return next((case for case in by_time if serial_s[case] >= LONG_ENOUGH_S), by_time[-1])


class Probing:
    """The probing of one sweep into the run in `path`, which may have some of it already."""

    def __init__(self, grid: Grid, path: Path):
        self._path, self._grid = path, grid
        self._first = min(2, grid.passes)
        self._spent_s, self._longest_s, self._probed = 0.0, 0.0, set[str]()
        for file in (path / store.FOLDER).glob("*.parquet"):
            self._count(file)

    def _count(self, file: Path) -> None:
        rows = store.read(file)
        took_s = float(rows["took_s"].max())
        self._spent_s += took_s
        self._longest_s = max(self._longest_s, took_s)
        self._probed |= set(rows["cell_id"])

    @cached_property
    def _cases(self) -> list[Case]:
        """The cases to probe, as the records of the first pass tell; without any, as their sizes do."""
        files = {case: self._path / "records" / f"{cell_id(case)}.parquet" for case in self._grid.cases}
        serial_s = {case: _serial_s(file) for case, file in files.items() if file.exists()}
        return cases_to_probe(serial_s or {case: case.size_bytes / 1e10 for case in self._grid.cases})

    def asked(self, tasks: Iterable[CellTask]) -> Iterator[CellTask]:
        """Yield the tasks, those that are to probe with the seconds for it."""
        for task in tasks:
            number = task.pass_number - self._first + 1
            has_time = self._spent_s + self._longest_s <= number * self._pass_s
            is_due = task.case in self._cases and (number == 1 or cell_id(task.case) in self._probed)
            yield replace(task, bystanders=self._seconds if number > 0 and has_time and is_due else 0.0)

    @property
    def _pass_s(self) -> float:
        """Seconds of one pass that probes."""
        passes = self._grid.passes
        return self._grid.bystanders_s * passes / (passes - self._first + 1)

    @property
    def _seconds(self) -> float:
        """Seconds of each case in a pass."""
        return min(BUDGET_S, self._pass_s / len(self._cases))

    def update(self, task: CellTask) -> None:
        """Count what a process that is over has spent."""
        file = self._path / store.FOLDER / f"{task.name}.parquet"
        if task.bystanders and file.exists():
            self._count(file)


def _serial_s(file: Path) -> float:
    """Return how long the serial call of a process took, the median; 0 if it has none."""
    rows = levels.serial(levels.in_rates(records.read_records(file)))
    return float(rows["wall_s"].median()) if len(rows) else 0.0


def summary_of_probing(path: Path) -> str:
    """Return in words beside how many cells of a run neighbours probed; empty if beside none."""
    rows = store.load(path)
    seen = rows[rows["skipped"] == ""]
    if rows.empty:
        return ""
    took_s = rows.groupby(["cell_id", "pass"])["took_s"].max().sum()
    why = "" if len(seen) else f": {rows['skipped'].iloc[0]}"
    return f"bystanders of {seen['cell_id'].nunique()} cells ({took_s:.0f} s){why}"
