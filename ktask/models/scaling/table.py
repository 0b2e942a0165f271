"""Reading a tidy table into scaling curves; whatever is wrong with it is told with its line."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

THREADS = (
    "threads",
    "threads_per_node",
    "workers_max_active",
    "tasks",
    "n_threads",
    "num_threads",
    "nthreads",
    "workers",
)
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
SIZE_UNITS = {"bytes": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
TIMES = ("time_s", "wall_s", "time_ms", "time_us", "time_ns", "elapsed_s", "seconds", "time")
SIZES = ("size_bytes", "size_kib", "size_mib", "size_gib", "size_tib", "size", "bytes", "memory_gib")
MACHINES = ("machine", "host", "host_id", "environment")
SPREADS = ("stdev_s", "stdev_ms", "stdev_ms_published")
# What tells one curve from another: the columns of data/published, of the suite's records, and usual ones.
GROUPS = (
    *("table", "file", "dataset", "curve", "curve_id", "series", "machine", "host", "host_id", "environment"),
    *(
        "benchmark",
        "workload",
        "workload_measured",
        "competing_workload",
        "competitor_threads",
        "renice",
        "case",
    ),
    *("backend", "method", "policy", "kernel", "mode", "metric", "variant", "page_size", "page_kind"),
    *("batch", "folio_size", "folio_count", "qemu_prealloc_threads", "lockedvm_cache_pages", "patch_version"),
)
# Between neighbouring thread counts no published time differs by more than a factor of 4 from what their
# ratio allows; 30 is far out, and the smallest mistake of unit is 1000.
UNLIKELY = 30.0
MOST_THREADS = 1 << 20
SHORTEST_S, LONGEST_S = 1e-12, 1e12  # what is outside of these is no time of a task
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-zµ]*)\s*", re.IGNORECASE)


class TableError(ValueError):
    """A table that cannot be read; the message names file, line, value and remedy."""


@dataclass(frozen=True)
class Curve:
    """Times of one task on one machine against the number of threads.

    Attributes
    ----------
    group : dict
        The columns that tell this curve from others, as they stand in the table.
    threads : ndarray of int, shape (n,)
        Ascending, each once.
    time_s : ndarray, shape (n,)
        Median of the rows with this thread count.
    spread : ndarray, shape (n,)
        Standard deviation over the time, from what the table states and from the digits it prints.
    lines : tuple of int
        Where in the file the times stand.
    """

    group: Mapping[str, Any]
    threads: NDArray[np.int64]
    time_s: NDArray[np.float64]
    spread: NDArray[np.float64]
    size_bytes: int | None = None
    cpus: int | None = None
    lines: tuple[int, ...] = ()


def same_machine(one: Curve, two: Curve) -> bool:
    """Return whether two curves were measured on the same machine."""
    return all(one.group.get(name) == two.group.get(name) for name in MACHINES)


def same_work(one: Curve, two: Curve) -> bool:
    """Return whether two curves are of the same work: alike in all but size and published version."""
    ignored = {*SIZES, "patch_version"}
    return all(one.group[name] == two.group.get(name) for name in one.group if name not in ignored)


@dataclass(frozen=True)
class Table:
    """All curves of a file, the columns they were read from, and what was set aside."""

    path: Path
    curves: tuple[Curve, ...]
    columns: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass
class _Row:
    line: int
    group: tuple[str, ...]
    threads: int
    time_s: float
    spread: float
    size_bytes: int | None
    cpus: int | None
    new: bool


@dataclass
class _Reader:
    """What is known about the file while its rows are read."""

    path: Path
    names: list[str]
    threads: tuple[str, ...]  # where several tables were joined, the first one that is not empty
    time: str
    size: tuple[str, ...]
    groups: list[str]
    zero_below: float | None
    seen: dict[str, tuple[str, int]] = field(default_factory=dict)  # unit by column, and its first line
    aside: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, line: int, message: str) -> NoReturn:
        raise TableError(f"{self.path}, line {line}: {message}")

    def number(self, line: int, name: str, text: str, units: Mapping[str, float], default: str) -> float:
        """Return a cell in the base unit; all cells of a column have to be in the same one."""
        match = NUMBER.fullmatch(text)
        unit = (match[2].lower() if match else "") or default
        if not match or unit not in units or not math.isfinite(float(match[1])):
            self.fail(line, f"{name} {text!r} is not understood; use a number, in {', '.join(units)}")
        if units is TIME_UNITS:
            named = _unit_of(name, TIME_UNITS, "")
            first, where = self.seen.setdefault(name, (named, 1) if named else (unit, line))
            if unit != first:
                self.fail(line, f"{name} {text!r} is in {unit}, but line {where} in {first}; use one unit")
        return float(match[1]) * units[unit]


def _pick(names: list[str], wanted: str | None, known: Iterable[str], what: str, path: Path) -> str:
    if wanted is not None:
        if wanted not in names:
            raise TableError(f"{path}, line 1: no column {wanted!r}; it has {', '.join(names)}")
        return wanted
    for name in known:
        if name in names:
            return name
    raise TableError(
        f"{path}, line 1: no column for the {what}, such as {next(iter(known))}; "
        f"name one of {', '.join(names)} by --{what}-column"
    )


def _unit_of(name: str, units: Mapping[str, float], default: str) -> str:
    """Return the unit that a column name ends in: time_ms_published is in ms."""
    ending = name.removesuffix("_published").rpartition("_")[2].lower()
    return ending if ending in units else default


def _rows(path: Path) -> Iterable[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        raise TableError(f"{path} is no UTF-8 text; save the table as CSV") from None
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from None


def _zero_below(path: Path) -> float | None:
    """Return what a printed zero means, if a datapackage.json beside the table says so."""
    package = path.parent / "datapackage.json"
    try:
        resources = json.loads(package.read_text(encoding="utf-8"))["resources"]
        entry = next(item for item in resources if item.get("path") == path.name)
        return entry.get("tidy", {}).get("zero_below")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _spread(cell: Callable[[str], str], time_text: str, time_s: float, unit: float) -> float:
    """Return the relative standard deviation: as stated, and at least that of the printed digits."""
    stated = 0.0
    for name in SPREADS:
        if NUMBER.fullmatch(cell(name)):
            stated = abs(float(cell(name))) * TIME_UNITS[_unit_of(name, TIME_UNITS, "s")] / time_s
            break
    else:
        if NUMBER.fullmatch(cell("spread_pct")):
            stated = abs(float(cell("spread_pct"))) / 100
    digits = NUMBER.fullmatch(time_text)[1].lower()
    mantissa, _, exponent = digits.partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])) * unit
    return math.hypot(min(stated, 0.3), min(step / time_s, 1.0) / math.sqrt(12))


def _first(row: Mapping[str, str], names: Iterable[str]) -> tuple[str, str]:
    """Return name and text of the first cell that is not empty."""
    return next(((name, row[name]) for name in names if row[name]), ("", ""))


def _size(reader: _Reader, line: int, name: str, text: str) -> int | None:
    if not text:
        return None
    default = _unit_of(name, SIZE_UNITS, "b")
    size = reader.number(line, name, text, SIZE_UNITS, default)
    if not 0 < size <= 1 << 60:
        reader.fail(line, f"{name} {text!r} is no size in {default}; use a positive one")
    return round(size)


def _threads(reader: _Reader, line: int, name: str, text: str) -> int:
    if not re.fullmatch(r"\d+(\.0+)?", text) or int(float(text)) > MOST_THREADS:
        reader.fail(line, f"{name} {text!r} is not allowed; use a whole number up to {MOST_THREADS}")
    return int(float(text))


def _time(reader: _Reader, line: int, text: str) -> float | None:
    """Return the time of a row, or None for a zero that stands for less than the table can print."""
    time_s = reader.number(line, reader.time, text, TIME_UNITS, _unit_of(reader.time, TIME_UNITS, "s"))
    if time_s == 0 and reader.zero_below is not None:
        return None
    if not 0 < time_s <= LONGEST_S or time_s < SHORTEST_S:
        hint = " (a zero by rounding: --skip-zero sets such rows aside)" if time_s == 0 else ""
        reader.fail(line, f"{reader.time} {text!r} is not allowed; use a positive time{hint}")
    return time_s


def _same_time(reader: _Reader, line: int, cell: Callable[[str], str], time_s: float) -> None:
    """Fail if a second column states another time, or a unit column another unit."""
    for name in ("time_ms", "time_us", "time_ns", "time_ms_published"):
        if name != reader.time and NUMBER.fullmatch(cell(name)):
            other = float(cell(name)) * TIME_UNITS[_unit_of(name, TIME_UNITS, "s")]
            if not 0.8 < other / time_s < 1.25:
                reader.fail(line, f"{name} {cell(name)} and {reader.time} differ; is a unit mixed up?")
    expected = _unit_of(reader.time, TIME_UNITS, "s")
    for name in ("time_unit", "unit"):
        if cell(name).lower() in TIME_UNITS and cell(name).lower() != expected:
            reader.fail(
                line, f"{name} {cell(name)!r} is not {expected} as {reader.time} has to be; convert it"
            )


def _parse(reader: _Reader, line: int, cells: list[str]) -> _Row | None:
    if len(cells) != len(reader.names):
        reader.fail(line, f"{len(cells)} cells, but the first line has {len(reader.names)}")
    row = dict(zip(reader.names, cells, strict=True))

    def cell(name: str) -> str:
        return row.get(name, "")

    if cell("warmup").lower() == "true":
        reader.aside["warm-ups"].append(line)
        return None
    name, count = _first(row, reader.threads)
    if not count or not row[reader.time]:
        reader.aside["no thread count or no time"].append(line)
        return None
    threads = _threads(reader, line, name, count)
    time_s = _time(reader, line, row[reader.time])
    if threads == 0 or time_s is None:
        reason = "0 threads: a kernel without helpers" if threads == 0 else "time below what the table prints"
        reader.aside[reason].append(line)
        return None
    _same_time(reader, line, cell, time_s)
    unit = TIME_UNITS[_unit_of(reader.time, TIME_UNITS, "s")]
    cpus = cell("cpus").removesuffix(".0")
    return _Row(
        line,
        tuple(row[name] for name in reader.groups),
        threads,
        time_s,
        _spread(cell, row[reader.time], time_s, unit),
        _size(reader, line, *_first(row, reader.size)),
        int(cpus) if re.fullmatch(r"[1-9]\d{0,6}", cpus) else None,
        cell("new_measurement").lower() != "no",
    )


def _without_point_names(rows: list[_Row], at: int | None) -> list[_Row]:
    """Blank the variant where it names the point and not the curve ("multiplier 1", "multiplier 2")."""
    if at is None:
        return rows
    families: dict[Any, list[_Row]] = defaultdict(list)
    for row in rows:
        families[row.group[:at], row.group[at + 1 :], row.size_bytes].append(row)
    for family in families.values():
        counts = [row.threads for row in family]
        variants = [row.group[at] for row in family]
        if len(set(counts)) == len(counts) == len(set(variants)) > 1:
            for row in family:
                row.group = (*row.group[:at], "", *row.group[at + 1 :])
    return rows


def _check_jumps(reader: _Reader, rows: list[_Row]) -> None:
    """Fail at a time that can only be in another unit than its neighbours."""
    work = {row.line: math.log(row.time_s) for row in rows}
    middle = float(np.median(list(work.values())))
    ordered = sorted(rows, key=lambda row: row.threads)
    for one, two in itertools.pairwise(ordered):
        ratio = one.time_s / two.time_s
        if not 1 / UNLIKELY < ratio < UNLIKELY * two.threads / one.threads:
            worst = max((one, two), key=lambda row: abs(work[row.line] - middle))
            reader.fail(
                worst.line,
                f"{reader.time} {worst.time_s:g} s does not fit its neighbours ({one.threads} threads "
                f"{one.time_s:g} s, {two.threads} threads {two.time_s:g} s); are units mixed?",
            )


def _value(text: str) -> Any:
    """Return a cell as the number that it is, or as text."""
    match = re.fullmatch(r"-?\d+(\.\d+)?", text)
    return text if not match else float(text) if match[1] else int(text)


def _curve(reader: _Reader, rows: list[_Row]) -> Curve:
    by_threads: dict[int, list[_Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.threads):
        by_threads[row.threads].append(row)
    time_s, spread = [], []
    for same in by_threads.values():
        times = np.array([row.time_s for row in same])
        time_s.append(float(np.median(times)))
        among = float(np.std(np.log(times), ddof=1)) / math.sqrt(len(times)) if len(times) > 1 else 0.0
        spread.append(math.hypot(float(np.median([row.spread for row in same])), among))
    group = {name: _value(text) for name, text in zip(reader.groups, rows[0].group, strict=True)}
    cpus = {row.cpus for row in rows}
    return Curve(
        group,
        np.array(list(by_threads)),
        np.array(time_s),
        np.array(spread),
        rows[0].size_bytes,
        cpus.pop() if len(cpus) == 1 else None,
        tuple(row.line for row in rows),
    )


def _columns(
    names: list[str], wanted: str | None, known: Iterable[str], what: str, path: Path, lines: list[list[str]]
) -> tuple[str, ...]:
    """Return the column wanted, or the first known one, and further known ones where it is empty."""
    first = _pick(names, wanted, known, what, path)
    at = names.index(first)
    if wanted is not None or all(cells[at] for cells in lines if len(cells) > at):
        return (first,)
    return (first, *(name for name in known if name in names and name != first))


def _check_header(names: list[str], path: Path) -> None:
    if not names:
        raise TableError(f"{path}, line 1: no column, the file is empty; a table has threads, size and time")
    other = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if other:
        raise TableError(
            f"{path}, line 1: no columns but one, its cells are separated by {other!r}; use commas"
        )


def _open(path: Path, names: list[str], options: Mapping[str, Any], lines: list[list[str]]) -> _Reader:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"{path}, line 1: two columns are called {twice!r}")
    threads = _columns(names, options["threads"], THREADS, "threads", path, lines)
    time = _pick(names, options["time"], TIMES, "time", path)
    size: tuple[str, ...] = ()
    if options["size"] != "none":
        size = _columns(names, options["size"], SIZES, "size", path, lines)
    for name in options["by"] or ():
        _pick(names, name, (), "by", path)
    taken = {*threads, time}
    groups = [name for name in options["by"] or GROUPS if name in names and name not in taken]
    groups += [name for name in size if name not in groups]
    zero_below = 0.0 if options["skip_zero"] else _zero_below(path)
    return _Reader(path, names, threads, time, size, groups, zero_below)


def _repeats(curves: dict[Any, list[_Row]]) -> tuple[dict[Any, list[_Row]], list[int]]:
    """Split off the curves that only repeat, digit for digit, what an earlier version had published."""
    kept = {key: rows for key, rows in curves.items() if any(row.new for row in rows)}
    return kept, [row.line for key, rows in curves.items() if key not in kept for row in rows]


def read_curves(
    path: Path | str,
    *,
    threads: str | None = None,
    size: str | None = None,
    time: str | None = None,
    by: Iterable[str] | None = None,
    skip_zero: bool = False,
) -> Table:
    """Return the scaling curves of a CSV table.

    Parameters
    ----------
    path : path
        A table with a header and one row per measurement, UTF-8.
    threads, size, time : str, optional
        Columns of the thread count, of the size and of the time. By default those of `data/published` and of
        the suite's records; a name that ends in _ms or _mib gives the unit. `size="none"` for a table of one
        size.
    by : iterable of str, optional
        Columns that tell one curve from another, beside the size; by default all of `GROUPS` that are there.
    skip_zero : bool
        Set rows with a time of zero aside, which are an error otherwise.

    Raises
    ------
    TableError
        If a column is missing, a value has no place in a curve, units are mixed, or the whole table knows
        only one thread count. The message names the line.
    """
    path = Path(path)
    (_, names), *lines = [*_rows(path)] or [(1, [])]
    _check_header(names, path)
    options = {"threads": threads, "size": size, "time": time, "by": list(by or ()), "skip_zero": skip_zero}
    reader = _open(path, names, options, [cells for _, cells in lines])
    parsed = [(line, _parse(reader, line, cells)) for line, cells in lines]
    rows = [row for _, row in parsed if row is not None]
    if not rows:
        raise TableError(
            f"{path}, line {parsed[-1][0] if parsed else 1}: no row with a thread count and a time"
        )
    at = reader.groups.index("variant") if "variant" in reader.groups else None
    grouped: dict[Any, list[_Row]] = defaultdict(list)
    for row in _without_point_names(rows, at):
        grouped[row.group].append(row)
    grouped, reader.aside["repeats of an earlier version"] = _repeats(grouped)
    for same in grouped.values():
        _check_jumps(reader, same)
    if len({row.threads for same in grouped.values() for row in same}) == 1:
        reader.fail(rows[0].line, f"every row has {rows[0].threads} threads; a curve needs two thread counts")
    curves = tuple(_curve(reader, same) for same in grouped.values())
    columns = {"threads": reader.threads[0], "size": (*reader.size, None)[0], "time": reader.time}
    columns["by"] = reader.groups
    notes = [f"{len(where)} rows set aside: {reason}" for reason, where in reader.aside.items() if where]
    return Table(path, curves, columns, tuple(notes))
