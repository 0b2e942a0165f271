"""Page walk: visit every page-table entry of a range, through the kernel's own walker."""

from __future__ import annotations

import errno
import os
from functools import lru_cache

import numpy as np

from ktask import memory, native
from ktask.task import Ctl
from ktask.thread_functions import thread_func
from ktask.workloads import Case, Method, Workload, expect

ORDER = 2

PAGEMAP_SCAN, _ARG_WORDS = memory.PAGEMAP_SCAN, memory.SCAN_ARG_WORDS
_PRESENT_CATEGORY = memory.SCAN_PRESENT
_REGIONS = 2048  # that the 64 KiB on the stack have room for


@thread_func(cache=True)
def read_pagemap(start, end, base, fd, count):
    """Count present entries of pages `start` to `end` by reading pagemap in pieces of 64 KiB."""
    buffer = native.stack_64k()
    present = 0
    page = start
    while page < end:
        n_bytes = min(end - page, 8192) * 8
        got = native.pread(fd, buffer, n_bytes, (base // 4096 + page) * 8)
        if got <= 0:
            code = native.last_errno() if got < 0 else 5
            if code == native.EINTR:
                continue
            return code
        for k in range(got // 8):
            present += native.load_plain(buffer + 8 * k) < 0  # bit 63: present
        page += got // 8
    native.fetch_add(count, present)
    return 0


@thread_func(cache=True)
def scan_pagemap(start, end, base, fd, count):
    """Count present entries of pages `start` to `end` by the PAGEMAP_SCAN ioctl."""
    arg = native.stack_64k()
    regions = arg + 8 * _ARG_WORDS
    present = 0
    at, last = base + start * 4096, base + end * 4096
    while at < last:
        for k in range(_ARG_WORDS):
            native.store(arg + 8 * k, 0)
        native.store(arg, 8 * _ARG_WORDS)  # size of the argument
        native.store(arg + 16, at)
        native.store(arg + 24, last)
        native.store(arg + 40, regions)
        native.store(arg + 48, _REGIONS)
        native.store(arg + 72, _PRESENT_CATEGORY)  # category_mask: must be present
        native.store(arg + 88, _PRESENT_CATEGORY)  # return_mask
        n_regions = native.ioctl(fd, PAGEMAP_SCAN, arg)
        if n_regions < 0:
            code = native.last_errno()
            if code == native.EINTR:
                continue
            return code
        for k in range(n_regions):
            present += native.load(regions + 24 * k + 8) - native.load(regions + 24 * k)
        at = native.load(arg + 32)  # walk_end
    native.fetch_add(count, present // 4096)
    return 0


FUNCTIONS = {"pagemap": read_pagemap, "pagemap_scan": scan_pagemap}


class Walk:
    """An address space of the case's size, and the number of entries that a walk must find."""

    def __init__(self, case: Case):
        self.region = memory.AliasedRegion(case.size_bytes)
        self.size = self.operations = self.region.size_bytes // memory.BASE_PAGE
        self.bytes_per_unit = memory.BASE_PAGE
        self.fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self.count = np.zeros(1, dtype=np.int64)
        args = (self.region.address, self.fd, self.count.ctypes.data)
        self.ctl = Ctl(FUNCTIONS[case.method], args, case.min_chunk_pages)

    def before(self) -> None:
        self.count[0] = 0

    def check(self) -> None:
        expected = self.operations - self.region.holes
        expect(
            self.count[0] == expected,
            f"the walk found {self.count[0]} present entries of {self.operations}; {expected} are there",
        )

    def close(self) -> None:
        os.close(self.fd)
        self.region.unmap()


@lru_cache(maxsize=1)
def no_pagemap() -> str | None:
    """Return why /proc/self/pagemap cannot be read, or None."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
            file.read(8)
    except OSError as error:
        return f"/proc/self/pagemap cannot be read: {error.strerror}"
    return None


@lru_cache(maxsize=1)
def no_pagemap_scan() -> str | None:
    """Return why the PAGEMAP_SCAN ioctl cannot be used, or None; tried on an empty range."""
    if reason := no_pagemap():
        return reason
    try:
        memory.scan(0, 0, _PRESENT_CATEGORY)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return "this kernel has no PAGEMAP_SCAN (Linux 6.7)"
        return f"PAGEMAP_SCAN is refused: {error.strerror}"
    return None


WORKLOAD = Workload(
    name="page_walk",
    about="Walk the page table of a large address space and count the present entries.",
    operation="PTE",
    methods=(
        Method(
            "pagemap_scan",
            "the PAGEMAP_SCAN ioctl: the kernel's walker, one call per chunk",
            "kernel",
            ("4KiB",),
            probe=no_pagemap_scan,
        ),
        Method(
            "pagemap",
            "reading /proc/self/pagemap in 64 KiB pieces: the walker, and 8 bytes copied per entry",
            "kernel",
            ("4KiB",),
            probe=no_pagemap,
        ),
    ),
    setup=Walk,
    memory_need=lambda case: memory.aliased_need(case.size_bytes),
)
