"""Records: one row per repetition, one Parquet file per process, one directory per run.

A pass over the grid measures each cell once, in a process of its own: <process> is <cell> in the first pass,
<cell>.pass2 in the second.

data/runs/<run>/machine.json  grid.yaml  datapackage.json
                records/<process>.parquet  appears whole when the process is done
                traces/<process>.parquet   the chunks of one more repetition (`ktask.lab.traces`)
                evidence/<process>.parquet where the time goes, in more of them (`ktask.lab.evidence.store`)
                bystanders/<process>.parquet  what others wait for meanwhile (`ktask.lab.bystanders.store`)
                cells/<process>.ipynb      the executed notebook of the process
                skipped/<process>.json     why there are no records of it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ktask.common.files import atomic_write, write_json
from ktask.lab import parquet_files, traces
from ktask.lab.measure import flags
from ktask.lab.run_files import read_grid, read_machine, read_skips
from ktask.workloads import conditions

if TYPE_CHECKING:
    from ktask.lab.evidence import Evidence
    from ktask.lab.evidence.store import CaseKey

SCHEMA_VERSION = "1.9"
SYNTHETIC = "made by the simulator; no machine was measured"

# name, Frictionless type, Arrow type, what it is
COLUMNS: tuple[tuple[str, str, pa.DataType, str], ...] = (
    ("run_id", "string", pa.string(), "name of the run"),
    ("host_id", "string", pa.string(), "hash that tells machines apart"),
    ("cell_id", "string", pa.string(), "one case: a workload, method, page kind, size and options"),
    ("round", "integer", pa.int32(), "each variant once, in random order; negative in warm-ups"),
    ("order", "integer", pa.int32(), "place within the round"),
    ("workload", "string", pa.string(), "what is done"),
    ("backend", "string", pa.string(), "kernel: a path of the kernel does it; user: code of this project"),
    ("method", "string", pa.string(), "how it is done"),
    ("page_kind", "string", pa.string(), "4KiB, THP, 2MiB (hugetlb) or 1GiB (hugetlb)"),
    ("page_size_bytes", "integer", pa.int64(), "size of such a page"),
    ("size_bytes", "integer", pa.int64(), "memory that one repetition covers"),
    ("unit", "string", pa.string(), "what one operation is"),
    ("operations", "integer", pa.int64(), "operations per repetition; the rate is operations / wall_s"),
    ("policy", "string", pa.string(), "rule for threads and chunks"),
    ("threads_requested", "integer", pa.int32(), "cap on the threads, the caller included"),
    ("threads", "integer", pa.int32(), "threads that the policy and the limits granted"),
    ("chunk_size", "integer", pa.int64(), "bytes per chunk"),
    ("n_chunks", "integer", pa.int64(), "calls of the thread function"),
    ("min_chunk_size", "integer", pa.int64(), "least bytes per chunk, in whole pages"),
    ("warmup", "boolean", pa.bool_(), "taken before memory and clocks had settled"),
    ("baseline", "boolean", pa.bool_(), "the serial case: one thread, one call over the whole range"),
    ("wall_s", "number", pa.float64(), "seconds from the release of the threads to the end of the last"),
    ("cpu_user_s", "number", pa.float64(), "CPU seconds of the threads in user mode meanwhile, if known"),
    ("cpu_system_s", "number", pa.float64(), "CPU seconds of the threads in the kernel meanwhile, if known"),
    ("faults_minor", "integer", pa.int64(), "minor page faults of the process meanwhile"),
    ("ctx_involuntary", "integer", pa.int64(), "involuntary context switches of the process meanwhile"),
    ("steal_s", "number", pa.float64(), "CPU seconds that the host gave to others meanwhile"),
    ("verified", "boolean", pa.bool_(), "the effect was checked after the clock had stopped"),
    ("flags", "array", pa.list_(pa.string()), "measurement warnings; `aa` marks the second baseline"),
    ("started_at", "datetime", pa.timestamp("us", tz="UTC"), "when the clock started"),
    ("options", "string", pa.string(), "what else is set apart from its default, as name=value,name=value"),
    ("calls", "integer", pa.int32(), "calls that the repetition is the mean of; steal and switches: the sum"),
    ("apart_s", "number", pa.float64(), "seconds from the first thread without more chunks to the last"),
    ("helper_nice", "integer", pa.int32(), "nice level of the helpers; none if it was the caller's"),
    ("run_mode", "string", pa.string(), "how the engine ran: pinning, priorities, signals"),
    ("pass", "integer", pa.int32(), "which process of the cell; each pass over the grid starts a fresh one"),
    ("boot_id", "string", pa.string(), "tells the boots of a machine apart"),
    ("cpus", "string", pa.string(), "the CPU that each thread ended on, the caller first; empty if unknown"),
    ("nodes", "string", pa.string(), "the memory node of each of these CPUs; empty if unknown"),
    ("shared_cores", "integer", pa.int32(), "cores that two of the threads shared, or more; none if unknown"),
    ("load_rate", "number", pa.float64(), "what the load did meanwhile, in its own unit per second"),
    ("load_alone_rate", "number", pa.float64(), "the same before the first repetition, beside nothing"),
    ("load_cpu_s", "number", pa.float64(), "CPU seconds of the load meanwhile; none without a load"),
    ("throttled_s", "number", pa.float64(), "seconds that a quota stopped it, all CPUs; none without one"),
    ("huge_share", "number", pa.float64(), "share of it that came as huge pages; none where all has to"),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, _, kind, _ in COLUMNS])
SKIPPED_COLUMNS = ["cell_id", "workload", "backend", "method", "page_kind", "size_bytes", "reason", "failed"]
SKIPPED_COLUMNS += ["options", "pass"]
CONDITIONED = ("load_rate", "load_alone_rate", "load_cpu_s", "throttled_s")
# Columns that older files lack, with what stands for them.
_SINCE = {
    "pass": 1,
    "boot_id": "",
    "options": "",
    "calls": 1,
    "apart_s": None,
    "helper_nice": None,
    "run_mode": "",
    "cpus": "",
    "nodes": "",
    "shared_cores": None,
    **dict.fromkeys(CONDITIONED),
    "huge_share": None,
}


# May be unknown, beside those below.
_UNKNOWN = {"cpu_user_s", "cpu_system_s", "steal_s", "calls", "apart_s", "huge_share", *CONDITIONED}
_MAY_BE_UNKNOWN = dict.fromkeys(("helper_nice", "shared_cores"), "Int32")


NEEDED = [name for name in SCHEMA.names if name not in _UNKNOWN | _MAY_BE_UNKNOWN.keys()]  # in every row


@dataclass(frozen=True)
class Run:
    """One run, read from its directory.

    `skipped` has one row per cell and pass that gave no records, with the reason.
    """

    name: str
    path: Path
    records: pd.DataFrame
    machine: dict[str, Any]
    grid: dict[str, Any]
    skipped: pd.DataFrame

    @property
    def synthetic(self) -> str:
        """What to say of a run that nobody measured, or nothing."""
        return synthetic_note(self.machine)

    @cached_property
    def evidence(self) -> dict[CaseKey, Evidence]:
        """Where the time goes, by case; empty if the run has no evidence.

        Raises
        ------
        ValueError
            If a file of it is damaged; the message names it.
        """
        from ktask.lab.evidence import store  # noqa: PLC0415  (most readers of records do without)

        return store.load(self.path)

    @cached_property
    def traces(self) -> pd.DataFrame:
        """When and where each chunk of one more repetition ran; empty if the run has no traces.

        Raises
        ------
        ValueError
            If a file of it is damaged; the message names it.
        """
        return traces.read_traces(self.path)

    @cached_property
    def bystanders(self) -> pd.DataFrame:
        """What others waited for, a row per process, probe and way; empty if no neighbour probed.

        Raises
        ------
        ValueError
            If a file of it is damaged; the message names it.
        """
        from ktask.lab.bystanders import store  # noqa: PLC0415  (most readers of records do without)

        return store.load(self.path)


def synthetic_note(machine: Mapping[str, Any]) -> str:
    """Return what to say of a run that nobody measured (`synthetic` in machine.json), or nothing."""
    return SYNTHETIC if machine.get("synthetic") else ""


def unconditioned(run: Run) -> Run:
    """Return a run without the cells under a load, a quota or a nice level of their own."""
    records, skipped = (
        rows[~conditioned(rows)].reset_index(drop=True) for rows in (run.records, run.skipped)
    )
    cells = run.grid.get("cells")
    plain = [one for one in cells if not _has_condition(one)] if isinstance(cells, list) else cells
    grid = run.grid | ({"cells": plain} if cells else {})
    return replace(run, records=records, skipped=skipped, grid=grid)


def conditioned(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are of cells that have a condition: a load, a quota or a nice level of their own."""
    if "options" not in rows:
        return pd.Series(False, index=rows.index)
    return rows["options"].fillna("").astype(str).map(conditions.are_in).astype(bool)


