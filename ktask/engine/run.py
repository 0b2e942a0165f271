"""A task carried out: plan, slots, placement, the parallel region, and what came of it.

The compiled half is `worker.py`. Helpers exist, are compiled and sit on their CPUs before the clock starts:
starting a thread inside the timed region would serialise on the very lock the kernel paths take, because its
stack is a new mapping.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from ktask.engine import cpu_order, iterators, worker
from ktask.engine import policy as policies
from ktask.engine.layout import HEADER, TRACE_ROW, State
from ktask.engine.live import Live
from ktask.engine.placement import (
    Site,
    helper_nice,
    helper_orders,
    interrupts,
    masks,
    numba_threads,
    require_nice,
    require_threads,
    site,
)
from ktask.engine.slots import SLOTS, Grant
from ktask.engine.task import CPU_TIME_FROM_S, Ctl, Node, Result
from ktask.engine.thread_functions import Bound, bound
from ktask.engine.undo import undo_ranges
from ktask.host.cpus import Topology

Range = tuple[int, int]
_MOST_THREADS = numba.config.NUMBA_NUM_THREADS


# --- planning ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """A plan, the state to start from, and chunk bounds where no formula gives them.

    `nids` says for each thread on which node the memory lies that it begins with, -1 if that is not known.
    """

    plan: policies.Plan
    state: State
    table: np.ndarray | None
    translate: Callable[[Range], Range]
    units: int
    n_chunks: int
    nids: tuple[int, ...]


def prepare_plan(
    plan: policies.Plan,
    table: np.ndarray | None = None,
    translate: Callable[[Range], Range] = lambda bounds: bounds,
    memory_nid: int = cpu_order.ANYWHERE,
) -> _Prepared:
    """Return a plan with the state of a task of which nothing is done.

    `memory_nid` is the node of memory of which the plan does not say where it lies.
    """
    if plan.shrinking and table is None:
        table = np.array([bounds for part in plan.chunks() for bounds in part], dtype=np.int64)
    state = State(len(plan.parts), plan.threads)
    state.header["n_parts"], state.header["n_threads"] = state.shape
    state.header["chunk_size"] = plan.chunk_size
    state.header["bounds"] = 0 if table is None else table.ctypes.data
    first_row = 0
    for k, part in enumerate(plan.parts):
        n_chunks = plan.part_chunks(k)
        state.parts[k] = part.start, part.end, n_chunks, plan.origin(k), first_row, 0
        first_row += n_chunks
    state.workers["part"] = (0, *plan.helper_start_index)[: plan.threads]
    state.workers["failed_part"] = state.workers["failed_chunk"] = state.workers["cpu"] = -1
    state.workers["random"] = [0x1E3779B97F4A7C15 // (w + 3) for w in range(plan.threads)]
    units = sum(part.size for part in plan.parts)
    begun = [plan.parts[k].nid for k in state.workers["part"].tolist()]
    queues = cpu_order.ANYWHERE, *plan.helper_queue_nid
    wishes = zip(begun, [memory_nid] * len(begun), queues, strict=False)
    nids = tuple(next((nid for nid in wish if nid >= 0), cpu_order.ANYWHERE) for wish in wishes)
    return _Prepared(plan, state, table, translate, units, first_row, nids)


@lru_cache(maxsize=256)
def _prepared(where: Site, policy: str, parts, min_chunk, max_threads, align, helpers=None) -> _Prepared:
    """Return all of a task that does not change from one run to the next, with as many helpers as granted.

    If that is not known, with those it gets where nobody else uses any. That is the policy's own answer,
    within the slots of this machine and the CPUs of the placement: a policy without limits of its own is held
    to 4/5 of the CPUs as well.
    """
    machine, nids = where.machine, [where.memory_nid if part.nid < 0 else part.nid for part in parts]
    plan = policies.make_plan(
        policy, parts, min_chunk, max_threads, machine=machine, align=align, helpers=helpers
    )
    cpus = cpu_order.most_threads(where.topo, where.placement, nids, machine.caller_nid)
    if len(plan.helpers) > (most := max(min(machine.limit, cpus - 1), 0)):
        return _prepared(where, policy, parts, min_chunk, max_threads, align, most)
    return prepare_plan(plan, memory_nid=where.memory_nid)


def _wish(where: Site, parts: tuple[Node, ...], ctl: Ctl, policy: str) -> tuple[tuple, _Prepared]:
    """Return a task's key, and the task with the helpers it gets where nobody else uses any."""
    if ctl.iter_func:
        parts = iterators.unit_parts(parts)
    key = where, policy, parts, ctl.min_chunk_size, ctl.max_threads, ctl.align
    return key, _prepared(*key)


