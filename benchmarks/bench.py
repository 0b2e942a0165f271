"""The engine beside its peers, interleaved in one run: medians and ratios with their intervals.

    python benchmarks/bench.py [--short] [--only TEXT] [--rounds N] [--processes N] [--json FILE]

For paths of the kernel the JSON has `beside_c`: both speedups over the own serial call, their ratio, and the
ratio of the serial calls. To free memory, C maps and fills its own. With several processes, those contests
are repeated in fresh ones, and `over_processes` has the mean of each ratio and its 95 % interval. Threads of
C sleep before each round, as those of the engine do.

Six questions. What does an empty chunk cost? What does a task of two chunks cost, from the Python call to
its return? How well is uneven work balanced? Do paths of the kernel scale as when C enters them? Do the
programs of `ktask reproducer` find the same? Is resident memory zeroed as fast as by C and NumPy? Rounds
beside which other processes used over 5 % of the CPUs are left out, if five remain. GCC builds the peers;
without it they are left out, and said so.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numba
import numpy as np
from contest import SEED, WALKS, Contest, Named, openmp, threads_word, timed
from kernel_paths import (
    SHORT,
    kernel_contests,
    page_walk,
    program_contests,
    seconds_of,
    set_up,
)
from numba import njit, prange
from start_states import over_processes

import ktask
from ktask import workloads
from ktask.common.files import write_json
from ktask.common.units import fmt_size
from ktask.engine import native
from ktask.engine import run as engine
from ktask.host.counters import OTHER_LOAD_LIMIT
from ktask.host.facts import machine_facts
from ktask.host.topology import cpu_count
from ktask.lab.measure import stats
from ktask.lab.measure.rounds import prepared, without_error
from ktask.memory import region as memory
from ktask.memory.region import GIB, MIB
from ktask.workloads import Case

US, NS = 1e6, 1e9
ROUNDS_OF_MORE = 9  # in the second process and those after it


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


@njit(parallel=True, nogil=True)
def prange_calls(out, size, chunk):
    """Run chunks by numba's own parallel loop."""
    n_chunks = (size + chunk - 1) // chunk
    for i in prange(n_chunks):
        out[i & 63] = i


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


def page_table_model(name: str, size_bytes: int, tables: str, threads: int) -> Contest:
    """Return the contest between walking a radix table in arrays and reading as much memory."""
    stack, contestants = ExitStack(), {}
    for what, method in (("walk", "radix"), ("read", "plain_read")):
        case = Case.of("page_walk", method, size=size_bytes, page_kind="4KiB", options={"tables": tables})
        state = stack.enter_context(prepared(case))
        contestants |= {f"{what}, {threads_word(n)}": partial(seconds_of, state, n) for n in (1, threads)}
    return Contest(name, "ms", 1e3, contestants, f"read, {threads_word(threads)}", 15, close=stack.close)


