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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from ktask.engine import policy, worker
from ktask.host import topology
from ktask.host.topology import Topology

HELPER_NICE = 19  # MAX_NICE: helpers get CPU time in proportion to idle time (ktask v4, 2018-11-05)


@dataclass(frozen=True, eq=False)
class Site:
    """Where a caller may run: its CPUs, their layout, and what a policy may know of them."""

    cpus: tuple[int, ...]
    topo: Topology
    machine: policy.Machine


def site(topo: Topology | None = None) -> Site:
    """Return where the caller may run now, always the same object for the same answer.

    `topo` is the layout of the CPUs if it is not to be read from the machine.
    """
    cpus = topology.allowed_cpus()
    if topo is not None and not set(topo.cpus) <= set(cpus):
        raise ValueError(f"topo has CPUs {topo.cpus}; this process may use {cpus}")
    n_cpus = _cpu_count(cpus) if topo is None else len(topo.cpus)
    topo = topo or _topology(cpus)
    return _site(cpus, n_cpus, topo, _nid_here(topo))


@lru_cache(maxsize=64)
def _cpu_count(cpus: tuple[int, ...]) -> int:
    return topology.cpu_count(cpus=cpus)


@lru_cache(maxsize=64)
def _topology(cpus: tuple[int, ...]) -> Topology:
    return topology.read_topology(cpus=cpus)


@lru_cache(maxsize=64)
def _site(cpus: tuple[int, ...], n_cpus: int, topo: Topology, nid: int) -> Site:
    per_node = {node.nid: len(node.cpus) for node in topo.nodes}
    # Helpers beyond the threads of numba would take turns: it has as many as CPUs when it is imported.
    limit = min(4 * n_cpus // 5, numba.config.NUMBA_NUM_THREADS - 1)
    return Site(cpus, topo, policy.Machine(n_cpus, per_node, limit=limit, caller_nid=nid))


def _nid_here(topo: Topology) -> int:
    """Return the node the caller runs on."""
    if len(topo.nodes) == 1:
        return topo.nodes[0].nid
    here = worker.current_cpu()
    return topo.node_of(here) if here in topo.cpus else topo.nodes[0].nid


class Placement(NamedTuple):
    """Where the workers of a task go: the CPUs left to the caller, and one CPU for each helper."""

    caller: tuple[int, ...]
    helpers: tuple[int, ...]


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

    `helpers` is one mask after the other, `caller` the caller's meanwhile, `own` what it may use otherwise.
    """

    helpers: int
    caller: int
    own: int
    n_bytes: int
    arrays: tuple[np.ndarray, ...]


@lru_cache(maxsize=256)
def masks(wanted: Placement, own: tuple[int, ...]) -> Masks:
    """Return the masks for a placement and a caller that may use `own`."""
    n_bytes = mask_bytes(own)
    helpers = np.stack([mask_of((cpu,), n_bytes) for cpu in wanted.helpers])
    arrays = helpers, mask_of(wanted.caller, n_bytes), mask_of(own, n_bytes)
    helpers_at, caller_at, own_at = (array.ctypes.data for array in arrays)
    return Masks(helpers_at, caller_at, own_at, n_bytes, arrays)


@lru_cache(maxsize=256)
def place(topo: Topology, slots: tuple[int, ...], nids: tuple[int, ...]) -> Placement:
    """Return the placement of a task whose helpers hold `slots` on nodes `nids`.

    Slots are handed out from 0 upwards and CPUs from the last one downwards, so helpers of different
    processes on one node do not share a CPU, and the CPUs left over are for callers.
    """
    taken: list[int] = []
    for slot, nid in zip(slots, nids, strict=True):
        own = topo.cpus_of(nid) if nid >= 0 else topo.cpus
        free = [cpu for cpu in own if cpu not in taken] or list(own)
        wished = own[-1 - slot % len(own)]
        taken.append(wished if wished in free else free[-1])
    left = tuple(cpu for cpu in topo.cpus if cpu not in taken)
    return Placement(left or topo.cpus, tuple(taken))


_local = threading.local()  # libgomp keeps one team of helpers per calling thread


def require_threads(count: int) -> None:
    """Raise OSError (EAGAIN) unless the caller can have `count` helpers; those it has had count as there.

    Tried with threads that do nothing: libgomp ends the whole process when it cannot start one.
    """
    missing = count - getattr(_local, "n_helpers", 0)
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


def wait_for_helpers(most_s: float = 0.1) -> None:
    """Wait until no other thread of this process runs, `most_s` at the most.

    Helpers of libgomp spin for some milliseconds after a task. A CPU whose thread spins has to be interrupted
    for each flush of the TLB, which makes the next task slower if that is short.
    """
    end = time.monotonic() + most_s
    while _others_run() and time.monotonic() < end:
        pass


def _others_run() -> bool:
    """Return whether another thread of this process runs or could."""
    me = str(threading.get_native_id())
    return any(_runs(tid) for tid in os.listdir("/proc/self/task") if tid != me)  # noqa: PTH208


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


def wants_low_priority(name: str, asked: bool | None) -> bool:
    """Return whether helpers are to run at low priority; warn if that was asked for and cannot be.

    By default (`asked` is None) as the policy called `name` says.
    """
    wanted = policy.POLICIES[name].low_priority if asked is None else asked
    if wanted and asked and not may_renice():
        warnings.warn(
            "helpers keep the caller's priority: this process could not raise them again afterwards "
            "(it needs CAP_SYS_NICE or a higher RLIMIT_NICE)",
            RuntimeWarning,
            stacklevel=4,
        )
    return wanted and may_renice()


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
