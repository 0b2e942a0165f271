"""Memory that is there already, zeroed by user code: one kind of store, or the fastest at the size.

`zeroing.py` offers it. No page is faulted in while the clock runs.
"""

from __future__ import annotations

import statistics

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import topology
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.zeroing.stores import STORES, available, zero_range
from ktask.workloads.zeroing.zeroed import Zeroed

# At most: user code may zero a part of a page, so that several threads zero one of 1 GiB.
STORE_UNIT = memory.THP_SIZE
ROUNDS, LARGE_ROUNDS, LARGE_BYTES = 15, 5, 64 * memory.MIB
SAMPLE_BYTES = memory.GIB  # far beyond the caches the order of the kinds stays as it is
_fastest: dict[tuple[int, str, int], int] = {}  # by size class, page kind and threads


@thread_func(cache=True)
def zero(start, end, base, unit_bytes, n_units, alone, together):
    """Zero resident units by one kind of store if the chunk is all there is, by another if it is a part."""
    kind = alone if end - start == n_units else together
    zero_range(base + start * unit_bytes, base + end * unit_bytes, kind)
    return 0


class Resident(Zeroed):
    """Memory that is there already: dirtied before, zeroed timed."""

    def __init__(self, case: Case):
        super().__init__(case, min(case.page_size, STORE_UNIT))
        self.region.populate()
        least = case.min_chunk(self.bytes_per_unit)
        if case.method == "auto":
            kinds = self.fastest(least, 1), self.fastest(least, topology.cpu_count())
        else:
            kinds = (STORES.index(case.method),) * 2
        self.ctl = self._ctl(self.size, kinds, least)

    def _ctl(self, n_units: int, kinds: tuple[int, int], least: int, threads: int = 0) -> Ctl:
        return Ctl(zero, (self.region.address, self.bytes_per_unit, n_units, *kinds), least, threads)

    def fastest(self, least: int, threads: int) -> int:
        """Return the number of the kind of store that zeroes this memory fastest: tried once per size class.

        Which one wins depends on size, page kind and threads, and where others share the cache also on the
        hour; so every process tries anew.
        """
        n_units = min(self.size, max(SAMPLE_BYTES // self.bytes_per_unit, 1))
        key = (n_units * self.bytes_per_unit).bit_length(), self.region.page_kind, threads
        if key not in _fastest:
            walls: dict[int, list[float]] = {STORES.index(name): [] for name in available()}
            for _ in range(LARGE_ROUNDS if self.region.size_bytes > LARGE_BYTES else ROUNDS):
                for kind, walls_s in walls.items():
                    self._dirty()
                    ctl = self._ctl(n_units, (kind, kind), least, threads)
                    walls_s.append(engine.run(0, n_units, ctl).wall_s)
            _fastest[key] = min(walls, key=lambda kind: statistics.median(walls[kind]))
        return _fastest[key]

    def before(self) -> None:
        self._dirty()

    def check(self) -> None:
        self._expect_zero()
        self.expect_nodes()
