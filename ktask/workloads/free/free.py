"""Free: give a populated range back to the kernel, by zapping it, by unmapping it, or by exiting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.memory.calls import advise, advise_pages
from ktask.workloads import Case, Method, State, Workload, expect, expect_pool_pages
from ktask.workloads.folios import FOLIO
from ktask.workloads.free import buddy
from ktask.workloads.free.exits import Exit
from ktask.workloads.nodes import NODE, nodes_of
from ktask.workloads.populated import FILL, Mapped, no_other_cpu, no_populate

ORDER = 3


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
        code = advise(base + start * page_size, (end - start) * page_size, memory.MADV_DONTNEED)
        if code != 0:
            return code
        if native.fetch_add(zapped, end - start) + end - start < size:
            return 0
    failed = native.munmap(base, size * page_size)
    return native.last_errno() if failed else 0


class Free(Mapped):
    """A region that is populated before each repetition and gone after it."""

    _advice = memory.MADV_DONTNEED

    def __init__(self, case: Case):
        super().__init__(case)
        self._random = np.random.default_rng(1)
        self._looked_at_all = False
        self._make_tasks()

    def _make_tasks(self) -> None:
        self.ctl = self.task(advise_pages, self._advice)

    def before(self) -> None:
        self.fill()
        self._expect_filled()
        self._pool = memory.free_pool_pages(self.case.page_kind)

    def _expect_filled(self) -> None:
        """Look at every page once, and then at a 64th of the range, somewhere.

        A look brings page tables and page descriptors into the caches of the caller: after one at 256 MiB of
        4 KiB pages, freeing took 0.93 of the time (KVM guest with two Xeon CPUs, 2026-11-26).
        """
        size = self.region.size_bytes
        part = size // 64 if self._looked_at_all else size
        part = max(part // memory.BASE_PAGE, 1) * memory.BASE_PAGE
        start = int(self._random.integers((size - part) // memory.BASE_PAGE + 1)) * memory.BASE_PAGE
        missing = np.count_nonzero(~self.region.present(start, part))
        expect(missing == 0, f"{missing} pages were missing before the free")
        if not self._looked_at_all:
            self.expect_nodes()
        self._looked_at_all = True

    def check(self) -> None:
        left = np.count_nonzero(self.region.present())
        expect(left == 0, f"{left} pages of 4 KiB are still there after the free")
        expect_pool_pages(self.case.page_kind, self._pool + self.size)


class LazyFree(Free):
    """A range whose pages are marked and stay; taken anew each time, for a page is marked only once."""

    _advice = memory.MADV_FREE

    def before(self) -> None:
        self.region.zap()
        super().before()

    def check(self) -> None:
        marked = self.region.lazy_free_bytes()
        expect(marked == self.operations, f"{marked} of {self.operations} bytes are marked as lazily free")


class Unmap(Free):
    """A mapping that is made anew before each repetition and gone after it."""

    def _make_tasks(self) -> None:
        self.region.move_apart()
        super()._make_tasks()
        self.ctl = self.task(unmap)

    def before(self) -> None:
        self.region.unmap()
        self.region.map()
        self.bind()
        super().before()

    def check(self) -> None:
        expect(self.region.hold(), "the range, or a part of it, is still mapped")
        super().check()


class UnmapAtOnce(Unmap):
    """One munmap over all; helpers, if there are any, zap the range first."""

    def _make_tasks(self) -> None:
        super()._make_tasks()
        self._zapped = np.zeros(1, dtype=np.int64)
        self.ctl = self.task(unmap_at_once, self.size, self._zapped.ctypes.data)

    def before(self) -> None:
        super().before()
        self._zapped[0] = 0


STATES: dict[str, Callable[[Case], State]] = {
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


WORKLOAD = Workload(
    name="free",
    about="Give a populated range back: clear its page-table entries and free its pages.",
    operation="byte",
    methods=(
        Method(
            "dontneed",
            "MADV_DONTNEED by range: zap and free, the mapping stays",
            probe=no_populate,
            options=(FILL, NODE, FOLIO),
            by_source="Each call ends with a TLB flush on every CPU that runs the process. All threads "
            "give their pages back under the locks of zone and LRU.",
            locks=("zone lock", "LRU lock"),
        ),
        Method(
            "lazyfree",
            "MADV_FREE by range: pages are marked, and freed only when memory is short",
            page_kinds=("4KiB", "THP"),
            probe=no_populate,
            options=(FILL, NODE, FOLIO),
            by_source="Each batch of pages moves to another list under the LRU lock; with THP, the "
            "page-table lock is held over a TLB flush per huge page.",
            locks=("LRU lock", "page-table lock"),
        ),
        Method(
            "munmap",
            "munmap by range: zap and free, mapping and page tables go too",
            probe=no_populate,
            options=(FILL, NODE, FOLIO),
            by_source="munmap takes mmap_lock for writing, so it waits for the call that is freeing under "
            "it.",
            locks=("mmap_lock",),
        ),
        Method(
            "munmap_at_once",
            "one munmap over all, as programs do it; helpers zap the range by MADV_DONTNEED first",
            probe=no_populate,
            options=(FILL, NODE, FOLIO),
            by_source="As dontneed; mmap_lock is taken for writing once, for a range that is empty by then.",
            locks=("zone lock", "LRU lock"),
        ),
        Method(
            "exit",
            "processes end and are reaped: one that holds all, or one per thread that holds its part",
            probe=no_populate,
            options=(FILL,),
            by_source="A process exits on one CPU. Several processes share no lock but those of zone and "
            "LRU.",
            locks=("zone lock", "LRU lock"),
        ),
        Method(
            "buddy",
            "pages go back to a buddy allocator in arrays, with lists per CPU and a lock per zone",
            "model",
            ("4KiB",),
            options=buddy.OPTIONS,
            by_source="Threads take turns at the lock of a zone, for each batch of pages.",
        ),
    ),
    setup=lambda case: STATES[case.method](case),
    memory_need=need,
    why_not=no_other_cpu,
    nodes=lambda case: nodes_of(case).memory,
)
