"""What a neighbour does again and again, and how long it takes: compiled, and the same in thread and process.

A probe sleeps for a tenth of a millisecond, on average, and then does one thing. How late it wakes is a
sample in itself. It uses a few hundredths of a CPU; between repetitions it only sleeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ktask.engine import native
from ktask.engine.compiled import compiled
from ktask.host import kernel_files, topology
from ktask.memory import region as memory

FAULT, MMAP, WAKEUP, CACHE = range(4)
NAMES = {FAULT: "page fault", MMAP: "mmap and munmap", WAKEUP: "wake-up", CACHE: "cache"}
PERIOD_NS = 100_000
STEPS = 1024  # cache lines that one sample reads, each by the address that the one before holds
LINE_BYTES = 64
LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 256 << 10, 4 << 20
PAGES = 512  # faulted in one after the other, then given back
MOST = 1 << 20  # samples, of a minute; memory is used as they come

# Words that both sides look at, in bytes from their start; behind them MOST samples of three words each: what
# was done, when it was begun, and how long it took.
END, ON, ACK, COUNT, FAILED, FAULTS, FAULTED, SINK = (8 * k for k in range(8))
WORDS = 8
ROOM_BYTES = 8 * (WORDS + 3 * MOST)

_PROT_RW, _PRIVATE_ANONYMOUS = 3, 0x22
_PR_SET_TIMERSLACK = 29


@compiled
def _keep(room, kind, begun_ns, took_ns):
    """Keep one sample, unless there are `MOST`."""
    n = native.load_plain(room + COUNT)
    if n < MOST:
        row = room + 8 * WORDS + 24 * n
        native.store(row, kind)
        native.store(row + 8, begun_ns)
        native.store(row + 16, max(took_ns, 1))
        native.store(room + COUNT, n + 1)


@compiled
def _fault(room, pages):
    """Touch the next page; give all back after the last one, which is in no sample."""
    k = native.load_plain(room + FAULTED)
    if k == PAGES:
        if native.madvise(pages, PAGES * memory.BASE_PAGE, memory.MADV_DONTNEED) != 0:
            native.fetch_add(room + FAILED, 1)
        k = 0
    begun_ns = native.clock_ns(native.CLOCK_MONOTONIC)
    native.store_byte(pages + k * memory.BASE_PAGE, 1)
    _keep(room, FAULT, begun_ns, native.clock_ns(native.CLOCK_MONOTONIC) - begun_ns)
    native.store(room + FAULTED, k + 1)


@compiled
def _map(room):
    """Map a page and unmap it, untouched."""
    begun_ns = native.clock_ns(native.CLOCK_MONOTONIC)
    at = native.mmap(0, memory.BASE_PAGE, _PROT_RW, _PRIVATE_ANONYMOUS, -1, 0)
    failed = at == -1 or native.munmap(at, memory.BASE_PAGE) != 0
    _keep(room, MMAP, begun_ns, native.clock_ns(native.CLOCK_MONOTONIC) - begun_ns)
    if failed:
        native.fetch_add(room + FAILED, 1)


@compiled
def _read_cache(room, at):
    """Read `STEPS` lines; the sample is CPU time, so that waiting for a CPU is not in it."""
    begun_ns = native.clock_ns(native.CLOCK_MONOTONIC)
    before_ns = native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID)
    for _ in range(STEPS):
        at = native.load_plain(at)
    _keep(room, CACHE, begun_ns, native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID) - before_ns)
    native.store(room + SINK, at)


@compiled
def run(room, kinds, n_kinds, pages, lines):
    """Probe, each of the kinds in turn, while `ON` is set, until `END` is.

    Parameters
    ----------
    room
        Address of the words and samples.
    kinds, n_kinds
        Address of what to do, a word each, and how many.
    pages, lines
        Addresses of `PAGES` pages, and of a line of the ring that `ring` makes.
    """
    native.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # 50 us by default, which would be in each wake-up
    native.store(room + SINK, lines)
    before, turn, random = native.thread_faults(), 0, room
    at_ns = native.clock_ns(native.CLOCK_MONOTONIC)
    while native.load(room + END) == 0:
        random = (random * 1103515245 + 12345) & 0x7FFFFFFF
        now_ns = native.clock_ns(native.CLOCK_MONOTONIC)
        at_ns = max(at_ns, now_ns) + PERIOD_NS // 2 + (random >> 8) % PERIOD_NS
        native.sleep_until(at_ns)
        native.store(room + ACK, native.load(room + ON))
        if native.load(room + ON) == 0:
            continue
        _keep(room, WAKEUP, at_ns, native.clock_ns(native.CLOCK_MONOTONIC) - at_ns)
        kind = native.load_plain(kinds + 8 * (turn % n_kinds))
        turn += 1
        if kind == FAULT:
            _fault(room, pages)
        elif kind == MMAP:
            _map(room)
        else:
            _read_cache(room, native.load_plain(room + SINK))
    native.store(room + FAULTS, native.thread_faults() - before)


def address_of(words: np.ndarray) -> int:
    """Return where an array lies."""
    return words.ctypes.data


def cache_bytes() -> int:
    """Return how much a neighbour reads: half of the second-level cache of a core."""
    known = {one["level"]: one["size_bytes"] for one in topology.caches(kernel_files.ROOT)}
    return min(max(known.get(2, 0) // 2, LEAST_CACHE_BYTES), MOST_CACHE_BYTES)


def ring(size_bytes: int) -> np.ndarray:
    """Return memory in which each line holds the address of another, all of them in one ring."""
    n, words = size_bytes // LINE_BYTES, LINE_BYTES // 8
    lines = np.zeros(n * words, dtype=np.int64)
    order = np.random.default_rng(1).permutation(n)
    lines[order * words] = address_of(lines) + LINE_BYTES * np.roll(order, -1)
    return lines


class Prober:
    """The memory that probes work on, and where their samples go.

    Parameters
    ----------
    room
        `ROOM_BYTES` of words, shared with who switches the probes.
    kinds
        What to do in turn; may be changed while `ON` is not set.
    """

    def __init__(self, room: np.ndarray, kinds: Sequence[int]):
        self._room, self.kinds = room, np.array(kinds, dtype=np.int64)
        self._lines = ring(cache_bytes() if CACHE in kinds else LINE_BYTES)
        self._region = memory.Region(PAGES * memory.BASE_PAGE, "4KiB")

    def run(self) -> None:
        """Probe until `END` is set."""
        self._room[FAULTED // 8] = PAGES  # so that the first one gives all pages back
        kinds = address_of(self.kinds), len(self.kinds)
        run(address_of(self._room), *kinds, self._region.address, address_of(self._lines))

    def close(self) -> None:
        """Give the memory back."""
        self._region.unmap()


def compile_probes() -> None:
    """Have everything compiled: a probe that ends at once."""
    room = np.zeros(WORDS, dtype=np.int64)
    room[END // 8] = 1
    run(address_of(room), 0, 1, 0, 0)
