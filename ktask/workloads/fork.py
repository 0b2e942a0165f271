"""Fork: copy the page table of a large process, which is most of what fork does.

A range of one process cannot be forked by itself: the kernel copies the whole table, with mmap_lock of the
parent held for writing. So the size is split over `N_FORKS` forks, of one process or of as many processes;
the second is what a split copy could reach at best. Children do nothing but wait to be killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Workload, expect, populated_child
from ktask.workloads.populated import no_populate

ORDER = 5

N_FORKS = 16
MASK_WORDS = 128  # of a CPU mask: the 8192 CPUs that a kernel can be built for
_CLONE = memory.call_number("clone")
_SIGCHLD, _SIGKILL, _PR_SET_PDEATHSIG = int(signal.SIGCHLD), int(signal.SIGKILL), 1


@thread_func(cache=True)
def fork_here(start, end, pids):
    """Fork this process once per unit; the children wait for their end."""
    own = native.getpid()
    for k in range(start, end):
        pid = native.syscall5(_CLONE, _SIGCHLD, 0, 0, 0, 0)
        if pid < 0:
            return native.last_errno()
        if pid == 0:
            # Only system calls from here on: of all threads, the child has this one alone.
            native.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
            while native.getppid() == own:
                native.pause()
            native.exit_now(0)
        native.store(pids + 8 * k, pid)
    return 0


@njit(cache=True, nogil=True)
def _bring_here(pid, room):
    """Keep a process to the CPU of this thread; `room` is for the mask."""
    cpu = native.sched_getcpu()
    for k in range(MASK_WORDS):
        native.store(room + 8 * k, 0)
    native.store(room + 8 * (cpu // 64), 1 << (cpu % 64))
    native.sched_setaffinity(pid, 8 * MASK_WORDS, room)


@thread_func(cache=True)
def fork_there(start, end, pids, orders, answers, holders):
    """Have holder `k` fork, for each unit, on the CPU of this thread, and wait until it says that it has."""
    room = native.stack_64k()
    for k in range(start, end):
        _bring_here(native.load_plain(holders + 8 * k), room)
        native.store(room, 102)  # "f"
        if native.write(native.load_plain(orders + 8 * k), room, 1) != 1:
            return native.last_errno()
        got = native.read(native.load_plain(answers + 8 * k), room, 8)
        while got < 0 and native.last_errno() == native.EINTR:
            got = native.read(native.load_plain(answers + 8 * k), room, 8)
        if got != 8:
            return 3 if got >= 0 else native.last_errno()  # ESRCH: the holder has gone
        native.store(pids + 8 * k, native.load_plain(room))
    return 0


class Forks:
    """A region of this process, forked `size` times over; its children are there after a repetition."""

    def __init__(self, case: Case):
        self.size = min(N_FORKS, max(1, case.size_bytes // memory.BASE_PAGE))
        self.bytes_per_unit = -(-case.size_bytes // self.size // memory.BASE_PAGE) * memory.BASE_PAGE
        self.operations = self.size * self.bytes_per_unit // memory.BASE_PAGE
        self.pids = np.zeros(self.size, dtype=np.int64)
        self._hold()

    def _hold(self) -> None:
        self.region = memory.Region(self.bytes_per_unit)
        self.region.advise(memory.MADV_POPULATE_WRITE)
        self.ctl = Ctl(fork_here, (self.pids.ctypes.data,))

    def before(self) -> None:
        self._end_children()

    def _end_children(self) -> None:
        for pid in self.pids[self.pids > 0].tolist():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.pids[:] = 0

    def check(self) -> None:
        missing = np.count_nonzero(self.pids == 0)
        expect(missing == 0, f"{missing} of {self.size} forks did not happen")
        least = min(status_bytes("RssAnon", pid) for pid in self.pids.tolist())
        expect(least >= self.bytes_per_unit, f"a child has {least} of {self.bytes_per_unit} bytes mapped")

    def close(self) -> None:
        self._end_children()
        self.region.unmap()


class ManyForks(Forks):
    """As many processes as forks, each with a piece of the memory; `_holders` are their Popen objects."""

    def _hold(self) -> None:
        memory.require_budget(self.size * (self.bytes_per_unit + HOLDER_BYTES), f"{self.size} processes")
        arguments = map(str, (self.bytes_per_unit, 0, memory.MADV_NOHUGEPAGE, 1, -1))  # on any CPU
        command = [sys.executable, "-I", "-S", populated_child.__file__, *arguments]
        # Ctrl-C of a terminal reaches them too: they need not complain, they end with this process.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._holders: list[Any] = []  # of Popen, with pipes
        try:
            for _ in range(self.size):
                holder = subprocess.Popen(command, bufsize=0, stderr=subprocess.DEVNULL, **pipes)  # noqa: S603
                self._holders.append(holder)
            for holder in self._holders:
                if holder.stdout.readline() != b"ready\n":
                    raise memory.UnavailableError(f"a process with {self.bytes_per_unit} bytes did not start")
        except BaseException:
            self.close()
            raise
        self.orders = np.array([h.stdin.fileno() for h in self._holders], dtype=np.int64)
        self.answers = np.array([h.stdout.fileno() for h in self._holders], dtype=np.int64)
        self.holder_pids = np.array([h.pid for h in self._holders], dtype=np.int64)
        arrays = self.pids, self.orders, self.answers, self.holder_pids
        self.ctl = Ctl(fork_there, tuple(a.ctypes.data for a in arrays))

    def _end_children(self) -> None:
        for k in np.flatnonzero(self.pids).tolist():
            self._holders[k].stdin.write(b"k")
            self._holders[k].stdout.read(8)
        self.pids[:] = 0

    def close(self) -> None:
        for holder in self._holders:
            holder.stdin.close()
        for holder in self._holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()


HOLDER_BYTES = 12 * memory.MIB  # of a Python without modules


def setup(case: Case) -> Forks:
    """Return the case set up; the memory to be forked is populated."""
    return (Forks if case.method == "one_process" else ManyForks)(case)


WORKLOAD = Workload(
    name="fork",
    about=f"Fork large processes, {N_FORKS} times in all: their page tables are copied entry by entry.",
    operation="PTE",
    methods=(
        Method(
            "one_process",
            f"{N_FORKS} forks of this process, which has a {N_FORKS}th of the size",
            page_kinds=("4KiB",),
            probe=no_populate,
            by_source="fork holds mmap_lock of the parent for writing while it copies the page table, so "
            "threads take turns.",
            locks=("mmap_lock",),
        ),
        Method(
            "many_processes",
            f"one fork each of {N_FORKS} processes that share the size out among themselves",
            page_kinds=("4KiB",),
            probe=no_populate,
            by_source="Every process has an mmap_lock of its own; all take pages from the same zones.",
            locks=("zone lock",),
        ),
    ),
    setup=setup,
    memory_need=lambda case: case.size_bytes + N_FORKS * HOLDER_BYTES,
)
