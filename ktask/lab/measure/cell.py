"""One cell: a case measured against its own one-thread baseline, in one process.

Every round runs each variant once, in random order: the serial baseline, the same baseline again (the A/A
comparison that tells the noise floor), one thread in the chunks of the most threads (what chunking alone
costs), and each thread count. So a speedup is a ratio of neighbours in time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ktask import workloads
from ktask.common.progress import rounds_bar
from ktask.engine.task import Result
from ktask.engine.trace import write_chrome, write_csv, write_figure
from ktask.host import doctor, topology
from ktask.lab.measure import flags, stats
from ktask.lab.measure.measurement import CHUNKED, Measurement, Protocol, Variant, is_of, variants
from ktask.lab.measure.rounds import SERIAL_POLICY, interleave, prepared, repeat
from ktask.memory import region as memory
from ktask.workloads import Case

MOST_CALLS = 100
# Of many calls with all that prepares and checks them: 100 frees of one page of 1 GiB, cleared before each,
# are a repetition of 20 s, and a cell of ten minutes.
LONGEST_S = 1.0
PATIENCE = 4.0
STEADY_FACTOR = 1.2
MOST_TRACED = 3  # attempts at a typical trace
WRITERS = {".json": write_chrome, ".svg": write_figure, ".png": write_figure}  # all else is CSV


def default_threads() -> list[int]:
    """Return 1, 2, 4, ... and the number of CPUs this process may use."""
    n_cpus = topology.cpu_count()
    powers = list(itertools.takewhile(lambda n: n < n_cpus, (2**k for k in range(20))))
    return [*powers, n_cpus]


def measure(
    workload: str,
    method: str | None = None,
    *,
    size: str | int = "1GiB",
    threads: Sequence[int] | None = None,
    protocol: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **how: Any,
) -> Measurement:
    """Measure a workload with one thread and with several.

    Parameters
    ----------
    workload, method
        What to do, and in which way; `ktask run --help` lists both.
    size
        Memory to cover, such as "256MiB".
    threads
        Thread counts; 1, 2, 4 and so on up to the CPUs if left out.
    protocol
        How often, such as {"least": 7, "budget_s": 2.0}: the fields of `Protocol`.
    quiet
        Without a progress bar.
    how
        What else `ktask.workloads.Case.of` takes: page_kind, backend, min_chunk, policy, options.

    Returns
    -------
    Measurement
        Shows as a table; with `.table`, `.plot()` and `.save(name)`.

    Examples
    --------
    >>> found = ktask.measure("zeroing", size="256MiB", page_kind="THP", threads=[1, 2])  # doctest: +SKIP
    """
    case, rules = Case.of(workload, method, size=size, **how), Protocol(**(protocol or {}))
    with contextlib.nullcontext() if quiet else rounds_bar(rules.most) as on_round:
        return measure_case(case, threads, rules, on_round=on_round, trace=True)


def run_one(case: Case, threads: int | None, repetitions: int, trace: Path | None = None) -> dict[str, Any]:
    """Measure `case` with `threads` threads against one, as `ktask run` does; return plain values.

    Returns
    -------
    dict
        As `Measurement.as_dict`; or {skipped: reason} if this machine cannot do it.

    Raises
    ------
    ValueError
        On numbers that are not allowed, and if the case needs more memory than there is.
    """
    most = topology.cpu_count()
    threads = most if threads is None else threads
    if not 1 <= threads <= most:
        raise ValueError(f"threads={threads} is not allowed; use 1 to {most}, the CPUs of this process")
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} is not allowed; use 1 or more")
    if trace is not None and not trace.parent.is_dir():
        raise ValueError(f"trace file {trace} cannot be written: {trace.parent} is not a directory")
    rules = Protocol(least=repetitions, most=repetitions)
    try:
        found = measure_case(case, [threads], rules, trace=trace is not None, chunked=False)
    except memory.UnavailableError as error:
        return {"skipped": str(error)}
    if trace is not None:
        WRITERS.get(trace.suffix, write_csv)(found.traced, trace)
    return found.as_dict(threads)


def measure_case(
    case: Case,
    threads: Sequence[int] | None = None,
    protocol: Protocol | None = None,
    *,
    on_round: Callable[[int], None] | None = None,
    trace: bool = False,
    chunked: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Measure `case` with one thread and with each of `threads`.

    Parameters
    ----------
    case
        What to run.
    threads
        Thread counts; 1, 2, 4 and so on up to the CPUs if left out.
    protocol
        How often.
    on_round
        Called with the number of rounds done after each.
    trace
        Keep the chunks of one more repetition with the most threads (`Measurement.traced`).
    chunked
        Measure one thread in the chunks of the most threads, too: what chunking costs by itself.

    Raises
    ------
    ktask.workloads.CheckError
        If the work did not happen, or failed; no number comes of such a cell.
    ktask.memory.region.UnavailableError, ktask.memory.region.BudgetError, ValueError
        If the case cannot be run here, or nowhere.
    """
    threads = default_threads() if threads is None else threads
    if bad := [n for n in threads if n < 1]:
        raise ValueError(f"threads={bad[0]} is not allowed; use 1 to {topology.cpu_count()}")
    protocol = protocol or Protocol()
    cell = Measurement(case, protocol)
    with prepared(case) as state:
        round_variants = variants(threads)
        _warm_up(cell, state, round_variants, protocol, clock)
        round_variants[2:2] = _alone(cell, state) if chunked else []
        _rounds(cell, state, round_variants, protocol, clock, on_round)
        if trace:
            cell.traced, cell.bytes_per_unit = _traced(cell, state, round_variants[-1]), state.bytes_per_unit
    _mark_cold(cell)
    flags.mark_outliers(cell.rows)
    flags.mark_short(cell.rows, protocol.sample_s)
    return cell


