"""A buddy allocator in arrays, with per-CPU lists and zone locks, freed into by real threads.

After Linux: a freed page goes to a list of the CPU; when that is full, `batch` pages of it go to the zone
under the zone's lock, and each merges there with its free buddy as long as there is one. A row of 64 bytes
per page stands for `struct page`; locks are test-and-test-and-set on real atomics. It leaves out LRU lists,
memory control groups, page tables and migrate types, for which `work` can stand. So it shows what the zone
lock costs, and that it costs more than the time it is held for by one thread: with several threads the heads
of the lists travel between the caches while it is held.

`OPTIONS` say how long the lock is held, how often it is wanted, and how many locks there are. `merge=later`
is "skip merge for order-0 pages" of "Eliminate zone->lock contention" (Aaron Lu, RFC v4, 2018-10-17).
"""

from __future__ import annotations

import errno

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.engine.native import compare_swap, load_plain, store
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import topology
from ktask.memory import region as memory
from ktask.workloads import Case, Option, expect

TOP_ORDER = 10  # MAX_PAGE_ORDER of Linux: blocks of 4 MiB
_BLOCK = 1 << TOP_ORDER
LISTS_PER_BATCH = 4  # a CPU's list holds so many batches before one goes to the zone
AT_A_TIME = 31  # pages per look at the CPU's list (PAGEVEC_SIZE)

# All state is one array of int64: a header, rows of zones by order, rows of CPUs by zone, one row per page.
_HEADER = 16
(_PAGES_PER_ZONE, _BATCH, _PER_ORDER, _MERGE, _N_ZONES, _CPU_ROWS, _CPU_ROW_WORDS, _PAGE_ROWS) = range(8)
_CLOCK = 8  # nonzero: measure how long zone locks are held
_ROW = 16  # two cache lines per list of a zone
(_LOCK, _HEAD, _COUNT) = range(3)
(_C_LOCK, _C_FIRST, _C_COUNT, _C_TAKEN, _C_CONTENDED, _C_HELD_NS) = range(6)
_C_RING = 16
_PAGE_ROW = 8
# Numbers of pages plus 1, 0 for none; order plus 1 of a free block; whether it is in use.
(_NEXT, _PREV, _ORDER, _IN_USE) = range(4)
_DOUBLE_FREE = errno.EEXIST

OPTIONS = (
    Option("batch", "pages that go to a zone under one hold of its lock", "63", least=1),
    Option("zones", "zones with a lock each", "1", least=1),
    Option("lock", "what one lock covers: a zone, or one order of it", "zone", ("zone", "order")),
    Option("merge", "buddies are merged now, as pages are freed, or later", "now", ("now", "later")),
    Option("work", "steps of arithmetic per page outside the lock, a cycle each", "0"),
    Option("layout", "order in which pages are freed", "contiguous", ("contiguous", "scattered")),
)


# --- locks and lists ----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _acquire(lock):
    """Take a lock; return 1 if somebody else had it. Yields, since its holder may be off the CPU."""
    contended = 0
    while compare_swap(lock, 0, 1) != 0:
        contended = 1
        spins = 0
        while native.load(lock) != 0:
            spins += 1
            if spins & 1023 == 0:
                native.sched_yield()
    return contended


@njit(cache=True, nogil=True)
def _page_row(base, page):
    return base + 8 * (load_plain(base + 8 * _PAGE_ROWS) + _PAGE_ROW * page)


@njit(cache=True, nogil=True)
def _zone_row(base, zone, order):
    return base + 8 * (_HEADER + _ROW * (zone * (TOP_ORDER + 1) + order))


@njit(cache=True, nogil=True)
def _cpu_row(base, cpu, zone):
    index = cpu * load_plain(base + 8 * _N_ZONES) + zone
    return base + 8 * (load_plain(base + 8 * _CPU_ROWS) + load_plain(base + 8 * _CPU_ROW_WORDS) * index)


