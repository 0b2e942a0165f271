"""Mixed: one thread changes its part of an address space while another changes another part of it.

What is timed is the work of one thread, named by the method. With one thread it is alone; with two, the
second does what `beside` names, over and over, until the first is done. So the speedup is the throughput
that is left beside the other: 1 if they do not meet. Swap the two to see what the other one loses.
"""

from __future__ import annotations

import numpy as np

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.memory.calls import advise
from ktask.workloads import Case, Method, Option, Workload, expect
from ktask.workloads.populated import no_populate

ORDER = 12

WORKS = {"populate": 0, "zap": 1, "map": 2, "protect": 3, "fork": 4}
PIECE = 64 * memory.KIB  # of a mapping, of a change of rights, and of what the second thread populates
FORKS = 16  # of the timed thread
_CLONE = memory.call_number("clone")
_SIGCHLD = 17
_EBUSY, _ECHILD = 16, 10
_PATIENCE_NS = 1_000_000_000
# Words of the table: thread that took each unit, operations of each, whether the first is done, and where.
_TIDS, _COUNTS, _OVER, _BEGUN = 0, 16, 32, 40


@native.compiled
def _map_piece(address):
    """Map a piece, touch it, and unmap it."""
    got = native.mmap(address, PIECE, 3, 0x100022, -1, 0)  # private, anonymous, fixed where nothing is
    if got != address:
        return native.last_errno() if got == -1 else _EBUSY
    native.store(address, 1)
    return native.last_errno() if native.munmap(address, PIECE) else 0


@native.compiled
def _protect_piece(address):
    """Take the right to write away from a populated piece, and give it back."""
    failed = native.mprotect(address, PIECE, 1) or native.mprotect(address, PIECE, 3)
    return native.last_errno() if failed else 0


@native.compiled
def _fork_once(room):
    """Fork a child that ends at once, and reap it."""
    pid = native.syscall5(_CLONE, _SIGCHLD, 0, 0, 0, 0)
    if pid < 0:
        return native.last_errno()
    if pid == 0:
        native.exit_now(0)
    while native.waitpid(pid, room, 0) < 0:
        if native.last_errno() != native.EINTR:
            return native.last_errno()
    return 0 if native.load_byte(room) == 0 and native.load_byte(room + 1) == 0 else _ECHILD


@native.compiled
def _operate(work, address, size_bytes, room):
    """Do one operation of a kind of work at `address`."""
    if work == 0:
        return advise(address, size_bytes, memory.MADV_POPULATE_WRITE)
    if work == 1:
        return advise(address, size_bytes, memory.MADV_DONTNEED)
    if work == 2:
        return _map_piece(address)
    if work == 3:
        return _protect_piece(address)
    return _fork_once(room)


@native.compiled
def _timed(table, work, base, size_bytes, step, others):
    """Do the work that is timed, once the other thread has begun, if there is one."""
    end = native.clock_ns(native.CLOCK_MONOTONIC) + _PATIENCE_NS
    while others and native.load(table + _BEGUN) == 0 and native.clock_ns(native.CLOCK_MONOTONIC) < end:
        native.sched_yield()
    room, code, at = native.stack_1k(), 0, 0
    while at < size_bytes and code == 0:
        code = _operate(work, base + at, min(step, size_bytes - at), room)
        at += step
        native.fetch_add(table + _COUNTS, 1)
    native.store(table + _OVER, 1)
    return code


@native.compiled
def _beside(table, work, base):
    """Do the other work until what is timed is over."""
    room, code = native.stack_1k(), 0
    native.store(table + _BEGUN, 1)
    while native.load(table + _OVER) == 0 and code == 0:
        if work == 1:
            code = advise(base, PIECE, memory.MADV_POPULATE_WRITE)
        elif work == 0:
            code = advise(base, PIECE, memory.MADV_DONTNEED)
        if code == 0:
            code = _operate(work, base, PIECE, room)
        native.fetch_add(table + _COUNTS + 8, 1)
    return code


@thread_func(cache=True)
def mix(start, end, table, work, base, size_bytes, step, beside, other_base, others):
    """Do the work that is timed (unit 0), or the other (unit 1)."""
    code = 0
    if start == 0:
        native.store(table + _TIDS, native.gettid())
        code = _timed(table, work, base, size_bytes, step, 1 if others != 0 and end == 1 else 0)
    if end == 2:
        native.store(table + _TIDS + 8, native.gettid())
        if code == 0:
            code = _beside(table, beside, other_base)
    return code


