"""Every published figure of ktask, padata and their neighbours, as one tidy table.

The files of `data/published` keep the words and units of their sources, so their columns differ. How a file
enters the tidy table stands in its entry of `datapackage.json` (`tidy`); a new file needs no code.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"
GIB = 1 << 30
SAME = ["file", "workload", "variant", "machine", "case", "metric", "page_size", "size_bytes", "threads"]
TEXTS = ("series", "patch_version", "machine", "page_size", "baseline", "note")
COUNTS = ("cpus", "nodes", "memory_gib")
SOURCE = ("source_title", "source_author", "source_date", "source_id")


def datapackage(folder: Path = FOLDER) -> dict[str, Any]:
    """Return the description of the collection: per file its schema, units, provenance and doubts.

    Raises
    ------
    ValueError
        If the folder is not there (it comes with a checkout, not with an installed package).
    """
    path = folder / "datapackage.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run ktask from a checkout, `pip install -e .`")
    return json.loads(path.read_text(encoding="utf-8"))


def read_file(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Return one file as it was published; all cells are text, empty where the source gives nothing."""
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)


def _numbers(raw: pd.DataFrame, column: str | None) -> pd.Series:
    if column is None or column not in raw:
        return pd.Series(np.nan, raw.index)
    return pd.to_numeric(raw[column], errors="coerce")


def _text(raw: pd.DataFrame, column: str) -> pd.Series:
    return raw[column] if column in raw else pd.Series("", raw.index)


def _stdev(raw: pd.DataFrame, how: dict[str, Any], value: pd.Series) -> pd.Series:
    """Return the standard deviation; a spread of undefined kind counts as one, being the nearest there is."""
    stated = _numbers(raw, how.get("stdev")) * how.get("stdev_scale", 1)
    return stated.fillna(value * _numbers(raw, how.get("spread_pct")) / 100)


def _case(raw: pd.DataFrame, columns: list[str]) -> list[str]:
    """Return what the columns hold, as one text per row: "environment=kvm guest"."""
    rows = raw[columns].to_dict("records") if columns else [{}] * len(raw)
    return [", ".join(f"{name}={text}" for name, text in row.items() if text) for row in rows]


def _tidy_file(raw: pd.DataFrame, name: str, how: dict[str, Any]) -> pd.DataFrame:
    value = _numbers(raw, how["value"])
    unit = raw[how["unit_column"]] if "unit_column" in how else pd.Series(how["unit"], raw.index)
    table = pd.DataFrame({"file": name, "line": np.arange(2, len(raw) + 2)}, index=raw.index)
    for column in TEXTS:
        table[column] = _text(raw, column)
    for column in ("workload", "variant", "metric"):
        table[column] = _text(raw, how.get(column, column))
    table["case"] = _case(raw, how.get("case", []))
    table["threads"] = _numbers(raw, how.get("threads"))
    table["size_bytes"] = _numbers(raw, how.get("size_gib")) * GIB
    table["value"], table["unit"] = value, unit
    table["stdev"] = _stdev(raw, how, value)
    table["time_s"] = value.where(unit == "s")
    for column in COUNTS:
        table[column] = _numbers(raw, column)
    table["new_measurement"] = _text(raw, "new_measurement") != "no"
    for column in SOURCE:
        table[column] = _text(raw, column)
    return table


@functools.lru_cache(maxsize=2)
def load(folder: Path = FOLDER) -> pd.DataFrame:
    """Return all published measurements as one table; filter on `new_measurement` before counting.

    Returns
    -------
    pandas.DataFrame
        One row per published figure. `file` and `line` say where it stands; `threads` counts the caller, as
        far as the source counts threads; `value` has the `unit` beside it and `stdev` the same one; `time_s`
        is set where the value is a time; `case` holds what else tells two measurements apart.
    """
    files = [item for item in datapackage(folder)["resources"] if "tidy" in item]
    tables = [_tidy_file(read_file(item["name"], folder), item["name"], item["tidy"]) for item in files]
    return pd.concat(tables, ignore_index=True)


def overview(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return per file: rows, rows that repeat nothing, machines, largest thread count, and who measured."""
    table = load() if table is None else table
    return table.groupby("file", as_index=False).agg(
        rows=("line", "size"),
        new=("new_measurement", "sum"),
        machines=("machine", "nunique"),
        threads_max=("threads", "max"),
        measured=("workload", lambda names: "; ".join(dict.fromkeys(names))),
        authors=("source_author", lambda names: "; ".join(dict.fromkeys(names))),
    )


def repeated(table: pd.DataFrame | None = None, beyond: float = 1.05) -> pd.DataFrame:
    """Return measurements that were published more than once with values further apart than `beyond`.

    Returns
    -------
    pandas.DataFrame
        The columns of `SAME`, `low` and `high` (the extreme values), `ratio`, and the `versions` with them.
    """
    table = load() if table is None else table
    same = table[table.new_measurement & table.threads.notna() & (table.value > 0)]
    groups = same.groupby([*SAME, "unit"], dropna=False, as_index=False).agg(
        low=("value", "min"),
        high=("value", "max"),
        versions=("patch_version", lambda names: ", ".join(dict.fromkeys(names))),
        different=("patch_version", "nunique"),
    )
    groups["ratio"] = groups.high / groups.low
    far = groups[(groups.different > 1) & (groups.ratio > beyond)]
    return far.drop(columns="different").sort_values("ratio", ascending=False, ignore_index=True)


def superlinear(table: pd.DataFrame | None = None, beyond: float = 1.02) -> pd.DataFrame:
    """Return times that beat one thread of the same curve by more than the number of threads.

    No law of scaling allows it, so the one-thread time must carry a cost of its own; see the doubts.
    """
    table = load() if table is None else table
    times = table[table.new_measurement & (table.threads >= 1) & (table.time_s > 0)]
    curve = [column for column in [*SAME, "patch_version"] if column != "threads"]
    one = times[times.threads == 1].groupby(curve, dropna=False).time_s.min().rename("one_thread_s")
    joined = times.merge(one.reset_index(), on=curve)
    joined["speedup"] = joined.one_thread_s / joined.time_s
    joined["per_thread"] = joined.speedup / joined.threads
    return joined[joined.per_thread > beyond].reset_index(drop=True)


def mismatches(folder: Path = FOLDER) -> pd.DataFrame:
    """Return the published speedups and savings that do not follow from the published values."""
    return read_file("speedup_mismatches", folder)