def _as_parts(nodes: Node | Sequence[Node]) -> tuple[Node, ...]:
    parts = (nodes,) if isinstance(nodes, Node) else tuple(nodes)
    for part in parts:
        if not isinstance(part, Node):
            raise TypeError(f"{part!r} is not a ktask.Node; use ktask.Node(start, size, nid)")
    return parts


def plan(
    nodes: Node | Sequence[Node],
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    topo: Topology | None = None,
    placement: str | None = None,
) -> policies.Plan:
    """Return threads, chunk size and chunk bounds of a task, as if nobody else used helpers.

    Runs nothing. Parameters and errors are those of `run_numa`.
    """
    return _wish(site(topo, placement), _as_parts(nodes), ctl, policy)[1].plan


# --- running -------------------------------------------------------------------------------------------


def run(
    start: int,
    size: int,
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    placement: str | None = None,
    trace: bool = False,
    live: Live | None = None,
    nice: int | None = None,
    hand_over: bool = True,
) -> Result:
    """Run `ctl.thread_func` over `[start, start + size)` in chunks, on as many threads as the policy says.

    Parameters
    ----------
    start, size
        Range of the task in units of the caller's choice.
    ctl
        The control block.
    policy
        One of `ktask.engine.policy.POLICIES`.
    placement
        The order in which helpers take CPUs, one of `ktask.engine.cpu_order.PLACEMENTS`: `cores` by default.
        The caller is free to move, off their cores as long as there are others.
    trace
        Keep one row per chunk (`Result.trace`).
    live
        Shows how far the task is, to any thread, while it runs (`ktask.Live`, or `ktask.Bar`).
    nice
        Nice level of the helpers, 0 to 19; that of the caller if it is higher. By default 19 or the caller's,
        as the policy says, where the process may undo it afterwards.
    hand_over
        Have the caller, once out of chunks, hand its priority to one unfinished helper at a time, if helpers
        have one of their own.

    Returns
    -------
    Result
        `error` is the first nonzero code of a thread function.

    Raises
    ------
    ValueError, TypeError
        On bad input, before any chunk runs.
    KeyboardInterrupt
        On Ctrl-C, within one chunk; the exception carries the `Result` so far as `.result`.
    """
    how = trace, live, nice, hand_over
    return _run(site(None, placement), (Node(start, size),), ctl, policy, *how)


def run_numa(
    nodes: Node | Sequence[Node],
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    topo: Topology | None = None,
    placement: str | None = None,
    trace: bool = False,
    live: Live | None = None,
    nice: int | None = None,
    hand_over: bool = True,
) -> Result:
    """Run a task whose parts lie on nodes; see `run`.

    Helpers start on the parts in turn and on the CPUs of the part's node, or the nearest free ones. Whoever
    finds its part empty goes on with a random unfinished one, in place.

    Parameters
    ----------
    nodes
        One `ktask.Node(start, size, nid)` per part; nid -1 is any node.
    topo
        CPUs by node if they are not to be read from the machine, for tests and studies:
        `ktask.host.cpus.Topology.by_hand({0: [0], 1: [1]})`.
    """
    return _run(site(topo, placement), _as_parts(nodes), ctl, policy, trace, live, nice, hand_over)


def _run(where: Site, parts: tuple[Node, ...], ctl: Ctl, policy: str, trace, live, nice, hand_over) -> Result:
    require_nice(nice)
    key, wish = _wish(where, parts, ctl, policy)
    entry, undo = bound(ctl)
    if wish.plan.threads == 0:
        return Result(policy=policy, wall_s=0.0)
    _warm()
    grant = SLOTS.take(helper_orders(where, wish.nids), where.machine.limit)
    try:
        prepared = wish if len(grant) == len(wish.plan.helpers) else _prepared(*key, len(grant))
        if ctl.iter_func:
            prepared = _with_positions(prepared.plan, parts, ctl.iter_func)
        task = Task(prepared, entry, trace=trace, live=live, caller_pinned=where.caller >= 0)
        if prepared.plan.threads > 1:
            task.place_helpers(where, grant, helper_nice(policy, nice), hand_over)
        return task.carry_out(undo)
    finally:
        SLOTS.give_back(grant)


