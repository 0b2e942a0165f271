"""Which processes of a sweep look why it is not more, so that all of it takes at most a quarter of the time.

A process looks after it has measured its case and written its records. The largest size of each path, which
the tables are about, is looked at in up to five passes, so that there is an interval over processes; other
sizes in one. Where there is no time for a case yet, a later pass does it, and those that were looked at most
wait for the others. What was not seen is tried again when the run is resumed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

from ktask.lab import records
from ktask.lab.evidence import Evidence, store
from ktask.lab.sweep.cells import CellTask
from ktask.lab.sweep.grid import cell_id
from ktask.workloads import Case

SHARE = 0.25  # of the time of a sweep
FIRST_S = 2.0  # what the first look is taken to need
MOST_PROCESSES = 5  # that look at the largest size of a path
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
        first.setdefault((*_path(case), case.size_bytes), case)
    return [*first.values()]


def processes_due(cases: Iterable[Case]) -> dict[Case, int]:
    """Return how many processes are to look at each of the cases."""
    found = cases_to_look_at(cases)
    largest: dict[tuple, int] = {}
    for case in found:
        largest[_path(case)] = max(case.size_bytes, largest.get(_path(case), 0))
    return {case: MOST_PROCESSES if case.size_bytes == largest[_path(case)] else 1 for case in found}


def _path(case: Case) -> tuple:
    return case.workload, case.method, case.page_kind, case.options


class Looks:
    """The looks of one sweep into the run in `path`.

    How much time they took is counted from here on: each sweep that goes on with a run keeps the rule for
    itself, so all of them together do.
    """

    def __init__(self, cases: Sequence[Case], path: Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock, self._begun = path, clock, clock()
        self._wanted = processes_due(cases)
        self._looks = Counter({case: self._n_seen(case) for case in self._wanted})
        self._unlike: set[Case] = set()
        self._spent_s, self._longest_s = 0.0, FIRST_S
        self._reasons: list[str | None] = []

    def _files(self, case: Case) -> list[Path]:
        """Return the files of all processes that looked at a case or could not."""
        folder, name = self._path / "evidence", cell_id(case)
        return [*folder.glob(f"{escape(name)}.parquet"), *folder.glob(f"{escape(name)}.pass*.parquet")]

    def _n_seen(self, case: Case) -> int:
        return sum(store.read(file)[1].skipped is None for file in self._files(case))

    @property
    def hopeless(self) -> str | None:
        """Why this machine cannot look: two looks in a row ended for the same reason."""
        last = self._reasons[-2:]
        return last[0] if len(last) == 2 and last[0] == last[1] else None

    def _is_due(self, case: Case) -> bool:
        """Return whether a case lacks a look, and no other is far behind it."""
        due = [one for one, n in self._wanted.items() if self._looks[one] < n]
        return case in due and self._looks[case] <= min(self._looks[one] for one in due) + 1

    def asked(self, tasks: Iterable[CellTask]) -> Iterator[CellTask]:
        """Yield the tasks, and have those look that are due and for which there is time."""
        for task in tasks:
            has_time = may_look(self._spent_s, self._clock() - self._begun, self._longest_s)
            yield replace(task, evidence=has_time and self._is_due(task.case) and not self.hopeless)

    def update(self, task: CellTask) -> None:
        """Count what a process that is over has spent on its look."""
        file = self._path / "evidence" / store.file_name(cell_id(task.case), task.pass_number)
        if not (task.evidence and file.exists()):
            return
        seen = store.read(file)[1]
        if not seen.is_unlike or task.case in self._unlike:  # what was not like the timed ones gets one more
            self._looks[task.case] += 1
        if seen.is_unlike:
            self._unlike.add(task.case)
        elif seen.skipped and not seen.is_of_machine:
            self._wanted[task.case] = 0
        self._spent_s += seen.took_s
        self._longest_s = max(self._longest_s, seen.took_s)
        self._reasons.append(seen.skipped if seen.is_of_machine else None)

    def finish(self) -> None:
        """Keep why cases that have records were not looked at."""
        for case in self._wanted:
            file = self._path / "records" / f"{cell_id(case)}.parquet"
            if file.exists() and not self._files(case):
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
