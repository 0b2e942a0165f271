"""Protect: take the right to write away from a populated range."""

from __future__ import annotations

import ctypes
import fcntl
import os
from functools import lru_cache

import numpy as np

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Workload, expect
from ktask.workloads.folios import FOLIO
from ktask.workloads.nodes import NODE, nodes_of
from ktask.workloads.populated import Populated, no_populate

ORDER = 4

# <linux/userfaultfd.h>
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
_API, _USER_MODE_ONLY, _FEATURE_WP, _FEATURE_WP_ALL_KINDS = 0xAA, 1, 1 << 0, 1 << 12
_REGISTER_WP, _WP_ON, _WP_OFF = 1 << 1, 1, 0
_UFFD_WP_BIT = np.uint64(1 << 57)  # of a pagemap entry


@thread_func(cache=True)
def protect(start, end, base, page_size):
    """Make pages `start` to `end` read-only: page-table entries changed, the mapping split."""
    failed = native.mprotect(base + start * page_size, (end - start) * page_size, 1)
    return native.last_errno() if failed else 0


@thread_func(cache=True)
def write_protect(start, end, base, page_size, fd):
    """Write-protect pages `start` to `end` by userfaultfd: entries changed, the mapping untouched."""
    arg = native.stack_64k()
    native.store(arg, base + start * page_size)
    native.store(arg + 8, (end - start) * page_size)
    native.store(arg + 16, 1)
    while native.ioctl(fd, UFFDIO_WRITEPROTECT, arg) < 0:
        code = native.last_errno()
        if code not in (native.EINTR, native.EAGAIN):
            return code
    return 0


class Protect(Populated):
    """A populated region that is writable before each repetition and not after it."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.expect_nodes()
        self.ctl = self.task(protect)

    def before(self) -> None:
        memory.protect(self.region.address, self.region.size_bytes, writable=True)

    def check(self) -> None:
        found = memory.protections(self.region.address, self.region.address + self.region.size_bytes)
        expect(set(found) == {"r--p"}, f"the range has mappings {found[:4]} after the change, not r--p alone")
        expect(bool(self.region.present().all()), "pages have gone")


class WriteProtect(Protect):
    """The same region, registered with a userfaultfd."""

    def __init__(self, case: Case):
        super().__init__(case)
        try:
            self.fd = userfaultfd()
        except OSError as error:
            self.region.unmap()
            raise memory.UnavailableError(f"userfaultfd: {error.strerror}") from error
        at, size = self.region.address, self.region.size_bytes
        fcntl.ioctl(self.fd, UFFDIO_REGISTER, (ctypes.c_uint64 * 4)(at, size, _REGISTER_WP))
        self.ctl = self.task(write_protect, self.fd)

    def before(self) -> None:
        at, size = self.region.address, self.region.size_bytes
        fcntl.ioctl(self.fd, UFFDIO_WRITEPROTECT, (ctypes.c_uint64 * 3)(at, size, _WP_OFF))

    def check(self) -> None:
        entries = memory.pagemap(self.region.address, self.region.size_bytes)
        left = np.count_nonzero((entries & _UFFD_WP_BIT) == 0)
        expect(left == 0, f"{left} pages of 4 KiB can still be written to")

    def close(self) -> None:
        os.close(self.fd)
        super().close()


def userfaultfd() -> int:
    """Return a new userfaultfd that can write-protect every kind of page; OSError tells why not."""
    fd = memory.syscall("userfaultfd", _USER_MODE_ONLY | os.O_CLOEXEC)
    try:
        arg = (ctypes.c_uint64 * 3)(_API, _FEATURE_WP | _FEATURE_WP_ALL_KINDS)
        fcntl.ioctl(fd, UFFDIO_API, arg)
    except BaseException:
        os.close(fd)
        raise
    return fd


@lru_cache(maxsize=1)
def no_userfaultfd() -> str | None:
    """Return why userfaultfd cannot write-protect here, or None; tried."""
    try:
        os.close(userfaultfd())
    except OSError as error:
        return f"userfaultfd cannot write-protect here (Linux 5.19 can): {error.strerror}"
    return no_populate()


def setup(case: Case) -> Protect:
    """Return the case set up; its memory is populated."""
    return (Protect if case.method == "mprotect" else WriteProtect)(case)


WORKLOAD = Workload(
    name="protect",
    about="Take the right to write away from a populated range: change each of its page-table entries.",
    operation="byte",
    methods=(
        Method(
            "mprotect",
            "mprotect by range: page-table entries change, and the mapping is split where chunks meet",
            probe=no_populate,
            options=(NODE, FOLIO),
            by_source="mprotect takes mmap_lock for writing, so threads take turns.",
            locks=("mmap_lock",),
        ),
        Method(
            "uffd_wp",
            "UFFDIO_WRITEPROTECT by range: the same entries change, the mapping stays as it is",
            probe=no_userfaultfd,
            options=(NODE, FOLIO),
            by_source="mmap_lock is taken for reading only. Each call ends with a TLB flush on every CPU "
            "that runs the process.",
        ),
    ),
    setup=setup,
    nodes=lambda case: nodes_of(case).memory,
)