def _with_positions(plan: policies.Plan, nodes: tuple[Node, ...], iter_func) -> _Prepared:
    """Ask the iterator where every chunk lies; it may refuse, and then nothing has run."""
    plan = iterators.relative(plan)
    positions = iterators.Positions(plan, nodes, iter_func)
    return prepare_plan(plan, positions.table, positions.translate)


def carry_out(plan: policies.Plan, ctl: Ctl, *, trace: bool = False) -> Result:
    """Run a given plan as it stands, without slots and placement.

    For checks of plans that were made for another machine: more threads than numba has here take turns.
    """
    entry, undo = bound(ctl)
    _warm()
    return Task(prepare_plan(plan), entry, trace=trace).carry_out(undo)


@lru_cache(maxsize=1)
def _warm() -> None:
    """Load or compile the engine on a task without chunks, so that no clock ever sees that."""
    numba.get_num_threads()  # loads numba's threading layer, whose functions compiled code calls by name
    require_threads(min(2, _MOST_THREADS) - 1)
    for threads in (1, min(2, _MOST_THREADS)):
        nothing = State(1, threads)
        nothing.header["n_parts"], nothing.header["n_threads"] = nothing.shape
        nothing.header["interrupt"] = nothing.address + HEADER.quiet
        with numba_threads(threads):
            worker.work(nothing.address)


