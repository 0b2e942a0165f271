"""Files of memory that get their pages: what `zeroing.py` offers as fallocate, by range or by file."""

from __future__ import annotations

import numpy as np

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.memory.calls import fallocate, fallocate_pages
from ktask.workloads import Case, expect

FILES = 16  # that `fallocate_files` spreads the size over


@thread_func(cache=True)
def allocate_files(start, end, fds, file_bytes):
    """Give files `start` to `end` all their pages."""
    for k in range(start, end):
        code = fallocate(native.load_plain(fds + 8 * k), 0, 0, file_bytes)
        if code != 0:
            return code
    return 0


class Allocation:
    """Files without pages, which `fallocate` gives them: one file by range, or a file per unit."""

    _touched = False

    def __init__(self, case: Case):
        apart = case.method == "fallocate_files"
        count = min(FILES, max(1, case.size_bytes // case.page_size)) if apart else 1
        self.files = memory.Files(case.size_bytes, case.page_kind, count)
        self.operations = self.files.size_bytes
        if apart:
            self.size, self.bytes_per_unit = count, self.files.file_bytes
            self.ctl = Ctl(allocate_files, (self.files.fds.ctypes.data, self.files.file_bytes))
        else:
            self.size, self.bytes_per_unit = self.operations // case.page_size, case.page_size
            args = int(self.files.fds[0]), case.page_size, 0
            self.ctl = Ctl(fallocate_pages, args, case.min_chunk_pages)

    def before(self) -> None:
        if self._touched:  # so that the pages, which come back, hold something to clear
            for k in range(self.files.fds.size):
                with self.files.words(k) as words:
                    words[:: memory.BASE_PAGE // 8] = 0xDEADBEEF
        self.files.resize()
        self._touched = True

    def check(self) -> None:
        got = sum(self.files.allocated())
        expect(got == self.operations, f"the files have pages for {got} of {self.operations} bytes")
        for k in range(self.files.fds.size):
            with self.files.words(k) as words:
                left = np.count_nonzero(words[:: memory.BASE_PAGE // 8])
                expect(left == 0, f"{left} places of 4 KiB still hold data after fallocate")

    def close(self) -> None:
        self.files.close()
