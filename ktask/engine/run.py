"""A task carried out: plan, slots, placement, the parallel region, and what came of it.

The compiled half is `worker.py`. Helpers exist, are compiled and sit on their CPUs before the clock starts:
starting a thread inside the timed region would serialise on the very lock the kernel paths take, because its
stack is a new mapping.
"""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np

from ktask.engine import iterators, worker
from ktask.engine import policy as policies
from ktask.engine.live import Live
from ktask.engine.placement import (
    HELPER_NICE,
    Places,
    are_placed,
    caller_masks,
    helper_tids,
    interrupts,
    may_renice,
    misplaced,
    places,
    prepare,
    require_threads,
)
from ktask.engine.slots import SLOTS, requests
from ktask.engine.task import Ctl, Node, Result
from ktask.engine.thread_functions import require_thread_func
from ktask.engine.worker import HEADER, ROW
from ktask.host import topology
from ktask.host.topology import Topology

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
        state[at + worker.W_PLACE] = -1
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
        One of `ktask.engine.policy.POLICIES`.
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
    options = PLAIN_RUN
    if trace or live is not None or low_priority is not None:
        options = _Options(trace, live, low_priority)
    elif (ready := getattr(ctl, "_ready", None)) and ready.what == (
        start,
        size,
        policy,
        type(start),
        type(size),
    ):
        result = ready.run()
        if result is not None:
            return result
    cpus = _allowed()
    topo, _ = _machine(cpus, None)
    parts = _range_part(start, size, _nid_here(topo))
    return _run(parts, ctl, policy, (cpus, None), options)


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
        `ktask.host.topology.Topology.by_hand({0: [0], 1: [1]})`.
    """
    return _run(_as_parts(nodes), ctl, policy, (_allowed(), topo), _Options(trace, live, low_priority))


class _Options(NamedTuple):
    """What is to be seen of a task, and the priority of its helpers."""

    trace: bool = False
    live: Live | None = None
    low_priority: bool | None = False


PLAIN, PLAIN_RUN = _Options(), _Options(low_priority=None)


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
        task.use(entry)
        wanted = places(topo, tuple(grant.slots), tuple(grant.nids)) if grant.slots else None
        if wanted:
            prepare(wanted)
            task.put_helpers_on(wanted, key[0])
            if _wants_low_priority(granted.plan.policy, options.low_priority):
                task.state[worker.WANTED_NICE] = HELPER_NICE
        if options.low_priority is None:
            task.remember_in(ctl)
        if granted is wish and options is PLAIN_RUN and not ctl.iter_func and len(topo.nodes) == 1:
            ctl._ready = _Ready(nodes[0], name, task, undo, grant, wanted, key[0])
        return task.carry_out(undo)
    finally:
        SLOTS.give_back(grant)


class _Ready:
    """A task with all that can be known before it runs, for the next time that `run` is asked for the same.

    Two empty chunks on two threads took 6 us from the call to its return instead of 20, and 26 us instead of
    69 with caches that hold none of it, as after writing to 8 MiB.
    """

    def __init__(self, node: Node, policy: str, task: Task, undo, grant, wanted, cpus):
        self.what = node.start, node.size, policy, int, int
        self.task = task.on(type(task.memory).from_buffer_copy(task.memory))
        self.undo, self.wanted = undo, wanted
        self.slots = grant.taken
        self.task.expect_caller_on(cpus)
        self.task.expect_slots(self.slots)
        self.memory, self.room = self.task.memory, type(self.task.memory)
        self.signals, self.region = self.task.signals, self.task.region

    def run(self) -> Result | None:
        """Return what came of it, or None if helpers, slots or CPUs are not as before and nothing has run.

        What runs before and after the compiled half is kept as short as can be: with cold caches a Python
        function costs about a microsecond.
        """
        signals, wanted, slots = self.signals, self.wanted, self.slots
        if signals is not interrupts() or (wanted is not None and not are_placed(wanted)):  # after a fork
            return None
        if slots and not SLOTS.hold(slots):
            return None
        memory = self.room.from_buffer_copy(self.memory)
        code = worker.LISTEN
        try:
            code = self.region(memory, _MOST_THREADS)
            if code == worker.LISTEN:
                code = self._listening(memory)
            if code == worker.DONE:
                return Result.later(self.result_of, memory)
            return self.task.on(memory).carry_out(self.undo, code)
        except BaseException as stop:
            self.task.on(memory).explain(stop)
            raise
        finally:
            (SLOTS.drop if code == worker.DONE else SLOTS.release)(slots)

    def _listening(self, memory) -> int:
        """Run the compiled half with signals directed at the workers; return its code.

        Nothing but what that needs: by way of `Task.carry_out`, which looks at the state with NumPy, 256 MiB
        zeroed by two threads took 230 us more with cold caches, 3.5 % of the whole.
        """
        before = self.signals.arm()
        memory[worker.INTERRUPT] = self.signals.address
        try:
            return self.region(memory, _MOST_THREADS)
        finally:
            self.signals.disarm(before)

    def result_of(self, memory) -> Result:
        """Return what came of a run, from its state."""
        return self.task.on(memory).result()


def _cpu_time(header: list[int]) -> tuple[float, float]:
    """Return the seconds in user mode and in the kernel: of the threads, in the ratio of the process."""
    user_s, system_s = header[worker.USED_USER_US] / 1e6, header[worker.USED_SYSTEM_US] / 1e6
    if header[worker.NOT_ALL_KNOWN]:
        return user_s, system_s
    used_s, both_s = header[worker.USED_NS] / 1e9, user_s + system_s
    in_user_s = used_s * user_s / both_s if both_s > 0 else 0.0
    return in_user_s, used_s - in_user_s


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


def carry_out(plan: policies.Plan, ctl: Ctl, *, trace: bool = False) -> Result:
    """Run a given plan as it stands, without slots and placement.

    For checks of plans that were made for another machine: more threads than numba has here take turns.
    """
    entry, undo = bound(ctl)
    _warm()
    task = Task(prepare_plan(plan), _Options(trace))
    task.use(entry)
    return task.carry_out(undo)


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
    nothing = np.zeros(HEADER + 3 * ROW, dtype=np.int64)
    nothing[worker.N_PARTS] = 1
    nothing[worker.INTERRUPT] = interrupts().address
    require_threads(min(2, _MOST_THREADS) - 1)
    for threads in (1, 2):
        nothing[worker.N_THREADS] = threads
        worker.entry()(nothing.ctypes.data, _MOST_THREADS)


@lru_cache(maxsize=256)
def _room(n_words: int) -> type:
    return ctypes.c_int64 * n_words


_MOST_THREADS = numba.config.NUMBA_NUM_THREADS


def _stopped(result: Result, units: int) -> str:
    """Return the sentence about a task that an exception has ended."""
    stretches = ", ".join(f"{start} to {end}" for start, end in result.finished[:8]) or "nothing"
    more = " and more (.result.finished)" if len(result.finished) > 8 else ""
    return (
        f"ktask: stopped after {result.done} of {units} units: {stretches}{more} is done and stays, "
        "the rest is not"
    )


class Task:
    """A running task: its state, and what it says when it stops."""

    options, trace = PLAIN, None

    def __init__(self, prepared: _Prepared, options: _Options = PLAIN):
        self.prepared, self.plan, self.options = prepared, prepared.plan, options
        self.memory = _room(prepared.state.size).from_buffer_copy(prepared.state)
        self.region, self.signals = worker.entry(), interrupts()
        if options.trace:
            self.trace = np.zeros((self.plan.n_chunks, worker.TRACE_ROW), dtype=np.int64)
            self.state[worker.TRACE] = self.trace.ctypes.data
        if prepared.table is not None:
            self.state[worker.BOUNDS] = prepared.table.ctypes.data
        if options.live is not None:
            options.live.attach(self)

    @cached_property
    def state(self) -> np.ndarray:
        """The words of `ktask.engine.worker`."""
        return np.frombuffer(self.memory, np.int64)

    @cached_property
    def parts(self) -> np.ndarray:
        """One row per part."""
        return self.state[HEADER : HEADER + ROW * len(self.plan.parts)].reshape(-1, ROW)

    @cached_property
    def workers(self) -> np.ndarray:
        """One row per worker."""
        return self.state[HEADER + ROW * len(self.plan.parts) :].reshape(-1, ROW)

    def on(self, memory) -> Task:
        """Return the same task with another state."""
        made = object.__new__(Task)
        made.prepared, made.plan, made.memory = self.prepared, self.plan, memory
        made.kept, made.signals, made.region = self.kept, self.signals, self.region
        return made

    def units_done(self) -> int:
        """Return the units whose chunks have ended; while workers run, those surely ended."""
        claimed = np.minimum(self.parts[:, worker.P_NEXT], self.parts[:, worker.P_CHUNKS]).sum()
        chunks = max(int(claimed) - self.plan.threads, int(self.workers[:, worker.W_DONE].sum()))
        return self.prepared.units * chunks // self.prepared.n_chunks

    def put_helpers_on(self, wanted: Places, own: tuple[int, ...]) -> None:
        """Have the caller stay off the helpers' CPUs while the clock runs, and go back to its `own` then."""
        masks = caller_masks(wanted.caller, own)
        self.state[worker.CALLER_MASK : worker.CALLER_MASK + 3] = masks[:3]
        self.workers[1:, worker.W_PLACE] = wanted.helpers
        tids = helper_tids()
        self.state[worker.HELPER_TIDS] = tids.ctypes.data
        self.kept += (masks, tids)

    def remember_in(self, ctl: Ctl) -> None:
        """Keep with a control block how long this takes, and see there whether the next run will be short."""
        last = ctl.__dict__.setdefault("_last", np.zeros(2, np.int64))
        self.state[[worker.UNITS, worker.LAST]] = self.prepared.units, last.ctypes.data
        self.kept += (last,)

    def listen(self) -> None:
        """Have the workers look where signals arrive."""
        self.state[worker.INTERRUPT] = self.signals.address

    def expect_caller_on(self, cpus: tuple[int, ...]) -> None:
        """Run only if the caller may use these CPUs and no others."""
        masks = caller_masks(cpus, cpus)
        self.state[[worker.HOME_MASK, worker.HOME_BYTES]] = masks.after, masks.n_bytes
        self.kept += (masks,)

    def expect_slots(self, slots: tuple[int, ...]) -> None:
        """Run only if these helper slots can be locked; leave them locked only if there is more to see."""
        if slots and SLOTS.fd is not None:
            wanted = requests(slots)
            self.state[worker.SLOTS_FD : worker.SLOTS_FD + 3] = SLOTS.fd, len(slots), wanted.ctypes.data
            self.kept += (wanted,)

    def use(self, entry: Bound) -> None:
        """Make `entry` what the workers call."""
        self.kept = (entry,)  # the packed arguments have to live as long as the task
        self.state[worker.FUNCTION], self.state[worker.ARGS] = entry[:2]

    def carry_out(self, undo: Bound | None, code: int = worker.LISTEN) -> Result | None:
        """Run to the end, to the first error or to a signal; undo after an error.

        `code` is what the compiled half has returned so far. Returns None, and has done nothing, if CPUs or
        slots that were expected could not be had.
        """
        try:
            code = self._work(code)
        except BaseException as stop:
            self.explain(stop)
            raise
        if code == worker.DONE:
            return Result.later(Task.result, self)
        if code == worker.MOVED:
            return None
        cpu, place = self.workers[1:, worker.W_CPU], self.workers[1:, worker.W_PLACE]
        if ((place >= 0) & (place != cpu)).any():
            misplaced()
        return self.conclude(undo)

    def conclude(self, undo: Bound | None) -> Result:
        """Return what came of a task that is over, after undoing what has to be undone."""
        if not self.state[worker.ERROR]:
            return self.result()
        finished = self._finished()
        if undo is None:
            return self.result(finished)
        undone = tuple(map(self.prepared.translate, finished))
        for start, end in undone:
            worker.call_once(undo[0], start, end, undo[1])
        return self.result([], undone=undone)

    def explain(self, stop: BaseException) -> None:
        """Have an exception that ended the task say how far it came."""
        if not hasattr(stop, "result"):
            stop.result = self.result(finished=self._finished())
            stop.add_note(_stopped(stop.result, self.prepared.units))

    def _work(self, code: int) -> int:
        """Run chunks until all are taken or one fails; let Python handle signals in between."""
        if code == worker.MOVED or self._is_over():
            return code
        signals = self.signals
        before = signals.arm()
        self.listen()
        if code == worker.LOOK:  # it has begun, and goes on wherever the caller may have been put
            self.state[worker.HOME_MASK] = 0
        try:
            code = self.region(self.memory, _MOST_THREADS)
            while code == worker.LOOK and not self._is_over() and signals.take():
                time.sleep(0)  # Python runs its signal handlers here; Ctrl-C leaves by an exception
                self.state[worker.HOME_MASK] = 0  # it goes on wherever a handler may have put the caller
                code = self.region(self.memory, _MOST_THREADS)
        finally:
            signals.disarm(before)
        return code

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

    def result(self, finished: list[Range] | None = None, undone: tuple[Range, ...] = ()) -> Result:
        """Return what came of the task; `finished` is None if all of it was done."""
        done = self.prepared.units if finished is None else sum(end - start for start, end in finished)
        failed = () if finished is None else sorted(self._failed())
        header = self.state[:HEADER].tolist()
        cpu_user_s, cpu_system_s = _cpu_time(header)
        chunks_done, *_, cpus = zip(*self.workers[:, worker.W_DONE : worker.W_CPU + 1].tolist(), strict=True)
        return Result(
            error=header[worker.ERROR],
            threads=self.plan.threads,
            chunk_size=self.plan.chunk_size,
            n_chunks=self.prepared.n_chunks,
            policy=self.plan.policy,
            wall_s=(header[worker.T1] - header[worker.T0]) / 1e9,
            cpu_user_s=cpu_user_s,
            cpu_system_s=cpu_system_s,
            helper_nice=header[worker.HELPER_NICE] or None,
            hand_overs=header[worker.HAND_OVERS],
            faults_minor=header[worker.USED_FAULTS],
            ctx_involuntary=header[worker.USED_SWITCHES],
            chunks_per_thread=chunks_done,
            cpu_of_thread=cpus,
            ended_s=tuple((end - header[worker.T0]) / 1e9 for end in self.workers[:, worker.W_END].tolist()),
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
