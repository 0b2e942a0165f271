"""A task carried out: plan, slots, placement, the parallel region, and what came of it.

The compiled half is `worker.py`. Helpers exist, are compiled and sit on their CPUs before the clock starts:
starting a thread inside the timed region would serialise on the very lock the kernel paths take, because its
stack is a new mapping.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads

from ktask import iterators, topology, worker
from ktask import policy as policies
from ktask.helpers import (
    HELPER_NICE,
    Places,
    caller_masks,
    interrupts,
    may_renice,
    misplaced,
    numba_threads,
    places,
    prepare,
)
from ktask.limits import SLOTS
from ktask.live import Live
from ktask.task import Ctl, Node, Result
from ktask.thread_functions import require_thread_func
from ktask.topology import Topology
from ktask.worker import HEADER, ROW

Range = tuple[int, int]


# --- planning ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """A plan, the state array to start from, and chunk bounds where no formula gives them."""

    plan: policies.Plan
    state: np.ndarray
    table: np.ndarray | None
    translate: Callable[[Range], Range] = tuple  # a range of units lies where it says, unless iterators say

    @cached_property
    def units(self) -> int:
        return sum(part.size for part in self.plan.parts)

    @cached_property
    def n_chunks(self) -> int:
        return self.plan.n_chunks


@lru_cache(maxsize=64)
def _machine(cpus: tuple[int, ...], topo: Topology | None) -> tuple[Topology, policies.Machine]:
    """Return the layout of the CPUs that a caller may use, and what a policy may know of it."""
    n_cpus = topology.cpu_count(cpus=cpus) if topo is None else len(topo.cpus)
    topo = topo or topology.read_topology(cpus=cpus)
    per_node = {node.nid: len(node.cpus) for node in topo.nodes}
    return topo, policies.Machine(n_cpus, per_node, caller_nid=_nid_here(topo))


def _nid_here(topo: Topology) -> int:
    """Return the node the caller runs on."""
    if len(topo.nodes) == 1:
        return topo.nodes[0].nid
    here = worker.current_cpu()
    return topo.node_of(here) if here in topo.cpus else topo.nodes[0].nid


@lru_cache(maxsize=256, typed=True)
def _range_part(start: int, size: int, nid: int) -> tuple[Node, ...]:
    return (Node(start, size, nid),)


@lru_cache(maxsize=256)
def _prepared(
    cpus: tuple[int, ...],
    topo: Topology | None,
    name: str,
    parts: tuple[Node, ...],
    min_chunk: int,
    max_threads: int,
    align: int,
    helpers: int | None,
) -> _Prepared:
    """Return everything about a task that does not change from one run to the next."""
    machine = _machine(cpus, topo)[1]
    return prepare_plan(
        policies.make_plan(name, parts, min_chunk, max_threads, machine=machine, align=align, helpers=helpers)
    )


def prepare_plan(plan: policies.Plan, table: np.ndarray | None = None) -> _Prepared:
    """Return a plan with the state array and, where no formula gives them, the bounds of its chunks."""
    if plan.shrinking and table is None:
        table = np.array([bounds for part in plan.chunks() for bounds in part], dtype=np.int64)
    return _Prepared(plan, _initial_state(plan), table)


def _initial_state(plan: policies.Plan) -> np.ndarray:
    """Return header and rows of a task of which nothing is done."""
    state = np.zeros(HEADER + ROW * (len(plan.parts) + plan.threads), dtype=np.int64)
    state[worker.N_THREADS], state[worker.N_PARTS] = plan.threads, len(plan.parts)
    state[worker.CHUNK] = plan.chunk_size
    offset = 0
    for k, part in enumerate(plan.parts):
        n_chunks, at = plan.part_chunks(k), HEADER + ROW * k
        state[at : at + 5] = part.start, part.end, n_chunks, plan.origin(k), offset
        offset += n_chunks
    for w, index in enumerate((0, *plan.helper_start_index)[: plan.threads]):
        at = HEADER + ROW * (len(plan.parts) + w)
        state[at : at + 6] = index, 0, -1, -1, -1, 0x1E3779B97F4A7C15 // (w + 3)
    return state


def _key(parts: tuple[Node, ...], ctl: Ctl, name: str, cpus: tuple[int, ...], topo: Topology | None):
    if topo is not None and not set(topo.cpus) <= set(cpus):
        raise ValueError(f"topo has CPUs {topo.cpus}; this process may use {cpus}")
    if ctl.iter_func:
        parts = iterators.unit_parts(parts)
    return cpus, topo, name, parts, ctl.min_chunk_size, ctl.max_threads, ctl.align


def _allowed() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def _as_parts(nodes: Node | Sequence[Node]) -> tuple[Node, ...]:
    parts = (nodes,) if isinstance(nodes, Node) else tuple(nodes)
    for part in parts:
        if not isinstance(part, Node):
            raise TypeError(f"{part!r} is not a ktask.Node; use ktask.Node(start, size, nid)")
    return parts


def plan(
    nodes: Node | Sequence[Node], ctl: Ctl, policy: str = "ktask-v4", *, topo: Topology | None = None
) -> policies.Plan:
    """Return threads, chunk size and chunk bounds of a task, as if nobody else used helpers.

    Runs nothing. Parameters and errors are those of `run_numa`.
    """
    return _wish(_key(_as_parts(nodes), ctl, policy, _allowed(), topo)).plan


def _wish(key) -> _Prepared:
    """Return the task with as many helpers as it gets on a machine where nobody else uses any.

    That is the policy's own answer, within the slots of this machine: a policy without limits of its own is
    held to 4/5 of the CPUs as well.
    """
    prepared, limit = _prepared(*key, None), _machine(*key[:2])[1].limit
    return prepared if len(prepared.plan.helpers) <= limit else _prepared(*key, limit)


# --- running -------------------------------------------------------------------------------------------


def run(
    start: int,
    size: int,
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    trace: bool = False,
    live: Live | None = None,
    low_priority: bool | None = None,
) -> Result:
    """Run `ctl.thread_func` over `[start, start + size)` in chunks, on as many threads as the policy says.

    Parameters
    ----------
    start, size
        Range of the task in units of the caller's choice.
    ctl
        The control block.
    policy
        One of `ktask.policy.POLICIES`.
    trace
        Keep one row per chunk (`Result.trace`).
    live
        Shows how far the task is, to any thread, while it runs (`ktask.Live`, or `ktask.Bar`).
    low_priority
        Run helpers at nice 19, and have the caller, once out of chunks, hand its priority to one unfinished
        helper at a time. By default as the policy says, where the process may undo it afterwards.

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
    cpus = _allowed()
    topo, _ = _machine(cpus, None)
    parts = _range_part(start, size, _nid_here(topo))
    return _run(parts, ctl, policy, (cpus, None), _Options(trace, live, low_priority))


