"""Which hugetlb pages two threads cannot fault in at once: a table of mutexes, seen from outside.

A fault on a hugetlb page takes a mutex and holds it until the page is cleared. Which one tells a hash of the
mapping and the number of the page; there are eight per possible CPU, rounded up to a power of two
(hugetlb_init, hugetlb_fault and hugetlb_fault_mutex_hash in mm/hugetlb.c). So some pairs of pages take turns,
always the same ones for the same mapping.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from ktask.common.progress import rounds_bar
from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import kernel_files, topology
from ktask.lab.measure.rounds import SEED, interleave, repeat
from ktask.memory import region as memory
from ktask.workloads import expect

PAGE_KIND = "2MiB"
MOST_PAIRS, FEWEST_PAIRS = 256, 32
IN_TURN = 1.5  # times the median; two that exclude one another need twice as long


@thread_func(cache=True)
def fault_in(start, end, base, distance):
    """Fault in the pages at `start` to `end`, which lie `distance` bytes from each other."""
    for k in range(start, end):
        if native.madvise(base + k * distance, memory.BASE_PAGE, memory.MADV_POPULATE_WRITE):
            return native.last_errno()
    return 0


def how_many() -> int:
    """Return how many mutexes the kernel has made; 8 per possible CPU, rounded up to a power of two."""
    cpus = kernel_files.read_cpu_list(kernel_files.ROOT / "sys/devices/system/cpu/possible") or (0,)
    return 1 << (8 * len(cpus) - 1).bit_length()


def why_not() -> str | None:
    """Return why `pairs` cannot be measured here, or None."""
    if topology.cpu_count() < 2:
        return "this process may use one CPU only"
    return memory.why_not(PAGE_KIND, (FEWEST_PAIRS + 1) * memory.PAGE_KINDS[PAGE_KIND])


class Pair:
    """The first page of a mapping and the one `distance` pages on, as a case set up for two threads."""

    size, bytes_per_unit, operations = 2, memory.PAGE_KINDS[PAGE_KIND], 2

    def __init__(self, region: memory.Region, distance: int):
        self.region = region
        self.ctl = Ctl(fault_in, (region.address, distance * self.bytes_per_unit))

    def before(self) -> None:
        """Give all pages back."""
        self.region.zap()

    def check(self) -> None:
        """Do nothing: what is to be seen is in the result."""

    def close(self) -> None:
        """Do nothing: the pages go with the region."""


def pairs(rounds: int = 7, seed: int = SEED) -> pd.DataFrame | None:
    """Return how long two threads take to fault in the first page of a mapping and one other, at once.

    Returns
    -------
    pandas.DataFrame or None
        None if this machine cannot do it. One row per other page, by its number: `wall_us`, the least of
        `rounds` (NaN if one thread always did both), and `takes_turns`, whether that is beyond `IN_TURN`
        times the median.

    Raises
    ------
    OSError, ktask.workloads.CheckError
        If the pages were not faulted in.
    """
    if why_not():
        return None
    count = min(MOST_PAIRS, max(FEWEST_PAIRS, memory.free_pool_pages(PAGE_KIND) - 1))
    pages = range(1, count + 1)
    with (
        memory.Region((count + 1) * memory.PAGE_KINDS[PAGE_KIND], PAGE_KIND) as region,
        rounds_bar(rounds) as on_round,
    ):
        calls = {page: partial(_at_once_us, Pair(region, page)) for page in pages}
        found = interleave(calls, rounds, seed, on_round=on_round)
    wall_us = np.fmin.reduce([found[page] for page in pages], axis=1)
    table = pd.DataFrame({"page": pages, "wall_us": wall_us}).set_index("page")
    return table.assign(takes_turns=wall_us > IN_TURN * np.nanmedian(wall_us))


def _at_once_us(pair: Pair) -> float:
    """Return the microseconds that both pages take; NaN if one thread did both."""
    result = repeat(pair, 2, "dynamic").result
    expect(result.faults_minor >= 2, f"{result.faults_minor} faults, not one for each page")
    return result.wall_s * 1e6 if result.chunks_per_thread == (1, 1) else np.nan


def finding(table: pd.DataFrame | None) -> str:
    """Return in a sentence how many pairs take turns and how many would by chance, or why none was tried."""
    if table is None:
        return f"Not tried: {why_not()}."
    count, slow, mutexes = int(table["wall_us"].notna().sum()), int(table["takes_turns"].sum()), how_many()
    return (
        f"{slow} of {count} pages take turns with the first one; with {mutexes} mutexes chance would give "
        f"{count / mutexes:.0f}."
    )
