"""How page walks compare: each method on each layout, with one thread and with several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.common.units import parse_size
from ktask.engine import run as engine
from ktask.lab.measure import stats
from ktask.memory import region as memory
from ktask.workloads import Case

METHODS = ("pagemap_scan", "pagemap", "mincore", "radix")
LAYOUTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "dense": (),
    "memory": (("pages", "memory"),),  # dense as well, with a page of its own for each entry
    **{name: (("layout", name),) for name in ("sparse", "fragmented", "mixed")},
}


def walk_rates(size: str | int, threads: Sequence[int] = (1, 2), repetitions: int = 7) -> pd.DataFrame:
    """Return entries per second of each method on each layout, one row per thread count.

    Columns method, layout, threads, entries, entries_per_s, low_per_s, high_per_s (95 %) and speedup over
    one thread. Thread counts take turns, so that a speedup compares neighbours in time. What this machine
    cannot do is left out.
    """
    rows = []
    for method in watched(METHODS, "methods"):
        known = {option.name for option in workloads.get("page_walk").method(method).options}
        for layout, options in LAYOUTS.items():
            case = Case("page_walk", method, "4KiB", parse_size(size), options=options)
            if known >= dict(options).keys() and workloads.why_not(case) is None and _fits(case):
                rows += _rates_of(case, layout, threads, repetitions)
    return pd.DataFrame(rows)


def _fits(case: Case) -> bool:
    """Return whether the memory for a case may be taken."""
    return workloads.get(case.workload).memory_need(case) <= memory.budget_bytes()


def _rates_of(case: Case, layout: str, threads: Sequence[int], repetitions: int) -> list[dict]:
    state = workloads.get("page_walk").setup(case)
    try:
        walls = {count: [] for count in threads}
        for _ in range(repetitions):
            for count, found in walls.items():
                state.ctl.max_threads = count
                state.before()
                found.append(engine.run(0, state.size, state.ctl).wall_s)
                state.check()
    finally:
        state.close()
    serial = stats.estimate(walls[min(threads)]).median
    rows = []
    for count, found in walls.items():
        wall = stats.estimate(found)
        rates = {"entries_per_s": wall.median, "low_per_s": wall.high, "high_per_s": wall.low}
        rows.append(
            {"method": case.method, "layout": layout, "threads": count, "entries": state.operations}
            | {name: state.operations / seconds for name, seconds in rates.items()}
            | {"speedup": serial / wall.median}
        )
    return rows
