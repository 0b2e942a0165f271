"""A process with a populated range that waits for its end; `exits.py` runs it as a program of its own.

    python -I -S populated_child.py SIZE_BYTES MMAP_FLAGS ADVICE CPU

A fresh and small process: a fork of the measuring one would carry its page tables to the grave, and libgomp
does not survive a fork. It needs nothing but the standard library, says `ready` once its pages are there, and
ends with whoever started it, because its standard input does.
"""

import contextlib
import ctypes
import mmap
import os
import sys

ALIGNMENT = 2 << 20
MADV_POPULATE_WRITE = 23


def populated(size_bytes: int, flags: int, advice: int) -> mmap.mmap:
    """Return a private mapping with `size_bytes` of populated pages from the first 2 MiB border on."""
    room = 0 if flags else ALIGNMENT  # hugetlb mappings are aligned, and may not be longer than their pages
    mapping = mmap.mmap(-1, size_bytes + room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(mapping)) % ALIGNMENT if room else 0
    if advice:
        mapping.madvise(advice, start, size_bytes)
    while True:
        try:
            mapping.madvise(MADV_POPULATE_WRITE, start, size_bytes)
        except InterruptedError:
            continue
        return mapping


def be_first_to_go() -> None:
    """When memory runs out, have the kernel end this process, and not the one that can tell of it."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def main() -> None:
    """Populate, say so, wait."""
    size_bytes, flags, advice, cpu = map(int, sys.argv[1:])
    be_first_to_go()
    os.sched_setaffinity(0, {cpu})
    try:
        kept = populated(size_bytes, flags, advice)
    except OSError as error:
        sys.exit(f"populating {size_bytes} bytes failed: {error.strerror}")
    os.write(1, b"ready\n")
    os.read(0, 1)
    kept.close()


if __name__ == "__main__":
    main()