class Mixed:
    """Two ranges far apart in one address space, one for each thread; the task has a unit for each."""

    def __init__(self, case: Case):
        self.case = case
        self.work, self.beside = case.method, case.option("beside")
        self.region = memory.Region(case.size_bytes, case.page_kind)
        self.size_bytes = self.operations = self.region.size_bytes
        self.size, self.bytes_per_unit = 2, -(-self.size_bytes // 2)
        self._table = np.zeros(6, dtype=np.int64)
        self.ctl = Ctl(mix, (0,) * 8)
        try:
            self.region.move_apart()  # so that nothing else of the process comes to lie in its place
            self.other = memory.Region(PIECE)
            self.other.move_apart()
        except BaseException:
            self.region.unmap()
            raise

    @property
    def step_bytes(self) -> int:
        """Return how much of the range one operation of the timed work covers."""
        if self.work == "fork":
            return -(-self.size_bytes // FORKS)
        if self.work in ("map", "protect"):
            return PIECE
        return self.case.min_chunk_pages * self.case.page_size

    @property
    def n_operations(self) -> int:
        """How many operations the timed work has."""
        return -(-self.size_bytes // self.step_bytes)

    def before(self) -> None:
        self._arrange(self.region, self.work)
        self._arrange(self.other, self.beside)
        self._table[:] = 0
        threads = self.ctl.max_threads
        works = WORKS[self.work], self.region.address, self.size_bytes, self.step_bytes
        other = WORKS[self.beside], self.other.address, int(threads != 1)
        self.ctl = Ctl(mix, (self._table.ctypes.data, *works, *other), 1, threads)

    def _arrange(self, region: memory.Region, work: str) -> None:
        """Bring a range to where its work begins: without pages, or with them, or unmapped."""
        region.unmap()
        if work == "map":
            return
        region.map()
        if work != "populate":
            region.advise(memory.MADV_POPULATE_WRITE)

    def check(self) -> None:
        (tid, other_tid), (done, other_done) = self._table[:2].tolist(), self._table[2:4].tolist()
        expect(bool(tid and other_tid), "one of the two halves of the task was left out")
        expect(done == self.n_operations, f"{done} of {self.n_operations} operations were done")
        expect(tid == other_tid or other_done > 0, f"the other thread did not get to {self.beside} beside")
        CHECKS[self.work](self.region)

    def close(self) -> None:
        self.region.unmap()
        self.other.unmap()


def _expect_present(region: memory.Region, wanted: bool) -> None:
    wrong = int(np.count_nonzero(region.present() != wanted))
    expect(wrong == 0, f"{wrong} pages of 4 KiB are {'missing' if wanted else 'still there'} in the end")


def _expect_unmapped(region: memory.Region) -> None:
    expect(region.hold(), "a piece of the range is still mapped")


def _expect_writable(region: memory.Region) -> None:
    found = set(memory.protections(region.address, region.address + region.size_bytes))
    expect(found == {"rw-p"}, f"the range has mappings {sorted(found)} in the end, not rw-p alone")
    _expect_present(region, True)


CHECKS = {
    "populate": lambda region: _expect_present(region, True),
    "zap": lambda region: _expect_present(region, False),
    "map": _expect_unmapped,
    "protect": _expect_writable,
    "fork": lambda region: _expect_present(region, True),
}
BESIDE = Option(
    "beside",
    "what a second thread of the process does meanwhile, over and over, to 64 KiB elsewhere",
    "map",
    tuple(WORKS),
)
WORKLOAD = Workload(
    name="mixed",
    about="Change one part of an address space while another thread changes another part: what is left of "
    "the throughput.",
    operation="byte",
    methods=(
        Method(
            "populate",
            "MADV_POPULATE_WRITE in pieces of the minimum chunk",
            allocates=True,
            by_source="It holds mmap_lock for reading, for a piece at a time; map, protect and fork want it "
            "for writing.",
            page_kinds=("4KiB", "THP"),
            probe=no_populate,
            options=(BESIDE,),
            locks=("mmap_lock",),
        ),
        Method(
            "zap",
            "MADV_DONTNEED in pieces of the minimum chunk",
            by_source="It holds the lock of its own mapping for reading (mmap_lock before Linux 6.17); "
            "map, protect and fork want mmap_lock for writing.",
            page_kinds=("4KiB", "THP"),
            probe=no_populate,
            options=(BESIDE,),
            locks=("mmap_lock",),
        ),
        Method(
            "map",
            "mmap, one store and munmap of 64 KiB after 64 KiB",
            by_source="mmap and munmap take mmap_lock for writing; munmap keeps it for reading while it "
            "frees pages.",
            page_kinds=("4KiB",),
            probe=no_populate,
            options=(BESIDE,),
            locks=("mmap_lock",),
        ),
        Method(
            "protect",
            "mprotect to read-only and back, 64 KiB after 64 KiB",
            by_source="mprotect takes mmap_lock for writing.",
            page_kinds=("4KiB",),
            probe=no_populate,
            options=(BESIDE,),
            locks=("mmap_lock",),
        ),
        Method(
            "fork",
            f"{FORKS} forks whose children end at once, of a process with the range populated",
            by_source="fork takes mmap_lock for writing while it copies the page table.",
            page_kinds=("4KiB",),
            probe=no_populate,
            options=(BESIDE,),
            locks=("mmap_lock",),
        ),
    ),
    setup=Mixed,
    memory_need=lambda case: memory.region_need(case.size_bytes + PIECE, case.page_kind),
)
