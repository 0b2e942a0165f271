"""What workloads on memory that is there already begin with: a populated region."""

from __future__ import annotations

from ktask import memory
from ktask.workloads import Case


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
        try:
            self.region.advise(memory.MADV_POPULATE_WRITE)
        except BaseException:
            self.region.unmap()
            raise

    def close(self) -> None:
        """Give the region back."""
        self.region.unmap()
