"""Compiles everything once, to numba's cache on disk, for `make setup`: no measurement waits for it then."""

from __future__ import annotations

import contextlib

from ktask import workloads
from ktask.host import topology
from ktask.lab.measure.cell import run_one
from ktask.workloads import Case


def compile_all() -> None:
    """Run every method of every workload once, on next to nothing, but for what this machine cannot do."""
    threads = min(2, topology.cpu_count())
    for workload, found in workloads.registry().items():
        for method in found.methods:
            with contextlib.suppress(Exception):
                run_one(
                    Case.of(workload, method.name, size="1MiB", min_chunk="64KiB"), threads, repetitions=1
                )


if __name__ == "__main__":
    compile_all()
