"""Exit: processes that are populated, told to end, and reaped.

One process exits on one CPU, however large it is. So with one thread one child holds the whole range, and
with n threads n children hold a part each and exit side by side: what a program can do today by being several
processes, and the most that an exit in parallel could win, since they share no lock of an address space.
Each exits on a CPU of its own, where it has filled its memory unless `fill` says otherwise.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ktask.engine import native, placement
from ktask.engine import run as engine
from ktask.engine.task import Ctl, Node
from ktask.engine.thread_functions import thread_func
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads import Case, CheckError, expect, expect_pool_pages, populated_child

_ROW = 4  # of the table: where the part of a child ends, its pid, its wait status, whether it was reaped
_PROGRAM = Path(populated_child.__file__)


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
            self.children.append(_start(size_bytes, self.case.page_kind, cpu, self._fill_cpus(cpu)))
        for child in self.children:
            _wait_until_ready(child)
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
                raise CheckError(f"a child did not live until its exit: {_ending(code)}")
        held = sum(held_bytes(child.pid, self.case.page_kind) for child in self.children)
        what = f"the children hold {held} of {self.operations} bytes before they exit"
        expect(held >= self.operations, what)

    def check(self) -> None:
        for child, (status, reaped) in zip(self.children, self.rows[:, 2:].tolist(), strict=True):
            gone = reaped and not Path(f"/proc/{child.pid}").exists()
            expect(gone, f"child {child.pid}, one of {len(self.children)}, is still there after the exit")
            child.returncode = os.waitstatus_to_exitcode(status)
            killed = child.returncode == -signal.SIGKILL
            expect(killed, f"child {child.pid} had ended before it was told to: {_ending(child.returncode)}")
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


def _start(size_bytes: int, page_kind: str, cpu: int, fill_cpus: list[int]) -> subprocess.Popen[bytes]:
    flags, advice = memory.hugetlb_flags(page_kind), memory.thp_advice(page_kind)
    numbers = map(str, (size_bytes, flags, advice, cpu, *fill_cpus))
    command = [sys.executable, "-I", "-S", str(_PROGRAM), *numbers]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603
    except OSError as error:
        raise CheckError(f"a child did not start: {error.strerror}") from None


def _wait_until_ready(child: Any) -> None:
    if child.stdout.readline() == b"ready\n":
        return
    code, said = child.wait(), child.stderr.read().decode(errors="replace")
    words = said.strip().splitlines()[-1] if said.strip() else _ending(code)
    raise CheckError(f"a child did not come to hold its memory: {words}")


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as the kernel does when memory runs out"
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it left with code {code}"


HELD = {"4KiB": ("status", "RssAnon"), "THP": ("smaps_rollup", "AnonHugePages")}


def held_bytes(pid: int, page_kind: str) -> int:
    """Return how much memory in pages of a kind a process holds; 0 if it cannot be seen.

    Hugetlb pages by `status`: smaps of Linux 6.18 counts a private one of 1 GiB as shared.
    """
    file, field = HELD.get(page_kind, ("status", "HugetlbPages"))
    return status_bytes(field, pid, file)
