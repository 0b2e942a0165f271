"""Methods side by side: who scales, and who waits."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.host import topology
from ktask.lab.measure.rounds import SEED
from ktask.lab.studies.sampling import How, row_of, samples_of
from ktask.memory import region as memory
from ktask.workloads import Case

SHARED = (("sharing", "shared"),)
Entry = tuple[str, str, str, tuple[tuple[str, str], ...]]  # workload, method, page kind, options
ZEROING: Mapping[str, Entry] = {
    **{f"populate, {kind}": ("zeroing", "populate", kind, ()) for kind in memory.PAGE_KINDS},
    **{f"populate, {kind}, shared": ("zeroing", "populate", kind, SHARED) for kind in ("4KiB", "2MiB")},
    "fallocate, 2MiB, one file": ("zeroing", "fallocate", "2MiB", ()),
    "fallocate, 2MiB, 16 files": ("zeroing", "fallocate_files", "2MiB", ()),
    "user, rep stosb": ("zeroing", "rep_stosb", "THP", ()),
    "user, non-temporal": ("zeroing", "nontemporal", "THP", ()),
}
# Methods whose work is done by other processes, whose CPU time is not that of the threads.
BY_OTHERS = ("exit", "many_processes")


def entries_of(workload: str, page_kind: str) -> dict[str, Entry]:
    """Return the methods of a workload, but for models, that do a kind of page."""
    methods = [m for m in workloads.get(workload).methods if m.backend != "model"]
    return {m.name: (workload, m.name, page_kind, ()) for m in methods if page_kind in m.page_kinds}


def ways(
    size: str | int,
    entries: Mapping[str, Entry],
    threads: int | None = None,
    rounds: int = 7,
    seed: int = SEED,
) -> pd.DataFrame:
    """Return what each way takes with one thread and with `threads`.

    Returns
    -------
    pandas.DataFrame
        One row per way that this machine can do: `serial_ms`, `wall_ms`, `speedup` with `low` and `high`
        (95 %), `busy` (CPU time over the time of the threads: the rest was spent waiting), `cpu` (CPU time
        over that of one thread: beyond 1, the threads have slowed each other down) and
        `shootdowns_per_chunk`. CPU times are NaN below 20 us, and where other processes do the work.
    """
    threads = threads or topology.cpu_count()
    rows = []
    for label, (workload, method, kind, options) in watched(entries.items(), "ways"):
        case = Case.of(workload, method, size=size, page_kind=kind, options=dict(options))
        if workloads.why_not(case) is None:
            found = samples_of(case, {1: How(1), threads: How(threads)}, rounds, seed)
            rows.append({"way": label} | row_of(found[threads], found[1], threads))
            if method in BY_OTHERS:
                rows[-1] |= {"busy": float("nan"), "cpu": float("nan")}
    return pd.DataFrame(rows).set_index("way")
