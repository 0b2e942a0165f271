"""What the kernel did by several threads while it booted (padata), by the lines that it wrote itself.

Only lines of the kernel count, and only numbers are taken from them. A log that may not be read, or whose
first lines are gone, says nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ktask.host.kernel_files import ROOT
from ktask.host.kernel_log import RECORD_BYTES, line_of

MOST_RECORDS = 50_000
_TIME = r"(?P<time_ms>\d{1,9})ms"
LINES = {
    "hugetlb_pages": re.compile(
        rf"HugeTLB: allocation took {_TIME} with hugepage_allocation_threads=(?P<threads>\d{{1,6}})"
    ),
    "deferred_init": re.compile(rf"node (?P<nid>\d{{1,5}}) deferred pages initialised in {_TIME}"),
}


def parallel_boot(root: Path = ROOT) -> list[dict[str, Any]]:
    """Return what was done in parallel during boot: `task`, `time_ms`, and `threads` or `nid`, in order."""
    return [found for record in _records(root / "dev/kmsg") if (found := _task_of(line_of(record)))]


def _task_of(line: str) -> dict[str, Any] | None:
    for task, pattern in LINES.items():
        if match := pattern.fullmatch(line):
            return {"task": task, **{name: int(digits) for name, digits in match.groupdict().items()}}
    return None


def _records(path: Path) -> Iterator[str]:
    """Yield the records of the kernel's log from the first that is left; none if it may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for _ in range(MOST_RECORDS):
            try:
                record = os.read(fd, RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten before it was read; the next is there
            except OSError:
                return
            if not record:
                return
            yield from record.decode(errors="replace").splitlines()
    finally:
        os.close(fd)
