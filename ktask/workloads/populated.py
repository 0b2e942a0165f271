"""What workloads on memory that is there already begin with: a populated region, and how it comes about."""

from __future__ import annotations

from functools import lru_cache

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads import Case


@thread_func(cache=True)
def populate(start, end, base, page_size):
    """Fault pages `start` to `end` in for writing: the kernel allocates, clears and maps them."""
    code = native.EINTR
    while code == native.EINTR:
        failed = native.madvise(
            base + start * page_size, (end - start) * page_size, memory.MADV_POPULATE_WRITE
        )
        code = native.last_errno() if failed else 0
    return code


@lru_cache(maxsize=1)
def no_populate() -> str | None:
    """Return why MADV_POPULATE_WRITE cannot be used here, or None; tried on one page."""
    try:
        with memory.Region(memory.BASE_PAGE) as page:
            page.advise(memory.MADV_POPULATE_WRITE)
    except OSError as error:
        return f"MADV_POPULATE_WRITE needs Linux 5.14: {error.strerror}"
    return None


class Populated:
    """A populated region of a case; the task counts its pages.

    Attributes
    ----------
    region
    size, bytes_per_unit, operations
        Pages, their size, and the bytes of all.
    """

    def __init__(self, case: Case):
        self.region = memory.Region(case.size_bytes, case.page_kind)
        self.size = self.region.size_bytes // case.page_size
        self.bytes_per_unit = case.page_size
        self.operations = self.region.size_bytes
        self.region.populate()

    def close(self) -> None:
        """Give the region back."""
        self.region.unmap()
