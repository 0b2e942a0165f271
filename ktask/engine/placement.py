"""Where a task may run and its helpers sit; whether they may be reniced; how signals reach workers."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from ktask.engine import cpu_order, policy, worker
from ktask.engine.slots import SLOTS
from ktask.host import topology
from ktask.host.cpus import Topology

HELPER_NICE = 19  # MAX_NICE: helpers get CPU time in proportion to idle time (ktask v4, 2018-11-05)


@dataclass(frozen=True, eq=False)
class Site:
    """Where a caller may run: its CPUs, their layout, and what a policy may know of them.

    Attributes
    ----------
    cpus
        All that the caller may use.
    topo
        Their layout, or that of those to be used.
    machine
        What a policy may know of them.
    placement
        One of `cpu_order.PLACEMENTS`.
    memory_nid
        The node of memory of which a task does not say where it lies, -1 if that is not known.
    caller
        The CPU that the caller is kept to, -1 if it is free to move.
    """

    cpus: tuple[int, ...]
    topo: Topology
    machine: policy.Machine
    placement: str = cpu_order.DEFAULT
    memory_nid: int = cpu_order.ANYWHERE
    caller: int = -1


_local = threading.local()


def site(topo: Topology | None = None, placement: str | None = None) -> Site:
    """Return where the caller may run now, always the same object for the same answer.

    Parameters
    ----------
    topo
        The layout of the CPUs if it is not to be read from the machine.
    placement
        The order in which CPUs are taken; that of `placed`, or else the usual one, if left out.
    """
    cpus = topology.allowed_cpus()
    if topo is not None and not set(topo.cpus) <= set(cpus):
        raise ValueError(f"topo has CPUs {topo.cpus}; this process may use {cpus}")
    n_cpus = _cpu_count(cpus) if topo is None else len(topo.cpus)
    topo = topo or _topology(cpus)
    if placement:
        cpu_order.require(topo, placement)
    usual, *kept = getattr(_local, "placed", (cpu_order.DEFAULT, cpu_order.ANYWHERE, -1))
    return _site(cpus, n_cpus, topo, _nid_here(topo), placement or usual, *kept)


@lru_cache(maxsize=64)
def _cpu_count(cpus: tuple[int, ...]) -> int:
    return topology.cpu_count(cpus=cpus)


@lru_cache(maxsize=64)
def _topology(cpus: tuple[int, ...]) -> Topology:
    return topology.read_topology(cpus=cpus)


@lru_cache(maxsize=64)
def _site(cpus: tuple[int, ...], n_cpus: int, topo: Topology, nid: int, placement: str, *kept: int) -> Site:
    per_node = dict.fromkeys(topo.memory_nids, 0) | {node.nid: len(node.cpus) for node in topo.nodes}
    # Helpers beyond the threads of numba would take turns: it has as many as CPUs when it is imported.
    limit = min(4 * n_cpus // 5, numba.config.NUMBA_NUM_THREADS - 1)
    machine = policy.Machine(n_cpus, per_node, limit=limit, caller_nid=nid)
    return Site(cpus, topo, machine, placement, *kept)


def _nid_here(topo: Topology) -> int:
    """Return the node the caller runs on."""
    if len(topo.nodes) == 1:
        return topo.nodes[0].nid
    here = worker.current_cpu()
    return topo.node_of(here) if here in topo.by_number else topo.nodes[0].nid


@contextlib.contextmanager
def placed(placement: str = cpu_order.DEFAULT, memory_nid: int = cpu_order.ANYWHERE) -> Iterator[int]:
    """Keep the calling thread to the first free CPU of a placement for the block, and give that CPU.

    Tasks that it runs in the block put their helpers on the CPUs that come next. So all of a measurement,
    with what prepares and checks it, has one caller on one CPU, with threads or without.
    """
    numba.get_num_threads()  # loads libgomp, which counts the CPUs then: with one, its threads never spin
    order = cpu_order.order(site(placement=placement).topo, placement, memory_nid)
    before = getattr(_local, "placed", None)
    with SLOTS.cpu(order) as cpu, topology.kept_to(cpu):
        _local.placed = placement, memory_nid, cpu
        try:
            yield cpu
        finally:
            if before is None:
                del _local.placed
            else:
                _local.placed = before


def cpus_in_order() -> tuple[int, ...]:
    """Return all CPUs as a task of this caller takes them: its own, those of its helpers, and the others."""
    where = site()
    order = cpu_order.order(where.topo, where.placement, where.memory_nid, where.machine.caller_nid)
    caller = order[0] if where.caller < 0 else where.caller
    return tuple(dict.fromkeys((caller, *order, *where.topo.cpus)))


@lru_cache(maxsize=256)
def helper_orders(where: Site, nids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return for each helper the CPUs that it may have, the best one first; never that of the caller.

    `nids` says for each thread, the caller first, on which node the memory lies that it begins with.
    """
    found = {nid: cpu_order.order(where.topo, where.placement, nid, where.machine.caller_nid) for nid in nids}
    caller = found[nids[0]][0] if where.caller < 0 else where.caller
    others = {nid: tuple(cpu for cpu in order if cpu != caller) or order for nid, order in found.items()}
    return tuple(others[nid] for nid in nids[1:])


