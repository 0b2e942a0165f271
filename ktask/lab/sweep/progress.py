"""The progress bar of a sweep: pass, cells, time left, and how many cells are decided."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ktask.lab.sweep.cells import CellTask, is_done
from ktask.lab.sweep.grid import Grid, cell_id
from ktask.lab.sweep.passes import is_decided
from ktask.workloads import Case

FORM = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} cells, {elapsed}, {remaining} left{postfix}"


class Progress:
    """A bar on stderr for the block, one step per process; `quiet` shows none."""

    def __init__(self, grid: Grid, path: Path, quiet: bool, title: str):
        from tqdm import tqdm  # noqa: PLC0415  (not needed without a sweep)

        self._grid, self._path, self._title = grid, path, title
        self._decided: set[Case] = set()
        total = len(grid.cases) * grid.passes
        look = {"desc": title, "file": sys.stderr, "bar_format": FORM, "disable": quiet}
        self._bar = tqdm(total=total, initial=self._done(), **look)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def announced(self, tasks: Iterable[CellTask]) -> Iterator[CellTask]:
        """Yield the tasks, and show the pass and the name of the one that was taken last."""
        for task in tasks:
            if self._grid.passes > 1:
                self._bar.set_description_str(
                    f"{self._title}, pass {task.pass_number} of {self._grid.passes}"
                )
            more = ["evidence"] * task.evidence + ["bystanders"] * bool(task.bystanders)
            looks = f" with {' and '.join(more)}" if more else ""
            self._bar.set_postfix_str(f"{self._known(task.pass_number)}{cell_id(task.case)}{looks}")
            yield task

    def _known(self, pass_number: int) -> str:
        cells = len(self._grid.cases)
        return f"{len(self._decided)} of {cells} decided, " if pass_number > 1 else ""

    def update(self, task: CellTask) -> None:
        """Count a process that is over, and look at what is known of its cell now."""
        self._decided.discard(task.case)
        if not self._bar.disable and is_decided(task.case, task.pass_number, self._path):
            self._decided.add(task.case)
        self._bar.update(self._done() - self._bar.n)

    def _done(self) -> int:
        """Return how many processes are over; with a cell that is given up, those that will not be."""
        passes = range(1, self._grid.passes + 1)
        return sum(is_done(case, number, self._path) for case in self._grid.cases for number in passes)
