"""Tasks that lose time with two threads in one known way, because they were built to."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ktask import thread_func
from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.host.kernel_counters import RUN_QUEUE, STEAL
from ktask.lab.evidence import Evidence
from ktask.memory import region as memory
from ktask.workloads import protect

PAGE, PAGES_OF_TABLE = 4096, 512
STEP_CYCLES = 1_000_000  # some tenths of a millisecond
_FUTEX = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
_WAIT, _WAKE = 128, 129  # of this process alone


QUIET = 0.06


def is_quiet(seen: Evidence) -> bool:
    """Return whether two threads had the CPUs to themselves, after their last chunks, too."""
    looks = [one for one in (seen.serial, seen.many) if one]
    taken = [(one.counters[RUN_QUEUE] + one.counters[STEAL]) / (one.threads * one.wall_s) for one in looks]
    return [one.threads for one in looks] == [1, 2] and max(taken) <= QUIET


class Known:
    """A task of `size` chunks that needs no preparation and no check."""

    bytes_per_unit = 1

    def __init__(self, function: Any, *args: int, size: int):
        self.size = self.operations = size
        self.ctl = Ctl(function, args)

    def before(self) -> None:
        pass

    check = close = before


@thread_func(cache=True)
def change_protection(start, end, base, n_pages):
    """Change pages to and fro, all of it under mmap_lock, which threads spin for; page tables stay apart."""
    at = base + native.sched_getcpu() % 8 * n_pages * PAGE
    for _ in range(start, end):
        native.mprotect(at, n_pages * PAGE, 1)
        native.mprotect(at, n_pages * PAGE, 3)
    return 0


@thread_func(cache=True)
def read_one_table(start, end, base, files, buffers, times):
    """Have the kernel read one page table again and again, under its spinlock (`/proc/self/pagemap`)."""
    cpu = native.sched_getcpu()
    for _ in range((end - start) * times):
        native.pread(files + cpu % 2, buffers + cpu % 8 * PAGE, PAGE, base // PAGE * 8)
    return 0


@thread_func(cache=True)
def work_under_a_futex(start, end, word, inside, outside):
    """For each chunk, work outside of a lock that threads sleep for, then inside of it."""
    for _ in range(start, end):
        native.spend(outside)
        while native.compare_swap(word, 0, 1) != 0:
            native.syscall5(_FUTEX, word, _WAIT, 1, 0, 0)
        native.spend(inside)
        native.store(word, 0)
        native.syscall5(_FUTEX, word, _WAKE, 1, 0, 0)
    return 0


@thread_func(cache=True)
def work_under_an_own_spinlock(start, end, word, inside):
    """For each chunk, work inside of a lock that threads spin for in user space."""
    for _ in range(start, end):
        while native.compare_swap(word, 0, 1) != 0:
            pass
        native.spend(inside)
        native.store(word, 0)
    return 0


@thread_func(cache=True)
def unequal(start, end, steps, times):
    """Do `times` as much in the first chunk as in each other."""
    for k in range(start, end):
        native.spend(steps * (times if k == 0 else 1))
    return 0


@thread_func(cache=True)
def clear_one_buffer(start, end, files, buffer, size_bytes, times):
    """Have the kernel clear one buffer, whose cache lines then go to and fro between the CPUs."""
    own_file = files + native.sched_getcpu() % 2  # whose reference count stays with its CPU
    for _ in range((end - start) * times):
        native.read(own_file, buffer, size_bytes)
    return 0


@thread_func(cache=True)
def protect_page_after_page(start, end, base, fd, times):
    """Change a page of one's own to and fro: each time, the other CPU is asked to forget its translation."""
    page = base + native.sched_getcpu() % 8 * PAGES_OF_TABLE * PAGE
    arg = native.stack_1k()
    native.store(arg, page)
    native.store(arg + 8, PAGE)
    for k in range((end - start) * times):
        native.store(arg + 16, 1 - (k & 1))
        native.ioctl(fd, protect.UFFDIO_WRITEPROTECT, arg)
    return 0


@contextlib.contextmanager
def pages(size_bytes: int = 16 << 20) -> Iterator[int]:
    """Give the address of populated pages of 4 KiB."""
    with memory.Region(size_bytes, "4KiB") as region:
        region.populate()
        yield region.address


@contextlib.contextmanager
def two_files(path: str) -> Iterator[int]:
    """Open a file twice, and give the first of two numbers in a row."""
    files = [os.open(path, os.O_RDONLY) for _ in range(8)]
    try:
        yield next(fd for fd in files if fd + 1 in files)
    finally:
        for fd in files:
            os.close(fd)


@contextlib.contextmanager
def write_protectable(base: int, size_bytes: int = 16 << 20) -> Iterator[int]:
    """Give a userfaultfd for populated pages."""
    fd = protect.userfaultfd()
    try:
        fcntl.ioctl(fd, protect.UFFDIO_REGISTER, (ctypes.c_uint64 * 4)(base, size_bytes, 1 << 1))
        yield fd
    finally:
        os.close(fd)


def words(n: int = 8 * PAGES_OF_TABLE) -> np.ndarray:
    """Return words for locks, apart in cache lines from all else."""
    return np.zeros(n + 2 * PAGES_OF_TABLE, dtype=np.int64)
