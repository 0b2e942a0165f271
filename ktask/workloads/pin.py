"""Pin: keep a populated range from being moved or swapped out, as drivers do before DMA; or let go of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads import Case, Method, State, Workload, expect, folios
from ktask.workloads.folios import FOLIO
from ktask.workloads.gpu import OnGpu, no_gpu
from ktask.workloads.locked import lock_range, over_limit
from ktask.workloads.nodes import NODE, nodes_of
from ktask.workloads.populated import Mapped, Populated, no_populate
from ktask.workloads.rings import (
    BUFFER,
    RING_BYTES,
    SLOTS,
    Rings,
    n_rings,
    no_io_uring,
    no_unpinning,
    pin_range,
    unpin_slots,
)
from ktask.workloads.umem import Umem, no_xdp, too_many_sockets

ORDER = 6


@thread_func(cache=True)
def lock(start, end, base, page_size):
    """Lock pages `start` to `end`: the mapping is marked, every page moved to the unevictable list."""
    return lock_range(base + start * page_size, (end - start) * page_size)


@thread_func(cache=True)
def unlock(start, end, base, page_size):
    """Unlock pages `start` to `end`."""
    failed = native.munlock(base + start * page_size, (end - start) * page_size)
    return native.last_errno() if failed else 0


@thread_func(cache=True)
def register(start, end, base, page_size, fds, n_rings, taken):
    """Pin pages `start` to `end` for DMA, in buffers of `BUFFER`."""
    address, size_bytes = base + start * page_size, (end - start) * page_size
    return pin_range(address, size_bytes, max(BUFFER, page_size), fds, n_rings, taken)


@thread_func(cache=True)
def unregister(start, end, fds, n_rings):
    """Unpin the buffers `start` to `end`."""
    return unpin_slots(start, end, fds, n_rings)


class Locked(Populated):
    """A populated region that is locked by a repetition and unlocked before it."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.ctl = self.task(lock)
        self._others = status_bytes("VmLck")

    def before(self) -> None:
        memory.unlock(self.region.address, self.region.size_bytes)

    def check(self) -> None:
        self._expect("VmLck", self.region.size_bytes)

    def _expect(self, field: str, wanted: int) -> None:
        found = status_bytes(field) - self._others
        expect(found == wanted, f"{found} of {self.region.size_bytes} bytes count as {field}, not {wanted}")


