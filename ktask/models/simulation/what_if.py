"""Questions to the simulator, each a function that returns a tidy table.

* `scaling`: the curve of a described machine over its threads;
* `chunk_balance`: the size of a chunk;
* `cap_and_neighbours`: how many helpers, and what other threads lose by them;
* `one_node_or_all`: memory of one node, or spread over all;
* `under_load`: how long a task takes on a busy machine, with and without priority and its hand-over.

Times are medians over seeds with the 5th and 95th percentile where the machine has noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from msgspec.structs import replace

from ktask.engine.policy import ANY_NODE, MOST_CPUS, Part
from ktask.models.simulation.machines import Load, Machine
from ktask.models.simulation.simulator import Simulation, simulate, simulations

SEEDS = 25
MIB = 1 << 20
Parts = int | Sequence[Part]


def repeated(machine: Machine, parts: Parts, *, seeds: int = SEEDS, **task: Any) -> list[Simulation]:
    """Return simulations of a task, each with a seed of its own; one if the machine has no noise."""
    return simulations(machine, parts, seeds=range(seeds if machine.noise > 0 else 1), **task)


def _walls(runs: Sequence[Simulation]) -> dict[str, float]:
    low_s, wall_s, high_s = np.quantile([run.wall_s for run in runs], (0.05, 0.5, 0.95)).tolist()
    return {"wall_s": wall_s, "low_s": low_s, "high_s": high_s}


def spread(size_bytes: int, machine: Machine) -> list[Part]:
    """Return a task whose memory lies on all nodes in equal shares, one part per node."""
    edges = [size_bytes * k // machine.nodes for k in range(machine.nodes + 1)]
    return [Part(edges[k], edges[k + 1] - edges[k], k) for k in range(machine.nodes)]


def thread_counts(machine: Machine) -> list[int]:
    """Return 1, 2, 4, ... and the most threads that one task gets: 4/5 of the CPUs, and the caller."""
    most = 4 * machine.cpus // 5 + 1
    return sorted({*(2**k for k in range(most.bit_length())), most})


def scaling(
    machine: Machine, parts: Parts, threads: Iterable[int] | None = None, *, seeds: int = SEEDS, **task: Any
) -> pd.DataFrame:
    """Return the simulated curve of a task over its cap on threads.

    Parameters
    ----------
    machine
        The description, with the figures of the work (`Machine.for_work`).
    parts
        Size in bytes on node 0, or parts (`spread` makes them).
    threads
        Caps, callers included; 1, 2, 4 and so on if left out.
    seeds
        Repetitions where there is noise.
    task
        As in `simulate`: min_chunk, policy_name and so on.

    Returns
    -------
    DataFrame
        One row per cap: threads_requested, threads, chunk_size, n_chunks, wall_s, low_s, high_s, rate
        (bytes/s), speedup over the same task with one thread, and load_loss_pct if the machine has load.
    """
    alone_s = _walls(repeated(machine, parts, seeds=seeds, **task | {"max_threads": 1}))["wall_s"]
    rows = []
    for cap in thread_counts(machine) if threads is None else threads:
        runs = repeated(machine, parts, seeds=seeds, **task | {"max_threads": cap})
        row = {"threads_requested": cap, **runs[0].as_dict(), **_walls(runs)}
        size, wall_s = sum(part.size for part in runs[0].plan.parts), row["wall_s"]
        row["rate"] = size / wall_s if wall_s else math.nan
        row["speedup"] = alone_s / wall_s if wall_s else math.nan
        if machine.load:
            row["load_loss_pct"] = float(np.median([load_loss_pct(run) for run in runs]))
        rows.append(row)
    return pd.DataFrame(rows)


LAYOUTS = {
    "parts": "one part per node, each helper beginning on that of its own",
    "one-node": "on node 0; helpers are queued there and spill over once it is full",
    "interleaved": "spread over all nodes page by page",
}


def parts_in(memory: str, size_bytes: int, machine: Machine) -> list[Part]:
    """Return the parts of a task whose memory lies as `LAYOUTS` says; ValueError for another layout."""
    if memory not in LAYOUTS:
        raise ValueError(f"memory {memory!r} is not allowed; use one of {', '.join(LAYOUTS)}")
    if memory == "parts":
        return spread(size_bytes, machine)
    return [Part(0, size_bytes, 0 if memory == "one-node" else ANY_NODE)]


def curve(
    machine: Machine,
    size_bytes: int,
    *,
    work: str | None = None,
    threads: Iterable[int] | None = None,
    memory: str = "parts",
    load_threads: int = 0,
    **task: Any,
) -> dict[str, Any]:
    """Return what `ktask simulate` prints: the task, and one row of `scaling` per cap on its threads.

    Raises
    ------
    ValueError
        If the description has no such work, or a policy refuses the task.
    """
    described = machine.for_work(work) if work else machine
    if not 0 <= load_threads <= MOST_CPUS:
        raise ValueError(f"load={load_threads} is not allowed; use 0 to {MOST_CPUS} threads")
    if load_threads:
        described = replace(described, load=(Load(load_threads),))
    table = scaling(described, parts_in(memory, size_bytes, machine), threads, **task)
    return {
        "machine": machine.name,
        "cpus": machine.cpus,
        "nodes": machine.nodes,
        "work": work,
        "size_bytes": size_bytes,
        "memory": memory,
        "policy": task.get("policy_name", "ktask-v4"),
        "load_threads": sum(load.threads for load in described.load),
        "curve": table.to_dict("records"),
    }


def load_alone(machine: Machine) -> list[float]:
    """Return the CPU seconds per second that a thread of each entry of load gets without the task."""
    timed = tuple(replace(load, cpu_time_s=1.0, start_s=0.0) for load in machine.load)
    loads = simulate(replace(machine, load=timed), 0, loads_to_end=True).loads
    ends = loads.groupby("entry").end_s.max()
    return [1.0 / ends[k] if k in ends.index else 0.0 for k in range(len(machine.load))]


def load_loss_pct(simulation: Simulation) -> float:
    """Return how much less the load got done while the task ran than without it, in percent."""
    alone = load_alone(simulation.machine)
    starts = [max(load.start_s, 0.0) for load in simulation.machine.load]
    before = [
        max(-load.start_s, 0.0) * rate for load, rate in zip(simulation.machine.load, alone, strict=True)
    ]
    loads = simulation.loads
    ends = loads.end_s.fillna(simulation.wall_s)
    could = sum(
        alone[k] * max(end_s - starts[k], 0.0) + before[k] for k, end_s in zip(loads.entry, ends, strict=True)
    )
    loss = 1 - loads.done_s.sum() / could if could > 0 else 0.0
    return 100 * loss if abs(loss) > 1e-9 else 0.0


def chunk_balance(
    machine: Machine,
    size_bytes: int,
    threads: int,
    chunks_per_thread: Iterable[float] = (1, 2, 4, 8, 16, 64, 256, 1024),
    *,
    seeds: int = SEEDS,
) -> pd.DataFrame:
    """Return time and balance over the size of a chunk.

    Returns
    -------
    DataFrame
        One row per chunk size, and one for what ktask-v4 chooses (`policy`): chunk_size, n_chunks, wall_s,
        low_s, high_s, idle_pct (CPU time of the workers that is spent on waiting for the last one) and
        loss_pct (over the shortest time in the table).
    """
    rows = []
    for count in chunks_per_thread:
        chunk = max(1, math.ceil(size_bytes / (threads * count)))
        runs = repeated(
            machine, size_bytes, seeds=seeds, min_chunk=chunk, max_threads=threads, policy_name="dynamic"
        )
        rows.append({"policy": "dynamic", **_balance(runs)})
    runs = repeated(machine, size_bytes, seeds=seeds, max_threads=threads, low_priority=False)
    rows.append({"policy": "ktask-v4", **_balance(runs)})
    table = pd.DataFrame(rows)
    table["loss_pct"] = 100 * (table.wall_s / table.wall_s.min() - 1)
    return table


def _balance(runs: Sequence[Simulation]) -> dict[str, Any]:
    idle = [100 * (1 - run.workers.end_s.mean() / run.wall_s) for run in runs]
    chunks = {name: getattr(runs[0].plan, name) for name in ("chunk_size", "n_chunks")}
    return {**chunks, **_walls(runs), "idle_pct": float(np.median(idle))}


def cap_and_neighbours(
    machine: Machine,
    size_bytes: int,
    load_threads: int,
    caps: Iterable[int] | None = None,
    *,
    low_priority: bool = False,
    bandwidth: float = 0.0,
) -> pd.DataFrame:
    """Return what a cap on the threads of a task does to it, and to endless load beside it.

    Parameters
    ----------
    machine
        The description; its own load is replaced.
    size_bytes, caps
        The task, its memory spread over all nodes, and caps on its threads.
    load_threads, bandwidth
        Threads of other load at nice 0, and the bytes per second that each takes from memory.
    low_priority
        Whether helpers run at the machine's `helper_nice`, with hand-over.

    Returns
    -------
    DataFrame
        One row per cap: the columns of `scaling`, and taken_s: CPU seconds that the load lost in all.
    """
    load = Load(load_threads, bandwidth=bandwidth)
    return _beside(load, machine, size_bytes, caps, low_priority=low_priority)


def _beside(
    load: Load, machine: Machine, size_bytes: int, caps: Iterable[int] | None, **task: Any
) -> pd.DataFrame:
    loaded = replace(machine, load=(load,))
    table = scaling(loaded, spread(size_bytes, machine), caps, **task)
    per_s = load_alone(loaded)[0] * load.threads
    return table.assign(taken_s=table.load_loss_pct / 100 * per_s * table.wall_s)


def one_node_or_all(
    machine: Machine, size_bytes: int, threads: Sequence[int] | None = None, **task: Any
) -> pd.DataFrame:
    """Return the curve of a task whose memory lies on one node, on all in parts, or interleaved.

    Returns
    -------
    DataFrame
        The columns of `scaling`, and memory: "one node" (helpers are queued there and spill over once it is
        full), "parts per node" (each helper begins on the part of its own node) or "interleaved".
    """
    tables = [
        scaling(machine, parts_in(name, size_bytes, machine), threads, **task).assign(memory=name)
        for name in LAYOUTS
    ]
    return pd.concat(tables, ignore_index=True)


HELPERS: dict[str, dict[str, Any]] = {
    "one thread": {"cap": 1},
    "helpers at the caller's priority": {"low_priority": False},
    "helpers at low priority": {"low_priority": True, "hand_over": False},
    "low priority, handed over": {"low_priority": True, "hand_over": True},
}


def under_load(
    machine: Machine, size_bytes: int, load_threads: Iterable[int], max_threads: int
) -> pd.DataFrame:
    """Return how a task fares beside endless load, for each way of running its helpers.

    Returns
    -------
    DataFrame
        One row per number of load threads and per way (`helpers`, see `HELPERS`): the columns of `scaling`,
        and taken_s: CPU seconds that the load lost in all.
    """
    tables = []
    for count in load_threads:
        for name, how in HELPERS.items():
            task = dict(how)
            caps = [task.pop("cap", max_threads)]
            table = _beside(Load(count), machine, size_bytes, caps, **task)
            tables.append(table.assign(load_threads=count, helpers=name))
    return pd.concat(tables, ignore_index=True)
