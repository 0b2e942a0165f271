"""Zeroing: the kernel clears fresh pages, or user code clears memory that is already there.

The two are different measurements and never mixed: the first includes fault-in, allocation and page tables,
the second is stores only.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from ktask.engine import native
from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import topology
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Option, State, Workload, expect
from ktask.workloads.populated import no_populate, populate
from ktask.workloads.zeroing.allocation import FILES, Allocation
from ktask.workloads.zeroing.resident import Resident
from ktask.workloads.zeroing.stores import available
from ktask.workloads.zeroing.zeroed import NODE, Zeroed, nodes_of

ORDER = 1


@thread_func(cache=True)
def give_back(start, end, base, page_size, advice):
    """Zap pages `start` to `end`, so that they go to the free lists of the CPU that does it."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(base + start * page_size, (end - start) * page_size, advice)
        code = native.last_errno() if failed else 0
    return code


class FirstTouch(Zeroed):
    """Fresh pages: zap before, populate timed.

    The region stays populated between repetitions and is zapped right before the next one, by as many threads
    as will populate it. So the pages that the allocator hands out are the ones just freed, which the host
    still backs. Zapped by one thread, they all went to the free lists of its CPU, and the helpers got others:
    of 20 repetitions with two threads over 512 MiB of huge pages, 8 and 11 were cold; zapped by both threads,
    1 and 1.
    """

    _offset, _touched = 0, False

    def __init__(self, case: Case):
        super().__init__(case, case.page_size, shared=case.option("sharing") == "shared")
        self.ctl = Ctl(populate, (self.region.address, case.page_size), case.min_chunk_pages)

    def before(self) -> None:
        if self._touched:
            self._dirty()
        self._give_back()
        self._touched = True

    def _give_back(self) -> None:
        advice = memory.MADV_REMOVE if self.region.shared else memory.MADV_DONTNEED
        args = (self.region.address, self.bytes_per_unit, advice)
        ctl = Ctl(give_back, args, self.ctl.min_chunk_size, max_threads=self.ctl.max_threads)
        expect(engine.run(0, self.size, ctl).error == 0, "the pages could not be given back")

    def check(self) -> None:
        present = self.region.present()
        expect(bool(present.all()), f"{np.count_nonzero(~present)} pages of 4 KiB are not present")
        self._expect_zero()
        self._expect_place()
        if self.region.page_kind == "THP":
            huge = self.region.huge_bytes()
            expect(
                huge == self.region.size_bytes,
                f"only {huge} of {self.region.size_bytes} bytes are mapped by huge pages",
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
    have = topology.memory_nodes()
    if any(nid not in have for nid in nodes_of(options.get("node", "any"))):
        return f"this machine has no memory on node {options['node']}; it has some on {list(have)}"
    if options.get("sharing") == "shared":
        return memory.why_not(case.page_kind, case.size_bytes, shared=True)
    return None


SHARING = Option("sharing", "private memory, or shared", "private", ("private", "shared"))
RESIDENT: dict[str, Any] = {"backend": "user", "page_kinds": tuple(memory.PAGE_KINDS), "options": (NODE,)}
BANDWIDTH = "The memory: beyond the caches, stores run at its bandwidth."

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
            options=(SHARING, NODE),
            limit="The memory: mmap_lock is taken for reading only, and threads slow each other down as they "
            "do in user space with `rep stosb`, which is what the kernel clears pages with. Hugetlb pages "
            "share a table of mutexes, too, eight per CPU, held while a page is cleared: faults that meet in "
            "one take turns.",
        ),
        Method(
            "fallocate",
            "fallocate by range of one hugetlbfs file (memfd); tmpfs clears later, at the first use",
            "kernel",
            memory.HUGETLB_KINDS,
            allocates=True,
            limit="The inode lock of the file, held from the first page of a call to the last: threads take "
            "turns, asleep in hugetlbfs_fallocate.",
        ),
        Method(
            "fallocate_files",
            f"fallocate of {FILES} hugetlbfs files that share the size",
            "kernel",
            memory.HUGETLB_KINDS,
            allocates=True,
            limit="The memory and the table of fault mutexes, as for populate: every file has an inode lock "
            "of its own.",
        ),
        Method("memset", "resident memory, libc memset", probe=no_populate, limit=BANDWIDTH, **RESIDENT),
        Method(
            "nontemporal",
            "resident memory, 64-byte non-temporal stores",
            probe=no_populate,
            limit=BANDWIDTH,
            **RESIDENT,
        ),
        Method(
            "stores",
            "resident memory, the widest ordinary stores of the CPU",
            probe=no_populate,
            limit=BANDWIDTH,
            **RESIDENT,
        ),
        Method(
            "rep_stosb",
            "resident memory, one string instruction per chunk",
            probe=no_rep_stosb,
            limit=BANDWIDTH,
            **RESIDENT,
        ),
        Method(
            "auto",
            "resident memory, by the kind of store that is fastest here at the size, tried once per process",
            probe=no_populate,
            limit=BANDWIDTH,
            **RESIDENT,
        ),
    ),
    setup=setup,
    why_not=why_not,
)
