"""Which kind of store zeroes memory fastest here, by size: measured once per machine, then remembered.

Stores that bypass the caches win by 2.3 times beyond them and lose by 2.6 times inside (1 MiB, on the
machine where this was written); where one turns into the other depends on the CPU, and on how many threads
share its caches. So it is measured: every kind, at sizes four times apart, by one thread and by all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ktask import engine, files, memory, topology
from ktask.memory import GIB, KIB, MIB
from ktask.task import Ctl

SIZES = (64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, GIB)
ROUNDS, LARGE_ROUNDS, LARGE = 9, 3, 64 * MIB
SMALL_CHUNK = 16 * KIB  # so that all threads share even the smallest size
VERSION = 1

Table = dict[str, list[str]]  # threads ("one", "all") -> the fastest kind at each of SIZES


def choose(size_bytes: int, who: str, table: Table) -> str:
    """Return the kind of store for `size_bytes`, zeroed by "one" thread or by "all"."""
    nearest = int(np.argmin(np.abs(np.log2(SIZES) - np.log2(max(size_bytes, 1)))))
    return table[who][nearest]


@lru_cache(maxsize=1)
def calibration(kinds: tuple[str, ...], thread_func) -> Table:
    """Return the fastest kinds of this machine: from its file, else measured and written there.

    Parameters
    ----------
    kinds
        Names of the kinds of stores, in the order of the numbers that `thread_func` knows them by.
    thread_func
        `(start, end, address, kind) -> 0` over bytes; kind -1 fills them with ones.
    """
    path = cache_path(kinds)
    found = _read(path, kinds)
    if found is None:
        found = measure(kinds, thread_func)
        _write(path, found)
    return found


def measure(kinds: Sequence[str], thread_func) -> Table:
    """Return the kind with the least median time at each size; 3 s or so."""
    sizes = [size for size in SIZES if memory.region_need(size, "THP") <= memory.budget_bytes()]
    page_kind = "4KiB" if memory.why_not("THP", sizes[-1]) else "THP"
    table: Table = {"one": [], "all": []}
    with memory.Region(sizes[-1], page_kind) as region:
        region.advise(memory.MADV_POPULATE_WRITE)
        for who, threads in (("one", 1), ("all", topology.cpu_count())):
            best = [_fastest(region.address, size, len(kinds), threads, thread_func) for size in sizes]
            best += best[-1:] * (len(SIZES) - len(sizes))
            table[who] = [kinds[k] for k in best]
    return table


def _fastest(address: int, size: int, n_kinds: int, threads: int, thread_func) -> int:
    """Return the number of the fastest kind, up to `LARGE` on memory that was written to just before."""
    chunk = max(SMALL_CHUNK, size // (4 * threads))
    fill, *ctls = (Ctl(thread_func, (address, kind), chunk, threads) for kind in range(-1, n_kinds))
    walls = np.empty((LARGE_ROUNDS if size > LARGE else ROUNDS, n_kinds))
    for row in walls:
        for k, ctl in enumerate(ctls):
            if size <= LARGE:
                engine.run(0, size, fill)
            row[k] = engine.run(0, size, ctl).wall_s
    return int(np.argmin(np.median(walls, axis=0)))


def cache_path(kinds: Sequence[str]) -> Path:
    """Return where the result for this machine lies: another CPU, or other kinds, is another file."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cpuinfo = topology.read_text(topology.ROOT / "proc/cpuinfo") or ""
    model = next((line for line in cpuinfo.splitlines() if line.startswith(("model name", "CPU part"))), "")
    what = [VERSION, platform.machine(), model, topology.caches(), topology.cpu_count(), SIZES, list(kinds)]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return Path(base) / "ktask" / f"stores-{key}.json"


def _read(path: Path, kinds: Sequence[str]) -> Table | None:
    """Return the table in a file; None if there is none, or what is there is no such table."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        rows = [table["one"], table["all"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    fits = all(
        isinstance(row, list) and len(row) == len(SIZES) and all(k in kinds for k in row) for row in rows
    )
    return {"one": rows[0], "all": rows[1]} if fits else None


def _write(path: Path, table: Table) -> None:
    """Keep the table; where that cannot be done, the next process measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(table))
    except OSError:
        return
