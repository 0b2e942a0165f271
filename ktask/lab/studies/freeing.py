"""Studies of freeing: what a chunk costs, what moves the ceiling of the zone lock, what MADV_FREE does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.common.units import fmt_size, parse_size
from ktask.host import topology
from ktask.lab.measure.rounds import SEED, prepared
from ktask.lab.studies.sampling import How, row_of, sample, samples, samples_of
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.free.buddy import Buddy

MIB = memory.MIB
LOCK_SETTINGS: tuple[dict[str, Any], ...] = (
    *({"batch": batch} for batch in (1, 8, 63, 512)),
    *({"batch": batch, "merge": "later"} for batch in (8, 63, 512)),
    *({"batch": batch, "zones": 8} for batch in (1, 8, 63, 512)),
    {"batch": 63, "lock": "order"},
)


def by_source():
    """Return what the source says about each method, as text for a notebook."""
    from IPython.display import Markdown  # noqa: PLC0415

    lines = [f"* `{method.name}`: {method.by_source}" for method in workloads.get("free").methods]
    return Markdown("By the kernel's source (`buddy`: by ours):\n\n" + "\n".join(lines))


def chunk_sizes(
    size: str | int, page_kind: str = "4KiB", threads: int | None = None, rounds: int = 7, seed: int = SEED
) -> pd.DataFrame:
    """Return time, speedup and TLB shootdowns of MADV_DONTNEED by the size of a chunk."""
    threads = threads or topology.cpu_count()
    case = Case.of("free", "dontneed", size=size, page_kind=page_kind)
    least = max(2 * MIB, case.page_size)
    chunks = [least << k for k in range(0, 12, 2) if least << k <= case.size_bytes // threads] or [least]
    variants = {0: How(1)} | {chunk: How(threads, chunk) for chunk in chunks}
    found = samples_of(case, variants, rounds, seed)
    rows = [{"chunk_bytes": chunk} | row_of(found[chunk], found[0], threads) for chunk in chunks]
    columns = ["wall_ms", "speedup", "low", "high", "busy", "shootdowns_per_chunk", "n"]
    return pd.DataFrame(rows).set_index("chunk_bytes")[columns]


def zone_lock(
    size: str | int,
    settings: Sequence[dict[str, Any]] = LOCK_SETTINGS,
    threads: int | None = None,
    rounds: int = 5,
    work: int = 250,
    seed: int = SEED,
) -> pd.DataFrame:
    """Return how the model of the buddy allocator scales by what is set.

    Returns
    -------
    pandas.DataFrame
        One row per setting: `serial_ns` and `ns` per page, `speedup` with `low` and `high`, `held` (share of
        its time that one thread holds zone locks), `ceiling` (1 / held: no more threads than that can be busy
        even if handing the lock over were free), `contended` (share of the takings that found it taken).
    """
    threads = threads or topology.cpu_count()
    method = workloads.get("free").method("buddy")
    rows = []
    for setting in watched(settings, "settings"):
        case = Case.of("free", "buddy", size=size, page_kind="4KiB", options={"work": work, **setting})
        named = {one.name: case.option(one.name) for one in method.options if one.name != "layout"}
        rows.append(named | _lock_row(case, threads, rounds, seed))
    return pd.DataFrame(rows)


def _lock_row(case: Case, threads: int, rounds: int, seed: int) -> dict[str, Any]:
    with prepared(case) as ready:
        state = cast(Buddy, ready)
        found = samples(state, {1: How(1), threads: How(threads)}, rounds, seed)
        sample(state, How(threads))
        counts = state.locks
        state.allocator.time_locks(True)
        timed = sample(state, How(1)).result
        held = state.locks["held_ns"] / 1e9 / timed.wall_s
        size = state.size
    measured = row_of(found[threads], found[1], threads)
    return {
        "serial_ns": measured["serial_ms"] * 1e6 / size,
        "ns": measured["wall_ms"] * 1e6 / size,
        **{key: measured[key] for key in ("speedup", "low", "high", "n")},
        "held": held,
        "ceiling": 1 / held if held else float("inf"),
        "contended": counts["contended"] / max(1, counts["taken"]),
    }


def lazy_then_pressed(size: str | int = "8MiB") -> pd.DataFrame:
    """Return what is there of a range before and after MADV_FREE, after a write, and after MADV_DONTNEED."""
    rows = []
    with memory.Region(parse_size(size)) as region:

        def look(when: str) -> None:
            present = int(region.present().sum()) * memory.BASE_PAGE
            rows.append({"after": when, "present": present, "marked": region.lazy_free_bytes()})

        region.advise(memory.MADV_POPULATE_WRITE)
        look("populating")
        region.advise(memory.MADV_FREE)
        look("MADV_FREE")
        region.words[: region.size_bytes // 16] = 1
        look("a write to the first half")
        region.zap()
        look("MADV_DONTNEED")
    table = pd.DataFrame(rows).set_index("after")
    return table.map(fmt_size)