class Task:
    """A running task: its state, and what it says when it stops."""

    def __init__(
        self,
        prepared: _Prepared,
        entry: Bound,
        *,
        trace: bool = False,
        live: Live | None = None,
        caller_pinned: bool = False,
    ):
        self.prepared, self.plan, self.state = prepared, prepared.plan, prepared.state.copy()
        self.caller_pinned = caller_pinned
        self.kept: list[Any] = [entry]  # what the state has addresses of has to live as long
        self.header, self.trace = self.state.header, None
        self.header["function"], self.header["args"] = entry[:2]
        self.header["interrupt"] = self.state.address + HEADER.quiet
        if trace:
            self.trace = np.zeros(prepared.n_chunks, dtype=TRACE_ROW)
            self.header["trace"] = self.trace.ctypes.data
        if live is not None:
            live.attach(self)

    def place_helpers(self, where: Site, grant: Grant, nice: int | None, hand_over: bool) -> None:
        """Have helpers kept to the CPUs granted and the caller off these, while it runs.

        Helpers run at the level `nice`, None for that of the caller.
        """
        require_threads(len(grant))
        wanted = masks(where, tuple(grant.cpus))
        self.kept.append(wanted)
        self.header["helper_masks"], self.header["caller_mask"] = wanted.helpers, wanted.caller
        self.header["own_mask"], self.header["after_mask"] = wanted.own, wanted.after
        self.header["mask_bytes"] = wanted.n_bytes
        if nice is not None:
            self.header["helper_nice"] = nice
            self.header["caller_nice"] = os.getpriority(os.PRIO_PROCESS, 0)
            self.header["hands_over"] = hand_over

    @property
    def has_own_nice(self) -> bool:
        """Whether helpers run at another nice level than the caller."""
        return bool(self.header["helper_nice"] != self.header["caller_nice"])

    def units_done(self) -> int:
        """Return the units whose chunks have ended; while workers run, those surely ended."""
        claimed = int(self._claimed().sum())
        chunks = max(claimed - self.plan.threads, int(self.state.workers["done"].sum()))
        return self.prepared.units * chunks // self.prepared.n_chunks

    def _claimed(self) -> np.ndarray:
        """Return the number of chunks handed out of each part."""
        return np.minimum(self.state.parts["next_chunk"], self.state.parts["n_chunks"])

    def carry_out(self, undo: Bound | None) -> Result:
        """Run to the end, to the first error or to a signal; undo after an error."""
        signals = interrupts()
        try:
            before = signals.arm()
            try:
                if before is not None:
                    self.header["interrupt"] = signals.address
                with numba_threads(self.plan.threads):
                    while not worker.work(self.state.address):
                        signals.take()
                        time.sleep(0)  # Python runs its signal handlers here; Ctrl-C leaves by an exception
            finally:
                signals.disarm(before)
        except BaseException as stop:
            self._explain(stop)
            raise
        return self.conclude(undo)

    def _explain(self, stop: Any) -> None:
        """Give an exception that ends the task the result so far, and a note of what is done."""
        finished = self._finished()
        stop.result = self.result(finished)
        ranges = ", ".join(f"{start} to {end}" for start, end in stop.result.finished[:8]) or "nothing"
        more = " and more (.result.finished)" if len(finished) > 8 else ""
        done = f"{stop.result.done} of {self.prepared.units} units: {ranges}{more} is done and stays"
        stop.add_note(f"ktask: stopped after {done}, the rest is not")

    def conclude(self, undo: Bound | None) -> Result:
        """Return what came of a task that is over, after undoing what has to be undone."""
        if not self.header["error"]:
            return self.result()
        finished = self._finished()
        if undo is None:
            return self.result(finished)
        undone = tuple(map(self.prepared.translate, finished))
        for start, end in undone:
            worker.call_once(undo[0], start, end, undo[1])
        return self.result([], undone=undone)

    def _failed(self) -> set[tuple[int, int]]:
        """Return part and chunk index of every failed chunk."""
        rows = self.state.workers[["failed_part", "failed_chunk"]].tolist()
        return {row for row in rows if row[0] >= 0}

    def _finished(self) -> list[Range]:
        """Return the ranges that are done, in order, without failed chunks."""
        return undo_ranges(self.plan, self._claimed().tolist(), self._failed())

    def _cpu_time_s(self, wall_s: float) -> tuple[float, float]:
        """Return the seconds in user mode and in the kernel: of the threads, in the ratio of the process."""
        header = self.header
        if wall_s < CPU_TIME_FROM_S or header["not_all_known"]:
            return math.nan, math.nan
        used_s, both_us = int(header["used_ns"]) / 1e9, int(header["user_us"] + header["system_us"])
        user_s = used_s * int(header["user_us"]) / both_us if both_us > 0 else 0.0
        return user_s, used_s - user_s

    def result(self, finished: list[Range] | None = None, undone: tuple[Range, ...] = ()) -> Result:
        """Return what came of the task; `finished` is None if all of it was done."""
        header, workers, translate = self.header, self.state.workers, self.prepared.translate
        failed = () if finished is None else sorted(self._failed())
        t0 = int(header["t0"])
        wall_s = (int(header["t1"]) - t0) / 1e9
        cpu_user_s, cpu_system_s = self._cpu_time_s(wall_s)
        return Result(
            error=int(header["error"]),
            threads=self.plan.threads,
            chunk_size=self.plan.chunk_size,
            n_chunks=self.prepared.n_chunks,
            policy=self.plan.policy,
            wall_s=wall_s,
            started_s=t0 / 1e9,
            cpu_user_s=cpu_user_s,
            cpu_system_s=cpu_system_s,
            pinned=bool(header["helper_masks"]),
            caller_pinned=self.caller_pinned,
            helper_nice=int(header["helper_nice"]) if self.has_own_nice else None,
            hands_over=bool(header["hands_over"]),
            watches_signals=int(header["interrupt"]) != self.state.address + HEADER.quiet,
            hand_overs=int(header["hand_overs"]),
            faults_minor=int(header["faults"]),
            ctx_involuntary=int(header["switches"]),
            chunks_per_thread=tuple(workers["done"].tolist()),
            cpu_of_thread=tuple(workers["cpu"].tolist()),
            ended_s=tuple((ended - t0) / 1e9 for ended in workers["ended"].tolist()),
            undone=undone,
            failed=tuple(translate(self.plan.chunk_bounds(part, chunk)) for part, chunk in failed),
            done=self.prepared.units if finished is None else sum(end - start for start, end in finished),
            finished=None if finished is None else tuple(map(translate, finished)),
            trace_rows=self._trace_rows(t0),
        )

    def _trace_rows(self, t0: int) -> list[list[Any]] | None:
        if self.trace is None:
            return None
        ran = self.trace[self.trace["t1"] > 0]
        return [[*row[:5], (row[5] - t0) / 1e9, (row[6] - t0) / 1e9] for row in ran.tolist()]
