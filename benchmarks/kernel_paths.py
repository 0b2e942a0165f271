"""Paths of the kernel, entered by the engine and by C: the same calls in the same chunks of one memory."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import WALKS, Contest, Named, threads_word

import ktask
from ktask import workloads
from ktask.common.units import fmt_size
from ktask.engine import placement
from ktask.engine.placement import wait_for_helpers
from ktask.host.topology import cpu_count
from ktask.lab.measure.rounds import prepared, repeat
from ktask.lab.reproducer import reproducer
from ktask.memory import region as memory
from ktask.memory.region import GIB, MIB
from ktask.workloads import Case, fork, mixed, pin

MADVISE, MUNMAP, MPROTECT, MLOCK, UFFD_WP, PUNCH_HOLE = range(6)  # the calls of `in_chunks`
REMOVED = ("pageout_file", "cold_file", "pageout", "cold")  # methods of pageout
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


def by_function(name: str) -> Peer:
    """Return the peer that is the thread function of the workload, written again in C."""

    def by_c(c_peers: ctypes.CDLL, state: Any, step: int, threads: int) -> float:
        words = np.array(state.ctl.args, np.int64)
        function = ctypes.cast(getattr(c_peers, name), ctypes.c_void_p)
        chunk = step // state.bytes_per_unit
        return c_peers.run_placed(function, state.size, chunk, words.ctypes.data, threads)

    return by_c


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
    ("pin", "io_uring_unpin"): by_function("unregister"),
    ("pin", "munlock"): by_function("unlock"),
    ("pin", "xdp"): by_function("register_umem"),
    ("start", "fused"): by_function("start_fused"),
    ("start", "stages"): by_function("start_in_stages"),
    ("reap", "mrelease"): by_function("reap"),
    ("migrate", "move_pages"): by_function("move"),
    **{("mixed", work): by_function("mix") for work in mixed.WORKS},
    **{("pageout", method): by_function("advise_pages") for method in REMOVED},
}
SIZE, SHORT = GIB // 4, 8 * MIB
FOLIO = {"folio": "64KiB"}
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
    *(("pin", method, "4KiB", SIZE, {}) for method in ("io_uring_unpin", "munlock", "xdp")),
    *(("pageout", method, "4KiB", SIZE, {}) for method in REMOVED),
    *(("start", method, kind, SIZE, {}) for method in ("fused", "stages") for kind in ("4KiB", "THP")),
    *(("reap", "mrelease", kind, SIZE, {}) for kind in ("4KiB", "THP")),
    *(("mixed", work, "4KiB", SIZE, {}) for work in mixed.WORKS),
    ("mixed", "zap", "4KiB", SIZE, {"beside": "protect"}),
    *(("migrate", "move_pages", kind, SIZE, {}) for kind in ("4KiB", "THP")),
    ("zeroing", "populate", "4KiB", SIZE, FOLIO),
    ("protect", "mprotect", "4KiB", SIZE, FOLIO),
    ("pin", "mlock", "4KiB", SIZE, FOLIO),
    ("pageout", "cold", "4KiB", SIZE, FOLIO),
]


def kernel_path(name: str, case: Case, threads: int, c_peers: ctypes.CDLL) -> Contest:
    """Return the contest for one path of the kernel, entered by the same calls in the same chunks."""
    ready, close = set_up(case)
    state: Any = ready
    place_peers(c_peers)
    chunk, peer = chunk_of(state, threads), PEERS[case.workload, case.method]
    is_apart = (case.workload, case.method) in (("free", "dontneed"), ("free", "munmap"))

    def by_c(count: int) -> float:
        step = chunk if count > 1 else max(state.operations, state.size * state.bytes_per_unit)
        if is_apart:
            return _done(peer(c_peers, state, step, count), name)
        state.ctl = replace(state.ctl, max_threads=count)  # before the preparation, which may depend on it
        wait_for_helpers()
        state.before()
        wait_for_helpers()
        seconds = _done(peer(c_peers, state, step, count), name)
        state.check()
        return seconds

    return contest_beside_c(name, threads, partial(seconds_of, state), by_c, close)


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


def contest_beside_c(name: str, threads: int, by_ktask, by_c, close) -> Contest:
    """Return the contest between the engine and C, each by several threads and by one call over all."""
    together = {"ktask": f"ktask, {threads_word(threads)}", "C": f"OpenMP dynamic,1, {threads_word(threads)}"}
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

    return contest_beside_c(name, threads, partial(seconds_of, state), by_c, close)


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

    contest = contest_beside_c(name, threads, by_ktask, by_c, stack.close)
    return replace(contest, rounds=9)


def kernel_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the paths of the kernel."""
    if not c_peers or cpu_count() < 2:
        return
    for workload, method, kind, size, options in PATHS:
        size_bytes = SHORT if short else size
        case = Case.of(workload, method, size=size_bytes, page_kind=kind, options=options)
        if workloads.why_not(case) is None:
            set_to = "".join(f", {name}={value}" for name, value in options.items())
            what = f"{workload} {method}, {fmt_size(size_bytes)} of {kind} pages{set_to}, 2 threads"
            yield what, partial(kernel_path, case=case, threads=2, c_peers=c_peers)


def program_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the C programs of some cases, each beside the case itself."""
    if not c_peers or cpu_count() < 2:
        return
    for workload, method, kind, size in PROGRAMS[:2] if short else PROGRAMS:
        size_bytes = SHORT if short else size
        case = Case.of(workload, method, size=size_bytes, page_kind=kind)
        if workloads.why_not(case) is None:
            what = f"C program of {workload} {method}, {fmt_size(size_bytes)} of {kind} pages, 2 threads"
            yield what, partial(c_program, case=case, threads=2)