def run_numa(
    nodes: Node | Sequence[Node],
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    topo: Topology | None = None,
    trace: bool = False,
    live: Live | None = None,
    low_priority: bool | None = None,
) -> Result:
    """Run a task whose parts lie on nodes; see `run`.

    Helpers start on the parts in turn and on the CPUs of the part's node. Whoever finds its part empty goes
    on with a random unfinished one, in place.

    Parameters
    ----------
    nodes
        One `ktask.Node(start, size, nid)` per part; nid -1 is any node.
    topo
        CPUs by node if they are not to be read from the machine, for tests and studies:
        `ktask.topology.Topology.by_hand({0: [0], 1: [1]})`.
    """
    return _run(_as_parts(nodes), ctl, policy, (_allowed(), topo), _Options(trace, live, low_priority))


class _Options(NamedTuple):
    """What is to be seen of a task, and the priority of its helpers."""

    trace: bool = False
    live: Live | None = None
    low_priority: bool | None = False


PLAIN = _Options()


def _run(nodes: tuple[Node, ...], ctl: Ctl, name: str, where, options: _Options) -> Result:
    key = _key(nodes, ctl, name, *where)
    wish = _wish(key)
    entry, undo = bound(ctl)
    if wish.plan.threads == 0:
        return Result(policy=wish.plan.policy, wall_s=0.0)
    _warm()
    topo, machine = _machine(*key[:2])
    grant = SLOTS.take(wish.plan.helper_queue_nid, machine.limit, machine.node_limits)
    try:
        granted = wish if len(grant) == wish.plan.threads - 1 else _prepared(*key, len(grant))
        if ctl.iter_func:
            granted = _with_positions(granted, nodes, ctl.iter_func)
        task = Task(granted, options)
        if not grant.slots:
            return task.carry_out(entry, undo)
        if options.low_priority is None and _was_short(ctl, granted.units):
            task.state[worker.SHORT] = 1
        elif _wants_low_priority(granted.plan.policy, options.low_priority):
            task.renice_helpers()
        wanted = places(topo, tuple(grant.slots), tuple(grant.nids))
        result = _with_helpers(task, entry, undo, key[0], wanted)
        ctl._last = result.wall_s, granted.units
        return result
    finally:
        SLOTS.give_back(grant)


SHORT_S = 50e-6


def _was_short(ctl: Ctl, units: int) -> bool:
    """Return whether the last run of `ctl` says that this one will be over in no time.

    Such a task is left without priorities, and without pinning a caller who is on a CPU of its own anyway:
    the four system calls took 7 of the 24 us of a task with two empty chunks.
    """
    wall_s, last_units = getattr(ctl, "_last", (math.inf, 1))
    return wall_s * units < SHORT_S * last_units


