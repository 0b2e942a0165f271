"""What workloads on a region begin with: its size in pages, and populating it."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from functools import lru_cache
from typing import Any

from ktask.engine import placement
from ktask.engine import run as engine
from ktask.engine.task import Ctl, Node
from ktask.host import topology
from ktask.memory import region as memory
from ktask.memory.calls import advise_pages
from ktask.workloads import Case, CheckError, Option, expect, folios, nodes

FILL = Option(
    "fill",
    "who fills the memory before each repetition: one thread, the caller; each CPU its share; or one thread "
    "on another CPU",
    "one",
    ("one", "each", "other"),
)


@lru_cache(maxsize=1)
def no_populate() -> str | None:
    """Return why MADV_POPULATE_WRITE cannot be used here, or None; tried on one page."""
    try:
        with memory.Region(memory.BASE_PAGE) as page:
            page.advise(memory.MADV_POPULATE_WRITE)
    except OSError as error:
        return f"MADV_POPULATE_WRITE needs Linux 5.14: {error.strerror}"
    return None


def filling(who: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the engine has the CPUs of those whom `fill` names, and so fills by them.

    The other CPU is that of the first helper.
    """
    cpus = placement.cpus_in_order()
    return topology.narrowed_to({"one": cpus[:1], "each": None, "other": cpus[1:2]}[who])


def no_other_cpu(case: Case) -> str | None:
    """Return why there is no other CPU to fill the memory of `case` on, or None."""
    if dict(case.options).get("fill") == "other" and len(topology.allowed_cpus()) == 1:
        return "fill=other needs a second CPU, and this process may use one"
    return None


class Mapped:
    """A region of a case, which the task counts in units: pages, unless told otherwise.

    Attributes
    ----------
    region
    size, bytes_per_unit, operations
        Units, their size, and the bytes of all.
    """

    ctl: Ctl

    def __init__(self, case: Case, region: memory.Region | None = None, unit_bytes: int | None = None):
        self.case = case
        in_folios = folios.folio_of(case) is not None
        self.region = region or memory.Region(case.size_bytes, case.page_kind, in_folios=in_folios)
        self.bytes_per_unit = unit_bytes or case.page_size
        self.size = self.region.size_bytes // self.bytes_per_unit
        self.operations = self.region.size_bytes
        self.nodes = nodes.nodes_of(case)
        self.bind()

    @property
    def parts(self) -> tuple[Node, ...]:
        """The task, in a part per node that its threads run near."""
        return nodes.parts(self.nodes, self.size, max(self.region.page_size // self.bytes_per_unit, 1))

    def bind(self) -> None:
        """Have the pages to come lie where the case says."""
        nodes.bind(self.region, self.nodes)

    def expect_nodes(self) -> None:
        """Look up where every page lies, unless that is left to the kernel."""
        nids = self.nodes.memory
        if not nids:
            return
        found = Counter(self.region.nodes().tolist())
        fair = self.region.size_bytes // self.region.page_size // len(nids)
        is_fair = all(found[nid] in (fair, fair + 1) for nid in nids)
        pages = f"nodes {dict(sorted(found.items()))} have so many pages"
        expect(is_fair and found.keys() <= set(nids), f"{pages}, not {fair} each of {list(nids)}")

    def task(self, function: Any, *args: int, threads: int = 0) -> Ctl:
        """Return the task of a thread function that takes the address, the bytes per unit, and `args`."""
        known = self.region.address, self.bytes_per_unit
        return Ctl(function, (*known, *args), self.case.min_chunk(self.bytes_per_unit), threads)

    def fill(self) -> None:
        """Fault every page in for writing, by whoever `fill` names; end on the CPU of the caller."""
        with folios.expected(self.case), filling(self.case.option("fill")):
            self._populate(topology.cpu_count())
        with filling("one"):
            pass

    def _populate(self, threads: int) -> None:
        ctl = self.task(advise_pages, memory.MADV_POPULATE_WRITE, threads=threads)
        result = engine.run_numa(self.parts, ctl)
        expect(result.error == 0, f"populating the range failed: {os.strerror(result.error)}")

    def close(self) -> None:
        """Give the region back."""
        self.region.unmap()


class Populated(Mapped):
    """A region that is populated from the start."""

    def __init__(self, case: Case):
        super().__init__(case)
        try:
            with folios.expected(case):
                self.region.populate()
        except CheckError:  # other errors have unmapped it already
            self.region.unmap()
            raise
