"""Migrate: move a populated range from one memory node to another (move_pages)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ktask.engine import native, placement
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.host import node_memory
from ktask.memory import region as memory
from ktask.workloads import Case, Method, Option, Workload, expect
from ktask.workloads.populated import Mapped, no_populate

ORDER = 13

_CALL_MOVE, _MPOL_MF_MOVE = memory.call_number("move_pages"), 2


@thread_func(cache=True)
def move(start, end, pages, targets, status, batch):
    """Move pages `start` to `end`, `batch` of them in each call."""
    for at in range(start, end, batch):
        count = min(batch, end - at)
        where = pages + 8 * at, targets + 4 * at, status + 4 * at
        failed = native.syscall6(_CALL_MOVE, 0, count, where[0], where[1], where[2], _MPOL_MF_MOVE)
        if failed < 0:
            return native.last_errno()
    return 0


class Migrate(Mapped):
    """A region that lies on one node before each repetition, and on another after it."""

    def __init__(self, case: Case):
        self.source, self.target = ends()
        memory.require_room_on((self.target,), case.size_bytes, case.page_kind, "moving memory")
        super().__init__(case)
        start, step = self.region.address, self.region.page_size
        self._pages = np.arange(start, start + self.region.size_bytes, step, dtype=np.uint64)
        self._targets = np.full(self._pages.size, self.target, dtype=np.int32)
        self._status = np.empty(self._pages.size, dtype=np.int32)
        self._random = np.random.default_rng(1)
        try:
            self.region.place((self.source,))
        except BaseException:
            self.region.unmap()
            raise
        arrays = (one.ctypes.data for one in (self._pages, self._targets, self._status))
        batch = int(case.option("batch")) or self.size
        self.ctl = Ctl(move, (*arrays, batch), case.min_chunk_pages)

    def before(self) -> None:
        self.region.zap()
        self.region.advise(memory.MADV_POPULATE_WRITE)
        self._expect_on(self.source, "before")
        self._stamp = self._random.integers(1, 1 << 62, dtype=np.uint64)
        words = self.region.one_word_per_page()
        words[:] = self._stamp + np.arange(words.size, dtype=np.uint64)
        self._status[:] = -1

    def check(self) -> None:
        wrong = np.count_nonzero(self._status != self.target)
        expect(wrong == 0, f"{wrong} of {self.size} pages were not moved to node {self.target}")
        self._expect_on(self.target, "after the move")
        words = self.region.one_word_per_page()
        kept = np.count_nonzero(words == self._stamp + np.arange(words.size, dtype=np.uint64))
        expect(kept == words.size, f"{words.size - kept} places of 4 KiB have lost their content")

    def _expect_on(self, nid: int, when: str) -> None:
        elsewhere = np.count_nonzero(self.region.nodes() != nid)
        expect(elsewhere == 0, f"{elsewhere} of {self.size} pages are not on node {nid} {when}")


def ends() -> tuple[int, int]:
    """Return the node to move from, near the threads, and the one farthest from it."""
    have, topo = node_memory.usable_nodes(), placement.site().topo
    home = next((node.nid for node in topo.nodes if node.nid in have), have[0])
    return home, max(have, key=lambda nid: (topo.distance(home, nid), -nid))


@lru_cache(maxsize=1)
def no_second_node() -> str | None:
    """Return why there are no two nodes to move memory between, or None."""
    have = node_memory.usable_nodes()
    if len(have) > 1:
        return no_populate()
    return (
        "moving memory needs two nodes; this process may use that of node "
        f"{', '.join(map(str, have))} alone. `make vm` tries it on an emulated machine with two"
    )


BATCH = Option("batch", "pages per call; 0 for a whole chunk", "0", least=1)
WORKLOAD = Workload(
    name="migrate",
    about="Move a populated range to another memory node: new pages, page tables changed, contents copied.",
    operation="byte",
    methods=(
        Method(
            "move_pages",
            "move_pages by range, to the node farthest from the threads",
            probe=no_second_node,
            allocates=True,
            options=(BATCH,),
            by_source="mmap_lock is taken for reading while pages are looked up. Each call first has "
            "every CPU hand its batch of pages to the LRU lists, under one mutex; then pages are unmapped "
            "and copied one after the other.",
            locks=("LRU lock", "zone lock", "page-table lock"),
        ),
    ),
    setup=Migrate,
)
