"""Zeroing: the kernel clears fresh pages, or user code clears memory that is already there.

The two are different measurements and never mixed: the first includes fault-in, allocation and page tables,
the second is stores only.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.calls import advise_pages
from ktask.workloads import Case, Method, Option, State, Workload, expect, folios
from ktask.workloads.folios import FOLIO
from ktask.workloads.nodes import NODE, nodes_of
from ktask.workloads.populated import no_populate
from ktask.workloads.zeroing.allocation import FILES, Allocation
from ktask.workloads.zeroing.resident import Resident
from ktask.workloads.zeroing.stores import available
from ktask.workloads.zeroing.zeroed import Zeroed

ORDER = 1


class FirstTouch(Zeroed):
    """Fresh pages: zap before, populate timed.

    The region is zapped right before a repetition, by as many threads as will populate it. So the allocator
    hands out the pages just freed, which the host of a virtual machine still backs; zapped by one thread,
    all of them would lie in the free lists of its CPU, and helpers would get others.
    """

    _offset, _touched = 0, False

    def __init__(self, case: Case):
        super().__init__(case, case.page_size, shared=case.option("sharing") == "shared")
        self.ctl = self.task(advise_pages, memory.MADV_POPULATE_WRITE)

    def before(self) -> None:
        if self._touched:
            self._dirty()
        self._touched = True
        advice = memory.MADV_REMOVE if self.region.shared else memory.MADV_DONTNEED
        ctl = self.task(advise_pages, advice, threads=self.ctl.max_threads)
        expect(engine.run_numa(self.parts, ctl).error == 0, "the pages could not be given back")
        self._folios = folios.allocated(self.case)

    def check(self) -> None:
        present = self.region.present()
        expect(bool(present.all()), f"{np.count_nonzero(~present)} pages of 4 KiB are not present")
        self._expect_zero()
        self.expect_nodes()
        folios.expect_allocated(self.case, self._folios)
        if self.region.page_kind == "THP":
            huge = self.region.huge_bytes()
            expect(
                huge == self.operations, f"only {huge} of {self.operations} bytes are mapped by huge pages"
            )


def no_rep_stosb() -> str | None:
    """Return why there is no `rep stosb` here, or None."""
    if "rep_stosb" in available():
        return no_populate()
    return f"rep stosb is an instruction of x86-64; this is {platform.machine()}"


def setup(case: Case) -> State:
    """Return the case set up; its memory is mapped, or its files are there."""
    if case.method == "populate":
        return FirstTouch(case)
    return (Allocation if case.method.startswith("fallocate") else Resident)(case)


def why_not(case: Case) -> str | None:
    """Return why the options of a case cannot be had here, or None."""
    options = dict(case.options)
    if options.get("sharing") == "shared" and "folio" in options:
        return "folio is for private memory; use sharing=private"
    if options.get("sharing") == "shared":
        return memory.why_not(case.page_kind, case.size_bytes, shared=True)
    return None


SHARING = Option("sharing", "private memory, or shared", "private", ("private", "shared"))
RESIDENT: dict[str, Any] = {  # what user code zeroes, by one kind of store or another
    "backend": "user",
    "options": (NODE,),
}


WORKLOAD = Workload(
    name="zeroing",
    about="Zero memory: the kernel clears fresh pages as it maps them, or user code clears resident ones.",
    operation="byte",
    methods=(
        Method(
            "populate",
            "first touch: MADV_POPULATE_WRITE runs the kernel's allocation and page clearing",
            probe=no_populate,
            allocates=True,
            options=(SHARING, NODE, FOLIO),
            by_source="mmap_lock is taken for reading only. A fault on a hugetlb page also holds one of a "
            "table of mutexes, eight per CPU, while the page is cleared.",
        ),
        Method(
            "fallocate",
            "fallocate by range of one hugetlbfs file (memfd); tmpfs clears later, at the first use",
            page_kinds=memory.HUGETLB_KINDS,
            allocates=True,
            by_source="The inode lock of the file is held for the whole call, so threads take turns.",
            locks=("inode lock",),
        ),
        Method(
            "fallocate_files",
            f"fallocate of {FILES} hugetlbfs files that share the size",
            page_kinds=memory.HUGETLB_KINDS,
            allocates=True,
            by_source="Every file has an inode lock of its own; all share the table of fault mutexes.",
            locks=("hugetlb fault mutex",),
        ),
        Method("memset", "resident memory, libc memset", probe=no_populate, **RESIDENT),
        Method("nontemporal", "resident memory, 64-byte non-temporal stores", probe=no_populate, **RESIDENT),
        Method(
            "stores", "resident memory, the widest ordinary stores of the CPU", probe=no_populate, **RESIDENT
        ),
        Method(
            "rep_stosb", "resident memory, one string instruction per chunk", probe=no_rep_stosb, **RESIDENT
        ),
        Method(
            "auto",
            "resident memory, by the kind of store that is fastest here at the size, tried once per process",
            probe=no_populate,
            **RESIDENT,
        ),
    ),
    setup=setup,
    why_not=why_not,
    nodes=lambda case: nodes_of(case).memory,
)