@njit(cache=True, nogil=True)
def _push(base, row, page, order):
    """Put a block at the head of the list at `row`."""
    at, first = _page_row(base, page), load_plain(row + 8 * _HEAD)
    store(at + 8 * _NEXT, first)
    store(at + 8 * _PREV, 0)
    store(at + 8 * _ORDER, order + 1)
    if first != 0:
        store(_page_row(base, first - 1) + 8 * _PREV, page + 1)
    store(row + 8 * _HEAD, page + 1)
    store(row + 8 * _COUNT, load_plain(row + 8 * _COUNT) + 1)


@njit(cache=True, nogil=True)
def _remove(base, row, page):
    """Take a block out of the list at `row`."""
    at = _page_row(base, page)
    following, before = load_plain(at + 8 * _NEXT), load_plain(at + 8 * _PREV)
    if before == 0:
        store(row + 8 * _HEAD, following)
    else:
        store(_page_row(base, before - 1) + 8 * _NEXT, following)
    if following != 0:
        store(_page_row(base, following - 1) + 8 * _PREV, before)
    store(at + 8 * _ORDER, 0)
    store(row + 8 * _COUNT, load_plain(row + 8 * _COUNT) - 1)


# --- the zone -----------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _free_block(base, page, order, merge, per_order):
    """Give a block to its zone, merged with its buddies; return how often a lock was taken and contended.

    Without locks per order the caller holds the zone's. With them, one at a time is enough: a block that is
    being merged is on no list, so it belongs to this thread alone.
    """
    zone = page // load_plain(base + 8 * _PAGES_PER_ZONE)
    taken, contended = 0, 0
    while True:
        row = _zone_row(base, zone, order)
        if per_order:
            contended += _acquire(row)
            taken += 1
        buddy = page ^ (1 << order)
        alone = not merge or order == TOP_ORDER
        if alone or load_plain(_page_row(base, buddy) + 8 * _ORDER) != order + 1:
            _push(base, row, page, order)
            if per_order:
                store(row, 0)
            return taken, contended
        _remove(base, row, buddy)
        if per_order:
            store(row, 0)
        page &= ~(1 << order)
        order += 1


@njit(cache=True, nogil=True)
def _flush(base, cpu_row, zone, count):
    """Hand the `count` oldest pages of a CPU's list to the zone."""
    per_order, merge = load_plain(base + 8 * _PER_ORDER) != 0, load_plain(base + 8 * _MERGE) != 0
    timed = load_plain(base + 8 * _CLOCK) != 0
    room = LISTS_PER_BATCH * load_plain(base + 8 * _BATCH)
    first = load_plain(cpu_row + 8 * _C_FIRST)
    lock = _zone_row(base, zone, 0)
    taken, contended, since = 0, 0, 0
    if not per_order:
        contended, taken = _acquire(lock), 1
    if timed:
        since = native.clock_ns(native.CLOCK_MONOTONIC)
    for k in range(count):
        page = load_plain(cpu_row + 8 * (_C_RING + (first + k) % room))
        more = _free_block(base, page, 0, merge, per_order)
        taken, contended = taken + more[0], contended + more[1]
    if timed:
        since -= native.clock_ns(native.CLOCK_MONOTONIC)
        store(cpu_row + 8 * _C_HELD_NS, load_plain(cpu_row + 8 * _C_HELD_NS) - since)
    if not per_order:
        store(lock, 0)
    store(cpu_row + 8 * _C_FIRST, (first + count) % room)
    store(cpu_row + 8 * _C_COUNT, load_plain(cpu_row + 8 * _C_COUNT) - count)
    store(cpu_row + 8 * _C_TAKEN, load_plain(cpu_row + 8 * _C_TAKEN) + taken)
    store(cpu_row + 8 * _C_CONTENDED, load_plain(cpu_row + 8 * _C_CONTENDED) + contended)


@njit(cache=True, nogil=True)
def _to_cpu_list(base, row, zone, page):
    """Put a page on a CPU's list, and a batch of the oldest into the zone if the list is full by that."""
    batch = load_plain(base + 8 * _BATCH)
    room = LISTS_PER_BATCH * batch
    count = load_plain(row + 8 * _C_COUNT)
    store(row + 8 * (_C_RING + (load_plain(row + 8 * _C_FIRST) + count) % room), page)
    store(row + 8 * _C_COUNT, count + 1)
    if count + 1 == room:
        _flush(base, row, zone, batch)