def _has_condition(cell: Any) -> bool:
    options = cell.get("options") if isinstance(cell, dict) else None
    return isinstance(options, dict) and conditions.are_in(options)


def process_name(cell_id: str, pass_number: int) -> str:
    """Return what names the files of one process of a cell: the cell itself in the first pass."""
    return cell_id if pass_number == 1 else f"{cell_id}.pass{pass_number}"


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows of one process so that the file is there whole or not at all."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_records(path: Path) -> pd.DataFrame:
    """Return the rows of one file.

    Raises
    ------
    ValueError
        If the file is damaged, has other columns or impossible numbers; the message names it.
    """
    return _frame(_read_table(path))


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(use_threads=False).astype(_MAY_BE_UNKNOWN)


def _read_table(path: Path) -> pa.Table:
    """Return the rows of one file as they are today, checked."""
    try:
        table = parquet_files.read(path)
        is_before_fill = "pass" not in table.column_names
        for name in _SINCE.keys() - set(table.column_names):
            table = table.append_column(name, pa.array([_SINCE[name]] * len(table), SCHEMA.field(name).type))
        names = set(table.column_names)
        if missing := [name for name in SCHEMA.names if name not in names]:
            raise pa.ArrowInvalid(f"it lacks the columns {', '.join(missing)}")
        table = table.select(SCHEMA.names).cast(SCHEMA)
        for name in NEEDED:
            if table[name].null_count:
                raise pa.ArrowInvalid(f"column {name} has a row without a value")
        _check_numbers(table)
        return _with_fill(table) if is_before_fill else table
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).partition("\n")[0]  # what follows is a dump of the schema
        raise ValueError(
            f"{path} is not a readable record file ({reason}); delete it and resume the run, or "
            "report on the rest without it"
        ) from error