def _calls(cell: Measurement, protocol: Protocol) -> int:
    """Return how many calls make a repetition of the fastest variant long enough for the clock."""
    fastest_s = max(min(row["wall_s"] for row in cell.rows), 1e-9)
    return min(math.ceil(protocol.sample_s / fastest_s), MOST_CALLS)


def _warm_up(cell: Measurement, state, round_variants, protocol: Protocol, clock) -> None:
    """Repeat until two serial repetitions are as fast as the best, then run every variant once.

    On a virtual machine this is where the host gives back the memory that the cell needs.
    """
    end = clock() + protocol.warmup_s
    serial, walls, order = round_variants[0], [], itertools.count()
    while True:
        walls.append(_repeat(cell, state, serial, (-1, next(order)), warmup=True))
        steady = sum(wall <= STEADY_FACTOR * min(walls) for wall in walls) >= 2
        if steady or clock() > end:
            break
    for variant in round_variants[2:]:
        _repeat(cell, state, variant, (-1, next(order)), warmup=True)


def _alone(cell: Measurement, state) -> list[Variant]:
    """Return the variant of one thread in the chunks of the last repetition, none if that was one chunk."""
    last = cell.rows[-1]
    if last["n_chunks"] < 2:
        return []
    alone = Variant(CHUNKED, 1, chunk_size=last["chunk_size"] // state.bytes_per_unit)
    _repeat(cell, state, alone, (-1, last["order"] + 1), warmup=True)
    return [alone]


def _rounds(cell: Measurement, state, round_variants, protocol: Protocol, clock, on_round) -> None:
    """Run rounds until the protocol has enough."""
    end, n_warmups = clock() + protocol.budget_s, len(cell.rows)
    calls = _calls(cell, protocol)

    def once(variant: Variant) -> None:
        place = divmod(len(cell.rows) - n_warmups, len(round_variants))
        _repeat(cell, state, variant, place, calls, clock=clock)

    def is_enough(done: int) -> bool:
        nonlocal calls
        calls = _calls(cell, protocol)  # anew each round: warm-ups were slower than what follows
        if on_round:
            on_round(done)
        _mark_cold(cell)
        return done >= protocol.least and _enough(cell, round_variants, protocol, clock() - end)

    variants_by_name = {variant.name: partial(once, variant) for variant in round_variants}
    interleave(variants_by_name, protocol.most, protocol.seed, on_round=is_enough)


def _traced(cell: Measurement, state, variant: Variant) -> Result:
    """Run a variant once more with a trace; again if that is far slower than usual, hence not typical.

    It is no part of the rows: reading the clock around each chunk costs what the others do not pay.
    """
    usual_s = float(np.median([row["wall_s"] for row in cell.rows if is_of(row, variant)]))
    tries: list[Result] = []
    while len(tries) < MOST_TRACED and not any(one.wall_s < STEADY_FACTOR * usual_s for one in tries):
        tries.append(repeat(state, variant.threads, cell.case.policy, trace=True).result)
    return min(tries, key=lambda one: one.wall_s)


def _enough(cell: Measurement, round_variants: list[Variant], protocol: Protocol, over_s: float) -> bool:
    """Return whether to stop, `over_s` seconds past the budget (negative before it is used up)."""
    samples = [cell.walls(variant) for variant in round_variants]
    if min(len(walls) for walls in samples) < protocol.least:
        return over_s > (PATIENCE - 1) * protocol.budget_s
    if over_s > 0:
        return True
    found = [stats.estimate(walls) for walls in samples]
    return all(max(e.high - e.median, e.median - e.low) <= protocol.precision * e.median for e in found)


def _repeat(
    cell: Measurement,
    state,
    variant: Variant,
    place: tuple[int, int],
    calls: int = 1,
    *,
    warmup=False,
    clock=time.monotonic,
) -> float:
    """Run one repetition, check it, keep its row; return its wall time in seconds, the mean of its calls."""
    end, found, is_last = clock() + LONGEST_S, [], False
    while not is_last:
        is_last = len(found) + 1 == calls or (bool(found) and clock() > end)
        observe = _observe if is_last or not found else lambda: None
        found.append(repeat(state, variant.threads, *_chunking(cell.case, variant), observe=observe))
    (before, started_at), (after, _) = found[0].before, found[-1].after
    results = [one.result for one in found]
    cell.rows.append(
        _described(cell.case, state)
        | _planned(cell.case, state, variant, results[-1])
        | _means(results)
        | {
            "round": place[0],
            "order": place[1],
            "warmup": warmup,
            "steal_s": after.steal_s - before.steal_s,
            "verified": True,
            "flags": doctor.state_flags(before, after) + (["aa"] if variant.is_aa else []),
            "started_at": started_at,
        }
    )
    return cell.rows[-1]["wall_s"]


def _observe() -> tuple[doctor.State, datetime]:
    return doctor.sample_state(), datetime.now(UTC)


def _chunking(case: Case, variant: Variant) -> tuple[str, int]:
    """Return the policy that chunks the range as the variant wants it, and the least chunk in units."""
    if variant.chunk_size:
        return "dynamic", variant.chunk_size
    return (SERIAL_POLICY if variant.baseline else case.policy), 0


def _means(results: Sequence[Result]) -> dict[str, Any]:
    """Return times and faults per call, and the switches of all calls."""
    calls = len(results)
    return {
        "calls": calls,
        "wall_s": sum(r.wall_s for r in results) / calls,
        "apart_s": sum(r.apart_s for r in results) / calls,
        "cpu_user_s": sum(r.cpu_user_s for r in results) / calls,
        "cpu_system_s": sum(r.cpu_system_s for r in results) / calls,
        "faults_minor": round(sum(r.faults_minor for r in results) / calls),
        "ctx_involuntary": sum(r.ctx_involuntary for r in results),
        "helper_nice": results[-1].helper_nice,
        "run_mode": results[-1].run_mode,
    }


def _described(case: Case, state) -> dict[str, Any]:
    workload = workloads.get(case.workload)
    return {
        "workload": case.workload,
        "backend": workload.method(case.method).backend,
        "method": case.method,
        "page_kind": case.page_kind,
        "options": case.options_text,
        "page_size_bytes": case.page_size,
        "size_bytes": getattr(state, "size_bytes", state.size * state.bytes_per_unit),
        "unit": workload.operation,
        "operations": state.operations,
        "min_chunk_size": state.ctl.min_chunk_size * state.bytes_per_unit,
    }


def _planned(case: Case, state, variant: Variant, result: Result) -> dict[str, Any]:
    return {
        "policy": case.policy,
        "threads_requested": variant.threads,
        "threads": result.threads,
        "chunk_size": result.chunk_size * state.bytes_per_unit,
        "n_chunks": result.n_chunks,
        "baseline": variant.baseline,
    }


def _mark_cold(cell: Measurement) -> None:
    """Flag the repetitions on cold memory, where memory can be cold."""
    method = workloads.get(cell.case.workload).method(cell.case.method)
    if method.allocates and is_virtual():
        flags.mark_cold(cell.rows)


def is_virtual() -> bool:
    """Return whether a host may take free memory away from this machine."""
    return " hypervisor" in (topology.read_text(topology.ROOT / "proc/cpuinfo") or "")
