"""A radix table in arrays: `page_walk.py` walks it without the kernel, in sizes that no machine here has."""

from __future__ import annotations

import numpy as np

from ktask.engine.task import Ctl
from ktask.memory.address_space import Process
from ktask.memory.region import BASE_PAGE
from ktask.workloads import Case, Option, expect
from ktask.workloads.page_walk import radix

MODEL = ("radix", "plain_read")
DEPTH = Option("levels", "levels of the table: 4 for 48 bits of address, 5 for 57", "4", ("4", "5"))
ORDER_OF_TABLES = Option("tables", "where leaf tables lie in memory", "in_order", ("in_order", "scattered"))


class WalkModel:
    """A radix table in arrays, of a layout or of a process, walked from the root down or just read."""

    bytes_per_unit = BASE_PAGE

    def __init__(self, case: Case):
        self.case = case
        pid, levels = case.option("pid"), int(case.option("levels"))
        if pid == "self":
            runs = radix.described_runs(case.option("layout"), case.size_bytes)
        else:
            with Process(pid) as process:
                runs = radix.process_runs(process)
        pool_bytes = radix.POOL_BYTES if pid == "self" else 0
        is_scattered = case.option("tables") == "scattered"
        self.table = radix.build(runs, levels, pool_bytes=pool_bytes, scattered=is_scattered)
        self.expected = self.table.expected
        self.counts = np.zeros(3, np.int64)
        self.size = self.operations = self.table.extents.n_units
        self.size_bytes = int((runs.end - runs.start).sum()) * BASE_PAGE
        self.ctl = self._read() if case.method == "plain_read" else self._walk()

    def _walk(self) -> Ctl:
        return Ctl(radix.count_radix, (*self.table.args, self.counts.ctypes.data), self.case.min_chunk_pages)

    def _read(self) -> Ctl:
        """Read the memory of the tables from its start to its end, over and over, 8 entries a line."""
        self.size = -(-self.size // 8)
        self.bytes_per_unit = 8 * BASE_PAGE
        n_lines = self.table.n_tables * BASE_PAGE // 64
        words = self.table.tables.reshape(-1)
        times, rest = divmod(self.size, n_lines)
        total = times * int(words.sum()) + int(words[: 8 * rest].sum())
        self.expected = (int(np.uint64(total % (1 << 64)).view(np.int64)), 0, 0)
        return Ctl(radix.read_lines, (self.table.region.address, n_lines, self.counts.ctypes.data), 64)

    def before(self) -> None:
        self.counts[:] = 0

    def check(self) -> None:
        found = tuple(map(int, self.counts))
        what = "sum of all words" if self.case.method == "plain_read" else "present, accessed and dirty pages"
        expect(found == self.expected, f"the walk found {found} for {what}; {self.expected} are there")

    def close(self) -> None:
        self.table.close()
