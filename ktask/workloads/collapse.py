"""Collapse: turn a range of 4 KiB pages into huge pages, as khugepaged does."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Workload, expect, folios
from ktask.workloads.folios import FOLIO
from ktask.workloads.populated import Mapped, no_populate

ORDER = 8


@thread_func(cache=True)
def collapse(start, end, base, page_size):
    """Collapse huge pages `start` to `end`: each is allocated, filled by copying, and mapped."""
    code = native.EAGAIN
    for _ in range(100):
        failed = native.madvise(base + start * page_size, (end - start) * page_size, memory.MADV_COLLAPSE)
        code = native.last_errno() if failed else 0
        if code not in (native.EINTR, native.EAGAIN):
            break
    return code


class Collapse(Mapped):
    """A region of small folios before each repetition, of huge pages after it, with the same content.

    Shared memory is that of a file of its own (tmpfs), and collapses whether or not `shmem_enabled` lets a
    fault make huge pages of it.
    """

    def __init__(self, case: Case):
        super().__init__(case, region_of(case.size_bytes, case.method == "collapse_shared"))
        self.ctl = self.task(collapse)
        self._random = np.random.default_rng(1)

    def before(self) -> None:
        self.region.zap()
        in_folios = folios.folio_of(self.case) is not None
        self.region.advise(memory.MADV_HUGEPAGE if in_folios else memory.MADV_NOHUGEPAGE)
        with folios.expected(self.case):
            self.region.advise(memory.MADV_POPULATE_WRITE)
        self.region.advise(memory.MADV_HUGEPAGE)
        self._stamp = self._random.integers(1, 1 << 62, dtype=np.uint64)
        words = self.region.one_word_per_page()
        words[:] = self._stamp + np.arange(words.size, dtype=np.uint64)
        expect(self.region.huge_bytes() == 0, "the range had huge pages before the collapse")

    def check(self) -> None:
        huge, size = self.region.huge_bytes(), self.region.size_bytes
        expect(huge == size, f"only {huge} of {size} bytes are mapped by huge pages")
        words = self.region.one_word_per_page()
        kept = np.count_nonzero(words == self._stamp + np.arange(words.size, dtype=np.uint64))
        expect(kept == words.size, f"{words.size - kept} pages have lost their content")


def region_of(size_bytes: int, shared: bool) -> memory.Region:
    """Return memory that can be collapsed, whole huge pages of it."""
    whole = -(-size_bytes // memory.THP_SIZE) * memory.THP_SIZE
    return memory.Region(whole, "4KiB" if shared else "THP", shared=shared)


@lru_cache(maxsize=2)
def no_collapse(shared: bool = False) -> str | None:
    """Return why MADV_COLLAPSE cannot be used here, or None; tried on one huge page."""
    if reason := no_populate() or memory.why_not("THP", memory.THP_SIZE):
        return reason
    try:
        with region_of(memory.THP_SIZE, shared) as page:
            page.advise(memory.MADV_HUGEPAGE)
            page.advise(memory.MADV_POPULATE_WRITE)
            page.advise(memory.MADV_COLLAPSE)
    except OSError as error:
        return f"MADV_COLLAPSE (Linux 6.1) is refused: {error.strerror}"
    return None


WORKLOAD = Workload(
    name="collapse",
    about="Collapse 4 KiB pages into huge pages: allocate, copy, and map, as khugepaged does.",
    operation="byte",
    methods=(
        Method(
            "collapse",
            "MADV_COLLAPSE by range of private memory",
            page_kinds=("THP",),
            probe=no_collapse,
            allocates=True,
            options=(FOLIO,),
            by_source="mmap_lock is held for writing while a huge page is filled by copying, so threads "
            "take turns.",
            locks=("mmap_lock",),
        ),
        Method(
            "collapse_shared",
            "MADV_COLLAPSE by range of shared memory (a file of tmpfs)",
            page_kinds=("THP",),
            probe=partial(no_collapse, shared=True),
            allocates=True,
            by_source="mmap_lock is let go while the pages are copied.",
        ),
    ),
    setup=Collapse,
)
