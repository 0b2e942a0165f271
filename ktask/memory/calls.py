"""System calls over ranges, compiled: made again after a signal; they return 0 or an errno."""

from __future__ import annotations

from numba import njit

from ktask.engine import native
from ktask.engine.thread_functions import thread_func


@njit(cache=True, nogil=True)
def advise(address, size_bytes, advice):
    """Call madvise."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(address, size_bytes, advice)
        code = native.last_errno() if failed else 0
    return code


@njit(cache=True, nogil=True)
def fallocate(fd, mode, offset, size_bytes):
    """Call fallocate."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.fallocate(fd, mode, offset, size_bytes)
        code = native.last_errno() if failed else 0
    return code


@thread_func(cache=True)
def advise_pages(start, end, base, page_size, advice):
    """Call madvise over pages `start` to `end`, to fault them in, zap them, or mark them."""
    return advise(base + start * page_size, (end - start) * page_size, advice)


@thread_func(cache=True)
def advise_ranges(start, end, ranges, advice):
    """Call madvise over the ranges `start` to `end`, each two words: address and bytes."""
    for k in range(start, end):
        row = ranges + 16 * k
        code = advise(native.load_plain(row), native.load_plain(row + 8), advice)
        if code != 0:
            return code
    return 0


@thread_func(cache=True)
def fallocate_pages(start, end, fd, page_size, mode):
    """Call fallocate over pages `start` to `end` of a file: give it pages, or with a mode punch a hole."""
    return fallocate(fd, mode, start * page_size, (end - start) * page_size)
