"""A plan carried out by numba's parallel threads.

The whole state of a running task is one array of int64: a header, one row per node part, one row per worker.
A worker takes the next chunk of its part with one atomic addition, works out the bounds in closed form, and
calls the thread function by address; so one compiled engine, kept on disk, serves every task. An empty chunk
costs 5.7 ns on one thread and 10.5 ns on two (GCC OpenMP `schedule(dynamic,1)` costs about the same); the
parallel region itself takes 1.4 us when the helpers are awake.

Helpers exist, are compiled and sit on their CPUs before the clock starts. Starting a thread inside the timed
region would serialise on the very lock the kernel paths take: its stack is a new mapping.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numba
import numpy as np
from numba import njit, prange

from ktask import native, policy, topology
from ktask.limits import SLOTS, Grant
from ktask.native import call_chunk, compare_swap, fetch_add, load, load_byte, load_plain, store
from ktask.task import Ctl, Node, Result
from ktask.thread_functions import require_thread_func

# A row is two cache lines, so that no two workers or parts write to the same pair of lines.
_ROW = 16
(FUNCTION, ARGS, N_THREADS, N_PARTS, CHUNK, BOUNDS, TRACE, INTERRUPT, T0, T1) = range(10)
ERROR, STOP = _ROW, _ROW + 1  # written by workers, hence on lines of their own
_HEADER = 2 * _ROW
(P_START, P_END, P_CHUNKS, P_ORIGIN, P_OFFSET) = range(5)
P_NEXT = 8
(W_PART, W_DONE, W_FAILED_PART, W_FAILED_CHUNK, W_CPU, W_RANDOM, W_CLOCK) = range(7)
_TRACE_ROW = 7
_WORD = 8


@njit(cache=True, nogil=True)
def _other_part(base, me):
    """Return a random part with chunks left, or -1 (ktask: uniform over unfinished parts)."""
    n_parts = load_plain(base + _WORD * N_PARTS)
    left = 0
    for k in range(n_parts):
        row = base + _WORD * (_HEADER + _ROW * k)
        left += load(row + _WORD * P_NEXT) < load_plain(row + _WORD * P_CHUNKS)
    if left == 0:
        return -1
    seed = load_plain(me + _WORD * W_RANDOM)
    seed ^= (seed << 13) & 0x7FFFFFFFFFFFFFFF
    seed ^= seed >> 7
    seed ^= (seed << 17) & 0x7FFFFFFFFFFFFFFF
    store(me + _WORD * W_RANDOM, seed)
    skip = seed % left
    for k in range(n_parts):
        row = base + _WORD * (_HEADER + _ROW * k)
        if load(row + _WORD * P_NEXT) < load_plain(row + _WORD * P_CHUNKS):
            if skip == 0:
                return k
            skip -= 1
    return 0  # drained in the meantime; the next look finds out


@njit(cache=True, nogil=True)
def _bounds(base, row, i):
    """Return start and end of chunk `i` of the part at `row`."""
    table = load_plain(base + _WORD * BOUNDS)
    if table != 0:
        at = table + 2 * _WORD * (load_plain(row + _WORD * P_OFFSET) + i)
        return load_plain(at), load_plain(at + _WORD)
    size = load_plain(base + _WORD * CHUNK)
    start = load_plain(row + _WORD * P_ORIGIN) + i * size
    end = min(start + size, load_plain(row + _WORD * P_END))
    return max(start, load_plain(row + _WORD * P_START)), end


@njit(cache=True, nogil=True)
def _call_traced(base, row, me, w, i, start, end):
    """Call the thread function and write one row of the trace."""
    at = load_plain(base + _WORD * TRACE)
    at += _WORD * _TRACE_ROW * (load_plain(row + _WORD * P_OFFSET) + i)
    scratch = me + _WORD * W_CLOCK
    t0 = native.clock_ns(native.CLOCK_MONOTONIC, scratch)
    code = call_chunk(load_plain(base + _WORD * FUNCTION), start, end, load_plain(base + _WORD * ARGS))
    store(at + _WORD * 6, native.clock_ns(native.CLOCK_MONOTONIC, scratch))
    store(at + _WORD * 5, t0)
    store(at, load_plain(me + _WORD * W_PART))
    store(at + _WORD, w)
    store(at + _WORD * 2, native.sched_getcpu())
    store(at + _WORD * 3, start)
    store(at + _WORD * 4, end)
    return code


@njit(cache=True, nogil=True)
def _work(base, w):
    """Take and run chunks until there are none, one fails, or a signal arrives."""
    function, args = load_plain(base + _WORD * FUNCTION), load_plain(base + _WORD * ARGS)
    interrupt, traced = load_plain(base + _WORD * INTERRUPT), load_plain(base + _WORD * TRACE) != 0
    me = base + _WORD * (_HEADER + _ROW * (load_plain(base + _WORD * N_PARTS) + w))
    part = load_plain(me + _WORD * W_PART)
    done = 0
    while load(base + _WORD * STOP) == 0 and load_byte(interrupt) == 0:
        row = base + _WORD * (_HEADER + _ROW * part)
        i = fetch_add(row + _WORD * P_NEXT, 1)
        if i >= load_plain(row + _WORD * P_CHUNKS):
            part = _other_part(base, me)
            if part < 0:
                break
            store(me + _WORD * W_PART, part)
            continue
        start, end = _bounds(base, row, i)
        if traced:
            code = _call_traced(base, row, me, w, i, start, end)
        else:
            code = call_chunk(function, start, end, args)
        if code != 0:
            compare_swap(base + _WORD * ERROR, 0, code)
            store(base + _WORD * STOP, 1)
            store(me + _WORD * W_FAILED_PART, part)
            store(me + _WORD * W_FAILED_CHUNK, i)
            break
        done += 1
    store(me + _WORD * W_DONE, load_plain(me + _WORD * W_DONE) + done)
    store(me + _WORD * W_CPU, native.sched_getcpu())


@njit(cache=True, parallel=True, nogil=True)
def _parallel_work(state):
    """Run every worker on a thread of its own; worker 0 is the caller."""
    base = state.ctypes.data
    scratch = base + _WORD * (_ROW + 2)
    state[T0] = native.clock_ns(native.CLOCK_MONOTONIC, scratch)
    for w in prange(state[N_THREADS]):
        _work(base, w)
    state[T1] = native.clock_ns(native.CLOCK_MONOTONIC, scratch)


@njit(cache=True, nogil=True)
def _serial_work(state):
    """Run the caller alone, outside any parallel region."""
    base = state.ctypes.data
    scratch = base + _WORD * (_ROW + 2)
    state[T0] = native.clock_ns(native.CLOCK_MONOTONIC, scratch)
    _work(base, 0)
    state[T1] = native.clock_ns(native.CLOCK_MONOTONIC, scratch)


@njit(cache=True, parallel=True, nogil=True)
def _settle(masks):
    """Start the helpers if need be and put helper `w` on the CPUs of row `w` of `masks`."""
    for w in prange(masks.shape[0]):
        if w > 0:
            address = masks.ctypes.data + w * masks.shape[1]
            masks[w, 0] |= native.sched_setaffinity(0, masks.shape[1], address) * 0


class _Interrupts:
    """Lets compiled code see that a signal arrived, without Python running.

    Python's own C-level handler writes the number of each signal to the "wakeup" file at once. Here that
    file is a page of memory which the workers look at before every chunk; so Ctrl-C stops a task within one
    chunk. Only the main thread of a program receives signals; elsewhere the page stays zero.
    """

    def __init__(self):
        self.fd = os.memfd_create("ktask-interrupt", os.MFD_CLOEXEC)
        os.set_blocking(self.fd, False)
        os.ftruncate(self.fd, 4096)
        self._map = mmap.mmap(self.fd, 4096)
        self.page = np.frombuffer(self._map, dtype=np.uint8)
        self.address = self.page.ctypes.data

    def arm(self) -> int | None:
        """Direct wakeups here; return the file they went to before, None outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return None
        return signal.set_wakeup_fd(self.fd, warn_on_full_buffer=False)

    def disarm(self, before: int | None) -> None:
        """Send wakeups where they went, with those that arrived meanwhile."""
        if before is None:
            return
        signal.set_wakeup_fd(before)
        missed = self.take()
        if missed and before >= 0:
            with contextlib.suppress(OSError):
                os.write(before, missed)

    def take(self) -> bytes:
        """Return the signals that arrived, and forget them."""
        if not self.page[0]:
            return b""
        missed = bytes(self.page[self.page != 0])
        self.page[:] = 0
        os.lseek(self.fd, 0, os.SEEK_SET)
        return missed


