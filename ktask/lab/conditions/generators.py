"""What generators of load do, compiled, and how they count it.

A generator works in blocks of 10 to 100 us, checks that the work happened, and adds it to its row, which
others read while it runs. It waits where it is ahead of the share of a CPU or the rate that it is given.
"""

from __future__ import annotations

import numpy as np

from ktask.engine import native
from ktask.engine.compiled import compiled
from ktask.engine.layout import LINE, PAIR, WORD
from ktask.host import topology
from ktask.memory import region as memory

KINDS = ("spin", "memory", "cache", "fault", "mmap", "fork")
SPIN, MEMORY, CACHE, FAULT, MMAP, _ = range(len(KINDS))
MIB = 1 << 20
PAGE = memory.BASE_PAGE

# One row per generator, in cache lines of its own. `done` is in its own unit, `error` is an errno or WRONG.
ROW = np.dtype(
    {
        "names": ["done", "cpu_ns", "error", "thread", "stop"],
        "formats": ["i8"] * 5,
        "offsets": [0, WORD, 2 * WORD, 3 * WORD, LINE],
        "itemsize": PAIR,
    }
)
_PLACES = {name: place[1] for name, place in (ROW.fields or {}).items()}
DONE, CPU, ERROR, THREAD, STOP = (_PLACES[name] for name in ("done", "cpu_ns", "error", "thread", "stop"))
WRONG = 1_000_000  # the work did not happen

STEPS = 20_000  # of a block of `spin`
WORDS = 256 << 7  # of a block of `memory`: 256 KiB
LOADS = 500  # of a block of `cache`
PAGES, CALLS = 32, 8  # of a block of `fault` and of `mmap`
FAULT_BYTES = 4 * MIB
NAP_US = 200
DEBT_NS = 10_000_000  # of time that a generator which got no CPU makes up for afterwards

_CLONE = memory.call_number("clone")
_SIGCHLD, _RW, _PRIVATE, _DONTNEED = 17, 3, 0x22, 4  # <bits/signum-generic.h>, <bits/mman-linux.h>


# --- blocks: each returns how much it did, or minus an error -----------------------------------------------


@compiled
def _add(words, at):
    """Add 1 to words of an array in turn; the first word says how often all have been gone through."""
    first = at % words.size
    for k in range(first, min(first + WORDS, words.size)):
        words[k] += 1
    if first + WORDS >= words.size and words[0] != words[words.size - 1]:
        return -WRONG
    return 2 * WORD * (min(first + WORDS, words.size) - first)


@compiled
def _follow(words, at):
    """Follow pointers from the place that the last word keeps; a round over all of them ends at 0."""
    place, rounds = words[words.size - 1], (words.size - 1) // (LINE // WORD)
    for k in range(at, at + LOADS):
        place = words[place]
        if (k + 1) % rounds == 0 and place != 0:
            return -WRONG
    words[words.size - 1] = place
    return LOADS


@compiled
def _fault(address, at):
    """Give some pages back and touch them: they are zero before."""
    begin = address + at % (FAULT_BYTES // PAGE) * PAGE
    if native.madvise(begin, PAGES * PAGE, _DONTNEED) != 0:
        return -native.last_errno()
    for k in range(PAGES):
        if native.fetch_add(begin + k * PAGE, 1) != 0:
            return -WRONG
    return PAGES


@compiled
def _map():
    """Map a page, touch it and unmap it, several times."""
    for _ in range(CALLS):
        address = native.mmap(0, PAGE, _RW, _PRIVATE, -1, 0)
        if address == -1:
            return -native.last_errno()
        if native.fetch_add(address, 1) != 0:
            return -WRONG
        if native.munmap(address, PAGE) != 0:
            return -native.last_errno()
    return CALLS


@compiled
def _fork():
    """Fork a child that ends with 7, and wait for it."""
    pid = native.syscall5(_CLONE, _SIGCHLD, 0, 0, 0, 0)
    if pid < 0:
        return -native.last_errno()
    if pid == 0:
        native.exit_now(7)
    status = native.stack_1k()
    if native.waitpid(pid, status, 0) != pid:
        return -native.last_errno()
    return 1 if native.load_byte(status + 1) == 7 and native.load_byte(status) == 0 else -WRONG


@compiled
def _block(kind, words, at):
    if kind == SPIN:
        native.spend(STEPS)
        return STEPS
    if kind == MEMORY:
        return _add(words, at // (2 * WORD))
    if kind == CACHE:
        return _follow(words, at)
    if kind == FAULT:
        return _fault(words.ctypes.data, at)
    if kind == MMAP:
        return _map()
    return _fork()


# --- a generator -------------------------------------------------------------------------------------------


@compiled
def generate(row, kind, words, share, per_s):
    """Generate load until the word `stop` of the row at the address `row` is set, or until an error.

    Parameters
    ----------
    row
        Address of a row (`ROW`).
    kind
        Index into `KINDS`.
    words
        From `words_for`.
    share
        Of a CPU, to use at most.
    per_s
        To count per second at most; 0 for no limit.
    """
    native.store(row + THREAD, native.gettid())
    count = 0
    start, used = native.clock_ns(native.CLOCK_MONOTONIC), native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID)
    begun = 0  # the count at `start`
    while native.load(row + STOP) == 0:
        done = _block(kind, words, count)
        if done < 0:
            native.store(row + ERROR, -done)
            return
        count += done
        cpu = native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID)
        native.store(row + CPU, cpu)
        native.store(row + DONE, count)
        due = 0  # nanoseconds after `start` at which this much may have been done
        if share < 1.0:
            due = int((cpu - used) / share)
        if per_s > 0:
            due = max(due, int((count - begun) * 1e9 / per_s))
        if due > 0:
            now = native.clock_ns(native.CLOCK_MONOTONIC)
            if now - start - due > DEBT_NS:
                start, used, begun = now, cpu, count
            while native.clock_ns(native.CLOCK_MONOTONIC) - start < due and native.load(row + STOP) == 0:
                native.usleep(NAP_US)


def words_for(kind: str, generators: int) -> np.ndarray:
    """Return the memory that one of some generators works on, all of it touched."""
    cache = max([one["size_bytes"] for one in topology.caches()] + [32 * MIB])
    if kind == "memory":
        return np.ones(min(max(2 * cache, 64 * MIB), 256 * MIB) // WORD, np.int64)
    if kind == "cache":
        return _cycle(min(max(cache // 2 // generators, MIB), 64 * MIB) // LINE)
    words = np.ones((FAULT_BYTES if kind == "fault" else LINE) // WORD + PAGE // WORD, np.int64)
    return words[-(words.ctypes.data // WORD) % (PAGE // WORD) :] if kind == "fault" else words


def _cycle(lines: int, seed: int = 1) -> np.ndarray:
    """Return words of which the first of each line names another line's, in one round over all of them."""
    words = np.zeros(lines * (LINE // WORD) + 1, np.int64)
    order = np.random.default_rng(seed).permutation(np.arange(1, lines))
    places = np.concatenate([[0], order]) * (LINE // WORD)
    words[places] = np.roll(places, -1)
    return words