class Interrupts:
    """Lets compiled code see that a signal arrived, without Python running.

    Python's own C-level handler writes the number of each signal to the "wakeup" file at once. Here that
    file is a page of memory which the workers look at before every chunk; so Ctrl-C stops a task within one
    chunk. Only the main thread of a program receives signals; elsewhere the page stays zero.
    """

    def __init__(self):
        self.fd = os.memfd_create("ktask-interrupt", os.MFD_CLOEXEC)
        os.set_blocking(self.fd, False)  # Python insists
        os.ftruncate(self.fd, mmap.PAGESIZE)
        self._map = mmap.mmap(self.fd, mmap.PAGESIZE)
        self.page = np.frombuffer(self._map, dtype=np.uint8)
        self.address = self.page.ctypes.data
        self.main = threading.main_thread().ident

    def arm(self) -> int | None:
        """Direct wakeups here; return the file they went to before, None outside the main thread."""
        if threading.get_ident() != self.main:
            return None
        return signal.set_wakeup_fd(self.fd, warn_on_full_buffer=False)

    def disarm(self, before: int | None) -> None:
        """Send wakeups where they went, and those that arrived meanwhile after them."""
        if before is None:
            return
        signal.set_wakeup_fd(before)
        if self._map[0] and (missed := self.take()) and before >= 0:
            with contextlib.suppress(OSError):
                os.write(before, missed)

    def take(self) -> bytes:
        """Return the signals that arrived, and forget them."""
        if not self._map[0]:
            return b""
        missed = bytes(self.page[self.page != 0])
        self.page[:] = 0
        os.lseek(self.fd, 0, os.SEEK_SET)
        return missed


@lru_cache(maxsize=1)
def interrupts() -> Interrupts:
    """Return the one instance of this process."""
    return Interrupts()


os.register_at_fork(after_in_child=interrupts.cache_clear)


