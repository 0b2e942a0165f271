"""Studies of zeroing and its neighbours: who scales, who waits, and which stores are fastest at a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.common.units import fmt_size, parse_size
from ktask.host import topology
from ktask.lab.studies.freeing import Sample, interleaved, row_of, sample
from ktask.memory import region as memory
from ktask.memory.region import GIB
from ktask.workloads import Case

SHARED = (("sharing", "shared"),)
Entry = tuple[str, str, str, tuple[tuple[str, str], ...]]
WAYS: Mapping[str, Entry] = {
    **{f"populate, {kind}": ("zeroing", "populate", kind, ()) for kind in memory.PAGE_KINDS},
    **{f"populate, {kind}, shared": ("zeroing", "populate", kind, SHARED) for kind in ("4KiB", "2MiB")},
    "fallocate, 2MiB, one file": ("zeroing", "fallocate", "2MiB", ()),
    "fallocate, 2MiB, 16 files": ("zeroing", "fallocate_files", "2MiB", ()),
    "user, rep stosb": ("zeroing", "rep_stosb", "THP", ()),
    "user, non-temporal": ("zeroing", "nontemporal", "THP", ()),
}
SIZES = ("256KiB", "1MiB", "4MiB", "16MiB", "64MiB", "256MiB", "1GiB")
STORES = ("stores", "rep_stosb", "memset", "nontemporal", "auto")


def entries_of(workload: str, page_kind: str) -> dict[str, Entry]:
    """Return the methods of a workload that do a kind of page."""
    methods = workloads.get(workload).methods
    return {m.name: (workload, m.name, page_kind, ()) for m in methods if page_kind in m.page_kinds}


def ways(
    size: str | int, entries: Mapping[str, Entry] = WAYS, threads: int | None = None, rounds: int = 7
) -> pd.DataFrame:
    """Return what each way takes with one thread and with `threads`.

    Returns
    -------
    pandas.DataFrame
        One row per way that this machine can do: `serial_ms`, `wall_ms`, `speedup` with `low` and `high`
        (95 %), `busy` (CPU time over the time of the threads: the rest was spent waiting; NaN below 20 us,
        where it is not exact, and where other processes do the work), and `cpu` (CPU time over that of one
        thread: beyond 1, the threads have slowed each other down).
    """
    threads = threads or topology.cpu_count()
    rows = []
    for label, (workload, method, kind, options) in watched(entries.items(), "ways"):
        case = Case(workload, method, kind, parse_size(size), options=options)
        if workloads.why_not(case) is None:
            found = _samples(case, (1, threads), rounds)
            rows.append({"way": label} | _row(found, threads))
            if method == "many_processes":
                rows[-1] |= {"busy": float("nan"), "cpu": float("nan")}
    return pd.DataFrame(rows).set_index("way")


def _samples(case: Case, counts: Sequence[int], rounds: int) -> dict[Any, list[Sample]]:
    workloads.require_memory(case)
    state = workloads.get(case.workload).setup(case)
    try:
        return interleaved({n: lambda n=n: sample(state, n) for n in counts}, rounds)
    finally:
        state.close()


def _row(found: dict[Any, list[Sample]], threads: int) -> dict[str, Any]:
    one, all_threads = (row_of(found[n], found[1], n) for n in (1, threads))
    cpu_s = {n: float(np.median([s.cpu_s for s in found[n]])) for n in (1, threads)}
    kept = {key: all_threads[key] for key in ("wall_ms", "speedup", "low", "high", "busy", "n")}
    return {"serial_ms": one["wall_ms"], **kept, "cpu": cpu_s[threads] / cpu_s[1] if cpu_s[1] else np.nan}


def stores(
    sizes: Sequence[str | int] = SIZES,
    page_kind: str = "THP",
    threads: int | None = None,
    rounds: int = 7,
) -> pd.DataFrame:
    """Return the rate (GiB/s) of each kind of store and of `auto`, by size, with one thread and with all.

    Every kind has memory of its own, which it finds as its last repetition and the check left it.
    """
    threads = threads or topology.cpu_count()
    rows = []
    for size in map(parse_size, watched(sizes, "sizes")):
        for method in STORES:
            case = Case("zeroing", method, page_kind, size)
            if workloads.why_not(case) is not None or size > memory.budget_bytes():
                continue
            for n, samples in _samples(case, sorted({1, threads}), rounds).items():
                wall_s = float(np.median([s.wall_s for s in samples]))
                rows.append(
                    {"size_bytes": size, "stores": method, "threads": n, "gib_s": size / GIB / wall_s}
                )
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
