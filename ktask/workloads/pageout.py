"""Page out: take pages away from a process by range, or mark them as the first to go, before memory is short.

Pages of a file are clean: they are dropped. The file is sparse and has no name, so neither reading it nor
dropping it waits for a disk. Pages of anonymous memory go to swap.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache

import numpy as np

from ktask.host import available_memory
from ktask.memory import region as memory
from ktask.memory.calls import advise_pages
from ktask.workloads import Case, Method, Workload, expect, folios
from ktask.workloads.folios import FOLIO
from ktask.workloads.populated import Mapped, no_populate

ORDER = 9

MADV_COLD, MADV_PAGEOUT = 20, 21


class FileRegion(memory.Region):
    """A file without a name and without data, mapped shared: its pages are those of the page cache."""

    def __init__(self, size_bytes: int):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `unmap`)
        try:
            super().__init__(size_bytes)
        except BaseException:
            self._file.close()
            raise

    def map(self) -> None:
        """Map the file in the place of anonymous memory."""
        super().map()
        self._file.truncate(self.size_bytes)
        memory.map_file(self._file.fileno(), 0, self.size_bytes, self.address)

    def unmap(self) -> None:
        """Remove the mapping and the file."""
        super().unmap()
        self._file.close()


class PageOut(Mapped):
    """Memory whose pages are all there, and used, before each repetition."""

    def __init__(self, case: Case):
        self.of_file, self.is_cold = case.method.endswith("_file"), case.method.startswith("cold")
        super().__init__(case, FileRegion(case.size_bytes) if self.of_file else None)
        self.ctl = self.task(advise_pages, MADV_COLD if self.is_cold else MADV_PAGEOUT)

    def before(self) -> None:
        if self.of_file:
            self.region.advise(memory.MADV_POPULATE_READ)
        else:
            self.region.zap()  # what lies in swap
            with folios.expected(self.case):
                self.region.advise(memory.MADV_POPULATE_WRITE)
        self.region.one_word_per_page().sum()  # marks every page as used
        memory.drain_lru_batches()  # a page in the batch of another CPU would be passed over
        missing = np.count_nonzero(~self.region.resident())
        expect(missing == 0, f"{missing} pages of 4 KiB were missing before")

    def check(self) -> None:
        if self.is_cold:
            used = self._used_bytes()
            expect(used == 0, f"{used} of {self.operations} bytes still count as used")
        else:
            left = np.count_nonzero(self.region.resident())
            expect(left == 0, f"{left} pages of 4 KiB are still in memory")

    def _used_bytes(self) -> int:
        start, end = self.region.address, self.region.address + self.region.size_bytes
        return memory.smaps_bytes(start, end, "Referenced")


@lru_cache(maxsize=1)
def no_file() -> str | None:
    """Return why pages of a file cannot be paged out here, or None; tried on one page."""
    try:
        state = PageOut(Case("pageout", "pageout_file", "4KiB", memory.BASE_PAGE))
    except (OSError, memory.UnavailableError) as error:
        said = getattr(error, "strerror", None) or error
        return f"a file in {tempfile.gettempdir()} is refused: {said}"
    try:
        state.before()
        state.region.advise(MADV_PAGEOUT)
        stays = bool(state.region.resident().any())
    except OSError as error:
        return f"MADV_PAGEOUT (Linux 5.4) or MADV_POPULATE_READ (5.14) is refused: {error.strerror}"
    finally:
        state.close()
    if stays:
        return f"pages of a file in {tempfile.gettempdir()} stay in memory; set TMPDIR to a folder on a disk"
    return None


def no_swap() -> str | None:
    """Return why anonymous memory cannot be paged out here, or None."""
    if not available_memory.meminfo().get("SwapTotal"):
        return "there is no swap to page anonymous memory out to; `swapon`, or zram, would add some"
    return no_populate()


def _why_too_much(case: Case) -> str | None:
    free = available_memory.meminfo().get("SwapFree", 0)
    if case.method == "pageout" and case.size_bytes > free:
        return f"swap has {free / memory.MIB:.2f} MiB left; use a smaller size"
    return None


WORKLOAD = Workload(
    name="pageout",
    about="Take the pages of a range out of memory, or mark them as the first to go: reclaim by range.",
    operation="byte",
    methods=(
        Method(
            "pageout_file",
            "MADV_PAGEOUT by range of a mapped file whose pages are clean: unmapped, and dropped",
            page_kinds=("4KiB",),
            probe=no_file,
            by_source="mmap_lock is taken for reading only. Pages leave their list one by one under the LRU "
            "lock, and all pages of a file leave the page cache under one spinlock of that file.",
            locks=("page-cache lock", "LRU lock", "zone lock"),
        ),
        Method(
            "cold_file",
            "MADV_COLD by range of a mapped file: pages are marked as unused",
            page_kinds=("4KiB",),
            probe=no_file,
            by_source="mmap_lock is taken for reading only. Entries change under the page-table lock; pages "
            "move to another list in batches, under the LRU lock.",
            locks=("page-table lock", "LRU lock"),
        ),
        Method(
            "pageout",
            "MADV_PAGEOUT by range of anonymous memory: pages are written to swap",
            page_kinds=("4KiB", "THP"),
            probe=no_swap,
            options=(FOLIO,),
            by_source="mmap_lock is taken for reading only. Pages leave their list one by one under the LRU "
            "lock, and all are written to the same swap.",
            locks=("LRU lock", "zone lock"),
        ),
        Method(
            "cold",
            "MADV_COLD by range of anonymous memory: pages are marked as unused",
            page_kinds=("4KiB", "THP"),
            probe=no_populate,
            options=(FOLIO,),
            by_source="mmap_lock is taken for reading only. Entries change under the page-table lock; pages "
            "move to another list in batches, under the LRU lock.",
            locks=("page-table lock", "LRU lock"),
        ),
    ),
    setup=PageOut,
    why_not=_why_too_much,
)
