"""What the page table of a process holds, by mapping, and where its entries are; walked in parallel."""

from __future__ import annotations

import errno
import os
import re
import select
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ktask.engine import run as engine
from ktask.engine.task import Ctl, Result
from ktask.host import kernel_files
from ktask.memory import region as memory
from ktask.memory import walkers
from ktask.memory.region import BASE_PAGE, MIB, UnavailableError

BLOCK_BYTES = 64 * MIB  # of the survey: large enough that a call per block costs little beside the walk
_BLOCK_SHIFT = BLOCK_BYTES.bit_length() - 1
_NO_END = 1 << 62
_USER_END = 1 << 56  # beyond any user address of today; the vsyscall page lies above


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    path: str

    @property
    def is_accessible(self) -> bool:
        """Whether it allows any access; one that does not is mostly a guard, and empty."""
        return not self.permissions.startswith("---")


_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)")


def parse_maps(text: str, start: int = 0, end: int = _NO_END) -> list[Mapping]:
    """Return the mappings in `[start, end)`, cut to it, from the text of /proc/PID/maps or smaps."""
    found = []
    for line in text.splitlines():
        if match := _LINE.match(line):
            low, high = max(int(match[1], 16), start), min(int(match[2], 16), end)
            if low < high and low < _USER_END:
                found.append(Mapping(low, high, match[3], match[4]))
    return found


class Process(AbstractContextManager):
    """A process to look at; a context manager that lets go of it.

    Parameters
    ----------
    pid
        A number, or "self".

    Raises
    ------
    ktask.memory.region.UnavailableError
        If there is no such process, or this one may not look at it.
    ValueError
        If `pid` is no number of a process.
    """

    def __init__(self, pid: int | str = "self"):
        self.is_self = str(pid) == "self" or str(pid) == str(os.getpid())
        self.pid = os.getpid() if self.is_self else _number(pid)
        self._alive = self.fd = -1
        try:
            # The descriptor, not the number, says whether it still runs: numbers are used again.
            self._alive = -1 if self.is_self else os.pidfd_open(self.pid)
            self.fd = os.open(f"/proc/{self.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self.maps()
        except OSError as error:
            self.close()
            raise UnavailableError(_why_no_process(self.pid, error)) from None

    def maps(self, start: int = 0, end: int = _NO_END) -> list[Mapping]:
        """Return its mappings in `[start, end)`, cut to it."""
        try:
            text = Path(f"/proc/{self.pid}/maps").read_text(errors="replace")
        except OSError:
            self.require_alive()
            raise
        return parse_maps(text, start, end)

    def has_ended(self) -> bool:
        """Return whether the process has ended; its page table is gone then, and walks find nothing."""
        if self.is_self:
            return False
        poll = select.poll()
        poll.register(self._alive, select.POLLIN)
        return bool(poll.poll(0))

    def require_alive(self) -> None:
        """Raise UnavailableError if the process has ended."""
        if self.has_ended():
            raise UnavailableError(f"process {self.pid} has ended; what was found of it means nothing")

    def close(self) -> None:
        """Let go of the process; harmless if that has happened already."""
        for fd in (self._alive, self.fd):
            if fd >= 0:
                os.close(fd)
        self._alive = self.fd = -1

    def __exit__(self, *_: object) -> None:
        self.close()


def _number(pid: int | str) -> int:
    text = str(pid)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise ValueError(f"pid={pid!r} is not allowed; use self, or the number of a process")
    return int(text)


def _why_no_process(pid: int, error: OSError) -> str:
    # EINVAL: what pidfd_open says of a thread that is not the first of its process, in Linux 6.12, say.
    if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
        return f"process {pid} {_why_without_table(pid)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"process {pid} may not be looked at from here ({error.strerror}); "
            "that takes the same user, or CAP_SYS_PTRACE"
        )
    step = " (pidfd_open: Linux 5.3)" if error.errno == errno.ENOSYS else ""
    return f"process {pid} cannot be looked at: {error.strerror}{step}"


