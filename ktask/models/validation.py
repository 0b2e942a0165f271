"""The simulator held against the engine on this machine, on rows that it was not calibrated on.

One process, one region of memory, and every trial once per round in random order, because processes differ
by more than what is to be seen here. The machine is calibrated on two trials in the even rounds: one thread
in one call, and all threads with the policy's own chunks. It then foretells every trial of the odd rounds:
those two, and others with chunks so few or so many that balance and costs decide.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from ktask import engine, topology, workloads
from ktask.lab import stats
from ktask.models.calibrate import fit_line, scaled, simulated_wall_s
from ktask.models.machines import Machine
from ktask.workloads import Case, CheckError

CASES = (
    Case("zeroing", "populate", "THP", 512 << 20),
    Case("page_walk", "pagemap_scan", "4KiB", 8 << 30),
    Case("free", "dontneed", "4KiB", 2 << 30),
)


class Trial(NamedTuple):
    """One way of cutting: a cap on threads, a policy, and the least chunk as a share of the task."""

    name: str
    threads: int
    policy: str = "ktask-v4"
    chunk_share: float = 0.0
    fit: bool = False


def trials(threads: int) -> tuple[Trial, ...]:
    """Return the trials for one thread and for `threads`: two to calibrate on, five to foretell."""
    return (
        Trial("one call", 1, fit=True),
        Trial("policy's own chunks", threads, fit=True),
        Trial("16 chunks", 1, "dynamic", 1 / 16),
        Trial("one chunk per thread", threads, "static"),
        Trial("one chunk more than threads", threads, "dynamic", 1 / (threads + 1)),
        Trial("five chunks per two threads", threads, "dynamic", 1 / max(2, 5 * threads // 2)),
        Trial("32 chunks per thread", threads, "dynamic", 1 / (32 * threads)),
    )


def measure_trials(case: Case, ways: Sequence[Trial], rounds: int = 20, seed: int = 1) -> pd.DataFrame:
    """Run every trial once per round, in random order; the first two rounds are warm-ups and left out.

    Returns
    -------
    DataFrame
        One row per repetition: round, trial, fit, threads, policy, min_chunk_size and size_bytes (bytes),
        n_chunks, baseline, wall_s.

    Raises
    ------
    ktask.workloads.CheckError
        If the work did not happen.
    """
    workloads.require_memory(case)
    state = workloads.get(case.workload).setup(case)
    random, rows = np.random.default_rng(seed), []
    try:
        least = state.ctl.min_chunk_size
        for number in range(-2, rounds):
            for k in random.permutation(len(ways)):
                row = _repeat(state, ways[k], least)
                if number >= 0:
                    rows.append({"round": number, **row})
    finally:
        state.close()
    return pd.DataFrame(rows)


def _repeat(state: workloads.State, way: Trial, least: int) -> dict:
    chunk = max(1, int(np.ceil(state.size * way.chunk_share))) if way.chunk_share else least
    state.ctl.max_threads, state.ctl.min_chunk_size = way.threads, chunk
    state.before()
    result = engine.run(0, state.size, state.ctl, way.policy, low_priority=False)
    if result.error:
        raise CheckError(f"{way.name} failed: {os.strerror(result.error)}")
    state.check()
    return {
        "trial": way.name,
        "fit": way.fit,
        "threads": result.threads,
        "policy": way.policy,
        "min_chunk_size": chunk * state.bytes_per_unit,
        "size_bytes": state.size * state.bytes_per_unit,
        "n_chunks": result.n_chunks,
        "baseline": False,
        "wall_s": result.wall_s,
    }


def calibrated(rows: pd.DataFrame, cpus: int) -> Machine:
    """Return this machine as the fit trials of the even rounds show it."""
    fit = medians(rows[rows.fit & (rows["round"] % 2 == 0)])
    alone, more = fit[fit.threads == 1], fit[fit.threads > 1]
    _, bandwidth = fit_line(alone.size_bytes, alone.wall_s)
    machine = Machine("this machine", cores_per_node=cpus, core_bandwidth=bandwidth)
    return replace(machine, **scaled(machine, more))


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


def foretell(rows: pd.DataFrame, cpus: int) -> pd.DataFrame:
    """Return every trial of the odd rounds beside what the simulator says after the even ones.

    Returns
    -------
    DataFrame
        One row per trial: the columns of `medians`, simulated_s and error_pct.
    """
    machine = calibrated(rows, cpus)
    table = medians(rows[rows["round"] % 2 == 1])
    table["simulated_s"] = [simulated_wall_s(machine, case) for case in table.itertuples()]
    table["error_pct"] = 100 * (table.simulated_s / table.wall_s - 1)
    return table


def validate(cases: Sequence[Case] = CASES, rounds: int = 20) -> pd.DataFrame:
    """Return `foretell` for cases on this machine, at one thread and at all the threads it grants."""
    cpus = topology.cpu_count()
    tables = []
    for case in cases:
        table = foretell(measure_trials(case, trials(min(cpus, 4 * cpus // 5 + 1)), rounds), cpus)
        table.insert(0, "case", f"{case.workload} {case.method} {case.page_kind}")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
