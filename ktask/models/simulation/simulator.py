"""Tasks on machines that are not here: the engine's policies, carried out by a discrete-event model.

`simulate` plans a task with `engine.policy` as the engine does, puts its workers and the threads of other
load on the CPUs of a described machine, and has `event_loop.run` do the rest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ktask.engine import policy
from ktask.engine import run as engine
from ktask.engine.layout import State
from ktask.engine.policy import ANY_NODE, Part
from ktask.models.simulation import event_loop
from ktask.models.simulation.machines import FIGURES, Load, Machine, nice_weight

MOST_CHUNKS = 1 << 20  # of one task
MOST_SIMULATED = 1_000_000  # chunks of all seeds; there is one at least
TRACE_COLUMNS = ("part", "worker", "start", "end", "t0_s", "t1_s")


@dataclass(frozen=True, eq=False)
class Simulation:
    """What came of a simulated task; the tables are made from the arrays of the event loop when asked for."""

    machine: Machine
    plan: policy.Plan
    agents: np.ndarray = field(repr=False)
    state: State = field(repr=False)
    rows: np.ndarray = field(repr=False)

    @cached_property
    def wall_s(self) -> float:
        """Seconds from the call to the end of the last worker."""
        n = self.plan.threads
        return float(self.agents["end_s"][:n].max()) - _offset_s(self.machine) if n else 0.0

    @cached_property
    def workers(self) -> pd.DataFrame:
        """One row per worker, the caller first: node, chunks, end_s, cpu_s."""
        return self._agents_table(slice(self.plan.threads)).assign(chunks=self.state.workers["done"])

    @cached_property
    def loads(self) -> pd.DataFrame:
        """One row per thread of other load, up to the end of the task, or of the load if that was asked for.

        Columns: entry, node, cpu_s, end_s (NaN if it was still running), done_s (CPU seconds of its work that
        were done).
        """
        of_load = slice(self.plan.threads, None)
        return self._agents_table(of_load).assign(
            entry=_entries(self.machine), done_s=self.agents["done"][of_load]
        )

    def _agents_table(self, which: slice) -> pd.DataFrame:
        agents = self.agents[which]
        end_s = agents["end_s"] - _offset_s(self.machine)
        return pd.DataFrame({"node": agents["node"], "end_s": end_s, "cpu_s": agents["used_s"]})

    @cached_property
    def trace(self) -> pd.DataFrame:
        """One row per chunk if asked for: part, worker, start, end, t0_s, t1_s."""
        table = pd.DataFrame(self.rows, columns=list(TRACE_COLUMNS))
        table[["t0_s", "t1_s"]] -= _offset_s(self.machine)
        return table.astype(dict.fromkeys(TRACE_COLUMNS[:4], np.int64))

    def as_dict(self) -> dict[str, Any]:
        """Return plan and time of the task."""
        plan = self.plan
        return {
            **{"threads": plan.threads, "chunk_size": plan.chunk_size, "n_chunks": plan.n_chunks},
            "wall_s": self.wall_s,
        }


def simulations(
    machine: Machine,
    parts: int | Part | Sequence[Part],
    min_chunk: int = 2 << 20,
    max_threads: int = 0,
    policy_name: str = "ktask-v4",
    *,
    hand_over: bool | None = None,
    low_priority: bool | None = None,
    loads_to_end: bool = False,
    trace: bool = False,
    seeds: Iterable[int] = (0,),
) -> list[Simulation]:
    """Return what would come of a task on a described machine, once per seed of the noise.

    Of many chunks, whose noise is small in the sum, it takes fewer seeds: a million chunks in all.

    It is planned and laid out once: of 8 chunks, 0.9 ms, and 70 us for each seed.

    Parameters
    ----------
    machine
        The description; `Machine.for_work` first where figures differ by work.
    parts
        The node parts, or the size in bytes of the only one, on node 0. Memory of node -1 is spread over all.
    min_chunk, max_threads, policy_name
        As in `ktask.engine.policy.make_plan`.
    hand_over
        Whether the caller, out of chunks, lends its priority to an unfinished helper at a time; by default
        whenever helpers run at low priority.
    low_priority
        Whether helpers run at the machine's `helper_nice`; by default as the policy says.
    loads_to_end
        Go on until all other load is done, too; it must be finite.
    trace
        Keep one row per chunk.

    Raises
    ------
    ValueError, TypeError
        For a plan that cannot be, or load that never ends where it has to.
    """
    if not isinstance(parts, Sequence):
        parts = (parts if isinstance(parts, Part) else Part(0, parts, 0),)
    plan = policy.make_plan(policy_name, parts, min_chunk, max_threads, machine=machine.for_policy())
    low = policy.policy_named(policy_name).low_priority if low_priority is None else low_priority
    stage = _Stage(machine, plan, low, low if hand_over is None else hand_over, loads_to_end)
    most = max(1, MOST_SIMULATED // max(1, plan.n_chunks))
    return [stage.play(seed, trace) for seed in islice(seeds, most)]


def simulate(
    machine: Machine, parts: int | Part | Sequence[Part], *task: Any, seed: int = 0, **more: Any
) -> Simulation:
    """Return what would come of a task for one seed; see `simulations`."""
    return simulations(machine, parts, *task, seeds=(seed,), **more)[0]


def run_plan(
    machine: Machine,
    plan: policy.Plan,
    *,
    low_priority: bool = False,
    hand_over: bool = False,
    loads_to_end: bool = False,
    trace: bool = False,
    seed: int = 0,
) -> Simulation:
    """Return what would come of a given plan; see `simulations`."""
    return _Stage(machine, plan, low_priority, hand_over, loads_to_end).play(seed, trace)


class _Stage:
    """A task and its machine as arrays for the event loop, to be played with one seed after the other."""

    def __init__(
        self, machine: Machine, plan: policy.Plan, low_priority: bool, hand_over: bool, loads_to_end: bool
    ) -> None:
        if loads_to_end and any(load.threads and not np.isfinite(load.cpu_time_s) for load in machine.load):
            raise ValueError("loads_to_end=True needs load that ends; give every entry of load a cpu_time")
        if plan.n_chunks > MOST_CHUNKS:
            raise ValueError(
                f"{plan.n_chunks} chunks are too many to simulate, at most {MOST_CHUNKS}; use larger chunks"
            )
        self.machine, self.plan = machine, plan
        self.prepared = engine.prepare_plan(plan)
        self.agents, self.clocks = _agents(_crew(machine, plan, low_priority)), _clocks(machine)
        self.agents["entry"][plan.threads :] = _entries(machine)
        if plan.threads:
            self.agents["phase"][0], self.agents["work"][0] = event_loop.WAITING, machine.task_start_s
        self.costs = _costs(machine, plan, hand_over and low_priority, loads_to_end)
        self.memory = np.array([_memory(machine, part.nid) for part in plan.parts], dtype=np.int64)
        self.queues = _queues(machine, self.agents["queue"])
        self.order = np.argsort(self.agents["queue"], kind="stable")

    def play(self, seed: int, trace: bool) -> Simulation:
        """Return what comes of it."""
        state, agents, clocks = self.prepared.state.copy(), self.agents.copy(), self.clocks.copy()
        rows = np.zeros((self.plan.n_chunks if trace else 0, event_loop.TRACE_COLUMNS))
        events = event_loop.run(
            state.address,
            self.memory,
            agents,
            clocks,
            np.zeros((len(clocks), len(agents)), dtype=np.int64),
            self.queues.copy(),
            self.order.copy(),
            np.zeros(self.machine.nodes, dtype=np.int64),
            self.costs,
            rows,
            seed,
        )
        if events < 0:
            raise ValueError(f"the task never ends on {self.machine.name}: no worker gets any CPU time")
        return Simulation(self.machine, self.plan, agents, state, rows)


# --- who runs where ----------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """An agent before it begins: its run queue (-1 if not chosen yet), node, and what it is."""

    queue: int
    node: int
    weight: float
    start_s: float
    load: Load | None = None


def _crew(machine: Machine, plan: policy.Plan, low_priority: bool) -> list[_Member]:
    """Return the workers of a plan and the threads of load, each on its CPU.

    Whoever starts first chooses first, and takes the CPU with the least weight on it, cores before siblings.
    """
    caller = nice_weight(machine.caller_nice)
    helper = nice_weight(machine.helper_nice) if low_priority else caller
    wanted = [_Member(-1, _home(machine, plan), caller, 0.0)] if plan.threads else []
    wanted += [_Member(-1, nid, helper, 0.0) for _, nid in plan.helpers]
    for load in machine.load:
        wanted += [_Member(-1, ANY_NODE, nice_weight(load.nice), load.start_s, load)] * load.threads
    cpus, crew = _Cpus(machine), list(wanted)
    for at in sorted(range(len(wanted)), key=lambda at: wanted[at].start_s):  # ties: workers, then load
        one = wanted[at]
        node, cpu = cpus.take(one.node, one.weight)
        queue = node if machine.run_queue == "node" else cpu
        crew[at] = one._replace(queue=queue, node=node, start_s=one.start_s + _offset_s(machine))
    return crew


def _home(machine: Machine, plan: policy.Plan) -> int:
    """Return the node of the caller: that of the first part, on which it begins."""
    nid = plan.parts[0].nid
    return nid if nid != ANY_NODE else 0


class _Cpus:
    """CPUs of a machine by the weight of the threads on them."""

    def __init__(self, machine: Machine) -> None:
        self.nodes = np.zeros(machine.nodes)
        per_node = machine.cpus_per_node
        self.heaps = [
            [(0.0, rank, n * per_node + rank) for rank in range(per_node)] for n in range(machine.nodes)
        ]

    def take(self, nid: int, weight: float) -> tuple[int, int]:
        """Return node and CPU for one more thread, on node `nid` or on the emptiest."""
        node = int(np.argmin(self.nodes)) if nid == ANY_NODE else nid
        before, rank, cpu = self.heaps[node][0]
        heapq.heapreplace(self.heaps[node], (before + weight, rank, cpu))
        self.nodes[node] += weight
        return node, cpu


# --- arrays for the event loop ---------------------------------------------------------------------------


def _memory(machine: Machine, nid: int) -> int:
    """Return the clock of the memory of a node; the last one is memory spread over all nodes."""
    return 1 + (machine.nodes if nid == ANY_NODE else nid)


def _agents(crew: list[_Member]) -> np.ndarray:
    agents = np.zeros(len(crew), dtype=event_loop.AGENT)
    agents["busy"], agents["traffic"], agents["end_s"], agents["row"] = 1.0, 1.0, np.nan, -1
    for agent, member in zip(agents, crew, strict=True):
        agent["queue"], agent["node"] = member.queue, member.node
        agent["weight"], agent["due"] = member.weight, member.start_s
        if member.load is not None:
            agent["phase"] = event_loop.WAITING
            agent["busy"], agent["rounds"] = member.load.busy, member.load.rounds
            agent["work"] = member.load.cpu_time_s / member.load.rounds
            agent["pause"] = member.load.pause_s
            agent["traffic"] = member.load.bandwidth
            agent["memory"] = 1 + member.node if member.load.bandwidth else event_loop.WALL
    return agents


def _entries(machine: Machine) -> np.ndarray:
    """Return the entry of load that each of its threads belongs to."""
    return np.repeat(np.arange(len(machine.load)), [load.threads for load in machine.load])


def _clocks(machine: Machine) -> np.ndarray:
    clocks = np.zeros(machine.nodes + 2, dtype=event_loop.CLOCK)
    clocks["pace"], clocks["next_s"] = 1.0, np.inf
    clocks["bandwidth"] = machine.node_bandwidth
    clocks["bandwidth"][-1] = machine.bandwidth
    return clocks


def _queues(machine: Machine, queue: np.ndarray) -> np.ndarray:
    """Return the run queues, given that of each agent."""
    by_node = machine.run_queue == "node"
    n = machine.nodes if by_node else machine.cpus
    queues = np.zeros(n + 1, dtype=event_loop.QUEUE)
    queues["first"][1:] = np.cumsum(np.bincount(queue, minlength=n))
    queues["cpus"] = machine.cpus_per_node if by_node else 1
    return queues


def _costs(machine: Machine, plan: policy.Plan, hand_over: bool, loads_to_end: bool) -> event_loop.Costs:
    figures = {name: float(getattr(machine, name)) for name in FIGURES}
    figures["core_bandwidth"] /= machine.slow_start if plan.threads == 1 else 1.0
    figures["contention"] += machine.neighbour_contention * _share_within_span(machine, plan)
    layout = {name: getattr(machine, name) for name in ("nodes", "cores_per_node", "smt")}
    task = {"n_workers": plan.threads, "hand_over": hand_over, "loads_to_end": loads_to_end}
    return event_loop.Costs(**figures, **layout, **task)


def _share_within_span(machine: Machine, plan: policy.Plan) -> float:
    """Return for which share of the time two workers are within one span: the mean over all pairs.

    Workers are about as far in chunks that follow each other, so two of them are whole chunks apart.
    """
    n, span = plan.threads, machine.neighbour_span
    if n < 2 or span <= 0:
        return 0.0
    apart = np.arange(1, n)
    return float(np.average(np.maximum(1 - apart * plan.chunk_size / span, 0.0), weights=n - apart))


def _offset_s(machine: Machine) -> float:
    """Return how long before the task the first load starts."""
    return -min((0.0, *(load.start_s for load in machine.load if load.threads)))