_local = threading.local()  # libgomp keeps one team of helpers per calling thread


@lru_cache(maxsize=1)
def _interrupts() -> _Interrupts:
    return _Interrupts()


os.register_at_fork(after_in_child=_interrupts.cache_clear)


@contextlib.contextmanager
def keep_to(cpus: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread to `cpus`, and restore its affinity afterwards."""
    before = os.sched_getaffinity(0)
    if before == set(cpus) or not cpus:
        yield
        return
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@lru_cache(maxsize=64)
def _places(topo: topology.Topology, slots: tuple[int, ...], nids: tuple[int, ...]):
    """Return one CPU tuple per worker, the caller first.

    Slots are handed out from 0 upwards and CPUs from the last one downwards, so helpers of different
    processes never share a CPU, and the CPUs left over are for callers.
    """
    taken, helpers = set(), []
    cpus = topo.cpus
    for slot, nid in zip(slots, nids, strict=True):
        own = [c for c in (topo.cpus_of(nid) if nid >= 0 else cpus) if c not in taken] or list(cpus)
        cpu = own[-1 - slot % len(own)] if nid < 0 else own[-1]
        taken.add(cpu)
        helpers.append((cpu,))
    left = tuple(c for c in cpus if c not in taken)
    return (left or cpus, *helpers)


def prepare(places: Sequence[Sequence[int]]) -> None:
    """Have one helper running on each entry of `places` after the first, which is the caller's.

    Costs about 0.2 ms the first time and after a change of places, nothing otherwise.
    """
    places = tuple(tuple(p) for p in places)
    if getattr(_local, "places", None) == (os.getpid(), places):
        return
    width = max(c for place in places for c in place) // 64 * 8 + 8
    masks = np.zeros((len(places), width), dtype=np.uint8)
    for row, cpus in zip(masks, places, strict=True):
        for cpu in cpus:
            row[cpu // 8] |= 1 << (cpu % 8)
    with _threads(len(places)):
        _settle(masks)
    _local.places = (os.getpid(), places)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Let numba use `n` threads (at most as many as it has) in the next parallel region."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@lru_cache(maxsize=64)
def _machine(cpus: tuple[int, ...], caller_nid: int) -> tuple[topology.Topology, policy.Machine]:
    """Return what a policy may know of this machine, for a caller that may use `cpus`."""
    topo = topology.read_topology(cpus=cpus)
    return topo, machine_of(topo, topology.cpu_count(cpus=cpus), caller_nid)


def machine_of(topo: topology.Topology, n_cpus: int | None = None, caller_nid: int = 0) -> policy.Machine:
    """Return the policy's view of `topo`; `n_cpus` is its CPU count after quotas."""
    per_node = {node.nid: len(node.cpus) for node in topo.nodes}
    return policy.Machine(n_cpus or len(topo.cpus), per_node, caller_nid=caller_nid)


@lru_cache(maxsize=256)
def _cached_plan(cpus, caller_nid, name, parts, min_chunk, max_threads, align, helpers):
    machine = _machine(cpus, caller_nid)[1]
    return policy.make_plan(
        name, parts, min_chunk, max_threads, machine=machine, align=align, helpers=helpers
    )


def plan(nodes: Sequence[Node], ctl: Ctl, policy: str = "ktask-v4") -> policy.Plan:
    """Return threads, chunk size and chunk bounds for a task, as if nobody else used helpers.

    Runs nothing. `nodes` is a sequence of `ktask.Node`, or one of them.
    """
    return _cached_plan(*_key(nodes, ctl, policy), None)


def _key(nodes, ctl: Ctl, name: str):
    parts = (nodes,) if isinstance(nodes, Node) else tuple(nodes)
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    return cpus, _caller_nid(cpus), name, parts, ctl.min_chunk_size, ctl.max_threads, ctl.align


@lru_cache(maxsize=64)
def _single_node(cpus: tuple[int, ...]) -> int | None:
    nodes = topology.read_topology(cpus=cpus).nodes
    return nodes[0].nid if len(nodes) == 1 else None


def _caller_nid(cpus: tuple[int, ...]) -> int:
    """Return the node the caller runs on; asked anew only where there is more than one."""
    single = _single_node(cpus)
    if single is not None:
        return single
    return topology.read_topology(cpus=cpus).node_of(_current_cpu())


@njit(cache=True)
def _current_cpu():
    return native.sched_getcpu()


def run(start: int, size: int, ctl: Ctl, policy: str = "ktask-v4", *, trace: bool = False) -> Result:
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
    nid = _caller_nid(tuple(sorted(os.sched_getaffinity(0))))
    return run_numa((Node(start, size, nid),), ctl, policy, trace=trace)


def run_numa(
    nodes: Sequence[Node],
    ctl: Ctl,
    policy: str = "ktask-v4",
    *,
    trace: bool = False,
) -> Result:
    """Run a task whose parts lie on nodes; see `run`.

    Helpers start on the parts in turn and on the CPUs of the part's node; whoever finds its part empty goes
    on with a random unfinished one.
    """
    key = _key(nodes, ctl, policy)
    wish = _cached_plan(*key, None)
    entry = require_thread_func(ctl.thread_func).bind(ctl.args)
    undo = require_thread_func(ctl.undo_func, "undo_func").bind(ctl.args) if ctl.undo_func else None
    if wish.threads == 0:
        return Result(policy=policy, wall_s=0.0)
    _warm()
    topo, machine = _machine(*key[:2])
    with _slots(wish, machine) as grant:
        granted = wish if len(grant) == len(wish.helpers) else _cached_plan(*key, len(grant))
        with _placed(_places(topo, tuple(grant.slots), tuple(grant.nids))):
            task = _Task(granted, entry, trace)
            try:
                task.work()
            except BaseException as stop:
                stop.result = task.result()
                stop.add_note(
                    f"ktask: stopped after {stop.result.done} of {task.units} units; they stay done"
                )
                raise
            return task.result(undo)


@contextlib.contextmanager
def _slots(wish: policy.Plan, machine: policy.Machine) -> Iterator[Grant]:
    """Hold a slot per helper of `wish`, as far as there are any."""
    grant = SLOTS.take(wish.helper_queue_nid, machine.limit, machine.node_limits)
    try:
        yield grant
    finally:
        SLOTS.give_back(grant)


@contextlib.contextmanager
def _placed(places: tuple[tuple[int, ...], ...]) -> Iterator[None]:
    """Have helpers on their CPUs and the caller off them."""
    if len(places) == 1:
        yield
        return
    with keep_to(places[0]):
        prepare(places)
        yield


@lru_cache(maxsize=1)
def _warm() -> None:
    """Load or compile the engine on a task without chunks, so that no clock ever sees that."""
    nothing = np.zeros(_HEADER + 2 * _ROW, dtype=np.int64)
    nothing[[N_THREADS, N_PARTS, INTERRUPT]] = 1, 1, _interrupts().address
    _serial_work(nothing)
    _parallel_work(nothing)


class _Task:
    """The state of one running task, and what it says when it stops."""

    def __init__(self, plan: policy.Plan, entry: tuple[int, np.ndarray], trace: bool):
        self.plan, self.n_workers = plan, plan.threads
        self.units = sum(part.size for part in plan.parts)
        address, self.packed = entry
        n_parts = len(plan.parts)
        self.state = np.zeros(_HEADER + _ROW * (n_parts + self.n_workers), dtype=np.int64)
        self.parts = self.state[_HEADER : _HEADER + _ROW * n_parts].reshape(n_parts, _ROW)
        self.workers = self.state[_HEADER + _ROW * n_parts :].reshape(self.n_workers, _ROW)
        self.trace = np.zeros((plan.n_chunks, _TRACE_ROW), dtype=np.int64) if trace else None
        self.table = _table(plan) if plan.shrinking else None
        self.state[:INTERRUPT] = (
            address,
            self.packed.ctypes.data,
            self.n_workers,
            n_parts,
            plan.chunk_size,
            0 if self.table is None else self.table.ctypes.data,
            0 if self.trace is None else self.trace.ctypes.data,
        )
        self._fill_rows()

    def _fill_rows(self) -> None:
        offset = 0
        for k, part in enumerate(self.plan.parts):
            n_chunks = self.plan.part_chunks(k)
            self.parts[k, : P_OFFSET + 1] = part.start, part.end, n_chunks, self.plan.origin(k), offset
            offset += n_chunks
        for w, index in enumerate((0, *self.plan.helper_start_index)):
            self.workers[w, : W_RANDOM + 1] = index, 0, -1, -1, -1, 0x1E3779B97F4A7C15 // (w + 3)

    def work(self) -> None:
        """Run chunks until all are taken or one fails; let Python handle signals in between."""
        interrupts = _interrupts()
        self.state[INTERRUPT] = interrupts.address
        before = interrupts.arm()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        started = 0
        try:
            while True:
                self._region()
                started = started or int(self.state[T0])
                if not interrupts.take() or self._finished():
                    break
                time.sleep(0)  # Python runs its signal handlers here; Ctrl-C leaves by an exception
        finally:
            self.usage = _difference(resource.getrusage(resource.RUSAGE_SELF), usage)
            self.state[T0] = started or self.state[T0]
            interrupts.disarm(before)

    def _region(self) -> None:
        if self.n_workers == 1:
            _serial_work(self.state)
            return
        with _threads(self.n_workers):
            _parallel_work(self.state)

    def _finished(self) -> bool:
        return bool(self.state[STOP]) or bool((self.parts[:, P_NEXT] >= self.parts[:, P_CHUNKS]).all())

    def failed(self) -> list[tuple[int, int]]:
        """Return part and chunk index of every failed chunk."""
        rows = self.workers[self.workers[:, W_FAILED_PART] >= 0]
        return [(int(p), int(i)) for p, i in rows[:, [W_FAILED_PART, W_FAILED_CHUNK]]]

    def claimed(self) -> list[int]:
        """Return how many chunks of each part were handed out."""
        return np.minimum(self.parts[:, P_NEXT], self.parts[:, P_CHUNKS]).tolist()

    def result(self, undo: tuple[int, np.ndarray] | None = None) -> Result:
        """Return what came of the task, after undoing finished stretches if it failed."""
        error, failed, stretches = int(self.state[ERROR]), self.failed(), []
        finished = policy.undo_ranges(self.plan, self.claimed(), set(failed)) if error or undo is None else []
        if error and undo:
            stretches = finished
            for start, end in stretches:
                _call(undo[0], start, end, undo[1].ctypes.data)
        done = self.units if not error and self._finished() else _length(finished) - _length(stretches)
        return Result(
            error=error,
            threads=self.plan.threads,
            chunk_size=self.plan.chunk_size,
            n_chunks=self.plan.n_chunks,
            policy=self.plan.policy,
            wall_s=(int(self.state[T1]) - int(self.state[T0])) / 1e9,
            chunks_per_thread=tuple(self.workers[:, W_DONE].tolist()),
            cpu_of_thread=tuple(self.workers[:, W_CPU].tolist()),
            undone=tuple(stretches),
            failed=tuple(self.plan.chunk_bounds(p, i) for p, i in failed),
            done=done,
            trace_rows=self._trace_rows(),
            **self.usage,
        )

    def _trace_rows(self) -> np.ndarray | None:
        if self.trace is None:
            return None
        ran = self.trace[self.trace[:, 6] > 0]
        rows = ran.astype(object)
        rows[:, 5:] = (ran[:, 5:] - int(self.state[T0])) / 1e9
        return rows


def _length(stretches: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in stretches)


def _table(plan: policy.Plan) -> np.ndarray:
    """Return all chunk bounds of a plan that has no closed form, one row per chunk."""
    return np.array([bounds for part in plan.chunks() for bounds in part], dtype=np.int64)


@njit(cache=True, nogil=True)
def _call(function, start, end, args):
    return call_chunk(function, start, end, args)


def _difference(after, before) -> dict[str, float | int]:
    """Return what the process used between two readings of getrusage."""
    return {
        "cpu_user_s": after.ru_utime - before.ru_utime,
        "cpu_system_s": after.ru_stime - before.ru_stime,
        "faults_minor": after.ru_minflt - before.ru_minflt,
        "ctx_involuntary": after.ru_nivcsw - before.ru_nivcsw,
    }
