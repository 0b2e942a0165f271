"""Reading a tidy table into scaling curves; whatever is wrong with it is said with its line."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ktask.common.files import read_json, require_regular

# fmt: off
THREADS = (
    "threads", "threads_per_node", "workers_max_active", "tasks", "n_threads", "num_threads", "nthreads",
    "workers",
)
# fmt: on
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
SIZE_UNITS = {"bytes": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
TIMES = ("time_s", "wall_s", "time_ms", "time_us", "time_ns", "elapsed_s", "seconds", "time")
SIZES = ("size_bytes", "size_kib", "size_mib", "size_gib", "size_tib", "size", "bytes", "memory_gib")
MACHINES = ("machine", "host", "host_id", "environment")
SPREADS = ("stdev_s", "stdev_ms", "stdev_ms_published")
# What tells one curve from another: the columns of data/published, of the suite's records, and usual ones.
# fmt: off
GROUPS = (
    "table", "file", "dataset", "curve", "curve_id", "series", "machine", "host", "host_id", "environment",
    "benchmark", "workload", "workload_measured", "competing_workload", "competitor_threads", "renice",
    "case", "backend", "method", "policy", "kernel", "mode", "metric", "variant", "page_size", "page_kind",
    "batch", "folio_size", "folio_count", "qemu_prealloc_threads", "lockedvm_cache_pages", "patch_version",
)
# fmt: on
# Between neighbouring thread counts no published time differs by more than a factor of 4 from what their
# ratio allows; 30 is far out, and the smallest mistake of unit is 1000.
UNLIKELY = 30.0
MOST_COLUMNS, MOST_CELLS = 1000, 2_000_000
MOST_THREADS = 1 << 20
MOST_CURVES = 2000  # each is fitted, which takes some hundredths of a second
SHORTEST_S, LONGEST_S = 1e-12, 1e12  # what is outside of these is no time of a task
NUMBER = r"(?i)^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-zµ]*)\s*$"


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
    file = _File(Path(path))
    counts = file.columns(threads, THREADS, "threads")
    clock = file.pick(time, TIMES, "time")
    sizes = [] if size == "none" else file.columns(size, SIZES, "size")
    for name in (by := list(by or ())):
        file.pick(name, (), "by")
    names = [name for name in by or GROUPS if name in file.cells and name not in {*counts, clock}]
    names += [name for name in sizes if name not in names]
    rows = file.rows(counts, sizes, clock, 0.0 if skip_zero else _zero_below(file.path))
    curves = file.curves(rows, names, clock)
    columns = {"threads": counts[0], "size": sizes[0] if sizes else None, "time": clock, "by": names}
    notes = [f"{n} rows set aside: {reason}" for reason, n in file.aside.items() if n]
    return Table(file.path, curves, columns, tuple(notes))


def _require_size(path: Path) -> None:
    try:
        require_regular(path)
    except ValueError as error:
        raise TableError(str(error)) from None


def _read(path: Path) -> pd.DataFrame:
    """Return the cells of a file as text, by the lines where they stand."""
    _require_size(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows, left = {}, MOST_CELLS
            for cells in reader:
                if (left := left - len(cells)) < 0 or len(cells) > MOST_COLUMNS:
                    use = f"at most {MOST_COLUMNS} columns and {MOST_CELLS} cells"
                    raise TableError(f"{path}, line {reader.line_num}: the table is too large; use {use}")
                rows[reader.line_num] = [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        raise TableError(f"{path} is no UTF-8 text; save the table as CSV") from None
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from None
    filled = {line: cells for line, cells in rows.items() if any(cells)}
    if not filled:
        problem = "no column, the file is empty; a table has threads, size and time"
        raise TableError(f"{path}, line 1: {problem}")
    names = filled.pop(next(iter(filled)))
    for line, cells in filled.items():
        if len(cells) != len(names):
            problem = f"{len(cells)} cells, but the first line has {len(names)}"
            raise TableError(f"{path}, line {line}: {problem}")
    return pd.DataFrame.from_dict(filled, orient="index", columns=names, dtype=str)


class _File:
    """The cells of a table, and what is known of them."""

    def __init__(self, path: Path):
        self.path = path
        self.cells = _read(path)
        self.names = self.cells.columns.tolist()
        self.aside: dict[str, int] = {}
        other = next((mark for mark in ";\t|" if len(self.names) == 1 and mark in self.names[0]), None)
        if other:
            raise self.error(1, f"no columns but one, its cells are separated by {other!r}; use commas")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise self.error(1, f"two columns are called {twice!r}")

    def error(self, line: int, message: str) -> TableError:
        return TableError(f"{self.path}, line {line}: {message}")

    def refuse(self, bad: pd.Series, name: Any, text: pd.Series, problem: Any) -> None:
        """Raise at the first line that is bad; name and problem are texts, or series of them."""
        if bad.any():
            line = bad.idxmax()
            column, what = (one if isinstance(one, str) else one[line] for one in (name, problem))
            raise self.error(line, f"{column} {text[line]!r} {what}")

    def set_aside(self, rows: pd.Series, reason: str) -> None:
        """Go on without some rows, and remember how many; some have to be left."""
        self.aside[reason] = int(rows.sum())
        self.cells = self.cells[~rows]
        if self.cells.empty:
            raise self.error(max(rows.index, default=1), "no row with a thread count and a time")

    def pick(self, wanted: str | None, known: Sequence[str], what: str) -> str:
        """Return the column wanted, or the first known one."""
        if wanted is not None and wanted not in self.names:
            raise self.error(1, f"no column {wanted!r}; it has {', '.join(self.names)}")
        found = wanted or next((name for name in known if name in self.names), None)
        if found is None:
            such = f"no column for the {what}, such as {known[0]}"
            raise self.error(1, f"{such}; name one of {', '.join(self.names)} by --{what}-column")
        return found

    def columns(self, wanted: str | None, known: Sequence[str], what: str) -> list[str]:
        """Return the column wanted, or the first known one and others for where it is empty."""
        first = self.pick(wanted, known, what)
        if wanted is not None or (self.cells[first] != "").all():
            return [first]
        return [first, *(name for name in known if name in self.names and name != first)]

    def column(self, name: str) -> pd.Series:
        """Return the cells of a column, empty if there is none."""
        return self.cells[name] if name in self.cells else pd.Series("", self.cells.index)

    def rows(self, counts: list[str], sizes: list[str], clock: str, zero_below: float | None) -> pd.DataFrame:
        """Return the rows that have a place in a curve as numbers, by line."""
        self.set_aside(self.column("warmup").str.lower() == "true", "warm-ups")
        empty = (self.cells[counts] == "").all(axis=1) | (self.cells[clock] == "")
        self.set_aside(empty, "no thread count or no time")
        text, name = self.first(counts)
        threads = pd.to_numeric(text.where(text.str.fullmatch(r"\d+(\.0+)?")), errors="coerce")
        allowed = f"is not allowed; use a whole number up to {MOST_THREADS}"
        self.refuse(~(threads <= MOST_THREADS), name, text, allowed)
        time_s, step_s = self.times(clock, zero_below is not None)
        self.set_aside(threads == 0, "0 threads: a kernel without helpers")
        self.set_aside(time_s[self.cells.index] == 0, "time below what the table prints")
        time_s, step_s, threads = (one[self.cells.index] for one in (time_s, step_s, threads))
        self.same_times(clock, time_s)
        cpus = self.column("cpus").str.removesuffix(".0")
        return pd.DataFrame(
            {
                "threads": threads.astype(np.int64),
                "time_s": time_s,
                "spread": np.hypot(
                    self.stated_spread(time_s).clip(upper=0.3),
                    (step_s / time_s).clip(upper=1) / math.sqrt(12),
                ),
                "size_bytes": self.sizes(sizes) if sizes else np.nan,
                "cpus": pd.to_numeric(cpus.where(cpus.str.fullmatch(r"[1-9]\d{0,6}"))),
                "is_new": self.column("new_measurement").str.lower() != "no",
            },
            index=self.cells.index,
        )

    def first(self, names: list[str]) -> tuple[pd.Series, pd.Series]:
        """Return text and column of the first cell of each row that is not empty."""
        cells = self.cells[names]
        text = cells.where(cells != "").bfill(axis=1).iloc[:, 0].fillna("")
        return text, (cells != "").idxmax(axis=1)

    def numbers(
        self, name: pd.Series, text: pd.Series, units: Mapping[str, float], default: str
    ) -> tuple[pd.Series, pd.Series, pd.Series]:
        """Return numbers, their digits and their units; a cell has its own unit, or that of its column."""
        parts = text.str.extract(NUMBER)
        unit = parts[1].str.lower().where(parts[1] != "", name.map(lambda one: _unit_of(one, units, default)))
        number = pd.to_numeric(parts[0])
        bad = ~np.isfinite(number) | ~unit.isin(units)
        allowed = f"is not understood; use a number, in {', '.join(units)}"
        self.refuse(bad, name, text, allowed)
        return number, parts[0].str.lower(), unit

    def times(self, clock: str, may_be_zero: bool) -> tuple[pd.Series, pd.Series]:
        """Return the times of all rows, and the step of their last printed digit, in seconds."""
        text = self.cells[clock]
        number, digits, unit = self.numbers(pd.Series(clock, text.index), text, TIME_UNITS, "s")
        named = _unit_of(clock, TIME_UNITS, "")
        first, where = (named, 1) if named else (unit.iloc[0], unit.index[0])
        mixed = "is in " + unit + f", but line {where} in {first}; use one unit"
        self.refuse(unit != first, clock, text, mixed)
        factor = unit.map(TIME_UNITS)
        time_s = number * factor
        fits = time_s.between(SHORTEST_S, LONGEST_S) | ((time_s == 0) & may_be_zero)
        hint = np.where(time_s == 0, " (a zero by rounding: --skip-zero sets such rows aside)", "")
        problem = pd.Series("is not allowed; use a positive time", text.index) + hint
        self.refuse(~fits, clock, text, problem)
        parts = digits.str.extract(r"^[-+]?\d*\.?(\d*)(?:e([-+]?\d+))?$")
        exponent = pd.to_numeric(parts[1]).fillna(0) - parts[0].str.len()
        return time_s, factor * 10.0**exponent

    def same_times(self, clock: str, time_s: pd.Series) -> None:
        """Refuse a second column that states another time, or a unit column with another unit."""
        for name in ("time_ms", "time_us", "time_ns", "time_ms_published"):
            if name != clock:
                text = self.column(name)
                unit = TIME_UNITS[_unit_of(name, TIME_UNITS, "s")]
                ratio = pd.to_numeric(text, errors="coerce") * unit / time_s
                bad = ratio.notna() & ~ratio.between(0.8, 1.25, inclusive="neither")
                self.refuse(bad, name, text, f"and {clock} differ; is a unit mixed up?")
        expected = _unit_of(clock, TIME_UNITS, "s")
        needs = f"is not {expected} as {clock} has to be; convert it"
        for name in ("time_unit", "unit"):
            text = self.column(name)
            other = text.str.lower().isin(TIME_UNITS) & (text.str.lower() != expected)
            self.refuse(other, name, text, needs)

    def stated_spread(self, time_s: pd.Series) -> pd.Series:
        """Return the standard deviation over the time, as the table states it; 0 if it does not."""
        found = pd.Series(np.nan, time_s.index)
        for name in (*SPREADS, "spread_pct"):
            value = pd.to_numeric(self.column(name), errors="coerce").abs()
            unit = time_s / 100 if name == "spread_pct" else TIME_UNITS[_unit_of(name, TIME_UNITS, "s")]
            found = found.fillna(value * unit / time_s)
        return found.fillna(0.0)

    def sizes(self, names: list[str]) -> pd.Series:
        """Return the sizes in bytes, NaN where there is none."""
        text, name = self.first(names)
        text, name = text[text != ""], name[text != ""]
        number, _, unit = self.numbers(name, text, SIZE_UNITS, "b")
        size = number * unit.map(SIZE_UNITS)
        fits = (size > 0) & (size <= 1 << 60)
        self.refuse(~fits, name, text, "is no size in " + unit + "; use a positive one")
        return size.round()

    def curves(self, rows: pd.DataFrame, names: list[str], clock: str) -> tuple[Curve, ...]:
        """Return the rows as curves, in the order of the file."""
        groups = self.cells.loc[rows.index, names]
        if "variant" in names:
            groups["variant"] = _without_point_names(groups, rows)
        rows["key"] = list(map(tuple, groups.to_numpy().tolist()))
        is_new = rows.groupby("key").is_new.transform("any")
        self.aside["repeats of an earlier version"] = int((~is_new).sum())
        found = list(rows[is_new].groupby("key", sort=False))
        if len(found) > MOST_CURVES:
            problem = (
                f"{len(found)} curves, by {', '.join(names)}; use at most {MOST_CURVES}, or --by less columns"
            )
            raise self.error(rows.index[0], problem)
        for _, same in found:
            self.check_jumps(same, clock)
        counts = rows.threads[is_new].unique()
        if len(counts) == 1:
            problem = f"every row has {counts[0]} threads; a curve needs two thread counts"
            raise self.error(rows.index[0], problem)
        return tuple(_curve(dict(zip(names, map(_value, key), strict=True)), same) for key, same in found)

    def check_jumps(self, rows: pd.DataFrame, clock: str) -> None:
        """Refuse a time that can only be in another unit than its neighbours."""
        one = rows.sort_values("threads", kind="stable")
        two = one.shift(-1)
        ratio = one.time_s / two.time_s
        bad = ~ratio.between(1 / UNLIKELY, UNLIKELY * two.threads / one.threads, inclusive="neither")
        for at in np.flatnonzero(bad[:-1])[:1]:
            pair = one.iloc[at : at + 2]
            off = np.abs(np.log(pair.time_s) - np.log(rows.time_s).median())
            pairs = ", ".join(
                f"{int(n)} threads {t:g} s" for n, t in zip(pair.threads, pair.time_s, strict=True)
            )
            worst = f"{clock} {pair.time_s[off.idxmax()]:g} s does not fit its neighbours"
            raise self.error(off.idxmax(), f"{worst} ({pairs}); are units mixed?")


def _unit_of(name: str, units: Mapping[str, float], default: str) -> str:
    """Return the unit that a column name ends in: time_ms_published is in ms."""
    ending = name.removesuffix("_published").rpartition("_")[2].lower()
    return ending if ending in units else default


def _zero_below(path: Path) -> float | None:
    """Return what a printed zero means, if a datapackage.json beside the table says so."""
    package = path.parent / "datapackage.json"
    try:
        resources = read_json(package)["resources"]
        entry = next(item for item in resources if item.get("path") == path.name)
        return entry.get("tidy", {}).get("zero_below")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return None


def _without_point_names(groups: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return the variants, blank where one names the point and not the curve ("multiplier 1", "2", ...)."""
    others = [groups[name] for name in groups.columns.drop("variant")]
    family = rows.assign(variant=groups.variant).groupby([*others, rows.size_bytes.fillna(0)], sort=False)
    n = family.threads.transform("size")
    counts, variants = (family[name].transform("nunique") for name in ("threads", "variant"))
    return groups.variant.mask((n > 1) & (n == counts) & (n == variants), "")


def _value(text: str) -> Any:
    """Return a cell as the number that it is, or as text."""
    match = re.fullmatch(r"-?\d+(\.\d+)?", text)
    return text if not match else float(text) if match[1] else int(text)


def _curve(group: dict[str, Any], rows: pd.DataFrame) -> Curve:
    by_threads = rows.assign(log_time=np.log(rows.time_s)).groupby("threads")
    among = (by_threads.log_time.std() / np.sqrt(by_threads.size())).fillna(0.0)
    size, cpus = rows.size_bytes.iloc[0], rows.cpus.iloc[0]
    return Curve(
        group,
        np.array(list(by_threads.groups)),
        by_threads.time_s.median().to_numpy(),
        np.hypot(by_threads.spread.median(), among).to_numpy(),
        None if np.isnan(size) else int(size),
        int(cpus) if (rows.cpus == cpus).all() else None,
        tuple(rows.index.tolist()),
    )
