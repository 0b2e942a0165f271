"""How page walks compare: each method on each layout, with one thread and with several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.lab.measure import stats
from ktask.lab.measure.rounds import SEED, prepared
from ktask.lab.studies.sampling import How, can_run, samples, walls
from ktask.workloads import Case

METHODS = ("pagemap_scan", "pagemap", "mincore", "radix")
LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "dense": {},
    "memory": {"pages": "memory"},  # dense as well, with a page of its own for each entry
    **{name: {"layout": name} for name in ("sparse", "fragmented", "mixed")},
}


def walk_rates(
    size: str | int, threads: Sequence[int] = (1, 2), rounds: int = 7, seed: int = SEED
) -> pd.DataFrame:
    """Return entries per second of each method on each layout, one row per thread count.

    Columns method, layout, threads, entries, entries_per_s, low_per_s, high_per_s (95 %) and speedup over
    one thread. What this machine cannot do is left out.
    """
    rows = []
    for method in watched(METHODS, "methods"):
        known = {option.name for option in workloads.get("page_walk").method(method).options}
        for layout, options in LAYOUTS.items():
            if known >= options.keys():
                case = Case.of("page_walk", method, size=size, page_kind="4KiB", options=options)
                found = _rates_of(case, threads, rounds, seed) if can_run(case) else []
                rows += [{"layout": layout} | row for row in found]
    return pd.DataFrame(rows)


def _rates_of(case: Case, threads: Sequence[int], rounds: int, seed: int) -> list[dict]:
    with prepared(case) as state:
        found = samples(state, {n: How(n) for n in threads}, rounds, seed)
        entries = state.operations
    times = {n: stats.estimate(walls(some)) for n, some in found.items()}
    return [
        {
            "method": case.method,
            "threads": n,
            "entries": entries,
            "entries_per_s": entries / time.median,
            "low_per_s": entries / time.high,
            "high_per_s": entries / time.low,
            "speedup": times[min(threads)].median / time.median,
        }
        for n, time in times.items()
    ]