def _why_without_table(pid: int) -> str:
    """Return why a process has no page table to look at."""
    status = kernel_files.read_text(Path(f"/proc/{pid}/status"))
    if not status:
        if _exists(pid):
            return "is not shown in /proc (hidepid); that takes the same user, or root"
        return "does not exist; use the number of one that does"
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if facts.get("Tgid") != str(pid):
        return f"is a thread; use the number of its process, {facts.get('Tgid')}"
    if facts.get("State", "")[:1] in ("Z", "X"):
        return "has ended and waits to be reaped; its page table is gone"
    return "is a thread of the kernel and has no page table of its own; use a process"


def _exists(pid: int) -> bool:
    """Return whether there is such a process, seen or not."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def parse_range(text: str) -> tuple[int, int]:
    """Return the addresses of a range such as `7f0000000000-7f0040000000`, hexadecimal as in /proc/PID/maps.

    Raises
    ------
    ValueError
        If it is none; "whole" stands for everything.
    """
    if text == "whole":
        return 0, _NO_END
    match = re.fullmatch(r"(?:0x)?([0-9a-f]{1,16})-(?:0x)?([0-9a-f]{1,16})", text.lower())
    if match:
        start, end = int(match[1], 16), int(match[2], 16)
        if start < end and start % BASE_PAGE == end % BASE_PAGE == 0:
            return start, end
    raise ValueError(
        f"range={text!r} is not allowed; use whole, or START-END in hexadecimal, multiples of {BASE_PAGE}"
    )


# --- where the entries are -----------------------------------------------------------------------------


@dataclass
class Extents:
    """The page-table entries of a range, counted one after the other.

    Attributes
    ----------
    rows
        Address, first unit, log2 of the bytes per unit and a spare word of each extent; a last row where the
        range ends carries the number of units (`ktask.memory.walkers`).
    """

    rows: np.ndarray
    begin: int

    @property
    def n_units(self) -> int:
        """How many entries there are to look at."""
        return int(self.rows[-1, 1])

    @property
    def args(self) -> tuple[int, int, int]:
        """What the thread functions take: the start of the range, where the rows are, and how many."""
        return self.begin, self.rows.ctypes.data, len(self.rows) - 1


def extents_of(pieces: np.ndarray, begin: int, end: int) -> Extents:
    """Return extents from sorted rows of start, end and log2 of the unit; neighbours become one."""
    starts, ends, shifts = pieces.T if len(pieces) else np.zeros((3, 0), np.int64)
    is_new = np.ones(len(pieces), bool)
    is_new[1:] = (starts[1:] != ends[:-1]) | (shifts[1:] != shifts[:-1])
    first = np.flatnonzero(is_new)
    lasts = np.append(first[1:], len(pieces)) - 1 if first.size else first
    units = (ends[lasts] - starts[first]) >> shifts[first]
    rows = np.zeros((first.size + 1, walkers.EXTENT_WORDS), np.int64)
    rows[:-1, 0], rows[1:, 1], rows[:-1, 2] = starts[first], np.cumsum(units), shifts[first]
    rows[-1, 0] = end
    return Extents(rows, begin)


EVERY_PAGE, EVERY_ENTRY = "page", "entry"


def find_extents(
    process: Process, mappings: list[Mapping], unit: str = EVERY_ENTRY, threads: int = 0
) -> Extents:
    """Return where a process has page-table entries.

    Mappings of less than `BLOCK_BYTES` count in full. Of larger ones only the blocks that have pages count:
    the survey asks for the first page of each block, so holes cost nothing, however large.

    Parameters
    ----------
    unit
        `EVERY_PAGE` of 4 KiB, which is what pagemap and mincore report; or `EVERY_ENTRY`: a huge page is one,
        and small mappings without any access, guards, are none.
    """
    if not mappings:
        return extents_of(np.zeros((0, 3), np.int64), 0, 0)
    bounds = np.array([(m.start, m.end) for m in mappings], np.int64)
    is_large = bounds[:, 1] - bounds[:, 0] >= BLOCK_BYTES
    is_wanted = np.array([m.is_accessible for m in mappings]) | (unit == EVERY_PAGE)
    small = bounds[~is_large & is_wanted]
    pieces = [np.column_stack([small, np.full(len(small), 12)])]
    if is_large.any():
        pieces.append(_surveyed(process, bounds[is_large], unit, threads))
    rows = np.concatenate(pieces).astype(np.int64)
    return extents_of(rows[np.argsort(rows[:, 0], kind="stable")], mappings[0].start, mappings[-1].end)


def _surveyed(process: Process, bounds: np.ndarray, unit: str, threads: int) -> np.ndarray:
    """Return the blocks of some mappings that have pages: start, end and log2 of the unit."""
    if no_scan():
        return np.column_stack([bounds, np.full(len(bounds), 12)])  # nothing quick is known of them
    first, last = bounds[:, 0] >> _BLOCK_SHIFT, (bounds[:, 1] - 1 >> _BLOCK_SHIFT) + 1
    offsets = np.concatenate([[0], np.cumsum(last - first)])
    found = np.zeros(offsets[-1], np.uint8)
    vmas = np.ascontiguousarray(np.column_stack([bounds, offsets[:-1]]))
    args = (0, vmas.ctypes.data, len(vmas), _BLOCK_SHIFT, process.fd, found.ctypes.data)
    result = engine.run(0, len(vmas), Ctl(walkers.survey, args, 16, max_threads=threads), "dynamic")
    require_done(result, process)
    blocks = np.flatnonzero(found)
    owner = np.searchsorted(offsets, blocks, "right") - 1
    low = (first[owner] + blocks - offsets[owner]) << _BLOCK_SHIFT
    shifts = np.where((found[blocks] == 2) & (unit == EVERY_ENTRY), 21, 12)
    cut = np.maximum(low, bounds[owner, 0]), np.minimum(low + BLOCK_BYTES, bounds[owner, 1])
    return np.column_stack([*cut, shifts])


def require_done(result: Result, process: Process) -> None:
    """Raise UnavailableError if a walk failed, or its process ended in the middle."""
    process.require_alive()
    if result.error:
        raise UnavailableError(f"walking process {process.pid} failed: {os.strerror(result.error)}")


# --- what this machine can do ----------------------------------------------------------------------------


@lru_cache(maxsize=1)
def no_pagemap() -> str | None:
    """Return why /proc/self/pagemap cannot be read, or None."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
            file.read(8)
    except OSError as error:
        return f"/proc/self/pagemap cannot be read: {error.strerror}"
    return None


@lru_cache(maxsize=1)
def no_scan() -> str | None:
    """Return why the PAGEMAP_SCAN ioctl cannot be used, or None; tried on an empty range."""
    if reason := no_pagemap():
        return reason
    try:
        memory.scan(0, 0, walkers.SCAN_PRESENT)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return "this kernel has no PAGEMAP_SCAN (Linux 6.7)"
        return f"PAGEMAP_SCAN is refused: {error.strerror}"
    return None


_CATEGORIES = (
    walkers.SCAN_PRESENT
    | walkers.SCAN_SWAPPED
    | walkers.SCAN_FILE
    | walkers.SCAN_SOFT_DIRTY
    | walkers.SCAN_HUGE
    | walkers.SCAN_ZERO
)


@lru_cache(maxsize=1)
def scan_categories() -> int:
    """Return the categories to ask PAGEMAP_SCAN for: guard pages too if the kernel knows them (6.15)."""
    try:
        memory.scan(0, 0, walkers.SCAN_GUARD)
    except OSError:
        return _CATEGORIES
    return _CATEGORIES | walkers.SCAN_GUARD
