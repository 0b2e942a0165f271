"""A process with a populated range, run as a program of its own, that exits or forks to be measured.

    python -I -S populated_child.py SIZE_BYTES MMAP_FLAGS ADVICE MAPPINGS CPU [FILL_CPU...]

It fills an equal part of the range on each FILL_CPU, or all of it on CPU, and then runs on CPU (any, if -1).
The range lies in so many mappings of equal size.

A fresh and small process: a fork of the measuring one would have its page tables, too, and libgomp does not
survive a fork. It needs nothing but the standard library, says `ready` once its pages are there, and ends
with whoever started it, because its standard input does. Until then it forks for each `f` that it reads,
ends that child at the next order, and answers with the number of its child.
"""

import contextlib
import ctypes
import itertools
import mmap
import os
import signal
import sys

ALIGNMENT = 2 << 20
MADV_DONTDUMP, MADV_POPULATE_WRITE = 16, 23
PR_SET_PDEATHSIG = 1


def populated(size_bytes: int, flags: int, advice: int, mappings: int, cpus: list[int]) -> mmap.mmap:
    """Return private memory with populated pages from the first 2 MiB border on, a part from each CPU."""
    room = 0 if flags else ALIGNMENT  # hugetlb mappings are aligned, and may not be longer than their pages
    mapping = mmap.mmap(-1, size_bytes + room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(mapping)) % ALIGNMENT if room else 0
    if advice:
        mapping.madvise(advice, start, size_bytes)
    for first, end in parts(size_bytes, mappings)[1::2]:  # what may not be dumped is a mapping of its own
        mapping.madvise(MADV_DONTDUMP, start + first, end - first)
    for cpu, (first, end) in zip(cpus, parts(size_bytes, len(cpus)), strict=False):
        run_on(cpu)
        if end > first:
            populate(mapping, start + first, end - first)
    return mapping


def parts(size_bytes: int, count: int) -> list[tuple[int, int]]:
    """Return starts and ends of equal parts, in whole 2 MiB."""
    ends = [size_bytes * k // count // ALIGNMENT * ALIGNMENT for k in range(count)] + [size_bytes]
    return list(itertools.pairwise(ends))


def populate(mapping: mmap.mmap, start: int, size_bytes: int) -> None:
    """Fault every page of a part in for writing, again after a signal."""
    while True:
        try:
            return mapping.madvise(MADV_POPULATE_WRITE, start, size_bytes)
        except InterruptedError:
            continue


def run_on(cpu: int) -> None:
    """Keep this process to a CPU; to any, if -1."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})


def be_first_to_go() -> None:
    """When memory runs out, have the kernel end this process, and not the one that can tell of it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def serve() -> None:
    """Fork, and end the fork, as told, until the input ends."""
    own, child = os.getpid(), 0
    while order := os.read(0, 1):
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        child = os.fork() if order == b"f" else 0
        if order == b"f" and child == 0:
            wait_for_the_end(own)
        os.write(1, child.to_bytes(8, sys.byteorder))


def wait_for_the_end(parent: int) -> None:
    """Wait, as a fork, to be killed, by the kernel if the parent ends first."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    while os.getppid() == parent:
        libc.pause()
    os._exit(0)


def main() -> None:
    """Populate, say so, wait for orders or the end."""
    size_bytes, flags, advice, mappings, cpu, *fill_cpus = map(int, sys.argv[1:])
    be_first_to_go()
    try:
        kept = populated(size_bytes, flags, advice, mappings, fill_cpus or [cpu])
    except OSError as error:
        sys.exit(f"populating {size_bytes} bytes failed: {error.strerror}")
    run_on(cpu)
    os.write(1, b"ready\n")
    serve()
    kept.close()


if __name__ == "__main__":
    main()
