"""Zeroing: the kernel clears fresh pages, or user code clears memory that is already there.

The two are different measurements and never mixed: the first includes fault-in, allocation and page tables,
the second is stores only.
"""

from __future__ import annotations

import platform
from collections import Counter
from functools import lru_cache

import numpy as np
from numba import njit

from ktask import engine, memory, native, store_choice, store_learning, topology
from ktask.task import Ctl
from ktask.thread_functions import thread_func
from ktask.workloads import Case, Method, Option, Workload, expect

ORDER = 1
FILES = 16  # that `fallocate_files` spreads the size over
STORE_UNIT = (
    memory.THP_SIZE
)  # at most: user code may zero a part of a page, which is what splits one of 1 GiB


@thread_func(cache=True)
def populate(start, end, base, page_size):
    """Fault pages `start` to `end` in for writing: the kernel allocates, clears and maps them."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(base + start * page_size, (end - start) * page_size, 23)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def give_back(start, end, base, page_size, advice):
    """Zap pages `start` to `end`, so that they go to the free lists of the CPU that does it."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(base + start * page_size, (end - start) * page_size, advice)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def allocate(start, end, fd, page_size):
    """Give pages `start` to `end` of a file to it: the kernel allocates and clears them."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.fallocate(fd, 0, start * page_size, (end - start) * page_size)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def allocate_files(start, end, fds, file_bytes):
    """Give files `start` to `end` all their pages."""
    for k in range(start, end):
        code = native.EINTR
        while code == native.EINTR:
            failed = native.fallocate(native.load_plain(fds + 8 * k), 0, 0, file_bytes)
            code = native.last_errno() if failed else 0
        if code != 0:
            return code
    return 0


STORES = ("stores", "rep_stosb", "memset", "nontemporal")


@njit(cache=True, nogil=True)
def _zero(start, end, kind):
    """Zero resident bytes by the kind of store at index `kind` of `STORES`."""
    if kind == 0:
        native.zero_plain(start, end)
    elif kind == 1:
        native.zero_by_string(start, end)
    elif kind == 2:
        native.memset(start, 0, end - start)
    else:
        native.zero_streaming(start, end)


@thread_func(cache=True)
def zero(start, end, base, unit_bytes, n_units, alone, together):
    """Zero resident units by one kind of store if the chunk is all there is, by another if it is a part."""
    kind = alone if end - start == n_units else together
    _zero(base + start * unit_bytes, base + end * unit_bytes, kind)
    return 0


LEARNT = (STORES.index("memset"), STORES.index("nontemporal"))


@thread_func(cache=True)
def zero_learning(start, end, base, unit_bytes, n_units, notes, piece):
    """Zero resident units in pieces of some bytes, by memset or by non-temporal stores, as these do here."""
    note = notes if end - start == n_units else notes + 8 * store_learning.WORDS
    at, last = base + start * unit_bytes, base + end * unit_bytes
    clock = native.stack_1k()
    before = native.clock_ns(native.CLOCK_MONOTONIC, clock)
    while at < last:
        stop, choice = min(last, at + piece), store_learning.choose(note)
        _zero(at, stop, LEARNT[choice])
        after = native.clock_ns(native.CLOCK_MONOTONIC, clock)
        store_learning.learn(note, choice, stop - at, after - before)
        at, before = stop, after
    return 0


@thread_func(cache=True)
def zero_bytes(start, end, base, kind):
    """Zero bytes `start` to `end`, multiples of 64; or write to them, as `kind` -1."""
    if kind < 0:
        native.memset(base + start, 255, end - start)
    else:
        _zero(base + start, base + end, kind)
    return 0


def store_kinds(method: str, size_bytes: int) -> tuple[int, int]:
    """Return the index in `STORES` to use for `size_bytes` with one thread, and with all."""
    if method != "auto":
        return (STORES.index(method),) * 2
    one, all_threads = store_choice.fastest(size_bytes, STORES, zero_bytes)
    return STORES.index(one), STORES.index(all_threads)


class _Zeroing:
    """A region, and a word per page that tells whether it was cleared."""

    def __init__(self, case: Case, unit_bytes: int, *, shared: bool = False):
        self.region = memory.Region(case.size_bytes, case.page_kind, shared=shared)
        self.size = self.region.size_bytes // unit_bytes
        self.bytes_per_unit = unit_bytes
        self.operations = self.region.size_bytes
        self.nids = nodes_of(case.option("node"))
        self._random = np.random.default_rng(1)
        if self.nids:
            self.region.place(self.nids)

    def close(self) -> None:
        self.region.unmap()

    def _dirty(self) -> None:
        """Leave a nonzero word somewhere in every 4 KiB, at an offset that no caller can foresee."""
        offset = int(self._random.integers(memory.BASE_PAGE // 8)) * 8
        self.region.one_word_per_page(offset)[:] = 0xDEADBEEF
        self._offset = offset

    def _expect_zero(self) -> None:
        left = np.count_nonzero(self.region.one_word_per_page(self._offset))
        expect(left == 0, f"{left} of {self.region.size_bytes // 4096} pages still hold data after zeroing")

    def _expect_place(self) -> None:
        if not self.nids:
            return
        found = Counter(self.region.nodes().tolist())
        fair = self.region.size_bytes // self.region.page_size // len(self.nids)
        is_placed = found.keys() <= set(self.nids) and all(
            found[nid] in (fair, fair + 1) for nid in self.nids
        )
        pages = f"nodes {dict(sorted(found.items()))} have so many pages"
        expect(is_placed, f"{pages}, not {fair} each of {list(self.nids)}")


class FirstTouch(_Zeroing):
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


class Resident(_Zeroing):
    """Memory that is there already: dirtied before, zeroed timed."""

    def __init__(self, case: Case):
        super().__init__(case, min(case.page_size, STORE_UNIT))
        least = -(-case.min_chunk_bytes // self.bytes_per_unit)
        try:
            self.region.advise(memory.MADV_POPULATE_WRITE)
        except BaseException:
            self.region.unmap()
            raise
        where = self.region.address, self.bytes_per_unit, self.size
        if case.method == "auto" and store_learning.is_learnt(self.operations):
            self._notes = store_learning.notes()
            args = (*where, self._notes.ctypes.data, store_learning.piece_bytes(self.operations))
            self.ctl = Ctl(zero_learning, args, least)
        else:
            kinds = store_kinds(case.method, self.operations)
            self.ctl = Ctl(zero, (*where, *kinds), least)

    def before(self) -> None:
        self._dirty()

    def check(self) -> None:
        self._expect_zero()
        self._expect_place()


class Allocation:
    """Files without pages, which `fallocate` gives them: one file by range, or a file per unit."""

    _touched = False

    def __init__(self, case: Case):
        apart = case.method == "fallocate_files"
        count = min(FILES, max(1, case.size_bytes // case.page_size)) if apart else 1
        self.files = memory.Files(case.size_bytes, case.page_kind, count)
        self.operations = self.files.size_bytes
        if apart:
            self.size, self.bytes_per_unit = count, self.files.file_bytes
            self.ctl = Ctl(allocate_files, (self.files.fds.ctypes.data, self.files.file_bytes))
        else:
            self.size, self.bytes_per_unit = self.operations // case.page_size, case.page_size
            args = int(self.files.fds[0]), case.page_size
            self.ctl = Ctl(allocate, args, case.min_chunk_pages)

    def before(self) -> None:
        if self._touched:  # so that the pages, which come back, hold something to clear
            for k in range(self.files.fds.size):
                with self.files.words(k) as words:
                    words[:: memory.BASE_PAGE // 8] = 0xDEADBEEF
        self.files.resize()
        self._touched = True

    def check(self) -> None:
        got = sum(self.files.allocated())
        expect(got == self.operations, f"the files have pages for {got} of {self.operations} bytes")
        for k in range(self.files.fds.size):
            with self.files.words(k) as words:
                left = np.count_nonzero(words[:: memory.BASE_PAGE // 8])
                expect(left == 0, f"{left} places of 4 KiB still hold data after fallocate")

    def close(self) -> None:
        self.files.close()


@lru_cache(maxsize=1)
def no_populate() -> str | None:
    """Return why MADV_POPULATE_WRITE cannot be used here, or None; tried on one page."""
    try:
        with memory.Region(memory.BASE_PAGE) as page:
            page.advise(memory.MADV_POPULATE_WRITE)
    except OSError as error:
        return f"MADV_POPULATE_WRITE needs Linux 5.14: {error.strerror}"
    return None


def no_rep_stosb() -> str | None:
    """Return why there is no `rep stosb` here, or None."""
    if native.HAS_REP_STOSB:
        return no_populate()
    return f"rep stosb is an instruction of x86-64; this is {platform.machine()}"


def setup(case: Case) -> _Zeroing | Allocation:
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


def nodes_of(node: str) -> tuple[int, ...]:
    """Return the nodes that memory is to lie on, none for anywhere; ValueError says what is allowed."""
    if node == "spread":
        return topology.memory_nodes()
    if node != "any" and not node.isdecimal():
        raise ValueError(f"node={node!r} is not allowed; use the number of a node, spread, or any")
    return () if node == "any" else (int(node),)


NODE = Option(
    "node", "the NUMA node that the memory is bound to, or spread: all in turn", "any", form=nodes_of
)
SHARING = Option("sharing", "private memory, or shared", "private", ("private", "shared"))
RESIDENT = {"backend": "user", "page_kinds": tuple(memory.PAGE_KINDS), "options": (NODE,)}
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
            "resident memory, by what store is fastest at the size: calibrated, or learnt on the way",
            probe=no_populate,
            limit=BANDWIDTH,
            **RESIDENT,
        ),
    ),
    setup=setup,
    why_not=why_not,
)