def mask_of(cpus: tuple[int, ...], n_bytes: int) -> np.ndarray:
    """Return the CPU mask that the kernel wants for `cpus`, as bytes."""
    mask = np.zeros(n_bytes, dtype=np.uint8)
    for cpu in cpus:
        mask[cpu // 8] |= 1 << (cpu % 8)
    return mask


def mask_bytes(cpus: tuple[int, ...]) -> int:
    """Return the size of a mask that has room for `cpus`: whole words of 64."""
    return max(cpus) // 64 * 8 + 8


class Masks(NamedTuple):
    """Addresses of the CPU masks of a pinned run, and the arrays that have to live as long as these are used.

    `helpers` is one mask after the other, `own` all that the caller may use. `caller` is its mask meanwhile,
    and `after` the one that it goes back to.
    """

    helpers: int
    caller: int
    own: int
    after: int
    n_bytes: int
    arrays: tuple[np.ndarray, ...]


@lru_cache(maxsize=256)
def masks(where: Site, helpers: tuple[int, ...]) -> Masks:
    """Return the masks for a caller at `where` and helpers on some CPUs."""
    n_bytes = mask_bytes(where.cpus)
    each, own = np.stack([mask_of((cpu,), n_bytes) for cpu in helpers]), mask_of(where.cpus, n_bytes)
    if where.caller < 0:
        arrays = each, mask_of(left_to_caller(where.topo, helpers), n_bytes), own, own
    else:
        kept = mask_of((where.caller,), n_bytes)
        arrays = each, kept, own, kept
    helpers_at, caller_at, own_at, after_at = (array.ctypes.data for array in arrays)
    return Masks(helpers_at, caller_at, own_at, after_at, n_bytes, arrays)


def left_to_caller(topo: Topology, helpers: Iterable[int]) -> tuple[int, ...]:
    """Return the CPUs for a caller that is free to move: on cores without helpers, if there are any."""
    taken = set(helpers)
    busy = {topo.by_number[cpu].core for cpu in taken}
    alone = tuple(cpu.number for cpu in topo.each if cpu.core not in busy)
    return alone or tuple(cpu for cpu in topo.cpus if cpu not in taken) or topo.cpus


def require_threads(count: int) -> None:
    """Raise OSError (EAGAIN) unless the caller can have `count` helpers; those it has had count as there.

    Tried with threads that do nothing: libgomp ends the whole process when it cannot start one.
    """
    missing = count - getattr(_local, "n_helpers", 0)  # libgomp keeps one team of helpers per calling thread
    if missing <= 0:
        return
    before, gate, tried = _n_threads(), threading.Event(), []
    try:
        for _ in range(missing):
            tried.append(threading.Thread(target=gate.wait))
            tried[-1].start()
    except RuntimeError:
        tried.pop()
        words = f"{count} helper threads cannot be started: no more threads are allowed"
        raise OSError(errno.EAGAIN, words) from None
    finally:
        gate.set()
        for thread in tried:
            thread.join()
        _wait_for_the_end_of_threads(before)
    _local.n_helpers = count


def _n_threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _wait_for_the_end_of_threads(left: int) -> None:
    """Wait until the kernel counts no more than `left`: one that was joined still counts for a moment."""
    end = time.monotonic() + 0.1
    while _n_threads() > left and time.monotonic() < end:
        time.sleep(0.0001)


def wait_for_helpers(most_s: float = 0.1, *, besides: Collection[int] = ()) -> None:
    """Wait until no other thread of this process runs, `most_s` at the most; threads `besides` may.

    Helpers of libgomp spin for some milliseconds after a task. A CPU whose thread spins has to be interrupted
    for each flush of the TLB, which makes the next task slower if that is short.
    """
    end = time.monotonic() + most_s
    while _others_run(besides) and time.monotonic() < end:
        pass


def _others_run(besides: Collection[int] = ()) -> bool:
    """Return whether another thread of this process runs or could, those `besides` apart."""
    known = {str(tid) for tid in (threading.get_native_id(), *besides)}
    return any(_runs(tid) for tid in os.listdir("/proc/self/task") if tid not in known)  # noqa: PTH208


def _runs(tid: str) -> bool:
    """Return whether a thread of this process runs or could; False if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{tid}/stat", "rb", buffering=0) as file:  # noqa: PTH123
        return file.read(100).rpartition(b")")[2][:2] == b" R"
    return False


@lru_cache(maxsize=1)
def may_renice() -> bool:
    """Return whether a thread of this process can go to nice 19 and come back.

    Tried on a thread of its own, which is gone afterwards. Coming back needs CAP_SYS_NICE, or an RLIMIT_NICE
    of 20 minus the nice level.
    """
    able = []

    def probe() -> None:
        tid = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, tid)
        try:
            os.setpriority(os.PRIO_PROCESS, tid, HELPER_NICE)
            os.setpriority(os.PRIO_PROCESS, tid, before)
        except OSError:
            return
        able.append(True)

    thread = threading.Thread(target=probe)
    try:
        thread.start()
    except RuntimeError:  # no thread to be had: there will be no helper either
        return False
    thread.join()
    return bool(able)


def require_nice(nice: int | None) -> None:
    """Raise ValueError unless `nice` is a level that helpers can have, or None."""
    if nice is not None:
        policy.whole_number("nice", nice, 0, HELPER_NICE)


def helper_nice(name: str, asked: int | None) -> int | None:
    """Return the nice level for helpers, None for the caller's; warn if `asked` cannot be had.

    By default (`asked` is None) as the policy called `name` says.
    """
    wanted = HELPER_NICE if asked is None and policy.POLICIES[name].low_priority else asked
    if wanted is None or wanted <= os.getpriority(os.PRIO_PROCESS, 0):
        return None
    if asked is not None and not may_renice():
        warnings.warn(
            "helpers keep the caller's priority: this process could not raise them again afterwards "
            "(it needs CAP_SYS_NICE or a higher RLIMIT_NICE)",
            RuntimeWarning,
            stacklevel=4,
        )
    return wanted if may_renice() else None


@contextlib.contextmanager
def numba_threads(count: int) -> Iterator[None]:
    """Let parallel regions use `count` threads, or as many as numba has; restore what was set.

    One thread needs no region, and setting the number takes 3 us.
    """
    count = min(count, numba.config.NUMBA_NUM_THREADS)
    if count == 1 or (before := numba.get_num_threads()) == count:
        yield
        return
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _without_helpers() -> None:
    """Forget all helpers: a fork has the calling thread alone."""
    _local.n_helpers = 0


os.register_at_fork(after_in_child=_without_helpers)
