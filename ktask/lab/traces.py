"""Traces of a run: when and where each chunk of one extra repetition per cell ran.

data/runs/<run>/traces/<process>.parquet, one row per chunk. The repetition is no part of the
records: its chunks are timed, which the others are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ktask.common.files import atomic_write
from ktask.engine.task import Result
from ktask.lab import parquet_files

# name, Frictionless type, Arrow type, what it is
COLUMNS: tuple[tuple[str, str, pa.DataType, str], ...] = (
    ("run_id", "string", pa.string(), "name of the run"),
    ("host_id", "string", pa.string(), "hash that tells machines apart"),
    ("cell_id", "string", pa.string(), "the cell that this was an extra repetition of"),
    ("threads", "integer", pa.int32(), "threads of the repetition, the caller included"),
    ("wall_s", "number", pa.float64(), "its time from the release of the threads to the end of the last"),
    ("helper", "integer", pa.int32(), "the thread that ran the chunk; 0 is the caller"),
    ("cpu", "integer", pa.int32(), "the CPU it ran on"),
    ("start_bytes", "integer", pa.int64(), "where the chunk begins, from the start of the range"),
    ("end_bytes", "integer", pa.int64(), "where it ends"),
    ("t0_s", "number", pa.float64(), "when it began, since the release"),
    ("t1_s", "number", pa.float64(), "when it ended"),
    ("pass", "integer", pa.int32(), "which process of the cell it was in"),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, _, kind, _ in COLUMNS])
LABELS = ("run_id", "host_id", "cell_id", "pass")
_OF_A_CHUNK = [name for name in SCHEMA.names if name not in LABELS]
MOST_CHUNKS = 2000  # more than anybody can see, and 60 kB


def trace_table(result: Result, bytes_per_unit: int = 1) -> pd.DataFrame:
    """Return the trace of a task in the columns above, without the labels; no rows if it has too many."""
    trace = result.trace
    if trace is None or len(trace) > MOST_CHUNKS:
        return pd.DataFrame(columns=_OF_A_CHUNK)
    moved = trace.assign(
        threads=result.threads,
        wall_s=result.wall_s,
        start_bytes=trace["start"] * bytes_per_unit,
        end_bytes=trace["end"] * bytes_per_unit,
    )
    return moved[_OF_A_CHUNK].reset_index(drop=True)


def write_traces(path: Path, table: pd.DataFrame, labels: Mapping[str, Any]) -> None:
    """Write the trace of one cell so that the file is there whole or not at all."""
    labelled = table.assign(**{name: labels.get(name, 1 if name == "pass" else "") for name in LABELS})
    with atomic_write(path) as partial:
        pq.write_table(
            pa.Table.from_pandas(labelled, SCHEMA, preserve_index=False), partial, compression="zstd"
        )


def read_traces(run: Path) -> pd.DataFrame:
    """Return the traces of all cells of the run in directory `run`; empty if it has none.

    Raises
    ------
    ValueError
        If a file is damaged; the message names it.
    """
    frames = parquet_files.read_each(_read, run / "traces")
    return (
        pd.concat(frames, ignore_index=True) if frames else SCHEMA.empty_table().to_pandas(use_threads=False)
    )


def _read(path: Path) -> pd.DataFrame:
    try:
        table = parquet_files.read(path)
        if "pass" not in table.column_names:  # of an older run
            table = table.append_column("pass", pa.array([1] * len(table), pa.int32()))
        return table.select(SCHEMA.names).cast(SCHEMA).to_pandas(use_threads=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a readable trace ({reason}); delete it, it is no measurement"
        ) from error