def _with_fill(table: pa.Table) -> pa.Table:
    """Return rows of before `fill` was an option, with what it was then: each CPU filled a share."""
    methods = pc.is_in(table["method"], value_set=pa.array(["buddy", "exit"]))
    freed = pc.and_not(pc.equal(table["workload"], "free"), methods)
    options = pc.if_else(freed, "fill=each", table["options"])
    return table.set_column(SCHEMA.get_field_index("options"), SCHEMA.field("options"), options)


LONGEST_S = 1e8  # three years


def _check_numbers(table: pa.Table) -> None:
    """Say which number no measurement can have given, if there is one."""
    for name in ("wall_s", "cpu_user_s", "cpu_system_s"):
        values = table[name].to_numpy()
        known = (values >= -LONGEST_S) & (values <= LONGEST_S)
        known |= np.isnan(values) & (name != "wall_s")  # CPU time may be unknown
        if len(wrong := np.flatnonzero(~known)):
            raise pa.ArrowInvalid(f"row {wrong[0]} has {name} = {values[wrong[0]]:g}")
    for name in ("size_bytes", "threads", "operations"):
        values = table[name].to_numpy()
        if len(wrong := np.flatnonzero(values < 1)):
            raise pa.ArrowInvalid(f"row {wrong[0]} has {name} = {values[wrong[0]]}")


def time_measuring(records: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds that a run spent in its cells, and those it took, from first to last repetition.

    A process counts from its first repetition to the end of its last, with what a repetition needs before and
    after it (populating, checks); starting it, setting up its memory and its figures do not.
    """
    ends = records["started_at"] + pd.to_timedelta(records["wall_s"], unit="s")
    processes = [records[name] for name in ("cell_id", "boot_id", "pass")]
    inside = ends.groupby(processes).max() - records["started_at"].groupby(processes).min()
    return inside.sum().total_seconds(), (ends.max() - records["started_at"].min()).total_seconds()


def load_run(path: Path | str) -> Run:
    """Return the run in the directory `path`.

    Raises
    ------
    ValueError
        If there is no such run, or one of its files is damaged; the message says which.
    """
    path = Path(path)
    if not (path / "machine.json").is_file():
        raise ValueError(f"{path} is not a run: it has no machine.json; `ktask sweep quick` makes a run")
    tables = parquet_files.read_each(_read_table, path / "records")
    records = _frame(pa.concat_tables(tables) if tables else SCHEMA.empty_table())
    machine = read_machine(path)
    if machine.get("virtualised") and records["pass"].nunique() > 1:
        records = flags.mark_cold_over_processes(records)
    return Run(
        name=path.resolve().name,
        path=path,
        records=records,
        machine=machine,
        grid=read_grid(path),
        skipped=pd.DataFrame(read_skips(path), columns=SKIPPED_COLUMNS),
    )


def write_datapackage(path: Path, run_name: str) -> None:
    """Describe the records of a run (Frictionless Data Package, with the schema of the rows)."""
    from ktask.lab.bystanders import store as bystanders  # noqa: PLC0415  (most readers do without)
    from ktask.lab.evidence import store  # noqa: PLC0415

    write_json(
        path / "datapackage.json",
        {
            "name": run_name.lower(),
            "title": f"ktask run {run_name}",
            "version": SCHEMA_VERSION,
            "licenses": [{"name": "CC0-1.0", "title": "Public domain"}],
            "resources": [
                _resource("records", "One row per repetition; warm-ups and flagged ones included.", COLUMNS),
                _resource("traces", "One row per chunk of an extra repetition per cell.", traces.COLUMNS),
                _resource("evidence", "What was seen of extra repetitions of a case.", store.COLUMNS),
                _resource("bystanders", "What others waited for beside extra ones.", bystanders.COLUMNS),
            ],
        },
    )


def _resource(
    name: str, about: str, columns: tuple[tuple[str, str, pa.DataType, str], ...]
) -> dict[str, Any]:
    fields = [{"name": n, "type": kind, "description": text} for n, kind, _, text in columns]
    return {
        "name": name,
        "path": f"{name}/*.parquet",
        "format": "parquet",
        "description": about,
        "schema": {"fields": fields},
    }