@thread_func(cache=True)
def free_pages(start, end, base, pages, work):
    """Free the pages number `start` to `end` of the list at `pages`.

    The list of a CPU is locked, as in Linux, since a thread may move to another CPU at any time.
    """
    per_zone, row, held = load_plain(base + 8 * _PAGES_PER_ZONE), 0, -1
    code = 0
    for i in range(start, end):
        page = load_plain(pages + 8 * i)
        zone = page // per_zone
        if zone != held or (i - start) % AT_A_TIME == 0:
            if row != 0:
                store(row, 0)
            row, held = _cpu_row(base, native.sched_getcpu(), zone), zone
            _acquire(row)
        if compare_swap(_page_row(base, page) + 8 * _IN_USE, 1, 0) != 1:
            code = _DOUBLE_FREE
            break
        _to_cpu_list(base, row, zone, page)
        native.spend(work)
    if row != 0:
        store(row, 0)
    return code


@njit(cache=True, nogil=True)
def allocate(base, zone, order):
    """Take a block of `order` out of a zone, splitting a larger one if need be; -1 if there is none."""
    for found in range(order, TOP_ORDER + 1):
        row = _zone_row(base, zone, found)
        page = load_plain(row + 8 * _HEAD) - 1
        if page < 0:
            continue
        _remove(base, row, page)
        for half in range(found - 1, order - 1, -1):
            _push(base, _zone_row(base, zone, half), page + (1 << half), half)
        for k in range(1 << order):
            store(_page_row(base, page + k) + 8 * _IN_USE, 1)
        return page
    return -1


@njit(cache=True, nogil=True)
def release(base, page, order):
    """Give a block straight to its zone; False if a page of it is not in use. For one thread."""
    for k in range(1 << order):
        if load_plain(_page_row(base, page + k) + 8 * _IN_USE) != 1:
            return False
        store(_page_row(base, page + k) + 8 * _IN_USE, 0)
    _free_block(base, page, order, True, False)
    return True


