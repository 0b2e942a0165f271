"""A process that leaves no free block of 2 MiB, run as a program of its own; it needs nothing but Python.

    python -I -S fragmenting_child.py MOST_BLOCKS LIMIT_S

At each `f` that it reads it takes free blocks as huge pages, splits them, pins the first page of each as a
fixed buffer of io_uring, which the kernel cannot move, and gives the other 511 pages back: until it gets no
huge page any more, or has broken MOST_BLOCKS. It never holds more than half of the free blocks, nor 512 MiB,
and in the end a page per block. It answers with a line: the blocks that it has broken so far, and `done`, or
`late` after LIMIT_S seconds. Its pins end with it, and it ends with whoever started it, as its input does.
"""

import contextlib
import ctypes
import itertools
import mmap
import os
import re
import select
import sys
import time

BLOCK, PAGE, HUGE_ORDER = 2 << 20, 4096, 9
BATCH = 256  # blocks that are held at once
MISSES = 3  # without a huge page, one after the other: there are none
MADV_COLD, MADV_POPULATE_WRITE = 20, 23
SETUP, REGISTER = 425, 427  # the same numbers on all kinds of machines
REGISTER_BUFFERS2, UPDATE_BUFFERS, SPARSE, SLOTS = 15, 16, 1, 16384

libc = ctypes.CDLL(None, use_errno=True)


class Pins:
    """Pages pinned one by one, in as many rings as it takes."""

    def __init__(self) -> None:
        self.ring, self.used = -1, SLOTS
        self.kept: list[mmap.mmap] = []

    def pin(self, addresses: list[int]) -> None:
        """Register each page as a fixed buffer of a ring; OSError tells why not."""
        if self.used + len(addresses) > SLOTS:
            params, table = ctypes.create_string_buffer(120), (ctypes.c_uint32 * 8)(SLOTS, SPARSE)
            self.ring, self.used = call(SETUP, 1, ctypes.addressof(params)), 0
            call(REGISTER, self.ring, REGISTER_BUFFERS2, ctypes.addressof(table), 32)
        pairs = itertools.chain.from_iterable((at, PAGE) for at in addresses)
        iovecs, tags = (ctypes.c_uint64 * (2 * len(addresses)))(*pairs), (ctypes.c_uint64 * len(addresses))()
        update = (ctypes.c_uint64 * 4)(
            self.used, ctypes.addressof(iovecs), ctypes.addressof(tags), len(addresses)
        )
        call(REGISTER, self.ring, UPDATE_BUFFERS, ctypes.addressof(update), 32)
        self.used += len(addresses)

    def break_blocks(self, count: int) -> int:
        """Take some blocks and keep a pinned page of each; return how many of them were huge pages."""
        size = count * BLOCK
        mapping = mmap.mmap(-1, size + BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = -ctypes.addressof(ctypes.c_char.from_buffer(mapping)) % BLOCK
        firsts = range(start, start + size, BLOCK)
        mapping.madvise(mmap.MADV_HUGEPAGE, start, size)
        mapping.madvise(MADV_POPULATE_WRITE, start, size)
        if not (had := huge_bytes() // BLOCK):
            mapping.madvise(mmap.MADV_DONTNEED)
            return 0
        for first in firsts:
            mapping[first] = 1  # else Linux 6.12 puts the zero page there as it splits
            mapping.madvise(MADV_COLD, first, PAGE)  # of a part of a huge page: splits it
        self.pin([ctypes.addressof(ctypes.c_char.from_buffer(mapping, first)) for first in firsts])
        for first in firsts:
            mapping.madvise(mmap.MADV_DONTNEED, first + PAGE, BLOCK - PAGE)
        self.kept.append(mapping)
        return had


def call(number: int, *args: int) -> int:
    """Make a system call; OSError if it fails."""
    done = libc.syscall(*(ctypes.c_long(one) for one in (number, *args)))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def huge_bytes() -> int:
    """Return how much of this process is mapped by huge pages."""
    with open("/proc/self/smaps_rollup") as file:  # noqa: PTH123
        return int(re.findall(r"^AnonHugePages: +(\d+) kB$", file.read(), re.MULTILINE)[0]) << 10


def free_blocks() -> int:
    """Return how many free blocks of 2 MiB there are, in all zones."""
    with open("/proc/buddyinfo") as file:  # noqa: PTH123
        rows = [line.split()[4:] for line in file]
    return sum(int(count) << order for row in rows for order, count in enumerate(row[HUGE_ORDER:]))


def fragment(pins: Pins, most_blocks: int, limit_s: float) -> tuple[int, str]:
    """Break blocks until there are none; return how many, and whether that was done in time."""
    broken, misses, end = 0, 0, time.monotonic() + limit_s
    while broken < most_blocks and misses < MISSES:
        if time.monotonic() > end:
            return broken, "late"
        if select.select([0], [], [], 0.01 * (misses > 0))[0]:
            sys.exit(0)  # whoever started it is gone
        had = pins.break_blocks(max(1, min(BATCH, free_blocks() // 2, most_blocks - broken)))
        broken, misses = broken + had, 0 if had else misses + 1
    return broken, "done"


def be_first_to_go() -> None:
    """When memory runs out, have the kernel end this process, and no other."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def main() -> None:
    """Fragment memory at each order, and keep it so until the end."""
    most_blocks, limit_s = int(sys.argv[1]), float(sys.argv[2])
    be_first_to_go()
    pins, total = Pins(), 0
    while os.read(0, 1):
        try:
            broken, how = fragment(pins, most_blocks, limit_s)
        except OSError as error:
            sys.exit(f"a page could not be pinned: {error.strerror}")
        total += broken
        os.write(1, f"{total} {how}\n".encode())


if __name__ == "__main__":
    main()
