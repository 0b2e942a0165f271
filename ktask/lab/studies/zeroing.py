"""Studies of zeroing: which stores are fastest at a size, and from which size on splitting pays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ktask.common.progress import watched
from ktask.common.units import fmt_size
from ktask.host import topology
from ktask.lab.measure.rounds import SEED
from ktask.lab.studies.sampling import How, can_run, samples_of, walls
from ktask.memory.region import GIB
from ktask.workloads import Case

SIZES = ("256KiB", "1MiB", "4MiB", "16MiB", "64MiB", "256MiB", "1GiB")
STORES = ("stores", "rep_stosb", "memset", "nontemporal", "auto")


def stores(
    sizes: Sequence[str | int] = SIZES,
    page_kind: str = "THP",
    threads: int | None = None,
    rounds: int = 7,
    seed: int = SEED,
) -> pd.DataFrame:
    """Return the rate (GiB/s) of each kind of store and of `auto`, by size, with one thread and with all.

    Every kind has memory of its own, which it finds as its last repetition and the check left it.
    """
    variants = {n: How(n) for n in sorted({1, threads or topology.cpu_count()})}
    rows = []
    for size in watched(sizes, "sizes"):
        for method in STORES:
            case = Case.of("zeroing", method, size=size, page_kind=page_kind)
            if not can_run(case):
                continue
            for n, found in samples_of(case, variants, rounds, seed).items():
                gib_s = case.size_bytes / GIB / float(np.median(walls(found)))
                row = {"size_bytes": case.size_bytes, "stores": method, "threads": n, "gib_s": gib_s}
                rows.append(row)
    return pd.DataFrame(rows)


def crossover(table: pd.DataFrame) -> str:
    """Return in a sentence from which size on all threads zero faster than one, by `auto`."""
    rates = table[table["stores"] == "auto"].pivot_table(
        index="size_bytes", columns="threads", values="gib_s"
    )
    if rates.shape[1] < 2:
        return "This process has one CPU: there is nothing to split over."
    pays = rates.iloc[:, -1] > rates.iloc[:, 0]
    below = rates.index[~pays]
    if not len(below):
        return f"Splitting pays from the smallest size here on, {fmt_size(int(rates.index[0]))}."
    if below[-1] == rates.index[-1]:
        return "Splitting does not pay at the largest size here."
    first = rates.index[rates.index > below[-1]][0]
    return f"Splitting pays from {fmt_size(int(first))} on."