def zeroing(name: str, size_bytes: int, page_kind: str, threads: int, c_peers: ctypes.CDLL | None) -> Contest:
    """Return the contest for zeroing resident memory, from the Python call to its return."""
    state, close = set_up(Case.of("zeroing", "auto", size=size_bytes, page_kind=page_kind))
    ctl = replace(state.ctl, max_threads=threads)
    address, size = state.region.address, state.region.size_bytes
    words = state.region.words
    own = f"ktask auto, {threads_word(threads)}"
    calls = {own: lambda: ktask.run(0, state.size, ctl), "numpy.fill, 1 thread": lambda: words.fill(0)}
    if c_peers:
        calls[f"C memset, {threads_word(threads)}"] = lambda: c_peers.zero_memset(address, size, threads)
        if c_peers.zero_stream(address, size, threads) >= 0:
            calls[f"C non-temporal, {threads_word(threads)}"] = lambda: c_peers.zero_stream(
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


# --- the run ---------------------------------------------------------------------------------------------


def engine_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield what the engine itself costs."""
    n_chunks, calls, steps = (20_000, 5, 200) if short else (1_000_000, 300, 20_000)
    n_cpus = cpu_count()
    for n in sorted({1, min(2, n_cpus), n_cpus}):
        yield (
            f"one empty chunk, {threads_word(n)}",
            lambda name, n=n: empty_chunks(name, n, n_chunks, c_peers),
        )
    if n_cpus > 1:
        yield "a task of 2 empty chunks", lambda name: small_task(name, 2, calls, c_peers)
        yield "the last tenth costs ten times as much", lambda name: balance(name, 2, steps, c_peers)


def page_walk_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the page walks, of the kernel and of the model."""
    if cpu_count() < 2:
        return
    size = SHORT if short else 16 * GIB
    for method in WALKS if c_peers else ():
        if workloads.why_not(Case.of("page_walk", method, size=MIB, page_kind="4KiB")) is None:
            what = f"page walk {method}, {fmt_size(size)} of 4KiB pages, 2 threads"
            yield what, partial(page_walk, method=method, size_bytes=size, threads=2, c_peers=c_peers)
    size = 64 * MIB if short else 512 * GIB
    for tables in ("in_order", "scattered"):
        what = f"page walk by radix table of {fmt_size(size)}, {tables}, walked and read"
        yield what, partial(page_table_model, size_bytes=size, tables=tables, threads=2)


def zeroing_contests(short: bool, c_peers: ctypes.CDLL | None) -> Named:
    """Yield the sizes of resident memory."""
    sizes = (1,) if short else (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    for size_mib, kind, n in itertools.product(sizes, ("THP", "4KiB"), sorted({1, cpu_count()})):
        size = size_mib * MIB
        case = Case.of("zeroing", "auto", size=size, page_kind=kind)
        if workloads.why_not(case) is None and memory.region_need(size, kind) < memory.budget_bytes():
            what = f"zeroing {fmt_size(size)} of resident {kind} memory, {threads_word(n)}"
            yield what, partial(zeroing, size_bytes=size, page_kind=kind, threads=n, c_peers=c_peers)


def result_of(contest: Contest, rounds: int, warmups: int) -> dict:
    """Return medians and ratios of one contest, and the largest share of the CPUs that others used."""
    seconds, other_load = contest.measure(rounds, warmups)
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


BESIDE_C = (kernel_contests, page_walk_contests)
OTHERS = (engine_contests, program_contests, zeroing_contests)


def contests(short: bool, only: str, beside_c: bool, c_peers: ctypes.CDLL | None) -> Iterator[Contest]:
    """Yield the contests with `only` in their name, set up, one at a time, because each holds its memory."""
    for kind in BESIDE_C if beside_c else OTHERS:
        for name, make in kind(short, c_peers):
            if only in name:
                with closing(make(name)) as contest:
                    yield contest


def in_processes(options: argparse.Namespace) -> Iterator[list[dict]]:
    """Yield what each of several fresh processes finds of the contests beside C; the first prints them."""
    with tempfile.TemporaryDirectory(prefix="ktask-bench-") as folder:
        out = Path(folder) / "bench.json"
        words = ["--beside-c", "--only", options.only, "--json", str(out)]
        command = [sys.executable, __file__, *words, *(["--short"] if options.short else [])]
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # threads sleep between tasks, in C as well
        for k in range(options.processes):
            rounds = options.rounds or (ROUNDS_OF_MORE if k else None)
            more = ["--rounds", str(rounds)] if rounds else []
            where = subprocess.DEVNULL if k else None
            subprocess.run([*command, *more], check=True, stdout=where, env=environment)  # noqa: S603
            yield json.loads(out.read_text())["contests"]


def summary(processes: list[list[dict]]) -> dict[str, dict]:
    """Return what processes find of each contest beside C: the mean of every ratio, with its interval."""
    found: dict[str, list[dict]] = {}
    for one in itertools.chain.from_iterable(processes):
        if "beside_c" in one:
            found.setdefault(one["name"], []).append(one)
    return {name: _over(ones) for name, ones in found.items() if len(ones) > 1}


def _over(ones: list[dict]) -> dict:
    ratios = {
        name: [one["beside_c"][name]["median"] for one in ones] for name in ("speedup_ratio", "serial_ratio")
    }
    for k, name in enumerate(("speedup", "speedup_in_c")):
        ratios[name] = [list(one["beside_c"]["speedup"].values())[k]["median"] for one in ones]
    means = {name: over_processes(values) for name, values in ratios.items()}
    return means | {"processes": len(ones), "other_load": max(one["other_load"] for one in ones)}


def render_summary(name: str, found: dict) -> str:
    """Return what processes find of one contest as a line of text."""
    columns = ("speedup", "speedup_in_c", "speedup_ratio", "serial_ratio")
    cells = (f"{found[k]['ratio']:5.3f} [{found[k]['low']:5.3f}, {found[k]['high']:5.3f}]" for k in columns)
    return f"{'  '.join(cells)}  n={found['processes']} {found['other_load']:4.0%}  {name}"


def main() -> None:
    """Run the contests; print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="a few rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--only", default="", help="contests with this in their name, such as 'page walk'")
    parser.add_argument("--rounds", type=int, help="so many of each contest")
    parser.add_argument("--processes", type=int, default=1, help="repeat those beside C in so many")
    parser.add_argument("--beside-c", action="store_true", help="only those beside C in one process")
    options = parser.parse_args()
    c_peers, results = openmp(), []
    if c_peers is None:
        sys.stderr.write("no gcc with OpenMP here: its rows are left out\n")
    for contest in contests(options.short, options.only, options.beside_c, c_peers):
        rounds = options.rounds or (2 if options.short else contest.rounds)
        results.append(result_of(contest, rounds, warmups=0 if options.short else 2))
        sys.stdout.write(render(results[-1]) + "\n\n")
        sys.stdout.flush()
    processes = [] if options.beside_c else [*in_processes(options)]
    results += processes[0] if processes else []
    if found := summary(processes):
        sys.stdout.write("speedup, in C, their ratio, ratio of the serial calls; mean over processes\n")
    for name, one in found.items():
        sys.stdout.write(render_summary(name, one) + "\n")
    if options.json:
        said = {"machine": machine_facts(), "short": options.short, "seed": SEED}
        write_json(options.json, said | {"contests": results, "over_processes": found})


if __name__ == "__main__":
    main()