def _wants_low_priority(name: str, asked: bool | None) -> bool:
    """Return whether helpers are to run at low priority; warn if that was asked for and cannot be."""
    wanted = policies.POLICIES[name].low_priority if asked is None else asked
    if not wanted or may_renice():
        return wanted
    if asked:
        warnings.warn(
            "helpers keep the caller's priority: this process could not raise them again afterwards "
            "(it needs CAP_SYS_NICE or a higher RLIMIT_NICE)",
            RuntimeWarning,
            stacklevel=5,
        )
    return False


def _with_positions(granted: _Prepared, nodes: tuple[Node, ...], iter_func) -> _Prepared:
    """Ask the iterator where every chunk lies; it may refuse, and then nothing has run."""
    plan = iterators.relative(granted.plan)
    positions = iterators.Positions(plan, nodes, iter_func)
    return replace(prepare_plan(plan), table=positions.table, translate=positions.translate)


def _with_helpers(task: Task, entry, undo, cpus: tuple[int, ...], wanted: Places) -> Result:
    """Carry a task out with the helpers on their CPUs and the caller off them; `cpus` are its own."""
    prepare(wanted)
    task.keep_caller_to(wanted.caller, cpus)
    result = task.carry_out(entry, undo)
    if result.cpu_of_thread[1:] != wanted.helpers:
        misplaced()
    return result


def carry_out(plan: policies.Plan, ctl: Ctl, *, trace: bool = False) -> Result:
    """Run a given plan as it stands, without slots and placement.

    For checks of plans that were made for another machine: more threads than numba has here take turns.
    """
    entry, undo = bound(ctl)
    _warm()
    return Task(prepare_plan(plan), _Options(trace)).carry_out(entry, undo)


Bound = tuple[int, int, np.ndarray]  # addresses of a thread function and its packed arguments; these


def bound(ctl: Ctl) -> tuple[Bound, Bound | None]:
    """Return the compiled functions of `ctl`, kept there until functions or arguments change."""
    kept = getattr(ctl, "_kept", None)
    if kept and kept[0] is ctl.thread_func and kept[1] is ctl.undo_func and kept[2] is ctl.args:
        return kept[3]
    entry = require_thread_func(ctl.thread_func).bind(ctl.args)
    undo = require_thread_func(ctl.undo_func, "undo_func").bind(ctl.args) if ctl.undo_func else None
    ctl._kept = (ctl.thread_func, ctl.undo_func, ctl.args, (entry, undo))
    return entry, undo


@lru_cache(maxsize=1)
def _warm() -> None:
    """Load or compile the engine on a task without chunks, so that no clock ever sees that."""
    nothing = np.zeros(HEADER + 2 * ROW, dtype=np.int64)
    nothing[[worker.N_THREADS, worker.N_PARTS]] = 1
    nothing[worker.INTERRUPT] = interrupts().address
    worker.serial_work(nothing)
    worker.parallel_work(nothing)


def _stopped(result: Result, units: int) -> str:
    """Return the sentence about a task that an exception has ended."""
    stretches = ", ".join(f"{start} to {end}" for start, end in result.finished[:8]) or "nothing"
    more = " and more (.result.finished)" if len(result.finished) > 8 else ""
    return (
        f"ktask: stopped after {result.done} of {units} units: {stretches}{more} is done and stays, "
        "the rest is not"
    )


