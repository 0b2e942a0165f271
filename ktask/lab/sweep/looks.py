"""Which processes of a sweep look why it is not more, so that all of it takes at most a quarter of the time.

A case is looked at once in a run, by a process that has measured it and written its records. Where there is
no time for it yet, the process of a later pass does it. What was not seen is tried again when the run is
resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ktask.lab import records
from ktask.lab.evidence import Evidence, store
from ktask.lab.sweep.cells import CellTask
from ktask.lab.sweep.grid import cell_id
from ktask.workloads import Case

SHARE = 0.25  # of the time of a sweep
FIRST_S = 2.0  # what the first look is taken to need
NO_TIME = (
    f"no time was left for it: looking may take {SHARE:.0%} of the time of a sweep; "
    "go on with --resume and more --passes"
)


def may_look(spent_s: float, elapsed_s: float, next_s: float, share: float = SHARE) -> bool:
    """Return whether all looks, with one more of `next_s`, take at most `share` of the time until then."""
    return spent_s + next_s <= share * (elapsed_s + next_s)


def cases_to_look_at(cases: Iterable[Case]) -> list[Case]:
    """Return the first of the cases that differ in their chunks or policy only; none under a condition."""
    first: dict[tuple, Case] = {}
    for case in (one for one in cases if not one.is_conditioned):
        alike = case.workload, case.method, case.page_kind, case.size_bytes, case.options
        first.setdefault(alike, case)
    return [*first.values()]


class Looks:
    """The looks of one sweep into the run in `path`.

    How much time they took is counted from here on: each sweep that goes on with a run keeps the rule for
    itself, so all of them together do.
    """

    def __init__(self, cases: Sequence[Case], path: Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock, self._begun = path, clock, clock()
        self._due = {case for case in cases_to_look_at(cases) if not self._is_seen(case)}
        self._spent_s, self._longest_s = 0.0, FIRST_S
        self._reasons: list[str | None] = []
        self._looked: set[Case] = set()

    def _file(self, case: Case) -> Path:
        return self._path / "evidence" / f"{cell_id(case)}.parquet"

    def _is_seen(self, case: Case) -> bool:
        file = self._file(case)
        return file.exists() and store.read(file)[1].skipped is None

    @property
    def hopeless(self) -> str | None:
        """Why this machine cannot look: two looks in a row ended for the same reason."""
        last = self._reasons[-2:]
        return last[0] if len(last) == 2 and last[0] == last[1] else None

    def asked(self, tasks: Iterable[CellTask]) -> Iterator[CellTask]:
        """Yield the tasks, and have those look that are due and for which there is time."""
        for task in tasks:
            has_time = may_look(self._spent_s, self._clock() - self._begun, self._longest_s)
            yield replace(task, evidence=task.case in self._due and has_time and not self.hopeless)

    def update(self, task: CellTask) -> None:
        """Count what a process that is over has spent on its look."""
        if not (task.evidence and self._file(task.case).exists()):
            return
        seen = store.read(self._file(task.case))[1]
        if not seen.is_unlike or task.case in self._looked:  # what was not like the timed ones gets one more
            self._due.discard(task.case)
        self._looked.add(task.case)
        self._spent_s += seen.took_s
        self._longest_s = max(self._longest_s, seen.took_s)
        self._reasons.append(seen.skipped if seen.is_of_machine else None)

    def finish(self) -> None:
        """Keep why cases that have records were not looked at."""
        for case in self._due:
            file = self._path / "records" / f"{cell_id(case)}.parquet"
            if file.exists() and not self._file(case).exists():
                rows = records.read_records(file).to_dict("records")
                labels = {name: rows[0][name] for name in ("run_id", "host_id", "cell_id")}
                evidence = Evidence(skipped=self.hopeless or NO_TIME)
                store.save(self._path / "evidence", store.key_of(rows), evidence, labels)


def summary_of_looks(path: Path) -> str:
    """Return in words how many cases of a run were looked at and why others were not; empty if none."""
    found = [*store.load(path).values()]
    seen = [one for one in found if one.skipped is None]
    took = f"evidence on {len(seen)} of {len(found)} cases ({sum(one.took_s for one in found):.0f} s)"
    why = next((f", else: {one.skipped}" for one in found if one.skipped), "")
    return took + why if found else ""
