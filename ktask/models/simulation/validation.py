"""The simulator validated against the engine on this machine, on rows that it was not calibrated on.

One process, one region of memory, and every trial once per round in random order, because processes differ
by more than what is to be seen here. The machine is calibrated in the even rounds on trials that are chosen
to tell its costs apart (`calibrate.fit_costs`). It then predicts every trial of the odd rounds: those again,
and others that it never saw. How far the even rounds themselves are from the odd ones is the floor: no
prediction can be closer than the engine repeats itself.

Huge pages that are freed were populated by one thread, the default. Two that populate get theirs in turn, and
what a page then costs depends on whose it is: in the timelines of 2 GiB of hugetlb pages (KVM guest, two
CPUs, kernel 6.18) one thread frees those of the caller in 1.1 us each and then those of the helper, which
came between them, in 0.6 us; if one thread populated them, all take 0.7 us. How that meets the chunks of a
task is chance and no cost of a machine: it was up to 10 % of the times. Pages of 4 KiB come from lists of
each CPU's own, and are populated by all threads (`fill=each`): by one, the times of two that free them have
two modes, 15 and 22 ms for 1 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from msgspec.structs import replace

from ktask import workloads
from ktask.host import topology
from ktask.lab.measure import stats
from ktask.lab.measure.flags import are_cold
from ktask.lab.measure.rounds import SEED, interleave, prepared, repeat
from ktask.models.simulation.calibrate import fit_costs, simulated_wall_s
from ktask.models.simulation.machines import Machine
from ktask.workloads import Case

CASES = (
    Case("zeroing", "populate", "THP", 512 << 20),
    Case("page_walk", "pagemap_scan", "4KiB", 8 << 30),
    Case("free", "dontneed", "4KiB", 1 << 30, options=(("fill", "each"),)),
    Case("free", "dontneed", "THP", 2 << 30),
    Case("free", "dontneed", "2MiB", 2 << 30),
)
TABLE_ENTRIES = 512  # of a page table, which one lock guards


class Trial(NamedTuple):
    """One way of chunking: a cap on threads, a policy, and the least chunk as a share of the task."""

    name: str
    threads: int
    policy: str = "ktask-v4"
    chunk_share: float = 0.0
    fit: bool = False


def trials(threads: int) -> tuple[Trial, ...]:
    """Return the trials for one thread and for `threads`: six to calibrate on, six to predict."""
    return (
        Trial("one call", 1, fit=True),
        Trial("64 chunks", 1, "dynamic", 1 / 64, fit=True),
        Trial("one chunk per thread", threads, "static", fit=True),
        Trial("one chunk more than threads", threads, "dynamic", 1 / (threads + 1), fit=True),
        Trial("policy's own chunks", threads, fit=True),
        Trial("32 chunks per thread", threads, "dynamic", 1 / (32 * threads), fit=True),
        Trial("4 chunks", 1, "dynamic", 1 / 4),
        Trial("16 chunks", 1, "dynamic", 1 / 16),
        Trial("five chunks per two threads", threads, "dynamic", 1 / max(2, 5 * threads // 2)),
        Trial("seven chunks per two threads", threads, "dynamic", 1 / max(3, 7 * threads // 2)),
        Trial("6 chunks per thread", threads, "dynamic", 1 / (6 * threads)),
        Trial("14 chunks per thread", threads, "dynamic", 1 / (14 * threads)),
    )


def measure_trials(case: Case, ways: Sequence[Trial], rounds: int = 20, seed: int = SEED) -> pd.DataFrame:
    """Run every trial once per round, in random order; the first two rounds are warm-ups and left out.

    Returns
    -------
    DataFrame
        One row per repetition: round, trial, fit, threads, policy, min_chunk_size, size_bytes and span_bytes
        (bytes), n_chunks, baseline, wall_s, cpu_s, caller_s and helper_s (when they began their first chunk,
        the helpers in the median; NaN without). Those on memory that the host had taken away are left out.

    Raises
    ------
    ktask.workloads.CheckError
        If the work did not happen.
    """
    with prepared(case) as state:
        calls = {way.name: partial(_repeat, state, way) for way in ways}
        found = interleave(calls, rounds, seed, warmups=2)
    span = {"span_bytes": TABLE_ENTRIES * case.page_size}
    return warm(
        pd.DataFrame(
            {"round": number, **span, **row} for rows in found.values() for number, row in enumerate(rows)
        )
    )


def warm(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the repetitions without the cold ones of each trial, as every estimate of the suite is made.

    Of 512 MiB of THP in three chunks for two threads 7 of 20 repetitions were cold, in equal parts none of
    20, twice. A few repetitions cannot tell, and stay.
    """
    cold = [are_cold(one.wall_s, one.cpu_s) & (len(one) >= stats.ENOUGH) for _, one in rows.groupby("trial")]
    return rows[~pd.concat(cold).reindex(rows.index)].reset_index(drop=True)


