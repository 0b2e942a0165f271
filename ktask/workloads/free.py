"""Free: give a populated range back to the kernel, by zapping it or by unmapping it."""

from __future__ import annotations

import numpy as np

from ktask import engine, memory, native
from ktask.task import Ctl
from ktask.thread_functions import thread_func
from ktask.workloads import Case, Method, Workload, expect
from ktask.workloads.zeroing import no_populate, populate

ORDER = 3


@thread_func(cache=True)
def dontneed(start, end, base, page_size):
    """Zap pages `start` to `end`: page-table entries cleared, pages freed, the mapping stays."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(base + start * page_size, (end - start) * page_size, 4)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def unmap(start, end, base, page_size):
    """Unmap pages `start` to `end`: as zapping, and the mapping and its page tables go too."""
    failed = native.munmap(base + start * page_size, (end - start) * page_size)
    return native.last_errno() if failed else 0


FUNCTIONS = {"dontneed": dontneed, "munmap": unmap}


class Free:
    """A region that is populated before each repetition and gone after it."""

    def __init__(self, case: Case):
        self.case = case
        self.region = memory.Region(case.size_bytes, case.page_kind)
        self.size = self.region.size_bytes // case.page_size
        self.bytes_per_unit = case.page_size
        self.operations = self.region.size_bytes
        args = (self.region.address, case.page_size)
        self.ctl = Ctl(FUNCTIONS[case.method], args, case.min_chunk_pages)
        self._fill = Ctl(populate, args, case.min_chunk_pages, max_threads=1 << 16)

    def before(self) -> None:
        if self.case.method == "munmap":
            self.region.unmap()
            self.region.map()
        result = engine.run(0, self.size, self._fill)
        expect(result.error == 0, f"populating the range failed with errno {result.error}")
        present = self.region.present()
        expect(bool(present.all()), f"{np.count_nonzero(~present)} pages were missing before the free")

    def check(self) -> None:
        left = np.count_nonzero(self.region.present())
        expect(left == 0, f"{left} pages of 4 KiB are still there after the free")
        if self.case.method == "munmap":
            expect(not memory.is_mapped(self.region.address), "the range is still mapped")

    def close(self) -> None:
        self.region.unmap()


WORKLOAD = Workload(
    name="free",
    about="Give a populated range back: clear its page-table entries and free its pages.",
    operation="byte",
    methods=(
        Method(
            "dontneed",
            "MADV_DONTNEED by range: zap and free, the mapping stays",
            "kernel",
            tuple(memory.PAGE_KINDS),
            probe=no_populate,
        ),
        Method(
            "munmap",
            "munmap by range: zap and free, mapping and page tables go too",
            "kernel",
            tuple(memory.PAGE_KINDS),
            probe=no_populate,
        ),
    ),
    setup=Free,
)
