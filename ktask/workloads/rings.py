"""Rings of io_uring whose fixed buffers pin memory, as drivers do before DMA."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.host import topology
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads.populated import no_populate

# <linux/io_uring.h>
_REGISTER_BUFFERS2, _UPDATE_BUFFERS, _UNREGISTER_BUFFERS, _SPARSE = 15, 16, 1, 1
_SETUP_PARAMS_BYTES = 120
SLOTS = 1024  # of one ring's table
RING_BYTES = 16 * memory.KIB  # of its own that count as locked
# A larger buffer (up to 1 GiB) costs more per page, so threads with parts of one would look too fast.
# Never less than a page: VmPin counts a page once per ring that has a part of it.
BUFFER = 64 * memory.MIB
_CALL_REGISTER = memory.call_number("io_uring_register")


@njit(cache=True, nogil=True)
def _update(fds, n_rings, number, address, size_bytes):
    """Put a buffer into slot `number`, counted over all rings in turn, or nothing at address 0."""
    arg = native.stack_1k()
    iovec, tag = arg + 64, arg + 128
    native.store(iovec, address)
    native.store(iovec + 8, size_bytes)
    native.store(tag, 0)
    native.store(arg, number // n_rings)  # offset in the table, as the low half of the word
    native.store(arg + 8, iovec)
    native.store(arg + 16, tag)
    native.store(arg + 24, 1)  # how many
    fd = native.load_plain(fds + 8 * (number % n_rings))
    code = native.EINTR
    while code in (native.EINTR, native.EAGAIN):
        done = native.syscall4(_CALL_REGISTER, fd, _UPDATE_BUFFERS, arg, 32)
        code = 0 if done == 1 else native.last_errno() if done < 0 else 5  # EIO
    return code


@njit(cache=True, nogil=True)
def pin_range(address, size_bytes, most_bytes, fds, n_rings, taken):
    """Pin a range: each `most_bytes` of it as a fixed buffer of the next ring; return 0 or an errno."""
    at, end = address, address + size_bytes
    while at < end:
        number = native.fetch_add(taken, 1)
        if number >= n_rings * SLOTS:
            return 28  # ENOSPC
        code = _update(fds, n_rings, number, at, min(end - at, most_bytes))
        if code != 0:
            return code
        at += min(end - at, most_bytes)
    return 0


@njit(cache=True, nogil=True)
def unpin_slots(start, end, fds, n_rings):
    """Empty the slots `start` to `end`, counted over all rings in turn; return 0 or an errno."""
    for number in range(start, end):
        code = _update(fds, n_rings, number, 0, 0)
        if code != 0:
            return code
    return 0


class Rings:
    """Several rings per CPU, with empty tables of fixed buffers.

    Attributes
    ----------
    args
        What `pin_range` takes last: addresses of the files and of the count of slots taken.
    """

    def __init__(self) -> None:
        self.fds = np.full(n_rings(), -1, dtype=np.int64)
        self.taken = np.zeros(1, dtype=np.int64)
        self.args = self.fds.ctypes.data, self.fds.size, self.taken.ctypes.data
        try:
            for k in range(self.fds.size):
                self.fds[k] = ring()
        except BaseException:
            self.close()
            raise

    def empty(self) -> None:
        """Take every pin away."""
        for fd in self.fds.tolist():
            _drop_table(fd)
            _make_table(fd)
        self.taken[0] = 0

    def close(self) -> None:
        """Take every pin away, and close the rings."""
        for k, fd in enumerate(self.fds.tolist()):
            if fd >= 0:
                _drop_table(fd)  # else the pages stay pinned until a worker of the kernel gets to it
                os.close(fd)
                self.fds[k] = -1


def ring() -> int:
    """Return a new io_uring with an empty table of fixed buffers; OSError tells why not."""
    params = (ctypes.c_char * _SETUP_PARAMS_BYTES)()
    fd = memory.syscall("io_uring_setup", 1, ctypes.addressof(params))
    try:
        _make_table(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_table(fd: int) -> None:
    """Give a ring a table of `SLOTS` empty slots (struct io_uring_rsrc_register)."""
    arg = (ctypes.c_uint32 * 8)(SLOTS, _SPARSE)
    memory.syscall("io_uring_register", fd, _REGISTER_BUFFERS2, ctypes.addressof(arg), ctypes.sizeof(arg))


def _drop_table(fd: int) -> None:
    """Take the table of a ring away, and so the pins on its buffers."""
    memory.syscall("io_uring_register", fd, _UNREGISTER_BUFFERS, 0, 0)


def n_rings() -> int:
    """Return how many rings the buffers are shared out to."""
    return 4 * topology.cpu_count()


@lru_cache(maxsize=1)
def no_io_uring() -> str | None:
    """Return why buffers cannot be registered with an io_uring here, or None; tried."""
    try:
        os.close(ring())
    except OSError as error:
        return f"io_uring with tables of fixed buffers (Linux 5.19) is refused: {error.strerror}"
    return no_populate()


@lru_cache(maxsize=1)
def no_unpinning() -> str | None:
    """Return why taking a buffer out of a ring cannot be timed here, or None; tried on one page."""
    if reason := no_io_uring():
        return reason
    before = status_bytes("VmPin")
    rings, page = Rings(), memory.Region(memory.BASE_PAGE)
    try:
        page.populate()
        pin_range(page.address, memory.BASE_PAGE, BUFFER, *rings.args)
        unpin_slots(0, 1, *rings.args[:2])
        is_pinned = status_bytes("VmPin") > before
    finally:
        rings.close()
        page.unmap()
    if is_pinned:
        return "this kernel leaves it to a worker to unpin a buffer that left its ring (seen on Linux 6.1)"
    return None