def _repeat(state: workloads.State, way: Trial) -> dict:
    chunk = max(1, int(np.ceil(state.size * way.chunk_share))) if way.chunk_share else 0
    result = repeat(state, way.threads, way.policy, chunk, trace=True, nice=0).result
    first = result.trace.groupby("helper").t0_s.min()
    return {
        "trial": way.name,
        "fit": way.fit,
        "threads": result.threads,
        "policy": way.policy,
        "min_chunk_size": (chunk or state.ctl.min_chunk_size) * state.bytes_per_unit,
        "size_bytes": state.size * state.bytes_per_unit,
        "n_chunks": result.n_chunks,
        "baseline": False,
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_user_s + result.cpu_system_s,
        "caller_s": first.get(0, np.nan),
        "helper_s": first[first.index > 0].median(),
    }


def calibrated(rows: pd.DataFrame, cpus: int) -> Machine:
    """Return this machine as the fit trials of the even rounds show it."""
    seen = rows[rows.fit & (rows["round"] % 2 == 0)]
    more, fit = seen[seen.threads > 1], medians(seen)
    machine = Machine(
        "this machine",
        cores_per_node=cpus,
        core_bandwidth=float((fit.size_bytes / fit.wall_s)[fit.threads == 1].max()),
        neighbour_span=float(rows.span_bytes.iloc[0]),
    )
    if len(more):
        queue_s = float((more.caller_s / (more.threads - 1)).median())
        start_s = max(0.0, float((more.helper_s - more.caller_s).median()))
        machine = replace(machine, helper_queue_s=queue_s, helper_start_s=start_s)
    return fit_costs(machine, list(fit.itertuples()))


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial, with the median time and its 95 % interval."""
    by = ["trial", "fit", "threads", "policy", "min_chunk_size", "size_bytes", "n_chunks", "baseline"]
    found = []
    for key, group in rows.groupby(by, sort=False):
        e = stats.estimate(group.wall_s)
        found.append(
            {**dict(zip(by, key, strict=True)), "wall_s": e.median, "low_s": e.low, "high_s": e.high}
        )
    return pd.DataFrame(found)


def predicted(rows: pd.DataFrame, cpus: int) -> pd.DataFrame:
    """Return every trial of the odd rounds beside what the simulator says after the even ones.

    Returns
    -------
    DataFrame
        One row per trial: the columns of `medians`, simulated_s, error_pct, and again_pct: how far the median
        of the even rounds is from that of the odd ones.
    """
    machine = calibrated(rows, cpus)
    even = rows["round"] % 2 == 0
    table = medians(rows[~even])
    table["again_pct"] = 100 * (
        table.trial.map(rows[even].groupby("trial").wall_s.median()) / table.wall_s - 1
    )
    table["simulated_s"] = [simulated_wall_s(machine, case) for case in table.itertuples()]
    table["error_pct"] = 100 * (table.simulated_s / table.wall_s - 1)
    return table


def validate(cases: Sequence[Case] = CASES, rounds: int = 20) -> pd.DataFrame:
    """Return `predicted` for cases on this machine, at one thread and at all the threads it grants."""
    cpus = topology.cpu_count()
    tables = []
    for case in cases:
        table = predicted(measure_trials(case, trials(min(cpus, 4 * cpus // 5 + 1)), rounds), cpus)
        table.insert(0, "case", f"{case.workload} {case.method} {case.page_kind}")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
