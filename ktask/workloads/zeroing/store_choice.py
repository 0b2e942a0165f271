"""Which kind of store zeroes memory fastest here, by size: measured once per machine, then remembered.

Stores that bypass the caches win by 2.3 times beyond them and lose by 2.6 times inside (1 MiB, on the
machine where this was written); where one turns into the other depends on the CPU, and on how many threads
share its caches. So it is measured: every kind, at sizes two to four times apart, by one thread and by all.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ktask.common import files
from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.host import topology
from ktask.memory import region as memory
from ktask.memory.region import GIB, KIB, MIB

# Twice apart where one kind takes over from another: at 128 MiB the choice for 64 MiB, memset, was 0.61 times
# as fast as non-temporal stores.
SIZES = (64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 32 * MIB, 64 * MIB, 128 * MIB, 256 * MIB, GIB)
ROUNDS, LARGE_ROUNDS, LARGE = 9, 5, 64 * MIB
MOST_WRITTEN = 256 * MIB  # that a cache may still hold a part of
SMALL_CHUNK = 16 * KIB  # so that all threads share even the smallest size
VERSION = 2

Pair = tuple[str, str]  # the fastest kind of store for one thread, and for all of them


def fastest(size_bytes: int, kinds: tuple[str, ...], thread_func) -> Pair:
    """Return the fastest kinds for about `size_bytes` here: from the file, else measured and kept there.

    Only the nearest of `SIZES` is measured: milliseconds for the small ones, 2 s for 1 GiB.

    Parameters
    ----------
    kinds
        Names of the kinds of stores, in the order of the numbers that `thread_func` knows them by.
    thread_func
        `(start, end, address, kind) -> 0` over bytes; kind -1 fills them with ones.
    """
    size = nearest(size_bytes)
    path = cache_path(kinds)
    known = _read(path, kinds)
    if size not in known:
        known[size] = measure(size, kinds, thread_func)
        _write(path, known)
    return known[size]


def nearest(size_bytes: int) -> int:
    """Return the one of `SIZES` that is nearest by ratio."""
    distances = np.abs(np.log2(SIZES) - np.log2(max(size_bytes, 1)))
    return SIZES[int(np.argmin(distances))]


def measure(size: int, kinds: Sequence[str], thread_func) -> Pair:
    """Return the kinds with the least median time at `size`; of a smaller one if that does not fit."""
    while memory.region_need(max(size, memory.THP_SIZE), "THP") > memory.budget_bytes() and size > SIZES[0]:
        size //= 4
    page_kind = "4KiB" if memory.why_not("THP", size) else "THP"
    with memory.Region(size, page_kind) as region:
        region.advise(memory.MADV_POPULATE_WRITE)
        counts = 1, topology.cpu_count()
        best = [_fastest(region.address, size, len(kinds), threads, thread_func) for threads in counts]
    return kinds[best[0]], kinds[best[1]]


def _fastest(address: int, size: int, n_kinds: int, threads: int, thread_func) -> int:
    """Return the number of the fastest kind; up to `MOST_WRITTEN` the memory was written to just before."""
    chunk = max(SMALL_CHUNK, size // (4 * threads))
    fill, *ctls = (Ctl(thread_func, (address, kind), chunk, threads) for kind in range(-1, n_kinds))
    walls = np.empty((LARGE_ROUNDS if size > LARGE else ROUNDS, n_kinds))
    for row in walls:
        for k, ctl in enumerate(ctls):
            if size <= MOST_WRITTEN:
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


def _read(path: Path, kinds: Sequence[str]) -> dict[int, Pair]:
    """Return the sizes in a file that have two known kinds; nothing else of what may be there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    pairs = {size: found.get(str(size)) for size in SIZES}
    return {
        size: (pair[0], pair[1])
        for size, pair in pairs.items()
        if isinstance(pair, list) and len(pair) == 2 and all(kind in kinds for kind in pair)
    }


def _write(path: Path, known: dict[int, Pair]) -> None:
    """Keep what is known; where that cannot be done, the next process measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(known))
    except OSError:
        return
