"""What workloads on a region begin with: its size in pages, and populating it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.host import topology
from ktask.memory import region as memory
from ktask.memory.calls import advise_pages
from ktask.workloads import Case, Option, expect

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


@contextlib.contextmanager
def on_cpus(cpus: Iterable[int]) -> Iterator[None]:
    """Keep the calling thread to some CPUs for the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def filling(who: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the engine has the CPUs of those whom `fill` names, and so fills by them.

    Helpers are pinned from the last CPU downwards, so the first one is the caller's at any number of threads.
    """
    cpus = topology.allowed_cpus()
    return on_cpus({"one": cpus[:1], "each": cpus, "other": cpus[-1:]}[who])


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
        self.region = region or memory.Region(case.size_bytes, case.page_kind)
        self.bytes_per_unit = unit_bytes or case.page_size
        self.size = self.region.size_bytes // self.bytes_per_unit
        self.operations = self.region.size_bytes

    def task(self, function: Any, *args: int, threads: int = 0) -> Ctl:
        """Return the task of a thread function that takes the address, the bytes per unit, and `args`."""
        known = self.region.address, self.bytes_per_unit
        return Ctl(function, (*known, *args), self.case.min_chunk(self.bytes_per_unit), threads)

    def fill(self) -> None:
        """Fault every page in for writing, by whoever `fill` names; end on the CPU of the caller."""
        with filling(self.case.option("fill")):
            self._populate(topology.cpu_count())
        with filling("one"):
            pass

    def _populate(self, threads: int) -> None:
        ctl = self.task(advise_pages, memory.MADV_POPULATE_WRITE, threads=threads)
        result = engine.run(0, self.size, ctl)
        expect(result.error == 0, f"populating the range failed: {os.strerror(result.error)}")

    def close(self) -> None:
        """Give the region back."""
        self.region.unmap()


class Populated(Mapped):
    """A region that is populated from the start."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.region.populate()
