"""Zeroing: the kernel clears fresh pages, or user code clears memory that is already there.

The two are different measurements and never mixed: the first includes fault-in, allocation and page tables,
the second is stores only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ktask import memory, native
from ktask.task import Ctl
from ktask.thread_functions import thread_func
from ktask.workloads import Case, Method, Workload, expect

ORDER = 1


@thread_func(cache=True)
def populate(start, end, base, page_size):
    """Fault pages `start` to `end` in for writing: the kernel allocates, clears and maps them."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(base + start * page_size, (end - start) * page_size, 23)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def memset(start, end, base, page_size):
    """Zero resident pages by libc's memset."""
    native.memset(base + start * page_size, 0, (end - start) * page_size)
    return 0


@thread_func(cache=True)
def streaming(start, end, base, page_size):
    """Zero resident pages by non-temporal stores."""
    native.zero_streaming(base + start * page_size, base + end * page_size)
    return 0


FUNCTIONS = {"populate": populate, "memset": memset, "nontemporal": streaming}


class _Zeroing:
    """A region, its thread function, and a word per page that tells whether it was cleared."""

    def __init__(self, case: Case):
        self.region = memory.Region(case.size_bytes, case.page_kind)
        self.size = self.region.size_bytes // case.page_size
        self.bytes_per_unit = case.page_size
        self.operations = self.region.size_bytes
        self.ctl = Ctl(FUNCTIONS[case.method], (self.region.address, case.page_size), case.min_chunk_pages)
        self._random = np.random.default_rng(1)

    def close(self) -> None:
        self.region.unmap()

    def _dirty(self) -> None:
        """Leave a nonzero word somewhere in every 4 KiB, at an offset that no caller can foresee."""
        offset = int(self._random.integers(memory.BASE_PAGE // 8)) * 8
        self.region.one_word_per_page(offset)[:] = 0xDEADBEEF
        self._offset = offset

    def _expect_zero(self) -> None:
        left = np.flatnonzero(self.region.one_word_per_page(self._offset))
        expect(left.size == 0, f"{left.size} of {self.size} pages still hold data after zeroing")


class FirstTouch(_Zeroing):
    """Fresh pages: zap before, populate timed.

    The region stays populated between repetitions and is zapped right before the next one. So the pages
    that the allocator hands out are the ones just freed, which the host still backs.
    """

    _offset, _touched = 0, False

    def before(self) -> None:
        if self._touched:
            self._dirty()
        self.region.zap()
        self._touched = True

    def check(self) -> None:
        present = self.region.present()
        expect(bool(present.all()), f"{np.count_nonzero(~present)} pages of 4 KiB are not present")
        self._expect_zero()
        if self.region.page_kind == "THP":
            huge = self.region.huge_bytes()
            expect(
                huge == self.region.size_bytes,
                f"only {huge} of {self.region.size_bytes} bytes are mapped by huge pages",
            )


class Resident(_Zeroing):
    """Memory that is there already: dirtied before, zeroed timed."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.region.advise(memory.MADV_POPULATE_WRITE)

    def before(self) -> None:
        self._dirty()

    def check(self) -> None:
        self._expect_zero()


@lru_cache(maxsize=1)
def no_populate() -> str | None:
    """Return why MADV_POPULATE_WRITE cannot be used here, or None; tried on one page."""
    try:
        with memory.Region(memory.BASE_PAGE) as page:
            page.advise(memory.MADV_POPULATE_WRITE)
    except OSError as error:
        return f"MADV_POPULATE_WRITE needs Linux 5.14: {error.strerror}"
    return None


def setup(case: Case) -> _Zeroing:
    """Return the case set up; its memory is mapped."""
    return (FirstTouch if case.method == "populate" else Resident)(case)


WORKLOAD = Workload(
    name="zeroing",
    about="Zero memory: the kernel clears fresh pages as it maps them, or user code clears resident ones.",
    operation="byte",
    methods=(
        Method(
            "populate",
            "first touch: MADV_POPULATE_WRITE runs the kernel's allocation and page clearing",
            "kernel",
            tuple(memory.PAGE_KINDS),
            probe=no_populate,
            allocates=True,
        ),
        Method("memset", "resident memory, libc memset", "user", ("4KiB", "THP"), probe=no_populate),
        Method(
            "nontemporal",
            "resident memory, 64-byte non-temporal stores",
            "user",
            ("4KiB", "THP"),
            probe=no_populate,
        ),
    ),
    setup=setup,
)
