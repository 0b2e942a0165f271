"""Address spaces without gaps: every page is the kernel's one page of zeros, or every page is its own.

The page of zeros makes a page table of any size, as real as any, and nothing stands behind it. In a space of
one small file mapped over and over (`layouts`) each page has thousands of mappings, which others, such as
DAMON, walk meanwhile. Who looks at the page behind each entry, as pagemap does and PAGEMAP_SCAN does not,
takes longer where every page is another one.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress

import numpy as np

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.memory import region as memory
from ktask.memory.calls import advise_ranges
from ktask.memory.layouts import PIECE_BYTES
from ktask.memory.region import (
    BASE_PAGE,
    GIB,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MIB,
    THP_SIZE,
)


class FilledSpace(AbstractContextManager):
    """A range that is filled with pages, each table of 512 without one at random: a count proves a walk.

    Attributes
    ----------
    address, end
        The range.
    size_bytes
        Its size, in whole pages.
    present
        Pages of 4 KiB that are there.

    Raises
    ------
    ktask.memory.region.BudgetError, ktask.memory.region.UnavailableError
        If it does not fit the memory, or the kernel refuses.
    """

    _WRITABLE: bool
    _PAGES: int  # advice on the kind of pages
    _POPULATE: int

    @classmethod
    def memory_need(cls, size_bytes: int) -> int:
        """Return what such a space takes: its page tables, and what is held while it is made."""
        return (size_bytes + 2 * THP_SIZE) // 512 + size_bytes // THP_SIZE * 40 + MIB

    def __init__(self, size_bytes: int, seed: int = 1):
        n_pages = max(1, -(-size_bytes // BASE_PAGE))
        self.size_bytes = n_pages * BASE_PAGE
        memory.require_budget(self.memory_need(size_bytes), f"a walk over {size_bytes / GIB:.2f} GiB")
        self._reserved: memory.Reservation | None = memory.Reservation(self.size_bytes)
        self.address = self._reserved.address
        self.end = self.address + self.size_bytes
        try:
            self._reserved.make_accessible(0, self.size_bytes, writable=self._WRITABLE)
            with suppress(OSError):  # a kernel without huge pages takes longer
                self._reserved.advise(0, self.size_bytes, self._PAGES)
            self._advise(self._pieces(), self._POPULATE)
            left_out = self._left_out(n_pages, np.random.default_rng(seed))
            self._advise(left_out, MADV_DONTNEED, max_threads=1)
            with suppress(OSError):
                self._reserved.advise(0, self.size_bytes, MADV_NOHUGEPAGE)  # or khugepaged would fill it
        except BaseException:
            self.unmap()
            raise
        self.present = n_pages - len(left_out)

    def _pieces(self) -> np.ndarray:
        at = np.arange(0, self.size_bytes, PIECE_BYTES)
        return np.column_stack([self.address + at, np.minimum(PIECE_BYTES, self.size_bytes - at)])

    def _left_out(self, n_pages: int, random: np.random.Generator) -> np.ndarray:
        """Return a page of each table, but for a table of one page."""
        first = np.arange(0, n_pages, 512)
        count = np.minimum(512, n_pages - first)
        page = (first + random.integers(count))[count > 1]
        return np.column_stack([self.address + page * BASE_PAGE, np.full(page.size, BASE_PAGE)])

    def _advise(self, rows: np.ndarray, advice: int, max_threads: int = 1 << 16) -> None:
        """Call madvise over ranges, rows of address and bytes."""
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        ctl = Ctl(advise_ranges, (rows.ctypes.data, advice), max_threads=max_threads)
        if code := engine.run(0, len(rows), ctl, "dynamic").error:
            raise memory.UnavailableError(f"madvise({advice}) of a range failed: {os.strerror(code)}")

    def unmap(self) -> None:
        """Give everything back, on all CPUs; harmless if that has happened already."""
        if self._reserved:
            with suppress(memory.UnavailableError):
                self._advise(self._pieces(), MADV_DONTNEED)
            self._reserved.unmap()
            self._reserved = None

    def __exit__(self, *_: object) -> None:
        self.unmap()


class ZeroSpace(FilledSpace):
    """Pages of zeros.

    It is populated by the huge page of zeros, 2 MiB at a time, which is then split by taking one small page
    away: far faster than page by page. One thread splits: with two, each split interrupts the other CPU to
    flush its TLB.
    """

    _WRITABLE, _PAGES, _POPULATE = False, MADV_HUGEPAGE, MADV_POPULATE_READ


class MemorySpace(FilledSpace):
    """Pages of 4 KiB of memory, as most processes have them."""

    _WRITABLE, _PAGES, _POPULATE = True, MADV_NOHUGEPAGE, MADV_POPULATE_WRITE

    @classmethod
    def memory_need(cls, size_bytes: int) -> int:
        """Return what such a space takes: every page, and the page tables."""
        return size_bytes + super().memory_need(size_bytes)
