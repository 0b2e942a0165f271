"""Page walk: visit every page-table entry of a range, through the kernel's own walkers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.memory import address_space, walkers
from ktask.memory import inspect as answers
from ktask.memory import region as memory
from ktask.memory.address_space import EVERY_ENTRY, EVERY_PAGE, Process, no_pagemap, no_scan
from ktask.memory.filled_space import ZeroSpace
from ktask.memory.region import BASE_PAGE
from ktask.workloads import Case, Method, Workload, expect
from ktask.workloads.page_walk import radix
from ktask.workloads.page_walk import spaces as walk_space
from ktask.workloads.page_walk.radix_model import DEPTH, MODEL, ORDER_OF_TABLES, WalkModel
from ktask.workloads.page_walk.smaps import TEXTS, ReadText
from ktask.workloads.page_walk.spaces import (
    LAYOUT,
    PAGES,
    PID,
    RANGE,
    Space,
    bounds_of,
    close,
    either,
    open_space,
    set_to,
)
from ktask.workloads.populated import FILL

ORDER = 2

FUNCTIONS = {
    "pagemap_scan": walkers.count_scan,
    "pagemap": walkers.count_pagemap,
    "mincore": walkers.count_mincore,
}
UNITS = {"pagemap_scan": EVERY_ENTRY}  # the others look at every page of 4 KiB


class Walk:
    """An address space, made for the case or that of a process, and the pages that a walk must find in it."""

    bytes_per_unit = BASE_PAGE

    def __init__(self, case: Case, process: Process, space: Space | None):
        self.case, self.method = case, case.method
        self.process, self.space = process, space
        self.count = np.zeros(1, dtype=np.int64)
        self.have_agreed = False
        self.find_entries()
        self.size_bytes = self.space.size_bytes if self.space else self.size * BASE_PAGE
        self.expected = (self.space.present,) * 2 if self.space else (0, 0)
        if space is None and process.is_self:
            # What the first walks load and compile is mapped here: no pages found too many.
            for _ in range(2):
                self.before()
                engine.run(0, self.size, self.ctl)

    def find_entries(self) -> None:
        """Find out where there are entries, and cut the task by them."""
        self.mappings = self.process.maps(*bounds_of(self.case, self.space))
        unit = UNITS.get(self.method, EVERY_PAGE)
        self.extents = address_space.find_extents(self.process, self.mappings, unit)
        self.size = self.operations = self.extents.n_units
        if not self.size:
            pid, where = self.process.pid, set_to(self.case, "range")
            raise memory.UnavailableError(
                f"process {pid} has nothing mapped in range={where}; use addresses of /proc/{pid}/maps"
            )
        self.ctl = self._task(self.method, self.extents)

    def _task(self, method: str, extents) -> Ctl:
        args = (*extents.args, self.process.fd, self.count.ctypes.data)
        return Ctl(FUNCTIONS[method], args, self.case.min_chunk_pages)

    def before(self) -> None:
        if self.space is None:  # another process, which does not stand still
            threads = self.ctl.max_threads
            self.find_entries()
            self.ctl = replace(self.ctl, max_threads=threads)
            self.expected = (self.counted_by(self._reference()),) * 2
        self.count[0] = 0

    def check(self) -> None:
        self.process.require_alive()
        found = int(self.count[0])
        if self.space is None:
            again = self.counted_by(self._reference())
            self.expected = min(again, *self.expected), max(again, *self.expected)
        low, high = self.expected
        expect(
            low <= found <= high,
            f"the walk found {found} present pages in {self.operations} entries; "
            f"{either(low, high)} are there",
        )
        if self.space and not self.have_agreed:
            self._expect_agreement()

    def counted_by(self, method: str) -> int:
        """Return how many pages another method finds."""
        if method == "smaps":
            ends = self.mappings[0].start, self.mappings[-1].end
            table = answers.walk(self.process.pid, *ends, method=method)
            return int(table["present"].sum()) // BASE_PAGE
        kept = int(self.count[0])
        extents = address_space.find_extents(self.process, self.mappings, UNITS.get(method, EVERY_PAGE))
        self.count[0] = 0
        result = engine.run(0, extents.n_units, self._task(method, extents))
        address_space.require_done(result, self.process)
        found, self.count[0] = int(self.count[0]), kept
        return found

    def _reference(self) -> str:
        """Return a method to compare with on another process."""
        return "pagemap" if self.method == "pagemap_scan" or no_scan() else "pagemap_scan"

    def _expect_agreement(self) -> None:
        """Raise CheckError unless all methods that there are find the same."""
        others = () if isinstance(self.space, ZeroSpace) else ("smaps",)  # which does not count zeros
        for method in (*FUNCTIONS, *others):
            if method != self.method and not WORKLOAD.method(method).probe():
                found = self.counted_by(method)
                expect(found == self.expected[0], f"{method} finds {found} pages, not {self.expected[0]}")
        self.have_agreed = True

    def close(self) -> None:
        close(self.process, self.space)


def memory_need(case: Case) -> int:
    """Return what a case takes: the table in arrays, or the address space."""
    return radix.memory_need(case.size_bytes) if case.method in MODEL else walk_space.memory_need(case)


def setup(case: Case) -> Any:
    """Return the case set up."""
    if case.method in MODEL:
        return WalkModel(case)
    process, space = open_space(case)
    try:
        return (ReadText if case.method in TEXTS else Walk)(case, process, space)
    except BaseException:
        close(process, space)
        raise


TABLE_LOCK = (
    "mmap_lock is taken for reading only. Each page table has a lock, which two threads that walk the same "
    "one take in turns."
)
OF_TABLES = ("page-table lock",)

WORKLOAD = Workload(
    name="page_walk",
    about="Walk the page table of a large address space and count the present pages.",
    operation="PTE",
    methods=(
        Method(
            "pagemap_scan",
            "the PAGEMAP_SCAN ioctl, one call per chunk",
            page_kinds=("4KiB",),
            probe=no_scan,
            by_source=f"{TABLE_LOCK} Who maps memory waits for the whole call.",
            locks=OF_TABLES,
            options=(LAYOUT, PAGES, FILL, PID, RANGE),
        ),
        Method(
            "pagemap",
            "reading /proc/PID/pagemap, 8 bytes copied per entry",
            page_kinds=("4KiB",),
            probe=no_pagemap,
            by_source=f"{TABLE_LOCK} The page behind each entry is looked up, and 8 bytes are copied.",
            locks=OF_TABLES,
            options=(LAYOUT, PAGES, FILL, PID, RANGE),
        ),
        Method(
            "mincore",
            "mincore over this process, one byte per entry",
            page_kinds=("4KiB",),
            by_source=f"{TABLE_LOCK} mmap_lock is taken anew every 4096 pages.",
            locks=OF_TABLES,
            options=(LAYOUT, PAGES, FILL),
        ),
        Method(
            "smaps",
            "reading /proc/PID/smaps, as people do today: one file position, hence one thread",
            page_kinds=("4KiB",),
            by_source="It is one text, read from its start to its end; it cannot be split into ranges.",
            options=(LAYOUT, PID),
        ),
        Method(
            "smaps_rollup",
            "reading /proc/PID/smaps_rollup, as people do today: one sum, hence one thread",
            page_kinds=("4KiB",),
            by_source="It is one call, which adds up the whole process; it cannot be split into ranges.",
            options=(LAYOUT, PID),
        ),
        Method(
            "radix",
            "a radix table in arrays, walked from the root down",
            "model",
            ("4KiB",),
            by_source="There is no lock.",
            options=(LAYOUT, PID, DEPTH, ORDER_OF_TABLES),
        ),
        Method(
            "plain_read",
            "the memory of that table read from start to end: the bandwidth to compare a walk with",
            "model",
            ("4KiB",),
            options=(LAYOUT, PID, DEPTH, ORDER_OF_TABLES),
        ),
    ),
    setup=setup,
    memory_need=memory_need,
    why_not=walk_space.why_not,
)
