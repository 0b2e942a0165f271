"""Studies of freeing: where the time goes, what a chunk costs, what moves the ceiling of the zone lock."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ktask import workloads
from ktask.common.progress import watched
from ktask.common.units import fmt_size, parse_size
from ktask.engine import run as engine
from ktask.engine.task import CPU_TIME_FROM_S
from ktask.host import topology
from ktask.lab.measure import stats
from ktask.memory import region as memory
from ktask.workloads import Case

MIB = memory.MIB
WAYS = ("dontneed", "lazyfree", "munmap", "munmap_at_once", "exit")
LOCK_SETTINGS: tuple[dict[str, Any], ...] = (
    *({"batch": batch} for batch in (1, 8, 63, 512)),
    *({"batch": batch, "merge": "later"} for batch in (8, 63, 512)),
    *({"batch": batch, "zones": 8} for batch in (1, 8, 63, 512)),
    {"batch": 63, "lock": "order"},
)


class Sample(NamedTuple):
    """One repetition: seconds, CPU seconds of this process, chunks, TLB shootdowns (NaN if not counted)."""

    wall_s: float
    cpu_s: float
    n_chunks: int
    shootdowns: float


def shootdowns() -> float:
    """Return how many TLB shootdowns all CPUs have received; NaN where the kernel does not count them."""
    text = topology.read_text(topology.ROOT / "proc/interrupts") or ""
    found = re.search(r"^ *TLB:((?: +[0-9]+)+)", text, re.MULTILINE)
    return float(sum(map(int, found[1].split()))) if found else float("nan")


def sample(state, threads: int, chunk_bytes: int | None = None) -> Sample:
    """Run one repetition of a case in chunks of about `chunk_bytes`, and check it; by the policy if None."""
    state.ctl.max_threads = threads
    if chunk_bytes is not None:
        state.ctl.min_chunk_size = max(1, chunk_bytes // state.bytes_per_unit)
    state.before()
    before = shootdowns()
    alone = threads == 1 or chunk_bytes is None
    result = engine.run(0, state.size, state.ctl, "ktask-v4" if alone else "dynamic")
    after = shootdowns()
    workloads.expect(result.error == 0, f"the repetition failed with error {result.error}")
    state.check()
    return Sample(result.wall_s, result.cpu_user_s + result.cpu_system_s, result.n_chunks, after - before)


def interleaved(
    calls: dict[Any, Callable[[], Sample]], rounds: int, seed: int = 1
) -> dict[Any, list[Sample]]:
    """Call each once per round, in random order; return the samples without those of the first round."""
    random, names = np.random.default_rng(seed), list(calls)
    found: dict[Any, list[Sample]] = {name: [] for name in names}
    for _ in watched(range(rounds + 1), "rounds"):
        for k in random.permutation(len(names)):
            found[names[k]].append(calls[names[k]]())
    return {name: samples[1:] for name, samples in found.items()}


def row_of(samples: Sequence[Sample], serial: Sequence[Sample], threads: int) -> dict[str, Any]:
    """Return medians of some samples, and their speedup over those of one thread with its interval."""
    wall_s, cpu_s, n_chunks, shot = (np.array(column) for column in zip(*samples, strict=True))
    busy = np.median(cpu_s / (wall_s * threads)) if wall_s.min() > CPU_TIME_FROM_S else np.nan
    speedup = stats.ratio(np.array([one.wall_s for one in serial]), wall_s, paired=True)
    return {
        "wall_ms": float(np.median(wall_s)) * 1e3,
        "speedup": speedup.median,
        "low": speedup.low,
        "high": speedup.high,
        "busy": float(busy),
        "shootdowns_per_chunk": float(np.median(shot / n_chunks)),
        "n": len(samples),
    }


def _case(method: str, size: str | int, page_kind: str, options: dict[str, Any] | None = None) -> Case:
    chosen = workloads.get("free").method(method).parse_options(options or {})
    return Case("free", method, page_kind, parse_size(size), options=chosen)


def _study(case: Case, variants: dict[Any, tuple[int, int | None]], rounds: int) -> dict[Any, list[Sample]]:
    """Sample one case in variants of (threads, bytes per chunk)."""
    workloads.require_memory(case)
    state = workloads.get("free").setup(case)
    try:
        calls = {key: lambda how=how: sample(state, *how) for key, how in variants.items()}
        return interleaved(calls, rounds)
    finally:
        state.close()


def ways(size: str | int, page_kind: str, threads: int | None = None, rounds: int = 7) -> pd.DataFrame:
    """Return what each way of freeing takes with one thread and with `threads`.

    Returns
    -------
    pandas.DataFrame
        One row per way: `serial_ms`, `wall_ms`, `speedup` with `low` and `high` (95 %), `busy` (the CPU time
        of the threads over the time they had: the rest was spent waiting; NaN below 20 us, where it is
        not exact, and for `exit`, whose children work), and `shootdowns_per_chunk`.
    """
    threads = threads or topology.cpu_count()
    rows = []
    for method in watched(WAYS, "ways"):
        case = _case(method, size, page_kind)
        if workloads.why_not(case) is None:
            chunk = max(2 * MIB, case.size_bytes // (16 * threads))
            found = _study(case, {"serial": (1, None), "all": (threads, chunk)}, rounds)
            serial = {"serial_ms": row_of(found["serial"], found["serial"], 1)["wall_ms"]}
            rows.append({"way": method} | serial | row_of(found["all"], found["serial"], threads))
    table = pd.DataFrame(rows).set_index("way")
    table.loc[table.index == "exit", "busy"] = float("nan")
    return table


def limits():
    """Return which lock or resource ends the scaling of each way, as text for a notebook."""
    from IPython.display import Markdown  # noqa: PLC0415

    lines = [f"* `{method.name}`: {method.limit}" for method in workloads.get("free").methods]
    return Markdown("What ends its scaling:\n\n" + "\n".join(lines))


def chunk_sizes(
    size: str | int, page_kind: str = "4KiB", threads: int | None = None, rounds: int = 7
) -> pd.DataFrame:
    """Return time, speedup and TLB shootdowns of MADV_DONTNEED by the size of a chunk."""
    threads = threads or topology.cpu_count()
    case = _case("dontneed", size, page_kind)
    least = max(2 * MIB, case.page_size)
    chunks = [least << k for k in range(0, 12, 2) if least << k <= case.size_bytes // threads] or [least]
    variants = {"serial": (1, None)} | {chunk: (threads, chunk) for chunk in chunks}
    found = _study(case, variants, rounds)
    rows = [{"chunk_bytes": c} | row_of(found[c], found["serial"], threads) for c in chunks]
    return pd.DataFrame(rows).set_index("chunk_bytes")


def zone_lock(
    size: str | int,
    settings: Sequence[dict[str, Any]] = LOCK_SETTINGS,
    threads: int | None = None,
    rounds: int = 5,
    work: int = 250,
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
    rows = [_lock_row(size, one, threads, rounds, work) for one in watched(settings, "settings")]
    return pd.DataFrame(rows)


def _lock_row(
    size: str | int, setting: dict[str, Any], threads: int, rounds: int, work: int
) -> dict[str, Any]:
    case = _case("buddy", size, "4KiB", {"work": work, **setting})
    workloads.require_memory(case)
    state = workloads.get("free").setup(case)
    try:
        calls = {n: lambda n=n: sample(state, n) for n in (1, threads)}
        found = interleaved(calls, rounds)
        sample(state, threads)
        counts = state.locks
        state.allocator.time_locks(True)
        timed = sample(state, 1)
        held = state.locks["held_ns"] / 1e9 / timed.wall_s
    finally:
        state.close()
    measured = row_of(found[threads], found[1], threads)
    serial = row_of(found[1], found[1], 1)
    return {
        **{option.name: case.option(option.name) for option in _options() if option.name != "layout"},
        "serial_ns": serial["wall_ms"] * 1e6 / state.size,
        "ns": measured["wall_ms"] * 1e6 / state.size,
        **{key: measured[key] for key in ("speedup", "low", "high", "n")},
        "held": held,
        "ceiling": 1 / held if held else float("inf"),
        "contended": counts["contended"] / max(1, counts["taken"]),
    }


def _options():
    return workloads.get("free").method("buddy").options


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
