"""The engine beside its peers, interleaved in one run: medians and ratios with their intervals.

    python benchmarks/bench.py [--short] [--only TEXT] [--rounds N] [--json FILE]

For paths of the kernel the JSON has `beside_c`: both speedups over the own serial call, their ratio, and the
ratio of the serial calls. To free memory, C maps and fills its own.

Six questions. What does an empty chunk cost? What does a task of two chunks cost, from the Python call to
its return? How well is uneven work balanced? Do paths of the kernel scale as when C enters them? Do the
programs of `ktask reproducer` find the same? Is resident memory zeroed as fast as by C and NumPy? Every
round runs all contestants once, in random order, so that a ratio compares neighbours in time. Rounds beside
which other processes used over 5 % of the CPUs are left out, if five remain. GCC builds the OpenMP peers;
without it they are left out, and said so.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, prange

import ktask
from ktask import workloads
from ktask.common.files import write_json
from ktask.common.units import fmt_size
from ktask.engine import native, placement
from ktask.engine import run as engine
from ktask.host.counters import OTHER_LOAD_LIMIT
from ktask.host.facts import machine_facts
from ktask.host.topology import cpu_count
from ktask.lab.measure import stats
from ktask.lab.measure.rounds import prepared, quiet_rounds, repeat, without_error
from ktask.lab.reproducer import reproducer
from ktask.memory import region as memory
from ktask.memory.region import GIB, MIB
from ktask.workloads import Case, fork, pin

SEED = 20261123
WALKS = {"pagemap_scan": "walk_scan", "pagemap": "walk_pagemap", "mincore": "walk_mincore"}
US, NS = 1e6, 1e9


@dataclass
class Contest:
    """One question: contestants that return seconds, and the one the others are compared with."""

    name: str
    unit: str
    per_second: float  # multiplies seconds
    contestants: dict[str, Callable[[], float]]
    reference: str
    rounds: int = 31
    serial: dict[str, str] = field(default_factory=dict)  # the serial call of a contestant
    close: Callable[[], None] = lambda: None

    def measure(self, rounds: int) -> tuple[dict[str, np.ndarray], float]:
        """Return the seconds of every contestant in each round that was quiet, and the load beside these."""
        return quiet_rounds(self.contestants, rounds, SEED)


# --- peers -----------------------------------------------------------------------------------------------


@ktask.thread_func(cache=True)
def nothing(start, end, arg):
    """Return at once."""
    return 0


@ktask.thread_func(cache=True)
def fill_bytes(start, end, address):
    """Write to every byte."""
    native.memset(address + start, 255, end - start)
    return 0


@ktask.thread_func(cache=True)
def uneven(start, end, costs, out):
    """Spend `costs[i]` steps of arithmetic on each unit."""
    total = 0
    for i in range(start, end):
        for k in range(costs[i]):
            total += (i ^ k) * 3
    out[start] = total
    return 0


def openmp() -> ctypes.CDLL | None:
    """Build and load the C peers; None without a compiler that has OpenMP."""
    if not shutil.which("gcc"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="ktask-bench-"))
    try:
        library = folder / "omp.so"
        source = Path(__file__).parent / "omp.c"
        command = ["gcc", "-O2", "-fopenmp", "-shared", "-fPIC", "-o", str(library), str(source)]
        if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
            return None
        loaded = ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)
    pointer, long, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    walk = (number, pointer, long, long, number, pointer)
    arguments = {
        **dict.fromkeys(("run_dynamic", "run_static"), (pointer, long, long, long, number)),
        **dict.fromkeys(("zero_memset", "zero_stream"), (pointer, long, number)),
        **dict.fromkeys(WALKS.values(), walk),
        "set_places": (pointer, long),
        "in_chunks": (number, pointer, long, long, number, number),
        "fill_and_free": (number, long, long, number, number, number),
        "fork_here": (long, pointer, number),
        "fork_there": (long, pointer, pointer, pointer, pointer, number),
        "end_children": (long, pointer, number),
        "cut_files": (long, pointer, number),
        "register_buffers": (pointer, long, long, long, pointer, long, number),
    }
    for name, kinds in arguments.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = ctypes.c_double, kinds
    return loaded


@njit(parallel=True, nogil=True)
def prange_calls(out, size, chunk):
    """Run chunks by numba's own parallel loop."""
    n_chunks = (size + chunk - 1) // chunk
    for i in prange(n_chunks):
        out[i & 63] = i


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that returns how long `call` takes, in seconds."""

    def measure() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure


def engine_s(size: int, ctl: ktask.Ctl, policy: str = "ktask-v4") -> float:
    """Return the seconds of a task by the engine."""
    return without_error(ktask.run(0, size, ctl, policy=policy)).wall_s


# --- contests --------------------------------------------------------------------------------------------


def empty_chunks(name: str, threads: int, n_chunks: int, c_peers: ctypes.CDLL | None) -> Contest:
    """Return the contest for the cost of one chunk that does nothing."""
    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=threads)
    (address, packed, _), _ = engine.bound(ctl)
    out = np.zeros(64, np.int64)
    contestants = {"ktask": lambda: engine_s(n_chunks, ctl, "dynamic") / n_chunks}
    if c_peers:
        args = (address, n_chunks, 1, packed, threads)
        contestants["OpenMP dynamic,1"] = lambda: c_peers.run_dynamic(*args) / n_chunks
        contestants["OpenMP static"] = lambda: c_peers.run_static(*args) / n_chunks
    contestants["numba prange"] = lambda: _prange(threads, out, n_chunks) / n_chunks
    reference = "OpenMP dynamic,1" if c_peers else "numba prange"
    return Contest(name, "ns", NS, contestants, reference)


def _prange(threads: int, out: np.ndarray, n_chunks: int) -> float:
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    start = time.perf_counter()
    prange_calls(out, n_chunks, 1)
    seconds = time.perf_counter() - start
    numba.set_num_threads(before)
    return seconds


def small_task(name: str, threads: int, calls: int, c_peers: ctypes.CDLL | None) -> Contest:
    """Return the contest for a task of `threads` empty chunks, from the Python call to its return."""
    from joblib import Parallel, delayed  # noqa: PLC0415

    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=threads)
    (address, packed, _), _ = engine.bound(ctl)
    pool, jobs = ThreadPoolExecutor(threads), Parallel(threads, prefer="threads")
    out = np.zeros(64, np.int64)

    def median_of(call: Callable[[], float], repeat: int = calls) -> Callable[[], float]:
        return lambda: float(np.median([call() for _ in range(repeat)]))

    contestants = {
        "ktask.run": median_of(timed(lambda: ktask.run(0, threads, ctl))),
        "its parallel region": median_of(lambda: engine_s(threads, ctl)),
        "numba prange": median_of(timed(lambda: prange_calls(out, threads, 1))),
        "concurrent.futures": median_of(
            timed(lambda: list(pool.map(nothing, [0] * threads, [1] * threads, [1] * threads)))
        ),
        "joblib threads": median_of(
            timed(lambda: jobs(delayed(nothing)(0, 1, 1) for _ in range(threads))), 20
        ),
    }
    if c_peers:
        args = (address, threads, 1, packed, threads)
        contestants["OpenMP by ctypes"] = median_of(timed(lambda: c_peers.run_dynamic(*args)))
    return Contest(name, "us", US, contestants, "ktask.run")


def balance(name: str, threads: int, steps: int, c_peers: ctypes.CDLL | None) -> Contest:
    """Return the contest for work whose last tenth costs ten times as much per unit."""
    size = 1000
    costs = np.full(size, steps, np.int64)
    costs[-size // 10 :] *= 10
    out = np.zeros(size, np.int64)
    ctl = ktask.Ctl(uneven, (costs, out), 1, max_threads=threads)
    plan = ktask.plan(ktask.Node(0, size, -1), ctl)
    shares = [costs[start:end].sum() / costs.sum() for start, end in plan.chunks_of(0)]
    policies = ("ktask-v4", "static", "guided", "dynamic")
    contestants = {policy: partial(engine_s, size, ctl, policy) for policy in policies}
    serial = replace(ctl, max_threads=1)
    ideals = {
        "ktask-v4 chunks, in order, no overhead": makespan(shares, threads),
        "ktask-v4 chunks, largest first": makespan(sorted(shares, reverse=True), threads),
        "work / threads": 1 / threads,
    }
    for ideal, share in ideals.items():
        contestants[ideal] = lambda share=share: engine_s(size, serial) * share
    if c_peers:
        (address, packed, _), _ = engine.bound(ctl)
        args = (address, size, plan.chunk_size, packed, threads)
        contestants["OpenMP dynamic,1, same chunks"] = lambda: c_peers.run_dynamic(*args)
    return Contest(name, "us", US, contestants, "ktask-v4 chunks, in order, no overhead")


MADVISE, MUNMAP, MPROTECT, MLOCK, UFFD_WP, PUNCH_HOLE = range(6)  # the calls of `in_chunks`
Peer = Callable[[ctypes.CDLL, Any, int, int], float]  # takes the library, the state, bytes per call, threads


def ranged(call: int, arg: Callable[[Any], int] | int = 0) -> Peer:
    """Return the peer that makes a call on each chunk of the region of a state."""

    def by_c(c_peers: ctypes.CDLL, state: Any, step: int, threads: int) -> float:
        value = arg(state) if callable(arg) else arg
        return c_peers.in_chunks(call, state.region.address, state.operations, step, value, threads)

    return by_c


def own_memory(call: int) -> Peer:
    """Return the peer that maps memory of its own, fills it as the case says, and frees it."""

    def by_c(c_peers: ctypes.CDLL, state: Any, step: int, threads: int) -> float:
        fillers = cpu_count() if state.case.option("fill") == "each" else 1
        kind = memory.thp_advice(state.case.page_kind)
        return c_peers.fill_and_free(call, state.operations, step, kind, fillers, threads)

    return by_c


def by_fork(c_peers: ctypes.CDLL, state: Any, step: int, threads: int) -> float:
    """Fork this process, or have each holder fork."""
    if isinstance(state, fork.ManyForks):
        arrays = state.pids, state.orders, state.answers, state.holder_pids
        return c_peers.fork_there(state.size, *(a.ctypes.data for a in arrays), threads)
    return c_peers.fork_here(state.size, state.pids.ctypes.data, threads)


PEERS: dict[tuple[str, str], Peer] = {
    ("zeroing", "populate"): ranged(MADVISE, memory.MADV_POPULATE_WRITE),
    ("free", "dontneed"): own_memory(MADVISE),
    ("free", "munmap"): own_memory(MUNMAP),
    ("free", "lazyfree"): ranged(MADVISE, memory.MADV_FREE),
    ("free", "exit"): lambda c, state, _, n: c.end_children(len(state.children), state.rows.ctypes.data, n),
    ("protect", "mprotect"): ranged(MPROTECT, 1),
    ("protect", "uffd_wp"): ranged(UFFD_WP, lambda state: state.fd),
    ("fork", "one_process"): by_fork,
    ("fork", "many_processes"): by_fork,
    ("pin", "mlock"): ranged(MLOCK),
    ("pin", "io_uring"): lambda c, state, step, n: c.register_buffers(
        state.region.address, state.operations, step, pin.BUFFER, *state.rings.args[:2], n
    ),
    ("truncate", "punch_hole"): lambda c, state, step, n: c.in_chunks(
        PUNCH_HOLE, 0, state.operations, step, int(state.files.fds[0]), n
    ),
    ("truncate", "ftruncate_files"): lambda c, state, _, n: c.cut_files(
        state.size, state.files.fds.ctypes.data, n
    ),
    ("collapse", "collapse"): ranged(MADVISE, memory.MADV_COLLAPSE),
    ("collapse", "collapse_shared"): ranged(MADVISE, memory.MADV_COLLAPSE),
}
SIZE = GIB // 4
PATHS: list[tuple[str, str, str, int, dict[str, str]]] = [
    *(("zeroing", "populate", kind, SIZE, {}) for kind in ("THP", "4KiB", "2MiB")),
    ("zeroing", "populate", "1GiB", 2 * GIB, {}),
    *(("free", "dontneed", "4KiB", SIZE, {"fill": who}) for who in ("one", "each")),
    *(("free", "dontneed", "THP", GIB, {"fill": who}) for who in ("one", "each")),
    ("free", "munmap", "4KiB", SIZE, {}),
    ("free", "munmap", "THP", GIB, {}),
    ("free", "lazyfree", "4KiB", SIZE, {}),
    ("free", "exit", "4KiB", SIZE, {}),
    *(("protect", method, "4KiB", SIZE, {}) for method in ("mprotect", "uffd_wp")),
    *(("fork", method, "4KiB", SIZE, {}) for method in ("one_process", "many_processes")),
    *(("pin", method, "4KiB", SIZE, {}) for method in ("mlock", "io_uring")),
    *(("truncate", method, "4KiB", SIZE, {}) for method in ("punch_hole", "ftruncate_files")),
    *(("collapse", method, "THP", SIZE, {}) for method in ("collapse", "collapse_shared")),
]


def kernel_path(name: str, case: Case, threads: int, c_peers: ctypes.CDLL) -> Contest:
    """Return the contest for one path of the kernel, entered by the same calls in the same chunks."""
    ready, close = set_up(case)
    state: Any = ready
    place_peers(c_peers)
    chunk, peer = chunk_of(state, threads), PEERS[case.workload, case.method]
    is_apart = (case.workload, case.method) in (("free", "dontneed"), ("free", "munmap"))

    def by_c(count: int) -> float:
        step = chunk if count > 1 else state.operations
        if is_apart:
            return _done(peer(c_peers, state, step, count), name)
        state.ctl = replace(state.ctl, max_threads=count)  # before the preparation, which may depend on it
        state.before()
        seconds = _done(peer(c_peers, state, step, count), name)
        state.check()
        return seconds

    return _beside_c(name, threads, partial(seconds_of, state), by_c, close)


def _done(seconds: float, name: str) -> float:
    """Return the seconds of a peer; CheckError if its calls failed."""
    workloads.expect(seconds >= 0, f"the peer of {name} failed")
    return seconds


def set_up(case: Case) -> tuple[workloads.State, Callable[[], None]]:
    """Return a case set up, and what gives it back."""
    stack = ExitStack()
    return stack.enter_context(prepared(case)), stack.close


def place_peers(c_peers: ctypes.CDLL) -> None:
    """Have the threads of the peers run on the CPUs that the engine takes, in the same order."""
    cpus = np.array(placement.cpus_in_order(), np.int64)
    c_peers.set_places(cpus.ctypes.data, cpus.size)


def seconds_of(state: workloads.State, count: int) -> float:
    """Return the seconds of one repetition by the engine."""
    return repeat(state, count).result.wall_s


def chunk_of(state: workloads.State, threads: int) -> int:
    """Return the bytes of a chunk that the engine gives several threads."""
    plan = ktask.plan(ktask.Node(0, state.size, -1), replace(state.ctl, max_threads=threads))
    return plan.chunk_size * state.bytes_per_unit


def _beside_c(name: str, threads: int, by_ktask, by_c, close) -> Contest:
    """Return the contest between the engine and C, each by several threads and by one call over all."""
    together = {"ktask": f"ktask, {_threads(threads)}", "C": f"OpenMP dynamic,1, {_threads(threads)}"}
    alone = {"ktask": "ktask, serial call", "C": "C, serial call"}
    contestants = {
        together["ktask"]: lambda: by_ktask(threads),
        together["C"]: lambda: by_c(threads),
        alone["ktask"]: lambda: by_ktask(1),
        alone["C"]: lambda: by_c(1),
    }
    serial = {together[whose]: alone[whose] for whose in together}
    return Contest(name, "ms", 1e3, contestants, together["C"], serial=serial, close=close)


def page_walk(name: str, method: str, size_bytes: int, threads: int, c_peers: ctypes.CDLL) -> Contest:
    """Return the contest for one page walk, by the same calls in the same chunks."""
    state, close = set_up(Case.of("page_walk", method, size=size_bytes, page_kind="4KiB"))
    place_peers(c_peers)
    chunk, found = chunk_of(state, threads), np.zeros(1, np.int64)

    def by_c(count: int) -> float:
        where = state.process.fd, state.space.address, size_bytes, chunk if count > 1 else size_bytes
        seconds = getattr(c_peers, WALKS[method])(*where, count, found.ctypes.data)
        workloads.expect(found[0] == state.space.present, f"the peer found {found[0]} pages")
        return seconds

    return _beside_c(name, threads, partial(seconds_of, state), by_c, close)


# For `ktask reproducer`: what it makes has to give the numbers that ktask gives.
PROGRAMS: list[tuple[str, str, str, int]] = [
    ("zeroing", "populate", "4KiB", GIB // 2),
    ("zeroing", "populate", "THP", GIB // 2),
    ("page_walk", "pagemap", "4KiB", 8 * GIB),
    ("free", "dontneed", "4KiB", GIB // 2),
    ("free", "munmap", "4KiB", GIB // 2),
    ("protect", "uffd_wp", "4KiB", GIB // 2),
    ("pin", "io_uring_unpin", "4KiB", GIB // 2),
    ("pin", "munlock", "4KiB", GIB // 2),
    ("pageout", "pageout_file", "4KiB", GIB // 4),
    ("pageout", "cold", "4KiB", GIB // 2),
    ("start", "fused", "4KiB", GIB // 2),
    ("start", "stages", "THP", GIB // 2),
    ("reap", "mrelease", "4KiB", GIB // 2),
    ("mixed", "populate", "4KiB", GIB // 4),
    ("mixed", "map", "4KiB", GIB // 4),
]


def c_program(name: str, case: Case, threads: int) -> Contest:
    """Return the contest between the engine and the C program of a case, a process per round."""
    text, stack = reproducer(case, threads), ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ktask-bench-")))
    (folder / "case.c").write_text(re.sub(r"#define ROUNDS \d+", "#define ROUNDS 3", text))
    subprocess.run(["gcc", "-O2", "-fopenmp", "case.c", "-o", "case"], cwd=folder, check=True)  # noqa: S607
    places = re.findall("OMP_PLACES='(.+)' ./case", text)[0]
    free = partial(os.sched_setaffinity, 0, os.sched_getaffinity(0))  # of the one CPU that the suite keeps to
    state, left = stack.enter_context(prepared(case)), {}

    def by_c(count: int) -> float:
        if count not in left:  # one run of the program gives both
            environment = os.environ | {"OMP_PLACES": places}
            said = subprocess.check_output([folder / "case"], env=environment, text=True, preexec_fn=free)  # noqa: S603
            serial, together = (float(line.split()[2]) / 1e3 for line in said.splitlines()[:2])
            left.update({1: serial, threads: together})
        return left.pop(count)

    def by_ktask(count: int) -> float:
        """Return the seconds after two rounds to warm up, as the program has them: it ran a second long."""
        return [seconds_of(state, count) for _ in range(3)][-1]

    contest = _beside_c(name, threads, by_ktask, by_c, stack.close)
    return replace(contest, rounds=9)


def page_table_model(name: str, size_bytes: int, tables: str, threads: int) -> Contest:
    """Return the contest between walking a radix table in arrays and reading as much memory."""
    stack, contestants = ExitStack(), {}
    for what, method in (("walk", "radix"), ("read", "plain_read")):
        case = Case.of("page_walk", method, size=size_bytes, page_kind="4KiB", options={"tables": tables})
        state = stack.enter_context(prepared(case))
        contestants |= {f"{what}, {_threads(n)}": partial(seconds_of, state, n) for n in (1, threads)}
    return Contest(name, "ms", 1e3, contestants, f"read, {_threads(threads)}", 15, close=stack.close)


def zeroing(name: str, size_bytes: int, page_kind: str, threads: int, c_peers: ctypes.CDLL | None) -> Contest:
    """Return the contest for zeroing resident memory, from the Python call to its return."""
    state, close = set_up(Case.of("zeroing", "auto", size=size_bytes, page_kind=page_kind))
    ctl = replace(state.ctl, max_threads=threads)
    address, size = state.region.address, state.region.size_bytes
    words = state.region.words
    own = f"ktask auto, {_threads(threads)}"
    calls = {own: lambda: ktask.run(0, state.size, ctl), "numpy.fill, 1 thread": lambda: words.fill(0)}
    if c_peers:
        calls[f"C memset, {_threads(threads)}"] = lambda: c_peers.zero_memset(address, size, threads)
        if c_peers.zero_stream(address, size, threads) >= 0:
            calls[f"C non-temporal, {_threads(threads)}"] = lambda: c_peers.zero_stream(
                address, size, threads
            )
    fill = ktask.Ctl(fill_bytes, (address,), 2 * MIB, threads)

    def in_use(call: Callable[[], object]) -> Callable[[], float]:
        """Return a contestant that finds the memory as a program leaves it: written to, by these threads."""
        measure = timed(call)
        return lambda: (ktask.run(0, size, fill), measure())[1]

    contestants = {peer: in_use(call) for peer, call in calls.items()}
    rounds = 9 if size_bytes > GIB else 31 if size_bytes > 128 * MIB else 151  # a cache shared with others
    return Contest(name, "us", US, contestants, own, rounds, close=close)


def makespan(shares: list[float], threads: int) -> float:
    """Return when the last of `threads` workers ends that take `shares` of the work in this order."""
    ends = [0.0] * threads
    for share in shares:
        ends[ends.index(min(ends))] += share
    return max(ends)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


# --- the run ---------------------------------------------------------------------------------------------


Named = Iterator[tuple[str, Callable[[str], Contest]]]  # the name, and what sets the contest up


def engine_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield what the engine itself costs."""
    n_chunks, calls, steps = (20_000, 20, 200) if short else (1_000_000, 300, 20_000)
    n_cpus = cpu_count()
    for n in sorted({1, min(2, n_cpus), n_cpus}):
        yield f"one empty chunk, {_threads(n)}", lambda name, n=n: empty_chunks(name, n, n_chunks, c_peers)
    if n_cpus > 1:
        yield "a task of 2 empty chunks", lambda name: small_task(name, 2, calls, c_peers)
        yield "the last tenth costs ten times as much", lambda name: balance(name, 2, steps, c_peers)


