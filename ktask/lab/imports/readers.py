"""What the files of other suites hold, as measurements.

will-it-scale    NAME.csv of `runtest.py`: operations per second by tasks, as processes and as threads
vm-scalability   the output of a case (`usemem`): a line per task, bytes and microseconds
perf-bench-mmap  the output of `perf bench mem mmap`: a rate per function, by one thread
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ktask.common.units import GIB, KIB, MIB, parse_size

MOST_TASKS = 1 << 20
MOST_PER_SECOND = 1e18
WILL_IT_SCALE_HEAD = ["tasks", "processes", "processes_idle", "threads", "threads_idle", "linear"]
OPERATIONS = 1_000_000  # that a rate is turned into a time by; theirs are of a fixed time, ours of fixed work


@dataclass(frozen=True)
class Measured:
    """One measurement: so many operations by so many tasks took so long.

    `size_bytes` is 1 where the suite does not say how much memory it used.
    """

    method: str
    threads: int
    operations: int
    wall_s: float
    unit: str = "operation"
    size_bytes: int = 1
    page_kind: str = "4KiB"


def read_will_it_scale(name: str, text: str) -> Iterator[Measured]:
    """Yield the measurements of a test, as processes and as threads."""
    rows = csv.reader(text.splitlines())
    if next(rows, None) != WILL_IT_SCALE_HEAD:
        raise ValueError(f"does not begin with the line {','.join(WILL_IT_SCALE_HEAD)}")
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        tasks, *rates = (_number(row, number, column) for column in (0, 1, 3))
        if tasks == 0:
            continue  # the idle machine
        for mode, rate in zip(("processes", "threads"), rates, strict=True):
            if rate:  # 0 if that mode was not run
                yield Measured(f"{name}_{mode}", _tasks(tasks, number), OPERATIONS, OPERATIONS / rate)


def _number(row: list[str], line: int, column: int) -> float:
    text = row[column] if column < len(row) else ""
    value = float(text) if re.fullmatch(r"\d{1,18}(\.\d{1,9})?", text) else -1.0
    if not 0 <= value <= MOST_PER_SECOND:
        name = WILL_IT_SCALE_HEAD[column]
        raise ValueError(f"line {line}: {name}={text[:40]!r} is not allowed; use a number of at least 0")
    return value


def _tasks(value: float, line: int) -> int:
    if value != int(value) or not 1 <= value <= MOST_TASKS:
        raise ValueError(
            f"line {line}: tasks={value:g} is not allowed; use a whole number up to {MOST_TASKS}"
        )
    return int(value)


_USEMEM = re.compile(r"(\d{1,18}) bytes / (\d{1,15}) usecs = \d{1,18} KB/s")


def read_vm_scalability(name: str, text: str) -> Iterator[Measured]:
    """Yield what a case did with as many tasks as there are lines: all their bytes, in the longest time."""
    found = [(int(match[1]), int(match[2])) for match in _USEMEM.finditer(text)]
    if not found:
        raise ValueError("has no line such as `1073741824 bytes / 481234 usecs = 2178923 KB/s`")
    size_bytes, longest_us = sum(size for size, _ in found), max(us for _, us in found)
    if not (0 < size_bytes < 1 << 62 and longest_us):
        raise ValueError(f"has {size_bytes} bytes in {longest_us} microseconds, which is no measurement")
    method = re.sub(r"[-_.]\d+$", "", name)  # the number of tasks, if the name has it
    yield Measured(method, _tasks(len(found), 1), size_bytes, longest_us / 1e6, "byte", size_bytes)


_FUNCTION = re.compile(r"^# function '(\w{1,40})'", re.MULTILINE)
_COPYING = re.compile(r"^# Copying (\S{1,20}) bytes", re.MULTILINE)
_RATE = re.compile(r"^\s*(\d{1,9}(?:\.\d{1,9})?) ([KMG]?B)/sec", re.MULTILINE)
_PAGES = re.compile(r"perf bench mem mmap.*?(?:-p|--page) ?=?(\w{1,8})")
_PAGE_KINDS = {4 * KIB: "4KiB", 2 * MIB: "2MiB", GIB: "1GiB"}
_RATE_UNITS = {"B": 1, "KB": KIB, "MB": MIB, "GB": GIB}


def read_perf_bench(_name: str, text: str) -> Iterator[Measured]:
    """Yield the measurements in the output of `perf bench mem mmap`, with the commands if they are there.

    Sizes and rates of perf are in powers of two, whatever their names say.
    """
    kind = "4KiB"  # perf's default
    for part in re.split(r"(?=^\$ |^# Running )", text, flags=re.MULTILINE):
        if pages := _PAGES.search(part):
            kind = _page_kind(pages[1])
        for block in re.split(r"(?=^# function )", part, flags=re.MULTILINE):
            function, size, rate = (one.search(block) for one in (_FUNCTION, _COPYING, _RATE))
            if function and size and rate:
                yield _mmap(function[1], _perf_size(size[1]), float(rate[1]) * _RATE_UNITS[rate[2]], kind)


def _perf_size(text: str) -> int:
    """Return a size as perf writes it: "4gb" are 4 GiB."""
    return parse_size(re.sub(r"([kmgt])b$", r"\1ib", text.lower()))


def _page_kind(text: str) -> str:
    size = _perf_size(text)
    if size not in _PAGE_KINDS:
        raise ValueError(f"page size {text!r} is not allowed; use one of {', '.join(_PAGE_KINDS.values())}")
    return _PAGE_KINDS[size]


def _mmap(function: str, size_bytes: int, rate: float, kind: str) -> Measured:
    if not 0 < rate < MOST_PER_SECOND or not math.isfinite(rate):
        raise ValueError(f"a rate of {rate:g} bytes per second is not allowed")
    return Measured(f"mmap_{function}", 1, size_bytes, size_bytes / rate, "byte", size_bytes, kind)


Reader = Callable[[str, str], Iterator[Measured]]
KINDS: dict[str, tuple[Reader, str]] = {  # with the pattern of their files
    "will-it-scale": (read_will_it_scale, "*.csv"),
    "vm-scalability": (read_vm_scalability, "*"),
    "perf-bench-mmap": (read_perf_bench, "*"),
}
