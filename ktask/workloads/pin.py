"""Pin: keep a populated range from being moved or swapped out, as drivers do before DMA."""

from __future__ import annotations

import ctypes
import os
import resource
from functools import lru_cache

import numpy as np

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.host import kernel_files, topology
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Workload, expect
from ktask.workloads.nodes import NODE, nodes_of
from ktask.workloads.populated import Populated, no_populate

ORDER = 6

# <linux/io_uring.h>
_REGISTER_BUFFERS2, _UPDATE_BUFFERS, _UNREGISTER_BUFFERS, _SPARSE = 15, 16, 1, 1
_SETUP_PARAMS_BYTES = 120
SLOTS = 1024  # of one ring's table
RING_BYTES = 16 * memory.KIB  # of its own that count as locked
# A larger buffer (up to 1 GiB) costs more per page, so threads with parts of one would look too fast.
# Never less than a page: VmPin counts a page once per ring that has a part of it.
BUFFER = 64 * memory.MIB
_CALL_REGISTER = memory.call_number("io_uring_register")


@thread_func(cache=True)
def lock(start, end, base, page_size):
    """Lock pages `start` to `end`: the mapping is marked, every page moved to the unevictable list."""
    code = native.EAGAIN
    for _ in range(100):
        failed = native.mlock(base + start * page_size, (end - start) * page_size)
        code = native.last_errno() if failed else 0
        if code not in (native.EINTR, native.EAGAIN):
            break
    return code


@thread_func(cache=True)
def register(start, end, base, page_size, fds, n_rings, taken):
    """Pin pages `start` to `end` for DMA: each `BUFFER` as a fixed buffer of the next ring."""
    arg = native.stack_64k()
    iovec, tag = arg + 64, arg + 128
    at, last = base + start * page_size, base + end * page_size
    most = max(BUFFER, page_size)
    while at < last:
        number = native.fetch_add(taken, 1)
        if number >= n_rings * SLOTS:
            return 28  # ENOSPC
        native.store(iovec, at)
        native.store(iovec + 8, min(last - at, most))
        native.store(tag, 0)
        native.store(arg, number // n_rings)  # offset in the table, as the low half of the word
        native.store(arg + 8, iovec)
        native.store(arg + 16, tag)
        native.store(arg + 24, 1)  # how many
        fd = native.load_plain(fds + 8 * (number % n_rings))
        done = native.syscall4(_CALL_REGISTER, fd, _UPDATE_BUFFERS, arg, 32)
        if done != 1:
            code = native.last_errno() if done < 0 else 5
            if code not in (native.EINTR, native.EAGAIN):
                return code
            continue
        at += min(last - at, most)
    return 0


class Locked(Populated):
    """A populated region that is locked by a repetition and unlocked before it."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.ctl = self.task(lock)
        self._others = status_bytes("VmLck")

    def before(self) -> None:
        memory.unlock(self.region.address, self.region.size_bytes)

    def check(self) -> None:
        locked = status_bytes("VmLck") - self._others
        expect(locked == self.region.size_bytes, f"{locked} of {self.region.size_bytes} bytes are locked")


class Registered(Populated):
    """A populated region, and rings whose tables of fixed buffers it goes into."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.rings = np.full(n_rings(), -1, dtype=np.int64)
        try:
            for k in range(self.rings.size):
                self.rings[k] = ring()
        except BaseException:
            self.close()
            raise
        self._taken = np.zeros(1, dtype=np.int64)
        rings = self.rings.ctypes.data, self.rings.size, self._taken.ctypes.data
        self.ctl = self.task(register, *rings)
        self._others = status_bytes("VmPin")

    def before(self) -> None:
        for fd in self.rings.tolist():
            _drop_table(fd)
            _make_table(fd)
        self._taken[0] = 0

    def check(self) -> None:
        pinned = status_bytes("VmPin") - self._others
        expect(pinned == self.region.size_bytes, f"{pinned} of {self.region.size_bytes} bytes are pinned")

    def close(self) -> None:
        for k, fd in enumerate(self.rings.tolist()):
            if fd >= 0:
                _drop_table(fd)  # else the pages stay pinned until a worker of the kernel gets to it
                os.close(fd)
                self.rings[k] = -1
        super().close()


def ring() -> int:
    """Return a new io_uring with an empty table of fixed buffers; OSError tells why not."""
    params = (ctypes.c_char * _SETUP_PARAMS_BYTES)()
    fd = memory.syscall("io_uring_setup", 1, ctypes.addressof(params))
    try:
        _make_table(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_table(fd: int) -> None:
    """Give a ring a table of `SLOTS` empty slots (struct io_uring_rsrc_register)."""
    arg = (ctypes.c_uint32 * 8)(SLOTS, _SPARSE)
    memory.syscall("io_uring_register", fd, _REGISTER_BUFFERS2, ctypes.addressof(arg), ctypes.sizeof(arg))


def _drop_table(fd: int) -> None:
    """Take the table of a ring away, and so the pins on its buffers."""
    memory.syscall("io_uring_register", fd, _UNREGISTER_BUFFERS, 0, 0)


def n_rings() -> int:
    """Return how many rings the buffers are shared out to."""
    return 4 * topology.cpu_count()


def locked_bytes(case: Case) -> int:
    """Return what counts against RLIMIT_MEMLOCK once a case has run, what is locked now included."""
    if case.method == "mlock":
        return status_bytes("VmLck") + case.size_bytes
    return status_bytes("VmPin") + case.size_bytes + n_rings() * RING_BYTES


def why_not(case: Case) -> str | None:
    """Return why this process may not lock as much as the case needs, or None."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or may_lock_beyond_limit() or (need := locked_bytes(case)) <= limit:
        return None
    return (
        f"this process may lock {limit / memory.MIB:.2f} MiB (RLIMIT_MEMLOCK, `ulimit -l`); "
        f"the case needs {need / memory.MIB:.2f} MiB"
    )


@lru_cache(maxsize=1)
def may_lock_beyond_limit() -> bool:
    """Return whether RLIMIT_MEMLOCK does not bind this process (CAP_IPC_LOCK)."""
    return bool(int(kernel_files.status_field("CapEff") or "0", 16) >> 14 & 1)


@lru_cache(maxsize=1)
def no_io_uring() -> str | None:
    """Return why buffers cannot be registered with an io_uring here, or None; tried."""
    try:
        os.close(ring())
    except OSError as error:
        return f"io_uring with tables of fixed buffers (Linux 5.19) is refused: {error.strerror}"
    return no_populate()


def setup(case: Case) -> Locked | Registered:
    """Return the case set up; its memory is populated."""
    return (Locked if case.method == "mlock" else Registered)(case)


WORKLOAD = Workload(
    name="pin",
    about="Pin a populated range, as drivers do before DMA: every page is looked up and held in place.",
    operation="byte",
    methods=(
        Method(
            "io_uring",
            "registered buffers of io_uring: long-term page pins as VFIO takes them",
            probe=no_io_uring,
            options=(NODE,),
            by_source="The lock of a ring is held for each call; there are several rings per CPU.",
            locks=("lock of the ring",),
        ),
        Method(
            "mlock",
            "mlock by range: the mapping is split and marked, every page goes to the unevictable list",
            page_kinds=("4KiB", "THP"),  # hugetlb pages cannot be swapped out; mlock passes over them
            probe=no_populate,
            options=(NODE,),
            by_source="mlock takes mmap_lock for writing while it marks the mapping and moves its pages, so "
            "threads take turns.",
            locks=("mmap_lock",),
        ),
    ),
    setup=setup,
    why_not=why_not,
    nodes=lambda case: nodes_of(case).memory,
)
