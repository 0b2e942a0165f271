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

from ktask.common import resources

FOLDER = resources.PUBLISHED
GIB = 1 << 30
SAME = ["file", "workload", "variant", "machine", "case", "metric", "page_size", "size_bytes", "threads"]
TEXTS = ("series", "patch_version", "machine", "page_size", "baseline", "note")
COUNTS = ("cpus", "nodes", "memory_gib")
SOURCE = ("source_title", "source_author", "source_date", "source_id")


def find(path: Path) -> Path:
    """Return a table or folder of tables; "published" is the collection of the suite, where no other is."""
    return FOLDER if path == Path(FOLDER.name) and not path.exists() else path


def datapackage(folder: Path = FOLDER) -> dict[str, Any]:
    """Return the description of the collection: per file its schema, units, provenance and doubts."""
    return json.loads((folder / "datapackage.json").read_text(encoding="utf-8"))


def read_file(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Return one file as it was published; all cells are text, empty where the source gives nothing."""
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)


def _tidy_file(raw: pd.DataFrame, name: str, how: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of a file as those of `load`; what the file does not have is empty."""

    def text(column: str) -> pd.Series:
        return raw[column] if column in raw else pd.Series("", raw.index)

    def numbers(column: str) -> pd.Series:
        return pd.to_numeric(text(column), errors="coerce")

    value, case = numbers(how["value"]), how.get("case", [])
    unit = raw[how["unit_column"]] if "unit_column" in how else pd.Series(how["unit"], raw.index)
    # A spread of undefined kind counts as a standard deviation, being the nearest there is.
    stdev = numbers(how.get("stdev", "")) * how.get("stdev_scale", 1)
    return pd.DataFrame(
        {
            **{"file": name, "line": np.arange(2, len(raw) + 2)},
            **{column: text(column) for column in TEXTS},
            **{column: text(how.get(column, column)) for column in ("workload", "variant", "metric")},
            "case": [
                ", ".join(f"{column}={cell}" for column, cell in zip(case, row, strict=True) if cell)
                for row in raw[case].to_numpy()
            ],
            "threads": numbers(how.get("threads", "")),
            "size_bytes": numbers(how.get("size_gib", "")) * GIB,
            **{"value": value, "unit": unit},
            "stdev": stdev.fillna(value * numbers(how.get("spread_pct", "")) / 100),
            "time_s": value.where(unit == "s"),
            **{column: numbers(column) for column in COUNTS},
            "new_measurement": text("new_measurement") != "no",
            **{column: text(column) for column in SOURCE},
        },
        index=raw.index,
    )


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
