"""Compiles what a first report needs, to numba's cache on disk: `make setup` calls it, on all CPUs.

What else there is gets compiled, and kept, when it is first asked for.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ktask.host import topology

MOST_PROCESSES = 8


def compile_all() -> None:
    """Run each method of the quick grid once on next to nothing, and the simulator."""
    from ktask.lab.sweep.grid import load_grid  # noqa: PLC0415

    engine, *methods = dict.fromkeys((case.workload, case.method) for case in load_grid("quick").cases)
    processes = min(max(topology.cpu_count(), 2), MOST_PROCESSES)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        simulated = pool.submit(_simulate)
        pool.submit(_run, *engine).result()  # it compiles the engine, which the others then find in the cache
        done = [pool.submit(_run, *method) for method in methods]
        for one in (simulated, *done):
            one.result()


def _run(workload: str, method: str) -> None:
    from ktask.lab.measure.cell import measure_case  # noqa: PLC0415
    from ktask.lab.measure.measurement import Protocol  # noqa: PLC0415
    from ktask.workloads import Case  # noqa: PLC0415

    with contextlib.suppress(Exception):  # what this machine cannot do needs no compiling
        case = Case.of(workload, method, size="1MiB", min_chunk="64KiB")
        measure_case(case, [min(2, topology.cpu_count())], Protocol(least=1, most=1), chunked=False)


def _simulate() -> None:
    from ktask.models.simulation import what_if  # noqa: PLC0415
    from ktask.models.simulation.machines import load_machine  # noqa: PLC0415

    what_if.curve(load_machine("xeon-e7-8895v3"), 1 << 30, threads=(1, 2))


if __name__ == "__main__":
    compile_all()
