"""New lines in the log of the kernel: an error of the hardware, memory that ran out, a throttled CPU.

Only lines that the kernel itself wrote count. Their text comes from outside, so it is cut and made printable.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from functools import lru_cache
from pathlib import Path

from ktask.host.kernel_files import ROOT

MOST_LINES, MOST_LETTERS = 20, 200
MOST_AT_ONCE = 1000  # a kernel that writes without end must not hold a measurement up
RECORD_BYTES = 8192  # the kernel writes none that is longer
_RECORD = re.compile(r"(\d{1,6}),\d+,\d+,[^;]*;([^\n]*)")
FACILITIES_FROM = 8  # priorities from here on are of programs that write to the log


class KernelLog:
    """What the kernel writes from now on, where this process may read it.

    Attributes
    ----------
    count
        How many lines there were.
    lines
        The last of them.
    """

    def __init__(self, path: Path):
        self.count, self.lines = 0, deque[str](maxlen=MOST_LINES)
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def is_readable(self) -> bool:
        """Whether this process may read it."""
        return self._fd >= 0

    def read(self) -> int:
        """Read what is new, and return how many lines there were in all."""
        for _ in range(MOST_AT_ONCE if self.is_readable else 0):
            try:
                record = os.read(self._fd, RECORD_BYTES)
            except BrokenPipeError:
                continue  # lines were overwritten before they were read; the next are there
            except OSError:
                break
            if not record:
                break
            if line := line_of(record.decode(errors="replace")):
                self.lines.append(line)
                self.count += 1
        return self.count

    def since(self, count: int) -> list[str]:
        """Return the lines after the first `count`, as far as they are kept."""
        new = self.read() - count
        return [*self.lines][-new:] if new > 0 else []


def line_of(record: str) -> str:
    """Return the text of a record of ``/dev/kmsg``; empty if the kernel did not write it."""
    match = _RECORD.match(record)
    if not match or int(match[1]) >= FACILITIES_FROM:
        return ""
    return "".join(one if one.isprintable() else " " for one in match[2]).strip()[:MOST_LETTERS]


@lru_cache(maxsize=4)
def kernel_log(root: Path = ROOT) -> KernelLog:
    """Return the log from the first call in this process on."""
    return KernelLog(root / "dev/kmsg")
