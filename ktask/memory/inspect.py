"""`ktask.walk`: what a process has in memory, mapping by mapping, from its page table walked in parallel."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.memory import walkers
from ktask.memory.address_space import (
    EVERY_ENTRY,
    EVERY_PAGE,
    Mapping,
    Process,
    find_extents,
    no_pagemap,
    no_scan,
    parse_maps,
    require_done,
    scan_categories,
)
from ktask.memory.region import BASE_PAGE, KIB, UnavailableError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("present", "swapped", "file", "soft_dirty", "huge", "zero")  # as walkers numbers them
UNKNOWN_TO = {"pagemap_scan": (), "pagemap": ("huge", "zero"), "smaps": ("file", "soft_dirty", "zero")}
LEAST_CHUNK = 4 * 512  # entries; a call for fewer costs more than it walks


def walk(
    pid: int | str = "self",
    start: int = 0,
    end: int | None = None,
    *,
    method: str | None = None,
    threads: int = 0,
    policy: str = "ktask-v4",
) -> pd.DataFrame:
    """Return what a process has in memory, one row per mapping, from its page table walked in parallel.

    Parameters
    ----------
    pid
        Of the process; this one by default. Another one must be of the same user, or it takes
        CAP_SYS_PTRACE.
    start, end
        Range of addresses; everything by default.
    method
        "pagemap_scan" (Linux 6.7), "pagemap", or "smaps", which the kernel does in one thread. The best one
        that the kernel has by default.
    threads
        At most so many; 0 for as many as the policy says.
    policy
        One of `ktask.engine.policy.POLICIES`.

    Returns
    -------
    pandas.DataFrame
        Columns `start`, `end`, `permissions`, `path`, and in bytes `size`, `present`, `swapped`, `file` (of
        the present, what belongs to a file or to shared memory), `soft_dirty` (written since the marks were
        cleared; 0 on a kernel without CONFIG_MEM_SOFT_DIRTY), `huge` (present in huge pages), `zero` (the
        shared zero page); missing is what a method cannot tell. `smaps` adds `dirty`. `attrs` holds
        method, threads, entries, survey_s and wall_s, both in seconds.

    Raises
    ------
    ValueError
        On a pid, method or range that is none.
    ktask.memory.region.UnavailableError
        If there is no such process, it may not be looked at, it ended in the middle, or the kernel lacks the
        method.

    Examples
    --------
    >>> table = ktask.walk()
    >>> largest = table.nlargest(5, "present")[["path", "present", "huge"]]
    >>> bool(table.present.sum() > 0)
    True
    """
    method = _method(method)
    end = 1 << 62 if end is None else end
    if not 0 <= start < end:
        raise ValueError(f"start={start:#x}, end={end:#x} is no range; use start < end")
    with Process(pid) as process:
        if method == "smaps":
            return _by_smaps(process, start, end)
        return _by_engine(process, start, end, method, threads, policy)


def _method(name: str | None) -> str:
    if name is None:
        return "pagemap" if no_scan() else "pagemap_scan"
    if name not in UNKNOWN_TO:
        raise ValueError(f"method {name!r} is unknown; use one of {', '.join(UNKNOWN_TO)}")
    reason = {"pagemap_scan": no_scan, "pagemap": no_pagemap}.get(name, lambda: None)()
    if reason:
        raise UnavailableError(reason)
    return name


def _by_engine(process: Process, start: int, end: int, method: str, threads: int, policy: str):
    began = time.perf_counter()
    mappings = process.maps(start, end)
    by_scan = method == "pagemap_scan"
    extents = find_extents(process, mappings, EVERY_ENTRY if by_scan else EVERY_PAGE, threads)
    survey_s = time.perf_counter() - began
    counts = np.zeros((len(mappings), walkers.ANSWER_WORDS), np.int64)
    vmas = np.array([(m.start, m.end, 0) for m in mappings], np.int64).reshape(-1, 3)
    wanted = scan_categories() if by_scan else 0
    args = (*extents.args, process.fd, wanted, vmas.ctypes.data, len(vmas), counts.ctypes.data)
    function = walkers.answer_scan if by_scan else walkers.answer_pagemap
    result = engine.run(0, extents.n_units, Ctl(function, args, LEAST_CHUNK, max_threads=threads), policy)
    require_done(result, process)
    pages = {name: counts[:, k] * BASE_PAGE for k, name in enumerate(COLUMNS)}
    table = _table(mappings, pages, method)
    wall_s = time.perf_counter() - began
    table.attrs |= {
        "threads": result.threads,
        "entries": extents.n_units,
        "survey_s": survey_s,
        "wall_s": wall_s,
    }
    return table


def _table(mappings: list[Mapping], columns: dict[str, np.ndarray], method: str) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  (kept out of the import of ktask)

    table = pd.DataFrame(
        [(m.start, m.end, m.permissions, m.path, m.end - m.start) for m in mappings],
        columns=["start", "end", "permissions", "path", "size"],
    )
    for name in COLUMNS:
        is_known = name in columns and name not in UNKNOWN_TO[method]
        table[name] = pd.array(columns[name] if is_known else [pd.NA] * len(mappings), dtype="Int64")
    for name in columns.keys() - set(COLUMNS):
        table[name] = pd.array(columns[name], dtype="Int64")
    table.attrs["method"] = method
    return table


# --- the way of today ------------------------------------------------------------------------------------

_FIELD = re.compile(r"^(\w+): +(\d+) kB$")
# What smaps calls it, by column. Hugetlb pages are in no Rss.
_SMAPS = {
    "present": ("Rss", "Shared_Hugetlb", "Private_Hugetlb"),
    "swapped": ("Swap",),
    "huge": ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb"),
    "dirty": ("Shared_Dirty", "Private_Dirty"),
}


def parse_smaps(text: str) -> list[dict[str, int]]:
    """Return the fields of each mapping in the text of smaps or smaps_rollup, in bytes."""
    found: list[dict[str, int]] = []
    for line in text.splitlines():
        if match := _FIELD.match(line):
            found[-1][match[1]] = int(match[2]) * KIB
        elif parse_maps(line):
            found.append({})
    return found


def _by_smaps(process: Process, start: int, end: int) -> pd.DataFrame:
    """Return what smaps says of the mappings in a range; a mapping that is cut is there as a whole."""
    began = time.perf_counter()
    text = Path(f"/proc/{process.pid}/smaps").read_text(errors="replace")
    process.require_alive()
    mappings, fields = parse_maps(text), parse_smaps(text)
    chosen = [k for k, m in enumerate(mappings) if m.start < end and start < m.end]
    columns = {
        name: np.array([sum(fields[k].get(part, 0) for part in parts) for k in chosen], np.int64)
        for name, parts in _SMAPS.items()
    }
    table = _table([mappings[k] for k in chosen], columns, "smaps")
    table.attrs |= {"threads": 1, "entries": 0, "survey_s": 0.0, "wall_s": time.perf_counter() - began}
    return table
