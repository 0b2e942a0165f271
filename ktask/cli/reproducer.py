"""`ktask reproducer`: the C program of a case."""

from __future__ import annotations

import sys

from ktask.cli.base import FOUND, fail
from ktask.cli.case_options import (
    Backend,
    Cpus,
    Method,
    MinChunk,
    PageSize,
    Placement,
    Policy,
    Settings,
    Size,
    Threads,
    Workload,
    case_of,
    thread_count,
)

EXAMPLES = (
    "ktask reproducer zeroing --size 1GiB --threads 2 > case.c",
    "ktask reproducer free --method munmap --page-size 4KiB --min-chunk 32MiB > case.c",
    "cc -O2 -fopenmp case.c -o case && OMP_PLACES='{0},{1}' ./case",
)


def reproducer(
    workload: Workload,
    size: Size = "1GiB",
    threads: Threads = None,
    page_size: PageSize = None,
    method: Method = None,
    backend: Backend = None,
    settings: Settings = None,
    policy: Policy = "ktask-v4",
    min_chunk: MinChunk = "2MiB",
    placement: Placement = None,
    cpus: Cpus = None,
) -> None:
    """Print a C program that does what `ktask run` does with the same options.

    It makes the same calls in the same chunks, checks the work, and prints rates and speedup. Exit 1 if there
    is no program for a case, or this machine cannot run it.
    """
    from ktask.host.topology import narrowed_to  # noqa: PLC0415
    from ktask.lab.reproducer import reproducer as program_of  # noqa: PLC0415
    from ktask.memory.region import UnavailableError  # noqa: PLC0415

    with narrowed_to(cpus):
        case = case_of(
            workload,
            method,
            size=size,
            page_size=page_size,
            backend=backend,
            min_chunk=min_chunk,
            policy=policy,
            placement=placement,
            settings=settings,
        )
        try:
            text = program_of(case, thread_count(threads))
        except UnavailableError as error:
            fail(f"no program: {error}", FOUND)
    sys.stdout.write(text)
