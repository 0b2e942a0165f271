"""Exit: processes that are populated, told to end, and reaped.

One process exits on one CPU, however large it is. So with one thread one child holds the whole range, and
with n threads n children hold a part each and exit side by side: what a program can do today by being several
processes, and the most that an exit in parallel could win, since they share no lock of an address space.
Each exits on a CPU of its own, where it has filled its memory unless `fill` says otherwise.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from ktask.engine import native, placement
from ktask.engine import run as engine
from ktask.engine.task import Ctl, Node
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case, CheckError, expect, expect_pool_pages
from ktask.workloads.children import ending, held_bytes, start_child, wait_until_ready

_ROW = 4  # of the table: where the part of a child ends, its pid, its wait status, whether it was reaped


@thread_func(cache=True)
def end_children(start, end, table):
    """Kill the children whose part ends within pages `start` to `end`, and reap them."""
    n_children = native.load(table)
    for k in range(n_children):
        row = table + 8 * (1 + _ROW * k)
        if start < native.load(row) <= end and native.kill(native.load(row + 8), 9):
            return native.last_errno()
    for k in range(n_children):
        row = table + 8 * (1 + _ROW * k)
        if start < native.load(row) <= end:
            while native.waitpid(native.load(row + 8), row + 16, 0) < 0:
                if native.last_errno() != native.EINTR:
                    return native.last_errno()
            native.store(row + 24, 1)
    return 0


class Exit:
    """Children that hold the range between them: as many as the task will have threads."""

    def __init__(self, case: Case):
        self.case = case
        self.size = -(-case.size_bytes // case.page_size)
        self.bytes_per_unit = case.page_size
        self.operations = self.size * case.page_size
        memory.require_budget(memory.region_need(self.operations, case.page_kind), "the children")
        self.children: list[Any] = []  # of Popen, with pipes
        self.cpus = list(placement.cpus_in_order())
        self._table = np.zeros(1 + _ROW * len(self.cpus), dtype=np.int64)
        self.ctl = Ctl(end_children, (self._table.ctypes.data,), case.min_chunk_pages)

    def before(self) -> None:
        self.close()
        planned = engine.plan(Node(0, self.size, -1), self.ctl, self.case.policy).threads
        n_children = max(1, min(planned, len(self.cpus)))
        ends = [self.size * (k + 1) // n_children for k in range(n_children)]
        for start, end, cpu in zip([0, *ends], ends, self.cpus, strict=False):
            size_bytes = (end - start) * self.case.page_size
            self.children.append(start_child(size_bytes, self.case.page_kind, cpu, self._fill_cpus(cpu)))
        for child in self.children:
            wait_until_ready(child)
        self._expect_populated()
        self._pool = memory.free_pool_pages(self.case.page_kind)
        self._table[0] = n_children
        for row, end, child in zip(self.rows, ends, self.children, strict=True):
            row[:] = end, child.pid, 0, 0

    def _fill_cpus(self, cpu: int) -> list[int]:
        """Return the CPUs on which a child that will exit on `cpu` fills its memory."""
        others = [one for one in self.cpus if one != cpu]
        return {"one": [cpu], "each": self.cpus, "other": others[:1]}[self.case.option("fill")]

    @property
    def rows(self) -> np.ndarray:
        """Return a row per child: where its part ends, its pid, wait status, and whether it was reaped."""
        return self._table[1:].reshape(-1, _ROW)[: len(self.children)]

    def _expect_populated(self) -> None:
        for child in self.children:
            if (code := child.poll()) is not None:
                raise CheckError(f"a child did not live until its exit: {ending(code)}")
        held = sum(held_bytes(child.pid, self.case.page_kind) for child in self.children)
        what = f"the children hold {held} of {self.operations} bytes before they exit"
        expect(held >= self.operations, what)

    def check(self) -> None:
        for child, (status, reaped) in zip(self.children, self.rows[:, 2:].tolist(), strict=True):
            gone = reaped and not Path(f"/proc/{child.pid}").exists()
            expect(gone, f"child {child.pid}, one of {len(self.children)}, is still there after the exit")
            child.returncode = os.waitstatus_to_exitcode(status)
            killed = child.returncode == -signal.SIGKILL
            expect(killed, f"child {child.pid} had ended before it was told to: {ending(child.returncode)}")
        expect_pool_pages(self.case.page_kind, self._pool + self.size)

    def close(self) -> None:
        for child in self.children:
            if child.returncode is None and not Path(f"/proc/{child.pid}").exists():
                child.returncode = -signal.SIGKILL  # reaped by the thread function
            child.kill()  # nothing if it is known to be gone
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                pipe.close()
        self.children = []
