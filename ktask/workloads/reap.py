"""Reap: a process is killed, and helpers free its memory beside its own exit (process_mrelease).

One thread kills the process and waits. Each helper calls process_mrelease, once the process was killed. With
one thread it is the exit alone, which frees all on the CPU of the process. A helper that comes when the exit
has let go of the address space finds nothing to do; that is part of what is measured.
"""

from __future__ import annotations

import os
import signal
from functools import lru_cache
from typing import Any

import numpy as np

from ktask.engine import native, placement
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import topology
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Option, Workload, expect
from ktask.workloads.children import ending, held_bytes, start_child, wait_until_ready
from ktask.workloads.populated import no_populate

ORDER = 11

_CALL_MRELEASE = memory.call_number("process_mrelease")
_ESRCH, _EAGAIN = 3, 11
_SIGKILL = int(signal.SIGKILL)
# Words of the table: what to end, how far it is, and then what came of each unit, as an errno plus one.
_PID, _PIDFD, _KILLED, _STATUS, _REAPED, _UNITS = 0, 8, 16, 24, 32, 40


@thread_func(cache=True)
def reap(start, end, table):
    """Do the units `start` to `end`: kill and reap (unit 0), or help."""
    code = _end(table) if start == 0 else _help(table)
    if code not in (0, _ESRCH, _EAGAIN):
        return code
    for k in range(start, end):
        native.store(table + _UNITS + 8 * k, code + 1)
    return 0


@native.compiled
def _end(table):
    """Kill the process, and reap it."""
    failed = native.kill(native.load(table + _PID), _SIGKILL)
    native.store(table + _KILLED, 2 if failed else 1)
    if failed:
        return 1  # EPERM: whatever it is, there is nothing to wait for
    while native.waitpid(native.load(table + _PID), table + _STATUS, 0) < 0:
        if native.last_errno() != native.EINTR:
            return native.last_errno()
    native.store(table + _REAPED, 1)
    return 0


@native.compiled
def _help(table):
    """Free memory of the process as soon as it was killed; return 0 or an errno."""
    while native.load(table + _KILLED) == 0:
        native.sched_yield()
    if native.load(table + _KILLED) == 2:
        return _ESRCH
    failed = native.syscall4(_CALL_MRELEASE, native.load(table + _PIDFD), 0, 0, 0)
    return native.last_errno() if failed else 0


class Reap:
    """A child that holds the range; the task has a unit for who kills it, and one for each helper."""

    def __init__(self, case: Case):
        self.case = case
        self.size = max(2, topology.cpu_count())
        self.size_bytes = -(-case.size_bytes // case.page_size) * case.page_size
        self.bytes_per_unit = -(-self.size_bytes // self.size)
        self.operations = self.size_bytes
        memory.require_budget(memory.region_need(self.size_bytes, case.page_kind), "the process")
        self.child: Any = None  # a Popen, with pipes
        self._table = np.zeros(_UNITS // 8 + self.size, dtype=np.int64)
        self.ctl = Ctl(reap, (self._table.ctypes.data,))

    def before(self) -> None:
        self.close()
        cpu, mappings = placement.cpus_in_order()[0], int(self.case.option("mappings"))
        self.child = start_child(self.size_bytes, self.case.page_kind, cpu, [cpu], mappings)
        wait_until_ready(self.child)
        held = held_bytes(self.child.pid, self.case.page_kind)
        expect(held >= self.size_bytes, f"the process holds {held} of {self.size_bytes} bytes")
        self._table[:] = 0
        self._table[:2] = self.child.pid, os.pidfd_open(self.child.pid)

    @property
    def outcomes(self) -> list[int]:
        """What came of each unit: 0 or an errno, or -1 if it was left out."""
        return (self._table[_UNITS // 8 :] - 1).tolist()

    def check(self) -> None:
        missing = self.outcomes.count(-1)
        expect(missing == 0, f"{missing} of {self.size} threads did not take part")
        if self._table[_REAPED // 8]:
            self.child.returncode = os.waitstatus_to_exitcode(int(self._table[_STATUS // 8]))
        code = self.child.wait()
        expect(code == -signal.SIGKILL, f"the process had ended before it was killed: {ending(code)}")

    def close(self) -> None:
        if not self.child:
            return
        if self._table[_REAPED // 8]:
            self.child.returncode = -signal.SIGKILL
        self.child.kill()  # nothing if it is known to be gone
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout, self.child.stderr):
            pipe.close()
        os.close(int(self._table[_PIDFD // 8]))
        self.child = None


@lru_cache(maxsize=1)
def no_mrelease() -> str | None:
    """Return why process_mrelease cannot be used here, or None; tried on a number that is no process."""
    try:
        memory.syscall("process_mrelease", -1, 0)
    except OSError as error:
        if error.errno != 9:  # EBADF: it looks at what it is given
            return f"process_mrelease (Linux 5.15) is refused: {error.strerror}"
    return no_populate()


MAPPINGS = Option("mappings", "how many mappings the memory of the process lies in", "1", least=1)
WORKLOAD = Workload(
    name="reap",
    about="Kill a large process and wait for its end: its own exit, with helpers that free beside it.",
    operation="byte",
    methods=(
        Method(
            "mrelease",
            "from SIGKILL until the process is reaped; each helper calls process_mrelease",
            page_kinds=("4KiB", "THP"),  # process_mrelease passes over hugetlb pages
            probe=no_mrelease,
            options=(MAPPINGS,),
            by_source="Exit and helpers hold mmap_lock for reading only, and take the same page-table locks. "
            "Both go through the mappings of the process, the helper from the last one on since Linux 6.18, "
            "and through each from its start: in a single mapping they meet at every page table.",
            locks=("page-table lock", "zone lock", "LRU lock"),
        ),
    ),
    setup=Reap,
)
