"""A region that is zeroed: what is left in it before, where it lies, and how to tell that it is zero."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ktask.host import node_memory
from ktask.memory import region as memory
from ktask.workloads import Case, Option, expect
from ktask.workloads.populated import Mapped


def nodes_of(node: str) -> tuple[int, ...]:
    """Return the nodes that memory is to lie on, none for anywhere; ValueError says what is allowed."""
    if node == "spread":
        return node_memory.usable_nodes()
    if node != "any" and not node.isdecimal():
        raise ValueError(f"node={node!r} is not allowed; use the number of a node, spread, or any")
    return () if node == "any" else (int(node),)


NODE = Option(
    "node", "the NUMA node that the memory is bound to, or spread: all in turn", "any", form=nodes_of
)


class Zeroed(Mapped):
    """A region, and a word per page that tells whether it was cleared."""

    def __init__(self, case: Case, unit_bytes: int, *, shared: bool = False):
        super().__init__(case, memory.Region(case.size_bytes, case.page_kind, shared=shared), unit_bytes)
        self.nids = nodes_of(case.option("node"))
        self._random = np.random.default_rng(1)
        if self.nids:
            self.region.place(self.nids)

    def _dirty(self) -> None:
        """Leave a nonzero word somewhere in every 4 KiB, at an offset that no caller can foresee."""
        offset = int(self._random.integers(memory.BASE_PAGE // 8)) * 8
        self.region.one_word_per_page(offset)[:] = 0xDEADBEEF
        self._offset = offset

    def _expect_zero(self) -> None:
        left = np.count_nonzero(self.region.one_word_per_page(self._offset))
        expect(left == 0, f"{left} of {self.region.size_bytes // 4096} pages still hold data after zeroing")

    def _expect_place(self) -> None:
        if not self.nids:
            return
        found = Counter(self.region.nodes().tolist())
        fair = self.region.size_bytes // self.region.page_size // len(self.nids)
        is_fair = all(found[nid] in (fair, fair + 1) for nid in self.nids)
        pages = f"nodes {dict(sorted(found.items()))} have so many pages"
        expect(is_fair and found.keys() <= set(self.nids), f"{pages}, not {fair} each of {list(self.nids)}")
