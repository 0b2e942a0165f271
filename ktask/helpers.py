"""Helper threads: started, placed and interruptible before the clock starts."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from functools import lru_cache

import numba
import numpy as np

from ktask import topology
from ktask.worker import settle

Places = tuple[tuple[int, ...], ...]  # the CPUs of each worker, the caller first


class Interrupts:
    """Lets compiled code see that a signal arrived, without Python running.

    Python's own C-level handler writes the number of each signal to the "wakeup" file at once. Here that
    file is a page of memory which the workers look at before every chunk; so Ctrl-C stops a task within one
    chunk. Only the main thread of a program receives signals; elsewhere the page stays zero.
    """

    def __init__(self):
        self.fd = os.memfd_create("ktask-interrupt", os.MFD_CLOEXEC)
        os.set_blocking(self.fd, False)  # Python insists
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self._map = mmap.mmap(self.fd, mmap.PAGESIZE)
        self.page = np.frombuffer(self._map, dtype=np.uint8)
        self.address = self.page.ctypes.data

    def arm(self) -> int | None:
        """Direct wakeups here; return the file they went to before, None outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return None
        return signal.set_wakeup_fd(self.fd, warn_on_full_buffer=False)

    def disarm(self, before: int | None) -> None:
        """Send wakeups where they went, and those that arrived meanwhile after them."""
        if before is None:
            return
        signal.set_wakeup_fd(before)
        missed = self.take()
        if missed and before >= 0:
            with contextlib.suppress(OSError):
                os.write(before, missed)

    def take(self) -> bytes:
        """Return the signals that arrived, and forget them."""
        if not self._map[0]:
            return b""
        missed = bytes(self.page[self.page != 0])
        self.page[:] = 0
        os.lseek(self.fd, 0, os.SEEK_SET)
        return missed


@lru_cache(maxsize=1)
def interrupts() -> Interrupts:
    """Return the one instance of this process."""
    return Interrupts()


os.register_at_fork(after_in_child=interrupts.cache_clear)


@lru_cache(maxsize=256)
def places(topo: topology.Topology, slots: tuple[int, ...], nids: tuple[int, ...]) -> Places:
    """Return where the workers of a task go whose helpers hold `slots` on nodes `nids`.

    Slots are handed out from 0 upwards and CPUs from the last one downwards, so helpers of different
    processes on one node do not share a CPU, and the CPUs left over are for callers.
    """
    taken: set[int] = set()
    helpers = []
    for slot, nid in zip(slots, nids, strict=True):
        own = topo.cpus_of(nid) if nid >= 0 else topo.cpus
        free = [cpu for cpu in own if cpu not in taken] or list(own)
        wished = own[-1 - slot % len(own)]
        cpu = wished if wished in free else free[-1]
        taken.add(cpu)
        helpers.append((cpu,))
    left = tuple(cpu for cpu in topo.cpus if cpu not in taken)
    return (left or topo.cpus, *helpers)


_local = threading.local()  # libgomp keeps one team of helpers per calling thread


def prepare(wanted: Places) -> None:
    """Have one helper running on each entry of `wanted` after the first, which is the caller's.

    Nothing to do if that was the last request of this thread; else a few microseconds, and about 0.2 ms
    where threads have to be started.
    """
    if getattr(_local, "places", None) == (os.getpid(), wanted):
        return
    width = max(cpu for cpus in wanted for cpu in cpus) // 64 * 8 + 8
    masks = np.zeros((len(wanted), width), dtype=np.uint8)
    for row, cpus in zip(masks, wanted, strict=True):
        for cpu in cpus:
            row[cpu // 8] |= 1 << (cpu % 8)
    with numba_threads(len(wanted)):
        settle(masks, np.zeros(len(wanted), dtype=np.int32))
    _local.places = (os.getpid(), wanted)


@contextlib.contextmanager
def numba_threads(count: int) -> Iterator[None]:
    """Let parallel regions use `count` threads, or as many as numba has; restore what was set."""
    count = min(count, numba.config.NUMBA_NUM_THREADS)
    before = numba.get_num_threads()
    if before == count:
        yield
        return
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def misplaced() -> None:
    """Forget where the helpers sit, because one was seen elsewhere; the next task places them anew."""
    _local.places = None
