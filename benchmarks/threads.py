"""What threads themselves cost, from one to far more than there are CPUs, in fresh processes.

    python benchmarks/threads.py [--threads N ...] [--processes N] [--short] [--json FILE]

A region is a parallel loop with one empty chunk per thread, entered and left. `first` is the region that
starts the threads, `memory` what they add to the resident set, each, and `after` the CPU time of the process
in the half second after the last region: threads that spin. OpenMP is the same loop in C. Each figure is the
mean over processes with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench import nothing
from contest import openmp
from start_states import over_processes

import ktask
from ktask.common.files import write_json
from ktask.engine import policy
from ktask.engine import run as engine
from ktask.host.facts import machine_facts
from ktask.host.kernel_files import status_bytes
from ktask.host.topology import cpu_count

FIGURES = {
    "region_us": ("region", "us"),
    "openmp_us": ("OpenMP", "us"),
    "chunk_ns": ("a chunk", "ns"),
    "first_ms": ("first", "ms"),
    "memory_kib": ("memory", "KiB"),
    "after_ms": ("after", "ms"),
}
AFTER_S = 0.5


def plan_of(chunks: int, threads: int) -> policy.Plan:
    """Return a plan of single units for `threads` threads, as a machine with enough CPUs would make it."""
    part, machine = policy.Part(0, chunks, 0), policy.Machine(cpus=2 * threads)
    return policy.make_plan("dynamic", [part], 1, threads, machine=machine)


def measure(threads: int, rounds: int) -> dict[str, float]:
    """Return the figures of this process."""
    ctl = ktask.Ctl(nothing, (1,), 1)
    ktask.run(0, 1, ctl)  # loads what is compiled
    region, many = plan_of(threads, threads), plan_of(100_000, threads)
    before = status_bytes("VmRSS")
    first_s = wall_of(lambda: engine.carry_out(region, ctl))
    grown_kib = (status_bytes("VmRSS") - before) / 1024
    found = {"first_ms": 1e3 * first_s, "memory_kib": grown_kib / (threads - 1)} if threads > 2 else {}
    found["region_us"] = 1e6 * median_of(lambda: engine.carry_out(region, ctl).wall_s, rounds)
    found["chunk_ns"] = 1e4 * median_of(lambda: engine.carry_out(many, ctl).wall_s, max(rounds // 10, 3))
    found["after_ms"] = 1e3 * spun_s()
    if c_peers := openmp():
        (address, packed, _), _ = engine.bound(ctl)
        args = address, threads, 1, packed, threads
        c_peers.run_dynamic(*args)
        found["openmp_us"] = 1e6 * median_of(lambda: c_peers.run_dynamic(*args), rounds)
    return found


def wall_of(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_of(call: Callable[[], float], rounds: int) -> float:
    """Return the median of what a call returns."""
    return float(np.median([call() for _ in range(rounds)]))


def spun_s() -> float:
    """Return the CPU time of this process while it sleeps."""
    before = time.process_time()
    time.sleep(AFTER_S)
    return time.process_time() - before


def in_a_process(threads: int, rounds: int) -> dict[str, float]:
    """Return what a fresh process measures with that many threads."""
    command = [sys.executable, __file__, "--measure", str(threads), "--rounds", str(rounds)]
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603
    return json.loads(done.stdout)


def line(threads: int, figures: dict[str, dict[str, float]]) -> str:
    """Return the figures of one thread count as text."""
    parts = [f"{threads:4} threads"]
    for name, (what, unit) in FIGURES.items():
        if one := figures.get(name):
            parts.append(f"{what} {one['ratio']:.4g} {unit} [{one['low']:.3g}, {one['high']:.3g}]")
    return "  ".join(parts)


def main() -> None:
    """Print a line per thread count; write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, 2, 4, 16, 64, 288, cpu_count()}))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200, help="regions per process")
    parser.add_argument("--short", action="store_true", help="a few rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.measure, options.rounds)))
        return
    processes, rounds = (1, 5) if options.short else (options.processes, options.rounds)
    results = {}
    for threads in options.threads:
        found = [in_a_process(threads, rounds) for _ in range(processes)]
        positive = {name: [max(one[name], 1e-6) for one in found] for name in found[0]}
        results[threads] = {name: over_processes(values) for name, values in positive.items()}
        sys.stdout.write(line(threads, results[threads]) + "\n")
        sys.stdout.flush()
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "processes": processes, "threads": results})


if __name__ == "__main__":
    main()