class Task:
    """A running task: its state array, and what it says when it stops."""

    def __init__(self, prepared: _Prepared, options: _Options = PLAIN):
        self.prepared, self.plan = prepared, prepared.plan
        self.state = prepared.state.copy()
        self.helper_nice: int | None = None
        self.state[worker.INTERRUPT] = interrupts().address
        self.trace = None
        if options.trace:
            self.trace = np.zeros((self.plan.n_chunks, worker.TRACE_ROW), dtype=np.int64)
            self.state[worker.TRACE] = self.trace.ctypes.data
        if prepared.table is not None:
            self.state[worker.BOUNDS] = prepared.table.ctypes.data
        n_parts = len(self.plan.parts)
        self.parts = self.state[HEADER : HEADER + ROW * n_parts].reshape(n_parts, ROW)
        self.workers = self.state[HEADER + ROW * n_parts :].reshape(self.plan.threads, ROW)
        if options.live is not None:
            options.live.attach(self)

    def units_done(self) -> int:
        """Return the units whose chunks have ended; while workers run, those surely ended."""
        claimed = np.minimum(self.parts[:, worker.P_NEXT], self.parts[:, worker.P_CHUNKS]).sum()
        chunks = max(int(claimed) - self.plan.threads, int(self.workers[:, worker.W_DONE].sum()))
        return self.prepared.units * chunks // self.prepared.n_chunks

    def keep_caller_to(self, cpus: tuple[int, ...], own: tuple[int, ...]) -> None:
        """Have the caller stay on `cpus` while the clock runs, and go back to its `own` afterwards."""
        self.masks = caller_masks(cpus, own)
        self.state[worker.CALLER_MASK : worker.CALLER_MASK + 3] = self.masks[:3]

    def renice_helpers(self) -> None:
        """Have helpers run at nice 19, and the caller hand its own level over at the end."""
        self.helper_nice = HELPER_NICE
        own_nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.state[worker.HELPER_NICE], self.state[worker.CALLER_NICE] = HELPER_NICE, own_nice

    def use(self, entry: Bound) -> None:
        """Make `entry` what the workers call."""
        self.entry = entry  # the packed arguments have to live as long as the task
        self.state[worker.FUNCTION], self.state[worker.ARGS] = entry[:2]

    def carry_out(self, entry: Bound, undo: Bound | None) -> Result:
        """Run to the end, to the first error or to a signal; undo after an error."""
        self.use(entry)
        try:
            self._work()
        except BaseException as stop:
            stop.result = self.result(finished=self._finished())
            stop.add_note(_stopped(stop.result, self.prepared.units))
            raise
        return self.conclude(undo)

    def conclude(self, undo: Bound | None) -> Result:
        """Return what came of a task that is over, after undoing what has to be undone."""
        if not self.state[worker.ERROR]:
            return self.result(finished=None)
        finished = self._finished()
        if undo is None:
            return self.result(finished)
        undone = tuple(map(self.prepared.translate, finished))
        for start, end in undone:
            worker.call_once(undo[0], start, end, undo[1])
        return self.result([], undone=undone)

    def _work(self) -> None:
        """Run chunks until all are taken or one fails; let Python handle signals in between."""
        signals = interrupts()
        before = signals.arm()
        try:
            while True:
                self._region()
                if not signals.take() or self._is_over():
                    break
                time.sleep(0)  # Python runs its signal handlers here; Ctrl-C leaves by an exception
        finally:
            signals.disarm(before)

    def _region(self) -> None:
        if self.plan.threads == 1:
            worker.serial_work(self.state)
        elif get_num_threads() == self.plan.threads:
            worker.parallel_work(self.state)
        else:
            with numba_threads(self.plan.threads):
                worker.parallel_work(self.state)

    def _is_over(self) -> bool:
        if self.state[worker.STOP]:
            return True
        return bool((self.parts[:, worker.P_NEXT] >= self.parts[:, worker.P_CHUNKS]).all())

    def _failed(self) -> set[tuple[int, int]]:
        """Return part and chunk index of every failed chunk."""
        columns = [worker.W_FAILED_PART, worker.W_FAILED_CHUNK]
        return {(p, i) for p, i in self.workers[:, columns].tolist() if p >= 0}

    def _finished(self) -> list[Range]:
        """Return the stretches that are done, in order, without failed chunks."""
        claimed = np.minimum(self.parts[:, worker.P_NEXT], self.parts[:, worker.P_CHUNKS]).tolist()
        return policies.undo_ranges(self.plan, claimed, self._failed())

    def result(self, finished: list[Range] | None, undone: tuple[Range, ...] = ()) -> Result:
        """Return what came of the task; `finished` is None if all of it was done."""
        done = self.prepared.units if finished is None else sum(end - start for start, end in finished)
        failed = () if finished is None else sorted(self._failed())
        header = self.state[: 2 * ROW].tolist()
        chunks_done, *_, cpus = zip(*self.workers[:, worker.W_DONE : worker.W_CPU + 1].tolist(), strict=True)
        return Result(
            error=header[worker.ERROR],
            threads=self.plan.threads,
            chunk_size=self.plan.chunk_size,
            n_chunks=self.prepared.n_chunks,
            policy=self.plan.policy,
            wall_s=(header[worker.T1] - header[worker.T0]) / 1e9,
            cpu_user_s=header[worker.USED_USER_US] / 1e6,
            cpu_system_s=header[worker.USED_SYSTEM_US] / 1e6,
            helper_nice=self.helper_nice,
            hand_overs=header[worker.HAND_OVERS],
            faults_minor=header[worker.USED_FAULTS],
            ctx_involuntary=header[worker.USED_SWITCHES],
            chunks_per_thread=chunks_done,
            cpu_of_thread=cpus,
            undone=undone,
            failed=tuple(self.prepared.translate(self.plan.chunk_bounds(p, i)) for p, i in failed),
            done=done,
            finished=None if finished is None else tuple(map(self.prepared.translate, finished)),
            trace_rows=None if self.trace is None else self._trace_rows(),
        )

    def _trace_rows(self) -> list[list[Any]]:
        ran = self.trace[self.trace[:, -1] > 0]
        t0 = int(self.state[worker.T0])
        return [[*row[:5], (row[5] - t0) / 1e9, (row[6] - t0) / 1e9] for row in ran.tolist()]
