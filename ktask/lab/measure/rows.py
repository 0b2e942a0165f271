"""The row of one repetition, as the schema of the records has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ktask import workloads
from ktask.engine import cpu_order, placement
from ktask.host import counters
from ktask.lab.conditions import Meanwhile
from ktask.lab.measure.measurement import Variant
from ktask.lab.measure.rounds import Repetition
from ktask.workloads import Case, State


def observed() -> tuple[counters.State, datetime]:
    """Return the counters of the machine and the time, for before and after a repetition."""
    return counters.sample_state(), datetime.now(UTC)


def row_of(
    case: Case,
    state: State,
    variant: Variant,
    repetitions: Sequence[Repetition],
    round_and_order: tuple[int, int],
) -> dict[str, Any]:
    """Return the row of calls in a row: the mean of their times, and what was `observed` around them."""
    (before, started_at), (after, _) = repetitions[0].before, repetitions[-1].after
    number, order = round_and_order
    return (
        _case(case, state)
        | _plan(case, state, variant, repetitions[-1])
        | _means(repetitions)
        | _meanwhile(repetitions)
        | {
            "pass": 1,
            "boot_id": counters.boot_id(),
            "round": number,
            "order": order,
            "warmup": number < 0,
            "steal_s": after.steal_s - before.steal_s,
            "verified": True,
            "flags": _flags(before, after, repetitions) + ["aa"] * variant.is_aa,
            "started_at": started_at,
            "huge_share": getattr(state, "huge_share", None),
        }
    )


def _case(case: Case, state: State) -> dict[str, Any]:
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


def _plan(case: Case, state: State, variant: Variant, last: Repetition) -> dict[str, Any]:
    result = last.result
    return {
        "policy": case.policy,
        "threads_requested": variant.threads,
        "threads": result.threads,
        "chunk_size": result.chunk_size * state.bytes_per_unit,
        "n_chunks": result.n_chunks,
        "baseline": variant.baseline,
        "helper_nice": result.helper_nice,
        "run_mode": result.run_mode,
        **_places(result.cpu_of_thread),
    }


def _places(cpus: tuple[int, ...]) -> dict[str, Any]:
    """Return where the threads ended, the caller first, and how many cores two of them shared."""
    topo = placement.site().topo
    nids = [topo.node_of(cpu) if cpu in topo.by_number else cpu_order.ANYWHERE for cpu in cpus]
    known = [cpu for cpu in cpus if cpu in topo.by_number]
    return {
        "cpus": ",".join(map(str, cpus)),
        "nodes": ",".join(map(str, nids)),
        "shared_cores": cpu_order.shared_cores(topo, known),
    }


def _means(repetitions: Sequence[Repetition]) -> dict[str, Any]:
    """Return times and faults per call, and the switches of all calls."""
    results, calls = [one.result for one in repetitions], len(repetitions)
    times = ("wall_s", "apart_s", "cpu_user_s", "cpu_system_s")
    return {
        "calls": calls,
        **{name: sum(getattr(result, name) for result in results) / calls for name in times},
        "faults_minor": round(sum(result.faults_minor for result in results) / calls),
        "ctx_involuntary": sum(result.ctx_involuntary for result in results),
    }


def _meanwhile(repetitions: Sequence[Repetition]) -> dict[str, Any]:
    """Return what load and quota did: CPU time and throttling per call; None where there is none."""
    seen = [one.meanwhile for one in repetitions]
    sums = {name: sum(getattr(one, name) for one in seen) for name in Meanwhile.__annotations__}
    found = {
        "load_rate": sums["load_count"] / sums["elapsed_s"],
        "load_alone_rate": seen[0].load_alone_rate,
        "load_cpu_s": sums["load_cpu_s"] / len(seen),
        "throttled_s": sums["throttled_s"] / len(seen),
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def _flags(before: counters.State, after: counters.State, repetitions: Sequence[Repetition]) -> list[str]:
    """Return the warnings; a load and a quota that were asked for are none."""
    load_s = sum(one.meanwhile.load_cpu_s for one in repetitions)
    found = counters.state_flags(before, after, 0.0 if math.isnan(load_s) else load_s)
    has_quota = not math.isnan(repetitions[0].meanwhile.throttled_s)
    return [flag for flag in found if not (has_quota and flag == "throttled")]