@njit(cache=True, nogil=True)
def _fill(base, n_pages):
    """Give `n_pages` pages, in blocks as large as they can be, to the zones."""
    per_zone = load_plain(base + 8 * _PAGES_PER_ZONE)
    page = 0
    while page < n_pages:
        order = TOP_ORDER
        while page + (1 << order) > n_pages or page & ((1 << order) - 1):
            order -= 1
        _push(base, _zone_row(base, page // per_zone, order), page, order)
        page += 1 << order


@njit(cache=True, nogil=True)
def _allocate_all(base, pages, n_zones):
    """Allocate every page singly and note them in `pages`; return how many there were."""
    count = 0
    for zone in range(n_zones):
        page = allocate(base, zone, 0)
        while page >= 0:
            pages[count] = page
            count += 1
            page = allocate(base, zone, 0)
    return count


@njit(cache=True, nogil=True)
def _drain(base, n_cpus, n_zones):
    """Hand what the CPUs' lists still hold to the zones."""
    for cpu in range(n_cpus):
        for zone in range(n_zones):
            row = _cpu_row(base, cpu, zone)
            _flush(base, row, zone, load_plain(row + 8 * _C_COUNT))


@njit(cache=True, nogil=True)
def _merge_late(base, n_zones):
    """Merge what was freed unmerged: take every single page off its list and free it anew."""
    for zone in range(n_zones):
        row = _zone_row(base, zone, 0)
        page = load_plain(row + 8 * _HEAD) - 1
        store(row + 8 * _HEAD, 0)
        store(row + 8 * _COUNT, 0)
        following = page
        while following >= 0:  # off the list first, so that none is found as a buddy that is to come
            store(_page_row(base, following) + 8 * _ORDER, 0)
            following = load_plain(_page_row(base, following) + 8 * _NEXT) - 1
        while page >= 0:
            following = load_plain(_page_row(base, page) + 8 * _NEXT) - 1
            _free_block(base, page, 0, True, False)
            page = following


@njit(cache=True, nogil=True)
def _census(base, n_zones, seen, blocks):
    """Count the free pages on all lists into `seen` and the blocks by order; return the broken links."""
    broken = 0
    for zone in range(n_zones):
        for order in range(TOP_ORDER + 1):
            row, before, on_list = _zone_row(base, zone, order), 0, 0
            page = load_plain(row + 8 * _HEAD) - 1
            while page >= 0 and on_list <= len(seen):
                at = _page_row(base, page)
                broken += load_plain(at + 8 * _PREV) != before or load_plain(at + 8 * _ORDER) != order + 1
                broken += page & ((1 << order) - 1) != 0
                for k in range(1 << order):
                    seen[page + k] += 1
                before, on_list = page + 1, on_list + 1
                page = load_plain(at + 8 * _NEXT) - 1
            blocks[order] += on_list
            broken += load_plain(row + 8 * _COUNT) != on_list
    return broken


# --- the workload -------------------------------------------------------------------------------------------


def pages_per_zone(n_pages: int, n_zones: int) -> int:
    """Return how many pages a zone has room for: whole blocks of the top order."""
    return -(-n_pages // (n_zones * _BLOCK)) * _BLOCK


def n_words(n_pages: int, n_zones: int, batch: int, n_cpus: int) -> int:
    """Return the size of the whole state in words."""
    cpus = n_cpus * _cpu_row_words(batch)
    pages = _PAGE_ROW * pages_per_zone(n_pages, n_zones)
    return _HEADER + n_zones * (_ROW * (TOP_ORDER + 1) + cpus + pages)


def _cpu_row_words(batch: int) -> int:
    return -(-(_C_RING + LISTS_PER_BATCH * batch) // 16) * 16


def whole_blocks(n_pages: int) -> list[int]:
    """Return how many blocks of each order `n_pages` pages make up, merged as far as can be."""
    full, rest = divmod(n_pages, _BLOCK)
    return [*(rest >> order & 1 for order in range(TOP_ORDER)), full]


class Allocator:
    """The state of an allocator, all of whose pages are free at first.

    Parameters
    ----------
    n_pages, n_zones, batch
        Whole numbers of at least 1.
    per_order, merge
        Whether each order has a lock of its own, and whether buddies merge as pages are freed.
    """

    def __init__(self, n_pages, n_zones=1, batch=63, *, per_order=False, merge=True):
        self.n_pages, self.n_zones, self.n_cpus = n_pages, n_zones, max(topology.allowed_cpus()) + 1
        words = n_words(n_pages, n_zones, batch, self.n_cpus)
        raw = np.zeros(words + 16, dtype=np.int64)
        self.words = raw[-raw.ctypes.data // 8 % 16 :][:words]  # rows begin on a cache line
        self.base = self.words.ctypes.data
        cpu_rows = _HEADER + _ROW * n_zones * (TOP_ORDER + 1)
        cpu_row = _cpu_row_words(batch)
        page_rows = cpu_rows + self.n_cpus * n_zones * cpu_row
        per_zone = pages_per_zone(n_pages, n_zones)
        self._header = (per_zone, batch, per_order, merge, n_zones, cpu_rows, cpu_row, page_rows)
        self.reset()

    def reset(self) -> None:
        """Have every page free, in blocks as large as can be."""
        self.words[_HEADER:] = 0
        self.words[: len(self._header)] = self._header
        _fill(self.base, self.n_pages)

    def allocate(self, zone: int, order: int) -> int:
        """Return the first page of a block taken out of a zone; -1 if there is none."""
        return allocate(self.base, zone, order)

    def allocate_all(self) -> np.ndarray:
        """Return the numbers of all pages, each allocated singly, in the order in which they came."""
        pages = np.empty(self.n_pages, dtype=np.int64)
        got = _allocate_all(self.base, pages, self.n_zones)
        expect(got == self.n_pages, f"only {got} of {self.n_pages} pages could be allocated")
        return pages

    def release(self, page: int, order: int) -> bool:
        """Free a block; return False, and leave it, if it is not in use."""
        return release(self.base, page, order)

    def settle(self) -> None:
        """Empty the CPUs' lists into the zones and merge what was left unmerged."""
        _drain(self.base, self.n_cpus, self.n_zones)
        if not self._header[_MERGE]:
            _merge_late(self.base, self.n_zones)

    def census(self) -> tuple[np.ndarray, list[int], int]:
        """Return how often each page is on a free list, the free blocks by order, and the broken links."""
        seen = np.zeros(self.n_zones * self._header[_PAGES_PER_ZONE], dtype=np.int32)
        blocks = np.zeros(TOP_ORDER + 1, dtype=np.int64)
        broken = _census(self.base, self.n_zones, seen, blocks)
        return seen, blocks.tolist(), broken

    def lock_counts(self) -> dict[str, int]:
        """Return how often zone locks were taken, how often somebody else had them, and for how long held."""
        start, words = self._header[_CPU_ROWS], self._header[_CPU_ROW_WORDS]
        rows = self.words[start : self._header[_PAGE_ROWS]].reshape(-1, words)
        taken, contended, held_ns = rows[:, _C_TAKEN : _C_HELD_NS + 1].sum(axis=0).tolist()
        return {"taken": taken, "contended": contended, "held_ns": held_ns}

    def time_locks(self, on: bool) -> None:
        """Measure how long zone locks are held, or do not; it costs two looks at the clock per batch."""
        self.words[_CLOCK] = on


def settings(case: Case) -> dict[str, int | bool]:
    """Return the parameters of the allocator that a case asks for."""
    return {
        "n_pages": case.size_bytes // case.page_size + (case.size_bytes % case.page_size > 0),
        "n_zones": int(case.option("zones")),
        "batch": int(case.option("batch")),
        "per_order": case.option("lock") == "order",
        "merge": case.option("merge") == "now",
    }


def memory_need(case: Case) -> int:
    """Return what the model of a case takes: its state, the list of pages, and the census."""
    found = settings(case)
    n_cpus = max(topology.allowed_cpus()) + 1
    words = n_words(found["n_pages"], found["n_zones"], found["batch"], n_cpus)
    return 8 * words + 12 * found["n_pages"]


class Buddy:
    """An allocator all of whose pages are in use before each repetition and free after it."""

    def __init__(self, case: Case):
        found = settings(case)
        memory.require_budget(memory_need(case), "the model of a buddy allocator")
        self.allocator = Allocator(**found)
        self.size, self.bytes_per_unit = found["n_pages"], case.page_size
        self.operations = self.size * case.page_size
        self.scattered = case.option("layout") == "scattered"
        self.pages = np.zeros(self.size, dtype=np.int64)
        args = (self.allocator.base, self.pages.ctypes.data, int(case.option("work")))
        self.ctl = Ctl(free_pages, args, case.min_chunk_pages)

    def before(self) -> None:
        self.allocator.reset()
        self.pages[:] = self.allocator.allocate_all()
        if self.scattered:
            np.random.default_rng(1).shuffle(self.pages)

    def check(self) -> None:
        self.locks = self.allocator.lock_counts()
        self.allocator.settle()
        seen, blocks, broken = self.allocator.census()
        times, n = seen[: self.size], self.size
        expect(broken == 0, f"{broken} links of the free lists are broken")
        expect(not seen[n:].any(), "pages are free that never were there")
        expect(times.max() <= 1, f"{np.count_nonzero(times > 1)} pages are on the free lists more than once")
        expect(times.min() == 1, f"{np.count_nonzero(times == 0)} of {n} pages are not back")
        wanted = whole_blocks(n)
        expect(blocks == wanted, f"not merged as far as can be: blocks by order {blocks} instead of {wanted}")

    def close(self) -> None:
        del self.ctl, self.allocator, self.pages
