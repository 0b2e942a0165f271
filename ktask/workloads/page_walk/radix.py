"""A radix page table in arrays, of 4 or 5 levels, walked by the engine: for sizes that no machine here has.

Entries are those of x86-64: present, accessed, dirty and huge bits, and above them the number of the table
that an entry points to. Full leaf tables may be shared by many entries, so that a space of 64 TiB fits into
memory. They lie in the order of their addresses, as those of a fresh process, or scattered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numba import int64, njit
from numba.core import cgutils
from numba.extending import intrinsic

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.memory import walkers
from ktask.memory.address_space import Extents, Process, extents_of, no_scan
from ktask.memory.layouts import pieces_of
from ktask.memory.region import BASE_PAGE, GIB, THP_SIZE

PRESENT, ACCESSED, DIRTY, HUGE = 1 << 0, 1 << 5, 1 << 6, 1 << 7
TABLE_SHIFT, ENTRIES = 12, 512
POOL_BYTES = GIB  # of distinct leaf tables; larger than a cache, so that folding does not make a walk faster
LEVELS = (4, 5)
# The hardware prefetcher stops at every page and takes a few lines to begin anew. So a walk counts eight
# tables side by side, to wait for all of their first lines at once, and fetches the first five lines of the
# next eight while it counts the last lines of these. Then scattered tables are walked as fast as read.
TOGETHER, LINES_AHEAD = 8, 5
_FIELD = 20  # bits of each of the counts that one word carries out of a table


def _vector(lanes: int = 8) -> ir.VectorType:
    return ir.VectorType(ir.IntType(64), lanes)


def _sum_lanes(builder, vector):
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.IntType(64), [_vector()]), "llvm.vector.reduce.add.v8i64"
    )
    return builder.call(function, [vector])


def _line(builder, address, k):
    """Return cache line `k` from `address` on."""
    at = builder.add(address, builder.shl(k, ir.Constant(ir.IntType(64), 6)))
    return builder.load(builder.inttoptr(at, _vector().as_pointer()), align=64)


def _prefetch(builder, address, k):
    at = builder.add(address, builder.shl(k, ir.Constant(ir.IntType(64), 6)))
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    options = [ir.Constant(word, value) for value in (0, 3, 1)]  # for reading, keep it, data
    builder.call(function, [builder.inttoptr(at, byte), *options])


def _every_byte(value: int) -> ir.Constant:
    return ir.Constant(_vector(), [int.from_bytes(bytes([value]) * 8, "little", signed=True)] * 8)


def _push(builder, gathered, entries):
    """Return bytes shifted down by one place, with the low byte of eight entries on top.

    All flags that count are in that byte, so eight lines become one before they are counted. Few instructions
    per line (three with AVX-512 VBMI2) let more loads fit into the window of the core.
    """
    kind = ir.FunctionType(_vector(), [_vector()] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.fshr.v8i64")
    return builder.call(function, [entries, gathered, ir.Constant(_vector(), [8] * 8)])


def _add_bytes(builder, sums, low) -> None:
    """Add what is present, accessed and dirty of 64 entries, given their low bytes; one count per byte."""
    there = builder.and_(low, _every_byte(PRESENT))
    builder.store(builder.add(builder.load(sums[0]), there), sums[0])
    for room, bit in zip(sums[1:], (ACCESSED, DIRTY), strict=True):
        shift = ir.Constant(_vector(), [bit.bit_length() - 1] * 8)
        seen = builder.and_(builder.lshr(low, shift), there)
        builder.store(builder.add(builder.load(room), seen), room)


def _sum_bytes(builder, vector):
    """Return the sum of 64 bytes, each below 128."""
    even = ir.Constant(_vector(), [0x00FF00FF00FF00FF] * 8)
    odd = builder.and_(builder.lshr(vector, ir.Constant(_vector(), [8] * 8)), even)
    pairs = _sum_lanes(builder, builder.add(builder.and_(vector, even), odd))  # four sums of 16 bits
    word = ir.IntType(64)
    return builder.lshr(builder.mul(pairs, ir.Constant(word, 0x0001000100010001)), ir.Constant(word, 48))


def _gather(builder, tables, line, others, n_fetched: int):
    """Return the low bytes of eight lines from `line` on, for each of some tables, line by line.

    Meanwhile the first `n_fetched` lines of each of the others are fetched.
    """
    low = [ir.Constant(_vector(), [0] * 8)] * len(tables)
    for k in range(8):
        at = builder.add(line, ir.Constant(ir.IntType(64), k))
        lines = [_line(builder, table, at) for table in tables]
        low = [_push(builder, *both) for both in zip(low, lines, strict=True)]
        for table in others if k < n_fetched else ():
            _prefetch(builder, table, ir.Constant(ir.IntType(64), k))
    return low


def _table_counter(n_tables: int, n_fetched: int):
    """Return an intrinsic that counts some tables side by side and fetches lines of as many others.

    It takes the addresses of two rows of entries, those that lead to the tables and those that lead to the
    others, and where all tables begin.
    """

    @intrinsic
    def count_tables(typingctx, entries, following, tables):
        def codegen(context, builder, signature, args):
            word = ir.IntType(64)

            def leads_to(row, k):
                at = builder.add(row, ir.Constant(word, 8 * k))
                entry = builder.load(builder.inttoptr(at, word.as_pointer()))
                return builder.add(args[2], builder.and_(entry, ir.Constant(word, -(1 << TABLE_SHIFT))))

            mine, others = ([leads_to(row, k) for k in range(n_tables)] for row in args[:2])
            sums = [cgutils.alloca_once_value(builder, ir.Constant(_vector(), [0] * 8)) for _ in range(3)]
            for first, last, n in ((0, 7, 0), (7, 8, n_fetched)):
                bounds = ir.Constant(word, last), ir.Constant(word, first)
                with cgutils.for_range(builder, *bounds) as loop:
                    line = builder.shl(loop.index, ir.Constant(word, 3))
                    for low in _gather(builder, mine, line, others, n):
                        _add_bytes(builder, sums, low)
            fields = [_sum_bytes(builder, builder.load(room)) for room in sums]
            present, accessed, dirty = (
                builder.shl(field, ir.Constant(word, _FIELD * k)) for k, field in enumerate(fields)
            )
            return builder.or_(present, builder.or_(accessed, dirty))

        return int64(int64, int64, int64), codegen

    return count_tables


_count_one, _count_together = _table_counter(1, 0), _table_counter(TOGETHER, LINES_AHEAD)


@intrinsic
def _sum_lines(typingctx, address, n_lines):
    """Return the sum of all words in some cache lines: reading, and next to nothing besides."""

    def codegen(context, builder, signature, args):
        room = cgutils.alloca_once_value(builder, ir.Constant(_vector(), [0] * 8))
        with cgutils.for_range(builder, args[1]) as loop:
            builder.store(builder.add(builder.load(room), _line(builder, args[0], loop.index)), room)
        return _sum_lanes(builder, builder.load(room))

    return int64(int64, int64), codegen


@njit(cache=True, nogil=True)
def _count_part(table, first, last):
    """Return the counts of the entries `first` to `last` of a table."""
    total = 0
    for k in range(first, last):
        entry = native.load_plain(table + 8 * k)
        is_present = entry & 1
        total += (
            is_present + ((is_present & (entry >> 5)) << _FIELD) + ((is_present & (entry >> 6)) << 2 * _FIELD)
        )
    return total


@njit(cache=True, nogil=True)
def _add_counts(counts, packed):
    mask = (1 << _FIELD) - 1
    present, accessed, dirty = packed & mask, (packed >> _FIELD) & mask, packed >> 2 * _FIELD
    return counts[0] + present, counts[1] + accessed, counts[2] + dirty


@njit(cache=True, nogil=True)
def _descend(tables, root, levels, at):
    """Return the table of level 2 that covers an address, or minus the address where the hole there ends."""
    table = tables + (root << 12)
    for level in range(levels, 2, -1):
        shift = 12 + 9 * (level - 1)
        entry = native.load_plain(table + 8 * ((at >> shift) & 511))
        if entry & 1 == 0:
            return -(((at >> shift) + 1) << shift)
        table = tables + (entry >> 12 << 12)
    return table


@njit(cache=True, nogil=True)
def _are_tables(row):
    """Return whether as many entries as are counted side by side lead to tables of the lowest level."""
    all_of, any_of = -1, 0
    for k in range(TOGETHER):
        entry = native.load_plain(row + 8 * k)
        all_of &= entry
        any_of |= entry
    return all_of & PRESENT != 0 and any_of & HUGE == 0


@njit(cache=True, nogil=True)
def _count_entry(tables, middle, at, stop):
    """Return the counts of what one entry of level 2 covers, from `at` to `stop`."""
    k = (at >> 21) & 511
    entry = native.load_plain(middle + 8 * k)
    pages = (stop - at) >> 12
    if entry & PRESENT == 0:
        return 0
    if entry & HUGE:
        return pages + ((pages * ((entry >> 5) & 1)) << _FIELD) + ((pages * ((entry >> 6) & 1)) << 2 * _FIELD)
    if pages == ENTRIES:
        return _count_one(middle + 8 * k, middle + 8 * k, tables)
    return _count_part(tables + (entry >> 12 << 12), (at >> 12) & 511, ((stop - 1) >> 12 & 511) + 1)


@njit(cache=True, nogil=True)
def _walk_middle(tables, middle, at, last, counts):
    """Walk what one table of level 2 covers, up to `last`; return the counts."""
    end = min(last, ((at >> 30) + 1) << 30)
    while at < end:
        k = (at >> 21) & 511
        row = middle + 8 * k
        if at & ((1 << 21) - 1) == 0 and end - at >= TOGETHER << 21 and _are_tables(row):
            following = middle + 8 * min(k + TOGETHER, ENTRIES - TOGETHER)
            counts = _add_counts(counts, _count_together(row, following, tables))
            at += TOGETHER << 21
            continue
        stop = min(end, ((at >> 21) + 1) << 21)
        counts = _add_counts(counts, _count_entry(tables, middle, at, stop))
        at = stop
    return counts


@thread_func(cache=True)
def count_radix(start, end, begin, extents, n_extents, tables, root, levels, count):
    """Count present, accessed and dirty pages of 4 KiB by walking the tables from the root down."""
    at = begin if start == 0 else walkers._address(extents, n_extents, start)
    last = walkers._address(extents, n_extents, end)
    counts = (0, 0, 0)
    while at < last:
        middle = _descend(tables, root, levels, at)
        if middle < 0:
            at = -middle
            continue
        counts = _walk_middle(tables, middle, at, last, counts)
        at = ((at >> 30) + 1) << 30
    native.fetch_add(count, counts[0])
    native.fetch_add(count + 8, counts[1])
    native.fetch_add(count + 16, counts[2])
    return 0


@thread_func(cache=True)
def read_lines(start, end, memory_at, n_lines, total):
    """Read cache lines `start` to `end` of memory that is `n_lines` long and taken to repeat itself."""
    part = 0
    while start < end:
        first = start % n_lines
        some = min(end - start, n_lines - first)
        part += _sum_lines(memory_at + 64 * first, some)
        start += some
    native.fetch_add(total, part)
    return 0


# --- building --------------------------------------------------------------------------------------------


@dataclass
class RadixTable:
    """A page table in arrays.

    Attributes
    ----------
    region
        The memory of all tables, 4 KiB each.
    root, levels
        The number of the top table, and how many levels there are.
    extents
        Where the entries are, as `ktask.memory.walkers` counts them.
    expected
        Pages of 4 KiB that are present, accessed and dirty.
    n_tables, n_leaves
        Tables in memory, and leaf tables in the space: more, if some are shared.
    """

    region: memory.Region
    root: int
    levels: int
    extents: Extents
    expected: tuple[int, int, int]
    n_tables: int
    n_leaves: int

    @property
    def args(self) -> tuple[int, ...]:
        """What `count_radix` takes, but for where the counts go."""
        return (*self.extents.args, self.region.address, self.root, self.levels)

    @property
    def tables(self) -> np.ndarray:
        """All tables, one row each."""
        return self.region.words[: self.n_tables * ENTRIES].reshape(-1, ENTRIES).view(np.int64)

    def close(self) -> None:
        """Give the memory back."""
        self.region.unmap()


@dataclass(frozen=True)
class Runs:
    """Extents of present pages: first page, page after the last, by huge entries or not, dirty or not."""

    start: np.ndarray
    end: np.ndarray
    huge: np.ndarray
    dirty: np.ndarray


def described_runs(layout: str, size_bytes: int, seed: int = 1) -> Runs:
    """Return the runs of a layout of `ktask.memory.layouts` from address 0 on."""
    pieces = pieces_of(layout, size_bytes, np.random.default_rng(seed))
    chosen = pieces.populated
    start, size, huge = (a[chosen] for a in (pieces.at // BASE_PAGE, pieces.size // BASE_PAGE, pieces.huge))
    is_new = np.ones(start.size, bool)
    is_new[1:] = (start[1:] != (start + size)[:-1]) | (huge[1:] != huge[:-1])
    first = np.flatnonzero(is_new)
    end = (start + size)[np.append(first[1:], start.size) - 1]
    return Runs(start[first], end, huge[first], np.ones(first.size, bool))


def process_runs(process: Process, start: int = 0, end: int = 1 << 62) -> Runs:
    """Return the runs of present pages of a process, by PAGEMAP_SCAN; dirty is what is soft-dirty there.

    Raises
    ------
    ktask.memory.region.UnavailableError
        If the kernel has no PAGEMAP_SCAN, or the process has ended.
    """
    if reason := no_scan():
        raise memory.UnavailableError(reason)
    found = []
    wanted = walkers.SCAN_PRESENT | walkers.SCAN_HUGE | walkers.SCAN_SOFT_DIRTY
    for mapping in process.maps(start, end):
        found += memory.scan_regions(process.fd, mapping.start, mapping.end, walkers.SCAN_PRESENT, wanted)
    process.require_alive()
    rows = np.array(found, np.int64).reshape(-1, 3)
    first, after, seen = rows[:, 0] // BASE_PAGE, rows[:, 1] // BASE_PAGE, rows[:, 2]
    huge = ((seen & walkers.SCAN_HUGE) != 0) & (first % ENTRIES == 0) & (after % ENTRIES == 0)
    return Runs(first, after, huge, (seen & walkers.SCAN_SOFT_DIRTY) != 0)


def build(
    runs: Runs, levels: int = 4, *, pool_bytes: int = POOL_BYTES, scattered: bool = False, seed: int = 1
) -> RadixTable:
    """Return the page table of some runs.

    Parameters
    ----------
    runs
        Sorted and apart from one another; huge ones on 2 MiB borders.
    levels
        4 (48 bits of address) or 5 (57 bits).
    pool_bytes
        At most so much memory for the full leaf tables; beyond that they are shared. A full one lacks one
        page at random. With 0 every table is as the runs say.
    scattered
        Whether leaf tables lie in random order in memory, or in that of their addresses.

    Raises
    ------
    ValueError
        If there are other levels, or the addresses exceed them.
    ktask.memory.region.BudgetError
        If the tables would not fit the memory.
    """
    if levels not in LEVELS:
        raise ValueError(f"levels={levels} is not allowed; use {' or '.join(map(str, LEVELS))}")
    if len(runs.end) and int(runs.end.max()) > 1 << (9 * levels):
        raise ValueError(f"{int(runs.end.max()) * BASE_PAGE:#x} is beyond {levels} levels; use 5, or less")
    keys, kinds = _leaf_keys(runs)
    if not pool_bytes:
        kinds[kinds == _FULL] = _OWN
    n_full, n_own = int((kinds == _FULL).sum()), int((kinds == _OWN).sum())
    n_pool = min(n_full, pool_bytes // BASE_PAGE)
    random = np.random.default_rng(seed)
    parents = [_distinct(keys >> 9)]
    while len(parents) < levels - 1:
        parents.append(_distinct(parents[-1] >> 9))
    n_tables = n_pool + n_own + sum(len(level) for level in parents)
    kind = "4KiB" if memory.why_not("THP", n_tables * BASE_PAGE) else "THP"
    region = memory.Region(n_tables * BASE_PAGE, kind)
    table = RadixTable(region, n_tables - 1, levels, _extents_of_runs(runs), (0, 0, 0), n_tables, len(keys))
    children = np.zeros(len(keys), np.int64)
    order = random.permutation if scattered else np.arange
    children[kinds == _FULL] = order(n_pool)[np.arange(n_full) % max(n_pool, 1)]
    children[kinds == _OWN] = n_pool + order(n_own)
    _fill_pool(table.tables[:n_pool], random)
    _fill_own(table.tables, runs, keys, kinds, children)
    table.expected = _expected(table.tables, kinds, children, runs)
    entries = np.where(kinds == _HUGE, _huge_entries(runs, keys, kinds), children << TABLE_SHIFT | PRESENT)
    _fill_upper(table.tables, n_pool + n_own, parents, keys, entries)
    return table


_FULL, _OWN, _HUGE = range(3)


def _distinct(ascending: np.ndarray) -> np.ndarray:
    """Return each value once."""
    return ascending[np.diff(ascending, prepend=-1) > 0]


def _leaf_keys(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Return the number (address >> 21) of each entry of level 2 that is used, and its kind."""
    first_full, after_full = -(-runs.start // ENTRIES), runs.end // ENTRIES
    full = _expand(first_full, np.maximum(after_full, first_full))
    kinds = np.repeat(np.where(runs.huge, _HUGE, _FULL), np.maximum(after_full - first_full, 0))
    small = ~runs.huge
    edges = np.unique(np.concatenate([(runs.start // ENTRIES)[small], ((runs.end - 1) // ENTRIES)[small]]))
    nearest = np.minimum(np.searchsorted(full, edges), full.size - 1)
    own = edges[full[nearest] != edges] if full.size else edges
    keys = np.concatenate([full, own])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([kinds, np.full(own.size, _OWN)])[order]


def _expand(first: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return all numbers of the ranges, one after the other."""
    counts = after - first
    offsets = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return np.arange(counts.sum()) + offsets


def _fill_pool(pool: np.ndarray, random: np.random.Generator) -> None:
    """Make full leaf tables: every page there and accessed but one, every second one dirty."""
    if not len(pool):
        return
    pool[:] = np.where(np.arange(ENTRIES) % 2, PRESENT | ACCESSED, PRESENT | ACCESSED | DIRTY)
    pool[np.arange(len(pool)), random.integers(ENTRIES, size=len(pool))] = 0


def _fill_own(tables, runs: Runs, keys: np.ndarray, kinds: np.ndarray, children: np.ndarray) -> None:
    """Fill the leaf tables that are not full, run by run."""
    own_keys, own_tables = keys[kinds == _OWN], children[kinds == _OWN]
    for start, end, huge, dirty in zip(runs.start, runs.end, runs.huge, runs.dirty, strict=True):
        low, high = np.searchsorted(own_keys, [start // ENTRIES, (end - 1) // ENTRIES + 1])
        entry = PRESENT | ACCESSED | (DIRTY if dirty else 0)
        for key, table in zip(own_keys[low:high], own_tables[low:high], strict=True):
            first = key * ENTRIES
            tables[table, max(start - first, 0) : min(end - first, ENTRIES)] = 0 if huge else entry


def _huge_entries(runs: Runs, keys: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    owner = np.searchsorted(runs.start, keys * ENTRIES, "right") - 1
    dirty = runs.dirty[np.maximum(owner, 0)] if len(runs.dirty) else np.zeros(len(keys), bool)
    return PRESENT | ACCESSED | HUGE | np.where(dirty, DIRTY, 0)


def _expected(tables, kinds, children, runs: Runs) -> tuple[int, int, int]:
    """Return the pages that are present, accessed and dirty."""
    used = np.bincount(children[kinds != _HUGE], minlength=1)
    huge_pages = (runs.end - runs.start)[runs.huge]
    counts = []
    for bit, is_set in ((PRESENT, 1), (ACCESSED, 1), (DIRTY, runs.dirty[runs.huge])):
        blocks = [slice(k, min(k + 4096, used.size)) for k in range(0, used.size, 4096)]  # little at a time
        in_tables = sum(int(np.count_nonzero(tables[b] & bit, axis=1) @ used[b]) for b in blocks)
        counts.append(in_tables + int((huge_pages * is_set).sum()))
    return counts[0], counts[1], counts[2]


def _fill_upper(tables, first: int, parents, keys: np.ndarray, entries: np.ndarray) -> None:
    """Fill the upper levels, the lowest first; their tables follow one another from `first` on."""
    for level in parents:
        rows = first - 1 + np.cumsum(np.diff(keys >> 9, prepend=-1) > 0)
        tables[rows, keys & (ENTRIES - 1)] = entries
        keys, entries = level, (first + np.arange(len(level))) << TABLE_SHIFT | PRESENT
        first += len(level)


def _extents_of_runs(runs: Runs) -> Extents:
    rows = np.column_stack([runs.start * BASE_PAGE, runs.end * BASE_PAGE, np.where(runs.huge, 21, 12)])
    ends = (int(rows[0, 0]), int(rows[-1, 1])) if len(rows) else (0, 0)
    return extents_of(rows.astype(np.int64), *ends)


def memory_need(size_bytes: int) -> int:
    """Return what a described table takes at the peak of its building."""
    n_leaves = size_bytes // THP_SIZE + 2
    return int(min(POOL_BYTES, n_leaves * BASE_PAGE) + 10 * 8 * n_leaves) + 64 * BASE_PAGE