class Unlocked(Locked):
    """The reverse: locked before a repetition, and unlocked by it."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.ctl = self.task(unlock)

    def before(self) -> None:
        memory.lock(self.region.address, self.region.size_bytes)
        self._expect("VmLck", self.region.size_bytes)

    def check(self) -> None:
        self._expect("VmLck", 0)


class Registered(Mapped):
    """A populated region, and rings whose tables of fixed buffers it goes into."""

    def __init__(self, case: Case):
        super().__init__(case, unit_bytes=self._unit_bytes(case))
        try:
            with folios.expected(case):
                self.region.populate()
            self.rings = Rings()
        except BaseException:
            self.region.unmap()
            raise
        self._others = status_bytes("VmPin")
        self._make_task()

    def _unit_bytes(self, case: Case) -> int:
        return case.page_size

    def _make_task(self) -> None:
        self.ctl = self.task(register, *self.rings.args)

    def before(self) -> None:
        self.rings.empty()

    def check(self) -> None:
        self._expect(self.region.size_bytes)

    def _expect(self, wanted: int) -> None:
        pinned = status_bytes("VmPin") - self._others
        expect(pinned == wanted, f"{pinned} of {self.region.size_bytes} bytes are pinned, not {wanted}")

    def close(self) -> None:
        self.rings.close()
        super().close()


class Unregistered(Registered):
    """The reverse: pinned in buffers of the least chunk before a repetition, which takes the pins away."""

    def _unit_bytes(self, case: Case) -> int:
        return piece_bytes(case)

    def _make_task(self) -> None:
        self.size = -(-self.region.size_bytes // self.bytes_per_unit)
        self.size_bytes = self.region.size_bytes  # the last buffer may be shorter
        self.ctl = Ctl(unregister, self.rings.args[:2])

    def before(self) -> None:
        super().before()
        whole = self.region.address, self.region.size_bytes
        if code := pin_range(*whole, self.bytes_per_unit, *self.rings.args):
            raise OSError(code, os.strerror(code))
        self._expect(self.region.size_bytes)

    def check(self) -> None:
        self._expect(0)


def piece_bytes(case: Case) -> int:
    """Return the bytes of each buffer that is unpinned: the least chunk; a buffer has at most 1 GiB."""
    return max(min(case.min_chunk_pages * case.page_size, memory.GIB), case.page_size)


STATES: dict[str, Callable[[Case], State]] = {
    "io_uring": Registered,
    "io_uring_unpin": Unregistered,
    "mlock": Locked,
    "munlock": Unlocked,
    "xdp": Umem,
    "gpu": OnGpu,
}


def locked_bytes(case: Case) -> int:
    """Return what counts against RLIMIT_MEMLOCK once a case has run, what is locked now included."""
    if case.method in ("mlock", "munlock"):
        return status_bytes("VmLck") + case.size_bytes
    if case.method == "xdp":  # counted by user, for which the kernel has no file
        return case.size_bytes
    return status_bytes("VmPin") + case.size_bytes + n_rings() * RING_BYTES


def why_not(case: Case) -> str | None:
    """Return why the case cannot be pinned here: too many buffers for the rings, or too much, or None."""
    slots, pieces = n_rings() * SLOTS, -(-case.size_bytes // piece_bytes(case))
    if case.method == "io_uring_unpin" and pieces > slots:
        return f"{pieces} buffers are more than the {slots} slots of the rings; raise the minimum chunk"
    if case.method == "xdp" and (reason := too_many_sockets(case)):
        return reason
    return None if case.method == "gpu" else over_limit(locked_bytes(case))  # the driver counts for itself


WORKLOAD = Workload(
    name="pin",
    about="Pin a populated range, as drivers do before DMA: every page is looked up and held in place; or "
    "let go of it.",
    operation="byte",
    methods=(
        Method(
            "io_uring",
            "registered buffers of io_uring: long-term page pins as VFIO takes them",
            probe=no_io_uring,
            options=(NODE, FOLIO),
            by_source="The lock of a ring is held for each call; there are several rings per CPU.",
            locks=("lock of the ring",),
        ),
        Method(
            "mlock",
            "mlock by range: the mapping is split and marked, every page goes to the unevictable list",
            page_kinds=("4KiB", "THP"),  # hugetlb pages cannot be swapped out; mlock passes over them
            probe=no_populate,
            options=(NODE, FOLIO),
            by_source="mlock takes mmap_lock for writing while it marks the mapping and moves its pages, so "
            "threads take turns.",
            locks=("mmap_lock",),
        ),
        Method(
            "io_uring_unpin",
            "the reverse: buffers of the minimum chunk are taken out of their rings, and their pages let go",
            probe=no_unpinning,
            options=(NODE, FOLIO),
            by_source="The lock of a ring is held for each call; there are several rings per CPU. No page "
            "table is looked at: the ring knows its pages, folio by folio.",
            locks=("lock of the ring",),
        ),
        Method(
            "munlock",
            "the reverse: munlock by range, mappings are marked, pages go back to the other lists",
            page_kinds=("4KiB", "THP"),
            probe=no_populate,
            options=(NODE, FOLIO),
            by_source="munlock takes mmap_lock for writing while it marks the mapping and moves its pages, "
            "so threads take turns.",
            locks=("mmap_lock",),
        ),
        Method(
            "xdp",
            "memory for packets of AF_XDP sockets, as a driver pins it for the DMA of a network card",
            probe=no_xdp,
            options=(NODE, FOLIO),
            by_source="mmap_lock is taken for reading only. Each call holds it for its whole piece, and then "
            "maps the pages once more, for the kernel (vmap).",
            locks=("mmap_lock", "vmap lock"),
        ),
        Method(
            "gpu",
            "cuMemHostRegister by range, as loaders of models pin host memory for a GPU (NVIDIA driver)",
            probe=no_gpu,
            options=(NODE, FOLIO),
            by_source="The driver pins the pages as the other methods do; which locks of its own it holds "
            "while it maps them for the GPU was not read.",
        ),
    ),
    setup=lambda case: STATES[case.method](case),
    why_not=why_not,
    nodes=lambda case: nodes_of(case).memory,
)