def kernel_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the paths of the kernel."""
    if not c_peers or cpu_count() < 2:
        return
    for workload, method, kind, size, options in PATHS:
        size_bytes = 64 * MIB if short else size
        case = Case.of(workload, method, size=size_bytes, page_kind=kind, options=options)
        if workloads.why_not(case) is None:
            set_to = "".join(f", {name}={value}" for name, value in options.items())
            what = f"{workload} {method}, {fmt_size(size_bytes)} of {kind} pages{set_to}, 2 threads"
            yield what, partial(kernel_path, case=case, threads=2, c_peers=c_peers)


def program_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the C programs of some cases, each beside the case itself."""
    if not c_peers or cpu_count() < 2:
        return
    for workload, method, kind, size in PROGRAMS:
        size_bytes = 64 * MIB if short else size
        case = Case.of(workload, method, size=size_bytes, page_kind=kind)
        if workloads.why_not(case) is None:
            what = f"C program of {workload} {method}, {fmt_size(size_bytes)} of {kind} pages, 2 threads"
            yield what, partial(c_program, case=case, threads=2)


def page_walk_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the page walks, of the kernel and of the model."""
    if cpu_count() < 2:
        return
    size = 64 * MIB if short else 16 * GIB
    for method in WALKS if c_peers else ():
        if workloads.why_not(Case.of("page_walk", method, size=MIB, page_kind="4KiB")) is None:
            what = f"page walk {method}, {fmt_size(size)} of 4KiB pages, 2 threads"
            yield what, partial(page_walk, method=method, size_bytes=size, threads=2, c_peers=c_peers)
    size = GIB if short else 512 * GIB
    for tables in ("in_order", "scattered"):
        what = f"page walk by radix table of {fmt_size(size)}, {tables}, walked and read"
        yield what, partial(page_table_model, size_bytes=size, tables=tables, threads=2)


def zeroing_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the sizes of resident memory."""
    sizes = (1, 4) if short else (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    for size_mib, kind, n in itertools.product(sizes, ("THP", "4KiB"), sorted({1, cpu_count()})):
        size = size_mib * MIB
        case = Case.of("zeroing", "auto", size=size, page_kind=kind)
        if workloads.why_not(case) is None and memory.region_need(size, kind) < memory.budget_bytes():
            what = f"zeroing {fmt_size(size)} of resident {kind} memory, {_threads(n)}"
            yield what, partial(zeroing, size_bytes=size, page_kind=kind, threads=n, c_peers=c_peers)


def result_of(contest: Contest, rounds: int) -> dict:
    """Return medians and ratios of one contest, and the largest share of the CPUs that others used."""
    seconds, other_load = contest.measure(rounds)
    base = seconds[contest.reference]
    rows = {
        name: {
            "median": stats.estimate(values * contest.per_second).as_dict(),
            "ratio": stats.ratio(values, base, paired=True).as_dict(),
        }
        for name, values in seconds.items()
    }
    found = {"name": contest.name, "unit": contest.unit, "reference": contest.reference, "rows": rows}
    found["other_load"] = other_load
    return found | ({"beside_c": beside_c(contest.serial, seconds)} if contest.serial else {})


def beside_c(serial: dict[str, str], seconds: dict[str, np.ndarray]) -> dict:
    """Return both speedups over the own serial call, and how the engine's differs from that of C."""
    (ours, theirs), alone = serial, [seconds[name] for name in serial.values()]
    speedups = {name: stats.ratio(seconds[serial[name]], seconds[name], paired=True) for name in serial}
    by_round = (alone[0] / seconds[ours]) / (alone[1] / seconds[theirs])
    return {
        "speedup": {name: estimate.as_dict() for name, estimate in speedups.items()},
        "speedup_ratio": stats.estimate(by_round).as_dict(),
        "serial_ratio": stats.ratio(alone[0], alone[1], paired=True).as_dict(),
    }


def render(result: dict) -> str:
    """Return one contest as a table of text."""
    lines = [f"{result['name']} ({result['unit']}; ratio to {result['reference']})"]
    if result["other_load"] > OTHER_LOAD_LIMIT:
        lines.append(f"  other processes used up to {result['other_load']:.0%} of the CPUs beside it")
    for name, row in sorted(result["rows"].items(), key=lambda item: item[1]["median"]["median"]):
        m, r = row["median"], row["ratio"]
        lines.append(
            f"  {name:40} {m['median']:10.2f}  [{m['low']:9.2f}, {m['high']:9.2f}]"
            f"   x {r['median']:6.2f}  [{r['low']:5.2f}, {r['high']:5.2f}]  n={m['n']}"
        )
    if found := result.get("beside_c"):
        for name, one in found["speedup"].items():
            lines.append(f"  speedup, {name:31} {_interval(one)}")
        lines.append(f"  speedup over that of C                   {_interval(found['speedup_ratio'])}")
        lines.append(f"  serial call over that of C               {_interval(found['serial_ratio'])}")
    return "\n".join(lines)


def _interval(one: dict) -> str:
    return f"{one['median']:10.2f}  [{one['low']:9.2f}, {one['high']:9.2f}]"


def main() -> None:
    """Run the contests; print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a few rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--only", default="", help="contests with this in their name, such as 'page walk'")
    parser.add_argument("--rounds", type=int, help="so many of each contest")
    options = parser.parse_args()
    c_peers, results = openmp(), []
    if c_peers is None:
        sys.stderr.write("no gcc with OpenMP here: its rows are left out\n")
    kinds = (engine_contests, kernel_contests, program_contests, page_walk_contests, zeroing_contests)
    for name, make in itertools.chain.from_iterable(kind(options.short, c_peers) for kind in kinds):
        if options.only not in name:
            continue
        with closing(make(name)) as contest:  # one at a time, because each holds its memory
            results.append(result_of(contest, options.rounds or (3 if options.short else contest.rounds)))
        sys.stdout.write(render(results[-1]) + "\n\n")
        sys.stdout.flush()
    if options.json:
        write_json(
            options.json,
            {"machine": machine_facts(), "short": options.short, "seed": SEED, "contests": results},
        )


if __name__ == "__main__":
    main()
