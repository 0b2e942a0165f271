"""Truncate: take the pages of a large memory file away, by range or at once."""

from __future__ import annotations

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.memory.calls import fallocate_pages
from ktask.workloads import Case, Method, Workload, expect

ORDER = 7

KINDS = ("4KiB", *memory.HUGETLB_KINDS)
FILES = 16  # that `ftruncate_files` spreads the range over


@thread_func(cache=True)
def cut(start, end, fds):
    """Truncate files `start` to `end` to nothing."""
    for k in range(start, end):
        if native.ftruncate(native.load_plain(fds + 8 * k), 0):
            return native.last_errno()
    return 0


class Punch:
    """One file that is full before each repetition; its size stays, its pages go."""

    def __init__(self, case: Case):
        self.files = memory.Files(case.size_bytes, case.page_kind)
        self.bytes_per_unit = case.page_size
        self.size = self.files.size_bytes // case.page_size
        self.operations = self.files.size_bytes
        args = int(self.files.fds[0]), case.page_size, memory.PUNCH_HOLE
        self.ctl = Ctl(fallocate_pages, args, case.min_chunk_pages)

    def before(self) -> None:
        self.files.allocate()
        full = self.files.allocated()
        expect(sum(full) == self.operations, f"{sum(full)} of {self.operations} bytes were there before")

    def check(self) -> None:
        left = sum(self.files.allocated())
        expect(left == 0, f"{left} bytes of pages are still in the files")

    def close(self) -> None:
        self.files.close()


class Cut(Punch):
    """One file or several; the task counts files."""

    def __init__(self, case: Case):
        count = FILES if case.method == "ftruncate_files" else 1
        count = min(count, max(1, case.size_bytes // case.page_size))
        self.files = memory.Files(case.size_bytes, case.page_kind, count)
        self.bytes_per_unit = self.files.file_bytes
        self.size = count
        self.operations = self.files.size_bytes
        self.ctl = Ctl(cut, (self.files.fds.ctypes.data,))

    def check(self) -> None:
        super().check()
        expect(not any(self.files.sizes()), f"the files have sizes {self.files.sizes()}")


def setup(case: Case) -> Punch:
    """Return the case set up; its files are empty."""
    return (Punch if case.method == "punch_hole" else Cut)(case)


WORKLOAD = Workload(
    name="truncate",
    about="Take the pages of a large memory file away: page cache emptied, pages freed.",
    operation="byte",
    methods=(
        Method(
            "punch_hole",
            "FALLOC_FL_PUNCH_HOLE by range of one file",
            page_kinds=KINDS,
            by_source="The inode lock of the file is held for the whole call, so threads take turns.",
            locks=("inode lock",),
        ),
        Method(
            "ftruncate",
            "ftruncate of one file, all at once",
            page_kinds=KINDS,
            by_source="It is one call, which holds the inode lock; it cannot be split into ranges.",
        ),
        Method(
            "ftruncate_files",
            f"ftruncate of {FILES} files that share the size",
            page_kinds=KINDS,
            by_source="Every file has an inode lock of its own; pages go back under the locks of zone and "
            "LRU.",
            locks=("zone lock", "LRU lock"),
        ),
    ),
    setup=setup,
)
