"""Free: give a populated range back to the kernel, by zapping it, by unmapping it, or by exiting.

The bottleneck of each method is said with it. Seen on 1 GiB with two CPUs of a KVM guest (Linux
6.18): shares of the time by sampling at 8 kHz with the callers of locks, the waiting of `munmap` by
its CPU time, and TLB shootdowns by /proc/interrupts, one per call: 23 % of the CPU time of MADV_DONTNEED in
chunks of 2 MiB, 2 % in chunks of 32 MiB. `notebooks/free.ipynb` measures what needs no profiler.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case, Method, State, Workload, expect, expect_pool_pages
from ktask.workloads.free import buddy
from ktask.workloads.free.exits import Exit
from ktask.workloads.populated import no_populate, populate

ORDER = 3


@njit(cache=True, nogil=True)
def _advise(address, n_bytes, advice):
    """Call madvise, again after a signal; return 0 or errno."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(address, n_bytes, advice)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def dontneed(start, end, base, page_size):
    """Zap pages `start` to `end`: page-table entries cleared, pages freed, the mapping stays."""
    return _advise(base + start * page_size, (end - start) * page_size, memory.MADV_DONTNEED)


@thread_func(cache=True)
def lazyfree(start, end, base, page_size):
    """Mark pages `start` to `end` as free to take (MADV_FREE); they stay until memory is short."""
    return _advise(base + start * page_size, (end - start) * page_size, memory.MADV_FREE)


@thread_func(cache=True)
def unmap(start, end, base, page_size):
    """Unmap pages `start` to `end`: as zapping, and the mapping and its page tables go too."""
    failed = native.munmap(base + start * page_size, (end - start) * page_size)
    return native.last_errno() if failed else 0


@thread_func(cache=True)
def unmap_at_once(start, end, base, page_size, size, zapped):
    """Unmap all `size` pages by one call; a part of them is zapped, and who zaps the last part unmaps all.

    `zapped` is the address of a count of the pages that are zapped already.
    """
    if end - start < size:
        code = _advise(base + start * page_size, (end - start) * page_size, memory.MADV_DONTNEED)
        if code != 0:
            return code
        if native.fetch_add(zapped, end - start) + end - start < size:
            return 0
    failed = native.munmap(base, size * page_size)
    return native.last_errno() if failed else 0


class Free:
    """A region that is populated before each repetition and gone after it."""

    thread_func = dontneed

    def __init__(self, case: Case):
        self.case = case
        self.region = memory.Region(case.size_bytes, case.page_kind)
        self.size = self.region.size_bytes // case.page_size
        self.bytes_per_unit = case.page_size
        self.operations = self.region.size_bytes
        args = (self.region.address, case.page_size)
        self.ctl = Ctl(self.thread_func, args, case.min_chunk_pages)
        self.fill = Ctl(populate, args, case.min_chunk_pages, max_threads=1 << 16)

    def before(self) -> None:
        result = engine.run(0, self.size, self.fill)
        expect(result.error == 0, f"populating the range failed: {os.strerror(result.error)}")
        present = self.region.present()
        expect(bool(present.all()), f"{np.count_nonzero(~present)} pages were missing before the free")
        self._pool = memory.free_pool_pages(self.case.page_kind)

    def check(self) -> None:
        left = np.count_nonzero(self.region.present())
        expect(left == 0, f"{left} pages of 4 KiB are still there after the free")
        expect_pool_pages(self.case.page_kind, self._pool + self.size)

    def close(self) -> None:
        self.region.unmap()


class LazyFree(Free):
    """A range whose pages are marked and stay; taken anew each time, for a page is marked only once."""

    thread_func = lazyfree

    def before(self) -> None:
        self.region.zap()
        super().before()

    def check(self) -> None:
        marked = self.region.lazy_free_bytes()
        expect(marked == self.operations, f"{marked} of {self.operations} bytes are marked as lazily free")


class Unmap(Free):
    """A mapping that is made anew before each repetition and gone after it."""

    thread_func = unmap

    def __init__(self, case: Case):
        super().__init__(case)
        self.region.move_apart()
        args = (self.region.address, case.page_size)
        self.ctl, self.fill = replace(self.ctl, args=args), replace(self.fill, args=args)

    def before(self) -> None:
        self.region.unmap()
        self.region.map()
        super().before()

    def check(self) -> None:
        expect(self.region.hold(), "the range, or a part of it, is still mapped")
        super().check()


class UnmapAtOnce(Unmap):
    """One munmap over all; helpers, if there are any, zap the range first."""

    thread_func = unmap_at_once

    def __init__(self, case: Case):
        super().__init__(case)
        self._zapped = np.zeros(1, dtype=np.int64)
        args = *self.ctl.args, self.size, self._zapped.ctypes.data
        self.ctl = replace(self.ctl, args=args)

    def before(self) -> None:
        super().before()
        self._zapped[0] = 0


STATES: dict[str, type[State]] = {
    "dontneed": Free,
    "lazyfree": LazyFree,
    "munmap": Unmap,
    "munmap_at_once": UnmapAtOnce,
    "exit": Exit,
    "buddy": buddy.Buddy,
}


def need(case: Case) -> int:
    """Return how much general memory a case takes."""
    if case.method == "buddy":
        return buddy.memory_need(case)
    return memory.region_need(case.size_bytes, case.page_kind)


KINDS = tuple(memory.PAGE_KINDS)

WORKLOAD = Workload(
    name="free",
    about="Give a populated range back: clear its page-table entries and free its pages.",
    operation="byte",
    methods=(
        Method(
            "dontneed",
            "MADV_DONTNEED by range: zap and free, the mapping stays",
            "kernel",
            KINDS,
            no_populate,
            limit="The TLB shootdown at the end of each call, if chunks are small; then zone and LRU locks, "
            "which one thread holds for 17 % and 14 % of its time on 4 KiB pages.",
        ),
        Method(
            "lazyfree",
            "MADV_FREE by range: pages are marked, and freed only when memory is short",
            "kernel",
            ("4KiB", "THP"),
            no_populate,
            limit="The LRU lock, which one thread holds for 59 % of its time on 4 KiB pages; with THP the "
            "page-table lock of each GiB, held over a TLB shootdown per huge page.",
        ),
        Method(
            "munmap",
            "munmap by range: zap and free, mapping and page tables go too",
            "kernel",
            KINDS,
            no_populate,
            limit="mmap_lock: a call takes it for writing, so it waits for the one that is freeing under it.",
        ),
        Method(
            "munmap_at_once",
            "one munmap over all, as programs do it; helpers zap the range by MADV_DONTNEED first",
            "kernel",
            KINDS,
            no_populate,
            limit="As dontneed; mmap_lock is taken for writing once, for a range that is empty by then.",
        ),
        Method(
            "exit",
            "processes end and are reaped: one that holds all, or one per thread that holds its part",
            "kernel",
            KINDS,
            no_populate,
            limit="One process exits on one CPU. Several share no lock but those of zone and LRU.",
        ),
        Method(
            "buddy",
            "pages go back to a buddy allocator in arrays, with per-CPU lists and zone locks",
            "model",
            ("4KiB",),
            options=buddy.OPTIONS,
            limit="The zone lock: for how long it is held, and how many cache lines move with it.",
        ),
    ),
    setup=lambda case: STATES[case.method](case),
    memory_need=need,
)
