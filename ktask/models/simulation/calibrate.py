"""A machine described from a run of this suite, so that larger machines of its kind can be simulated.

What is taken from where:

* layout: `machine.json` of the run;
* `core_bandwidth`, `task_start`: the one-thread baseline over the sizes of each kind of work, `T = start +
  size / bandwidth`, through the largest size. What is small enough for a cache has a rate of its own, and
  weighed alike it made 1 GiB of zeroing 3.6 times too fast;
* `helper_queue`, `helper_start`, `noise`: the traces, if the run has them: when the first chunks of caller
  and helpers began, and how far the times of equal chunks spread. One count of helpers cannot tell what is
  per helper from what is once: it is taken per helper;
* `slow_start`: what more threads than one gain beyond their number, at the largest size;
* `contention` and `node_bandwidth`: what more threads than one lose against that, such that simulated times
  come out right in the mean. Two counts of threads cannot tell the two apart; then a loss is contention;
* `lock_share`, where no number of threads gained a quarter: they are taken to take turns at one lock, with
  `contention` for what the handing over costs. Chunks that wait for a lock take unequal times, which is no
  noise then.

Nothing here comes from more than one node, so `remote_penalty` stays at 1 unless somebody fills it in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from msgspec.structs import replace
from scipy.optimize import brentq, least_squares, minimize_scalar

from ktask.engine.policy import MOST_CPUS
from ktask.lab.records import Run, conditioned
from ktask.models.simulation.machines import Machine
from ktask.models.simulation.what_if import repeated

WORK = ["workload", "method", "page_kind", "options"]
GAINS_LITTLE = 1.25  # speedup below which a lock is blamed, or the roof where no lock is thought of
LEAST_CHUNKS = 4  # of equal size, to say anything about noise
# Beyond it equal chunks do different things, and a time per byte means nothing: where processes end, one
# chunk per thread ends one and the others do nothing (5.7).
MOST_NOISE = 2


def calibrate(run: Run) -> Machine:
    """Return the machine that a run was measured on, with one entry of `work` per kind of work.

    Kinds whose chunks are not all alike (`MOST_NOISE`) are left out.

    Raises
    ------
    ValueError
        If the run has no repetition that may count.
    """
    walls = measured_walls(run)
    if walls.empty:
        raise ValueError(f"run {run.name} has no settled repetition; measure again with a longer warmup_s")
    traces = run.traces
    nodes, cores, smt = _layout(run.machine)
    # Facts may be missing, or of a container; threads that ran had CPUs to run on.
    cores = max(cores, math.ceil(int(walls.threads.max()) / (nodes * smt)))
    empty = Machine("", nodes=nodes, cores_per_node=cores, smt=smt)
    parts = {name: (table, _traces_of(traces, table)) for name, table in walls.groupby("work")}
    alike = {name: part for name, part in parts.items() if chunk_noise(part[1]) <= MOST_NOISE}
    if not alike:
        raise ValueError(f"run {run.name} has no work whose chunks are alike; calibrate from another run")
    work = {name: _work(*part, empty) for name, part in alike.items()}
    return Machine(
        name=f"calibrated from {run.name}",
        about=f"{run.machine.get('cpu_model', 'processor')}, kernel {run.machine.get('kernel_release', '?')}",
        source=f"run {run.name}, threads {', '.join(map(str, sorted(walls.threads.unique())))}",
        nodes=nodes,
        cores_per_node=cores,
        smt=smt,
        core_bandwidth=float(np.median([figures["core_bandwidth"] for figures in work.values()])),
        work=work,
    )


def measured_walls(run: Run) -> pd.DataFrame:
    """Return the median time of every case of a run: one row per work, size, policy, chunk size and threads.

    Warm-ups, and repetitions on cold memory or with stolen time, do not count.
    """
    found = run.records[~conditioned(run.records)]
    spoilt = found["flags"].map(lambda flags: bool({"cold_memory", "steal"} & set(flags)))
    found = found[~found.warmup & ~spoilt & (found.wall_s > 0)]
    found = found[found.baseline | (found.threads_requested > 1)]  # no policy gives one thread several chunks
    labels = found[WORK].fillna("").astype(str)
    names = ["-".join(filter(None, row)) for row in labels.itertuples(index=False)]
    by = ["work", "size_bytes", "policy", "min_chunk_size", "baseline", "threads", "chunk_size", "n_chunks"]
    table = found.assign(work=names).groupby(by, observed=True)
    return table.agg(
        wall_s=("wall_s", "median"), n=("wall_s", "size"), cell_id=("cell_id", "first")
    ).reset_index()


def _layout(facts: dict[str, Any]) -> tuple[int, int, int]:
    """Return nodes with CPUs, cores of each (the largest, if they differ) and threads per core."""
    threads, cores = (_whole(facts.get(name)) for name in ("threads", "cores"))
    nodes = facts.get("nodes")
    cpus = [node.get("cpus") for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
    sizes = [len(each) for each in cpus if isinstance(each, list) and each] or [threads]
    smt = max(1, round(threads / cores))
    return len(sizes), max(1, max(sizes) // smt), smt


def _whole(value: Any) -> int:
    """Return a count from a file, 1 if it is none."""
    return value if isinstance(value, int) and 1 <= value <= MOST_CPUS else 1


def _traces_of(traces: pd.DataFrame, walls: pd.DataFrame) -> pd.DataFrame:
    first = traces["pass"] == traces.groupby("cell_id")["pass"].transform("min")
    return traces[first & traces.cell_id.isin(walls.cell_id.unique())]


def _work(walls: pd.DataFrame, traces: pd.DataFrame, empty: Machine) -> dict[str, float]:
    """Return the figures of one kind of work, given a machine that has its layout only."""
    alone = walls[walls.threads == 1]
    start_s, bandwidth = fit_line(alone.size_bytes, alone.wall_s)
    figures = {"core_bandwidth": bandwidth, "task_start_s": start_s}
    figures |= {"noise": chunk_noise(traces), **helper_starts(traces, start_s)}
    more = walls[
        (walls.threads > 1) & (walls.wall_s > start_s) & (walls.size_bytes == alone.size_bytes.max())
    ]
    rates = more.size_bytes / (more.wall_s - start_s) / bandwidth
    if len(more) and rates.max() < GAINS_LITTLE:
        figures["noise"] = 0.0
        return figures | taking_turns(replace(empty, **figures), more)
    contention, roof = fit_scaling(more.threads.tolist(), rates.tolist())
    if math.isfinite(roof):
        return figures | {"contention": contention, "node_bandwidth": roof * bandwidth}
    return figures | scaled(replace(empty, **figures), more)


def scaled(machine: Machine, walls: pd.DataFrame) -> dict[str, float]:
    """Return the figures at which the simulated times of several threads are right in the mean.

    Where several threads gain more than their number, one alone is slower (`slow_start`), and the bandwidth
    is that of a thread among several.
    """
    if walls.empty:
        return {"contention": 0.0}
    if contention := _solved("contention", machine, walls):
        return {"contention": contention}
    slow_start = max(1.0, math.exp(_mean_log_error(machine, walls)))
    return {"core_bandwidth": machine.core_bandwidth * slow_start, "slow_start": slow_start}


def taking_turns(machine: Machine, walls: pd.DataFrame) -> dict[str, float]:
    """Return the share of the work under one lock at which the simulated times of several threads are right.

    Where all of it under the lock is still too fast, each thread that waits slows the one that holds it.
    """
    share = {"lock_share": _solved("lock_share", machine, walls)}
    return share if share["lock_share"] < 1 else share | scaled(replace(machine, **share), walls)


def _solved(figure: str, machine: Machine, walls: pd.DataFrame) -> float:
    """Return the value from 0 to 1 of a figure at which simulated times are right in the mean, or nearest."""

    def error(value: float) -> float:
        return _mean_log_error(replace(machine, **{figure: value}), walls)

    if error(0.0) >= 0:
        return 0.0
    return float(brentq(error, 0.0, 1.0, xtol=1e-5)) if error(1.0) > 0 else 1.0


def _mean_log_error(machine: Machine, walls: pd.DataFrame) -> float:
    """Return by how much simulated times exceed measured ones: the mean of the logarithm of their ratio."""
    return statistics.mean(
        math.log(simulated_wall_s(machine, case) / case.wall_s) for case in walls.itertuples()
    )


def simulated_wall_s(machine: Machine, case: Any) -> float:
    """Return the simulated time of a row of `measured_walls`."""
    runs = repeated(
        machine,
        int(case.size_bytes),
        min_chunk=int(case.min_chunk_size),
        max_threads=int(case.threads),
        policy_name="ktask-v4" if case.baseline else case.policy,
        low_priority=False,
    )
    return float(np.median([run.wall_s for run in runs]))


def fit_line(sizes: Iterable[float], walls_s: Iterable[float]) -> tuple[float, float]:
    """Return start and bandwidth of `T = start + size / bandwidth`, neither negative.

    The line goes through the median of the largest size, and the start is that of the least relative error
    of the others; one size alone gives no start.
    """
    sizes, walls_s = np.asarray(sizes, dtype=float), np.asarray(walls_s, dtype=float)
    largest = sizes.max()
    longest_s = float(np.median(walls_s[sizes == largest]))
    left, share = sizes < largest, sizes / largest
    factor, target = ((1 - share) / walls_s)[left], (1 - longest_s * share / walls_s)[left]
    start_s = float(factor @ target / (factor @ factor)) if left.any() else 0.0
    if not 0 < start_s < longest_s:
        start_s = 0.0
    return start_s, float(largest / (longest_s - start_s))


def fit_scaling(
    threads: Sequence[int], gains: Sequence[float], may_have_roof: bool = True
) -> tuple[float, float]:
    """Return contention and roof of `gain(n) = min(n / (1 + contention (n - 1)), roof)`.

    `gains` are rates over that of one thread. The roof is one of the gains, or infinite; of two descriptions
    that fit alike the one without a roof is taken, unless the gain is little.
    """
    if not threads:
        return 0.0, math.inf
    n, measured = np.array(threads), np.array(gains)

    def misfit(contention: float, roof: float) -> float:
        return float((np.log(np.minimum(n / (1 + contention * (n - 1)), roof) / measured) ** 2).sum())

    found = []
    for roof in (math.inf, *(sorted(set(gains), reverse=True) if may_have_roof else ())):
        best = minimize_scalar(misfit, args=(roof,), bounds=(0, 1), options={"xatol": 1e-9})
        contention = min((0.0, float(best.x)), key=lambda contention: misfit(contention, roof))
        found.append((misfit(contention, roof), contention, roof))
    least = min(found)[0]
    alike = [(contention, roof) for error, contention, roof in found if error <= least + 1e-6]
    return alike[-1 if max(gains) < GAINS_LITTLE else 0]


def chunk_noise(traces: pd.DataFrame) -> float:
    """Return the spread of the times of equal chunks: the median sd of their logarithm."""
    spreads = []
    for _, trace in traces.groupby("cell_id"):
        sizes = trace.end_bytes - trace.start_bytes
        times = (trace.t1_s - trace.t0_s)[sizes == sizes.max()]
        if len(times) >= LEAST_CHUNKS and (times > 0).all():
            spreads.append(float(np.log(times).std(ddof=1)))
    return float(np.median(spreads)) if spreads else 0.0


def helper_starts(traces: pd.DataFrame, task_start_s: float = 0.0) -> dict[str, float]:
    """Return what starting a helper costs: medians over traces, in seconds.

    `helper_queue_s` is how much later than a lone caller begins its first chunk one with helpers does, per
    helper; `helper_start_s`, how much later than that a helper begins its own.
    """
    queues, delays = [], []
    for _, trace in traces.groupby("cell_id"):
        first = trace.groupby("helper").t0_s.min()
        if 0 in first.index and len(first) > 1:
            queues.append(max(0.0, float(first[0]) - task_start_s) / (len(first) - 1))
            delays.append(max(0.0, float(first.drop(0).median() - first[0])))
    if not queues:
        return {"helper_queue_s": 0.0, "helper_start_s": 0.0}
    return {"helper_queue_s": float(np.median(queues)), "helper_start_s": float(np.median(delays))}


# --- from one task, chunked in several ways ----------------------------------------------------------------

# What such a task shows beyond a rate, and what makes a visible difference (evidence: docs/simulator.md).
COSTS = {
    "slow_start": 0.1,
    "contention": 0.1,
    "neighbour_contention": 0.1,
    "chunk_cost_s": 1e-5,
    "chunk_flush_s": 1e-5,
}
PULL = 1e-3  # a cost that no way of chunking shows stays near 0


def fit_costs(machine: Machine, cases: Sequence[Any]) -> Machine:
    """Return the machine with the costs at which it takes the measured times.

    Parameters
    ----------
    machine
        With its bandwidth as a thread alone has it, `neighbour_span`, and the starts of helpers.
    cases
        Rows with the columns of `measured_walls`: the same task chunked in several ways.
    """

    def misfit(x: np.ndarray) -> np.ndarray:
        found = _with_costs(machine, x)
        off = [math.log(simulated_wall_s(found, case) / case.wall_s) for case in cases]
        return np.concatenate([off, PULL * x[1:]])

    n = len(COSTS)
    bounds = ([-1.0] + [0.0] * n, [1.0] + [50.0] * n)
    found = least_squares(misfit, [0.0] + [0.01] * n, bounds=bounds, diff_step=1e-3)
    return _with_costs(machine, found.x)


def _with_costs(machine: Machine, x: np.ndarray) -> Machine:
    costs = {name: float(share * unit) for share, (name, unit) in zip(x[1:], COSTS.items(), strict=True)}
    costs["slow_start"] += 1
    bandwidth = machine.core_bandwidth * costs["slow_start"] * math.exp(x[0])
    return replace(machine, core_bandwidth=bandwidth, **costs)
