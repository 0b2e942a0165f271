"""Memory that is there already, zeroed by user code: one kind of store, or the fastest at the size.

`zeroing.py` offers it. No page is faulted in while the clock runs.
"""

from __future__ import annotations

from numba import njit

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.zeroing import store_choice, store_learning
from ktask.workloads.zeroing.zeroed import Zeroed

# At most: user code may zero a part of a page, so that several threads zero one of 1 GiB.
STORE_UNIT = memory.THP_SIZE
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


class Resident(Zeroed):
    """Memory that is there already: dirtied before, zeroed timed."""

    def __init__(self, case: Case):
        super().__init__(case, min(case.page_size, STORE_UNIT))
        self.region.populate()
        least = case.min_chunk(self.bytes_per_unit)
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
