"""Memory for packets: sockets of AF_XDP pin a range for the DMA of a network card (XDP_UMEM_REG).

No network card is needed for it. A socket pins one range; its pages are let go of by a worker of the kernel
some time after it was closed, so the way back cannot be timed.
"""

from __future__ import annotations

import re
import resource
import socket
import time
from functools import lru_cache

import numpy as np

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.host import kernel_files, node_memory, topology
from ktask.memory import region as memory
from ktask.workloads.base import Case, expect
from ktask.workloads.populated import Mapped, no_populate
from ktask.workloads.rings import BUFFER

# <linux/if_xdp.h>, <linux/socket.h>
_AF_XDP, _SOL_XDP, _UMEM_REG, _REG_BYTES = 44, 283, 4, 24
_PACKET_BYTES = 4096
_CALL_SETSOCKOPT = memory.call_number("setsockopt")
_ENOSPC, _EBUSY = 28, 16
# A CPU keeps so much of a counter of vmstat, for each node, to itself, for a second at most.
_UNSEEN = 125
_PATIENCE_S = 3.0


@thread_func(cache=True)
def register_umem(start, end, base, page_size, fds, n_sockets, taken, piece):
    """Pin pages `start` to `end`: each `piece` of them by the next socket, whose bytes are noted."""
    at, stop, arg = base + start * page_size, base + end * page_size, native.stack_1k()
    while at < stop:
        number = native.fetch_add(taken, 1)
        if number >= n_sockets:
            return _ENOSPC
        size_bytes = min(stop - at, piece)
        native.store(arg, at)
        native.store(arg + 8, size_bytes)
        native.store(arg + 16, _PACKET_BYTES)  # and no room before a packet, the high half
        fd = native.load_plain(fds + 8 * number)
        code = native.EINTR
        while code == native.EINTR:
            failed = native.syscall5(_CALL_SETSOCKOPT, fd, _SOL_XDP, _UMEM_REG, arg, _REG_BYTES)
            code = native.last_errno() if failed else 0
        if code != 0:
            return code
        native.store(taken + 8 + 8 * number, size_bytes)
        at += size_bytes
    return 0


class Umem(Mapped):
    """A populated region that sockets pin, each a piece, and let go of before each repetition."""

    def __init__(self, case: Case):
        super().__init__(case)
        self._sockets: list[socket.socket] = []
        count, piece = n_sockets(case), max(BUFFER, case.page_size)
        self._fds, self._taken = np.zeros(count, np.int64), np.zeros(1 + count, np.int64)
        try:
            self.region.populate()
        except BaseException:
            self.region.unmap()
            raise
        args = self._fds.ctypes.data, count, self._taken.ctypes.data, piece
        self.ctl = self.task(register_umem, *args)

    def before(self) -> None:
        self._let_go()
        self._sockets = [open_socket() for _ in range(self._fds.size)]
        self._fds[:] = [one.fileno() for one in self._sockets]
        self._pins_before = pins()[0]

    def _let_go(self) -> None:
        """Close the sockets, and wait until their pages are not pinned any more."""
        held = int(self._taken[1:].sum()) // memory.BASE_PAGE
        released, end = pins()[1], time.monotonic() + _PATIENCE_S
        for one in self._sockets:
            one.close()
        self._sockets = []
        self._taken[:] = 0
        while held and pins()[1] - released < held - unseen():
            expect(time.monotonic() < end, f"the kernel has not let go of {held} pages of closed sockets")
            time.sleep(0.001)

    def check(self) -> None:
        found, size = int(self._taken[1:].sum()), self.region.size_bytes
        expect(found == size, f"sockets have pinned {found} of {size} bytes")
        used = sum(is_used(one) for one in self._sockets[: int(self._taken[0])])
        expect(used == self._taken[0], f"{used} of {self._taken[0]} sockets have memory")
        pages, wanted = pins()[0] - self._pins_before, size // memory.BASE_PAGE - unseen()
        expect(pages >= wanted, f"{pages} pages were pinned (nr_foll_pin_acquired), not {wanted} or more")

    def close(self) -> None:
        self._taken[:] = 0
        self._let_go()
        super().close()


def n_sockets(case: Case) -> int:
    """Return how many sockets a case may need: one for each chunk, and for each piece of a large one."""
    chunks = -(-case.size_bytes // max(case.min_chunk_bytes, case.page_size))
    return chunks + -(-case.size_bytes // BUFFER) + topology.cpu_count()


def pins() -> tuple[int, int]:
    """Return how many pages were ever pinned, and how many of them let go of, on this machine."""
    text = kernel_files.read_text(kernel_files.ROOT / "proc/vmstat") or ""
    counts = dict(re.findall(r"^nr_foll_pin_(\w+) (\d+)$", text, re.MULTILINE))
    return int(counts.get("acquired", -1)), int(counts.get("released", -1))


def unseen() -> int:
    """Return how many pages the counters may lack, as CPUs keep them to themselves."""
    return _UNSEEN * topology.cpu_count() * len(node_memory.usable_nodes())


def open_socket() -> socket.socket:
    """Return a new socket; OSError tells why not."""
    return socket.socket(_AF_XDP, socket.SOCK_RAW)


def is_used(one: socket.socket) -> bool:
    """Return whether a socket has memory: the kernel refuses to give it more."""
    try:
        one.setsockopt(_SOL_XDP, _UMEM_REG, bytes(_REG_BYTES))
    except OSError as error:
        return error.errno == _EBUSY
    return False


@lru_cache(maxsize=1)
def no_xdp() -> str | None:
    """Return why sockets of AF_XDP cannot be had here, or None; tried."""
    try:
        open_socket().close()
    except PermissionError:
        return "sockets of AF_XDP need CAP_NET_RAW; run as root"
    except OSError as error:
        return f"sockets of AF_XDP (Linux 4.18, CONFIG_XDP_SOCKETS) are refused: {error.strerror}"
    if min(pins()) < 0:
        return "this kernel does not count pinned pages (nr_foll_pin_acquired, Linux 5.6)"
    return no_populate()


def too_many_sockets(case: Case) -> str | None:
    """Return why a case has too many sockets for this process, or None."""
    need, most = n_sockets(case), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY and need > most - 128:
        return f"{need} sockets are more than the {most} open files of this process; raise the minimum chunk"
    return None
