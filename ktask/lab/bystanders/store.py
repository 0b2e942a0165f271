"""What neighbours found as files: data/runs/<run>/bystanders/<process>.parquet, one per process.

It is no part of the records: the repetitions behind it are extra ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ktask.common.files import atomic_write
from ktask.lab import parquet_files
from ktask.lab.bystanders import probes
from ktask.lab.bystanders.collect import ELSEWHERE, HELPER, PHASES, WAYS, Bystanders
from ktask.lab.bystanders.neighbours import ANOTHER, SAME

FOLDER = "bystanders"
# name, Frictionless type, Arrow type, what it is
COLUMNS: tuple[tuple[str, str, pa.DataType, str], ...] = (
    ("run_id", "string", pa.string(), "name of the run"),
    ("host_id", "string", pa.string(), "hash that tells machines apart"),
    ("cell_id", "string", pa.string(), "the cell beside whose extra repetitions neighbours probed"),
    ("pass", "integer", pa.int32(), "which process of the cell"),
    ("boot_id", "string", pa.string(), "tells the boots of a machine apart"),
    ("workload", "string", pa.string(), "what is done"),
    ("backend", "string", pa.string(), "kernel or user"),
    ("method", "string", pa.string(), "how it is done"),
    ("page_kind", "string", pa.string(), "4KiB, THP, 2MiB (hugetlb) or 1GiB (hugetlb)"),
    ("options", "string", pa.string(), "what else is set apart from its default, as name=value,name=value"),
    ("policy", "string", pa.string(), "rule for threads and chunks"),
    ("size_bytes", "integer", pa.int64(), "memory that one repetition covers"),
    ("threads_most", "integer", pa.int32(), "the threads of the task where it has several"),
    ("skipped", "string", pa.string(), "why no neighbour probed; else empty, as all that follows is then"),
    ("took_s", "number", pa.float64(), "seconds that all of it took"),
    ("probe", "string", pa.string(), "what the neighbour does; of cache: reads 1024 lines, in CPU time"),
    ("process", "string", pa.string(), "same: a thread of the measured process; another: not"),
    ("place", "string", pa.string(), "helper: on the CPU of the first helper; elsewhere: on one without"),
    ("cpu", "integer", pa.int32(), "this CPU"),
    ("way", "string", pa.string(), "idle: beside nothing; serial: the serial call; threads: several threads"),
    ("threads", "integer", pa.int32(), "threads of this way, 0 if idle"),
    ("phase", "string", pa.string(), "during the task, or in the 2 ms after it"),
    ("n", "integer", pa.int64(), "samples"),
    (
        "p50_s",
        "number",
        pa.float64(),
        "median of the latencies, with those that long ones kept from being taken",
    ),
    ("p99_s", "number", pa.float64(), "their 99th percentile; none of fewer than 100"),
    ("max_s", "number", pa.float64(), "the longest"),
    ("repetitions", "integer", pa.int32(), "of the task, that these samples were taken beside"),
    ("wall_s", "number", pa.float64(), "seconds that such a repetition took, the mean"),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, _, kind, _ in COLUMNS])
CASE = ["workload", "backend", "method", "page_kind", "options", "policy", "size_bytes"]
TIMES = ("p50_s", "p99_s", "max_s")
MOST_ROWS, LONGEST_S = 10_000, 1e8
_ALLOWED = {
    "process": (SAME, ANOTHER),
    "place": (HELPER, ELSEWHERE),
    "way": WAYS,
    "phase": PHASES,
    "probe": tuple(probes.NAMES.values()),
}
_EMPTY = {name: 0 if kind in ("integer", "number") else "" for name, kind, _, _ in COLUMNS}


def key_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what names a case and a process, by the rows of its records."""
    names = [*CASE, "boot_id"]
    return {name: rows[0][name] for name in names} | {"threads_most": max(row["threads"] for row in rows)}


def table_of(found: Bystanders, key: Mapping[str, Any], labels: Mapping[str, Any]) -> pa.Table:
    """Return what neighbours found, or why they did not, as rows of the files."""
    common = _EMPTY | dict(key) | dict(labels) | {"took_s": found.took_s, "skipped": found.skipped or ""}
    rows = [common | row for row in found.rows] or [common]
    return pa.Table.from_pylist([{name: row[name] for name in SCHEMA.names} for row in rows], schema=SCHEMA)


def save(path: Path, found: Bystanders, key: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
    """Write what neighbours found so that the file is there whole or not at all.

    `labels` are the values of the columns run_id, host_id, cell_id and pass.
    """
    with atomic_write(path) as partial:
        pq.write_table(table_of(found, key, labels), partial, compression="zstd")


def load(run: Path) -> pd.DataFrame:
    """Return all rows of the run in directory `run`; none if nobody probed.

    Raises
    ------
    ValueError
        If a file is damaged; the message names it.
    """
    frames = parquet_files.read_each(read, run / FOLDER)
    return (
        pd.concat(frames, ignore_index=True) if frames else SCHEMA.empty_table().to_pandas(use_threads=False)
    )


def read(path: Path) -> pd.DataFrame:
    """Return the rows of one file; ValueError if it is damaged."""
    try:
        table = parquet_files.read(path).select(SCHEMA.names).cast(SCHEMA)
        if len(table) > MOST_ROWS:
            raise ValueError(f"it has more than {MOST_ROWS} rows")
        for k, row in enumerate(table.to_pylist()):
            _check(k, row)
        return table.to_pandas(use_threads=False)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not readable ({reason}); delete it, it is no measurement") from error


def _check(k: int, row: dict[str, Any]) -> None:
    """Refuse a row that `save` cannot have written."""
    if unknown := [name for name, value in row.items() if value is None]:
        raise ValueError(f"row {k} has no {unknown[0]}")
    if wrong := [name for name in ("size_bytes", "threads_most", "pass") if row[name] < 1]:
        raise ValueError(f"row {k} has {wrong[0]} {row[wrong[0]]}")
    if not 0 <= row["took_s"] <= LONGEST_S:
        raise ValueError(f"row {k} has took_s {row['took_s']:g}")
    if row["skipped"]:
        return
    for name, values in _ALLOWED.items():
        if row[name] not in values:
            raise ValueError(f"row {k} has {name} {row[name][:40]!r}")
    if row["n"] < 0 or row["threads"] < 0:
        raise ValueError(f"row {k} has n {row['n']} and threads {row['threads']}")
    for name in TIMES:
        if not (math.isnan(row[name]) or 0 < row[name] <= LONGEST_S):
            raise ValueError(f"row {k} has {name} {row[name]:g}")
