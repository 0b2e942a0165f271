"""What workloads on a region begin with: its size in pages, and populating it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ktask.engine.task import Ctl
from ktask.memory import region as memory
from ktask.workloads import Case


@lru_cache(maxsize=1)
def no_populate() -> str | None:
    """Return why MADV_POPULATE_WRITE cannot be used here, or None; tried on one page."""
    try:
        with memory.Region(memory.BASE_PAGE) as page:
            page.advise(memory.MADV_POPULATE_WRITE)
    except OSError as error:
        return f"MADV_POPULATE_WRITE needs Linux 5.14: {error.strerror}"
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

    def close(self) -> None:
        """Give the region back."""
        self.region.unmap()


class Populated(Mapped):
    """A region that is populated from the start."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.region.populate()
