"""Start: what a program with much memory does first: populate it, pin it, and fill it.

`fused` does all three to a chunk before the next one; what the kernel has just cleared is in a cache when it
is filled. `stages` ends each step for the whole range before the next begins, as programs are written.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.memory.calls import advise, advise_pages
from ktask.workloads import Case, Method, Option, Workload, expect
from ktask.workloads.fragments import HELD_BYTES, MEMORY, Fragments, is_fragmented, pinned_bytes
from ktask.workloads.locked import lock_range, over_limit
from ktask.workloads.populated import Mapped, no_populate
from ktask.workloads.rings import BUFFER, RING_BYTES, Rings, n_rings, no_io_uring, pin_range

ORDER = 10

STAGES = 3
CONTENT = 0xA5  # of every byte in the end
_DONE, _FAILED = 0, 8  # offsets of what threads tell each other: pages done over all stages; an error
_ECANCELED = 125


@njit(cache=True, nogil=True)
def _step(stage, address, size_bytes, page_size, fds, n_rings, taken):
    """Populate, pin or fill a range; without rings it is pinned by mlock."""
    if stage == 0:
        return advise(address, size_bytes, memory.MADV_POPULATE_WRITE)
    if stage == 1 and n_rings == 0:
        return lock_range(address, size_bytes)
    if stage == 1:
        return pin_range(address, size_bytes, max(BUFFER, page_size), fds, n_rings, taken)
    native.memset(address, CONTENT, size_bytes)
    return 0


@thread_func(cache=True)
def start_fused(start, end, base, page_size, fds, n_rings, taken):
    """Populate, pin and fill pages `start` to `end`."""
    for stage in range(STAGES):
        size_bytes = (end - start) * page_size
        code = _step(stage, base + start * page_size, size_bytes, page_size, fds, n_rings, taken)
        if code != 0:
            return code
    return 0


@thread_func(cache=True)
def start_in_stages(start, end, base, page_size, size, told, fds, n_rings, taken):
    """Do the steps `start` to `end`, of which each stage has one per page.

    A step waits until the stages before it are over. Chunks are taken in order, so what it waits for is done
    by threads that run.
    """
    for stage in range(STAGES):
        first, last = max(start - stage * size, 0), min(end - stage * size, size)
        if first >= last:
            continue
        while native.load(told + _DONE) < stage * size:
            if native.load(told + _FAILED):
                return _ECANCELED
            native.sched_yield()
        size_bytes = (last - first) * page_size
        code = _step(stage, base + first * page_size, size_bytes, page_size, fds, n_rings, taken)
        if code != 0:
            native.store(told + _FAILED, 1)
            return code
        native.fetch_add(told + _DONE, last - first)
    return 0


class Fused(Mapped):
    """A mapping without pages before each repetition: populated, pinned and filled after it.

    Attributes
    ----------
    huge_share
        Where memory is fragmented: how much of the range came as huge pages in the last repetition.
    """

    huge_share: float | None = None

    def __init__(self, case: Case):
        super().__init__(case)
        self.rings = self.fragments = None
        try:
            if case.option("pin") == "io_uring":
                self.rings = Rings()
            if is_fragmented(case):
                self.fragments = Fragments()
        except BaseException:
            self.close()
            raise
        self._field = "VmPin" if self.rings else "VmLck"
        self._others = status_bytes(self._field)
        self._told = np.zeros(2, dtype=np.int64)
        self.size_bytes = self.region.size_bytes
        self._make_task(*(self.rings.args if self.rings else (0, 0, 0)))

    def _make_task(self, *rings: int) -> None:
        self.ctl = self.task(start_fused, *rings)

    def before(self) -> None:
        if self.rings:
            self.rings.empty()
        else:
            memory.unlock(self.region.address, self.region.size_bytes)
        self._zap()
        left = int(np.count_nonzero(self.region.present()))
        expect(left == 0, f"{left} pages of 4 KiB were there before the start")
        self._told[:] = 0
        if self.fragments:
            self.fragments.renew()

    def _zap(self) -> None:
        """Give the pages back on as many CPUs as will take them, so that these find them in their lists."""
        threads = self.ctl.max_threads
        ctl = Ctl(advise_pages, (*self._place, memory.MADV_DONTNEED), self.case.min_chunk_pages, threads)
        result = engine.run(0, self.region.size_bytes // self.case.page_size, ctl)
        expect(result.error == 0, "the pages could not be given back")

    @property
    def _place(self) -> tuple[int, int]:
        return self.region.address, self.case.page_size

    def check(self) -> None:
        held = status_bytes(self._field) - self._others
        size = self.region.size_bytes
        expect(held == size, f"{held} of {size} bytes are pinned after the start ({self._field})")
        wrong = np.count_nonzero(self.region.one_word_per_page() != np.uint64(CONTENT * 0x0101010101010101))
        expect(wrong == 0, f"{wrong} pages of 4 KiB are not filled after the start")
        if self.case.page_kind == "THP":
            huge = self.region.huge_bytes()
            if self.fragments:
                self.huge_share = huge / size
            else:
                expect(huge == size, f"only {huge} of {size} bytes are mapped by huge pages")
        if self.fragments:
            self.fragments.expect_alive()

    def close(self) -> None:
        if self.fragments:
            self.fragments.close()
        if self.rings:
            self.rings.close()
        super().close()


class Stages(Fused):
    """The same, a step for the whole range after the other; the task has one unit per page and stage."""

    def _make_task(self, *rings: int) -> None:
        n_pages, told = self.size, self._told.ctypes.data
        self.ctl = self.task(start_in_stages, n_pages, told, *rings)
        self.size = STAGES * n_pages

    def check(self) -> None:
        expect(int(self._told[0]) == self.size, f"{self._told[0]} of {self.size} steps were done")
        super().check()


PIN = Option(
    "pin",
    "how the pages are pinned: as fixed buffers of io_uring, which is what drivers do, or by mlock",
    "io_uring",
    ("io_uring", "mlock"),
    why_not=lambda value: no_io_uring() if value == "io_uring" else None,
)


def why_not(case: Case) -> str | None:
    """Return why a case cannot be pinned so, or not in fragmented memory, or None."""
    if is_fragmented(case) and case.page_kind in memory.HUGETLB_KINDS:
        return "hugetlb pages come from their pool, fragmented or not; use memory=as_it_is"
    others = pinned_bytes() if is_fragmented(case) else 0
    if case.option("pin") == "io_uring":
        need = status_bytes("VmPin") + case.size_bytes + n_rings() * RING_BYTES + others
        return no_io_uring() or over_limit(need)
    if case.page_kind in memory.HUGETLB_KINDS:
        return "mlock passes over hugetlb pages; use pin=io_uring"
    return over_limit(status_bytes("VmLck") + case.size_bytes) or over_limit(others)


def need(case: Case) -> int:
    """Return how much general memory a case takes."""
    others = HELD_BYTES + pinned_bytes() if is_fragmented(case) else 0
    return memory.region_need(case.size_bytes, case.page_kind) + others


WORKLOAD = Workload(
    name="start",
    about="Start a program with much memory: populate the range, pin it as for DMA, and fill it.",
    operation="byte",
    methods=(
        Method(
            "fused",
            "each chunk is populated, pinned and filled before the next",
            probe=no_populate,
            allocates=True,
            options=(PIN, MEMORY),
            by_source="mmap_lock is taken for reading to populate and to pin, but for writing by pin=mlock. "
            "Filling takes no lock.",
        ),
        Method(
            "stages",
            "the whole range is populated, then pinned, then filled; threads wait for each other between",
            probe=no_populate,
            allocates=True,
            options=(PIN, MEMORY),
            by_source="As fused; between the stages threads wait until the slowest has ended.",
        ),
    ),
    setup=lambda case: (Fused if case.method == "fused" else Stages)(case),
    memory_need=need,
    why_not=why_not,
)
