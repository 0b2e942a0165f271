"""A run made of what another suite measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from ktask.common.files import read_text, write_json
from ktask.common.private_folders import held_directory
from ktask.lab import records
from ktask.lab.imports.readers import KINDS, Measured
from ktask.lab.sweep.cells import FOLDERS
from ktask.lab.sweep.sweep import hidden, run_path

MOST_FILES, MOST_BYTES = 1000, 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")
Row = dict[str, Any]


def import_results(
    kind: str, folders: Sequence[Path], name: str | None = None, root: Path | None = None
) -> Path:
    """Make a run of the results of another suite, and return its directory.

    Parameters
    ----------
    kind
        One of `KINDS`.
    folders
        Results of one machine: each folder is a pass, as each starts its programs anew.
    name
        Of the run; made from kind and time if left out.
    root
        Where runs are kept.

    Raises
    ------
    ValueError
        If a folder has no results, or a file holds something else; the message names it.
    """
    if kind not in KINDS:
        raise ValueError(f"results of {kind!r} cannot be read; use one of {', '.join(KINDS)}")
    path = run_path(name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{kind}", root)
    if path.exists():
        raise ValueError(f"run {path.name} exists in {path.parent}; use another --run")
    rows = [row for number, folder in enumerate(folders, 1) for row in _rows_of(kind, Path(folder), number)]
    with held_directory(lambda: hidden(path)) as partial:
        for folder in FOLDERS:
            (partial / folder).mkdir()
        _write(partial, kind, path.name, _same_size(rows), len(folders))
        partial.rename(path)
    return path


def _rows_of(kind: str, folder: Path, number: int) -> Iterator[Row]:
    """Yield the rows of one folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one with results of {kind}")
    reader, pattern = KINDS[kind]
    files = sorted(
        path for path in folder.glob(pattern) if not path.name.startswith(".") and not path.is_dir()
    )
    if not files or len(files) > MOST_FILES:
        raise ValueError(f"{folder} has {len(files)} files {pattern}; use 1 to {MOST_FILES}")
    for path in files:
        seen: Counter[tuple[str, int]] = Counter()
        for one in _measured(reader, path):
            yield _row(kind, one, path, number, seen[one.method, one.threads])
            seen[one.method, one.threads] += 1


def _measured(reader: Any, path: Path) -> list[Measured]:
    """Return what a file holds; ValueError names it."""
    if not _NAME.fullmatch(path.stem):
        raise ValueError(f"{path}: its name is not allowed; use up to 60 letters, digits, dots and dashes")
    try:
        found = list(reader(path.stem, read_text(path, MOST_BYTES)))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path} {said}") from None
    if not found:
        raise ValueError(f"{path} holds no measurement")
    return found


def _row(kind: str, one: Measured, path: Path, number: int, repetition: int) -> Row:
    """Return the row of one measurement; what the suite did not say is empty."""
    return {
        "workload": kind,
        "backend": "kernel",
        "method": one.method,
        "page_kind": one.page_kind,
        "page_size_bytes": {"2MiB": 2 << 20, "1GiB": 1 << 30}.get(one.page_kind, 4096),
        "size_bytes": one.size_bytes,
        "unit": one.unit,
        "operations": one.operations,
        "wall_s": one.wall_s,
        "policy": "none",
        "options": "",
        "threads_requested": one.threads,
        "threads": one.threads,
        "chunk_size": max(one.size_bytes // one.threads, 1),
        "n_chunks": one.threads,
        "min_chunk_size": 1,
        "baseline": one.threads == 1,
        "warmup": False,
        "verified": False,
        "round": repetition,
        "order": 0,
        "calls": 1,
        "faults_minor": 0,
        "ctx_involuntary": 0,
        "flags": [],
        "run_mode": f"imported from {kind}",
        "pass": number,
        "boot_id": "",
        "cpus": "",
        "nodes": "",
        "started_at": datetime.fromtimestamp(path.stat().st_mtime, UTC),
    }


def _same_size(rows: list[Row]) -> list[Row]:
    """Return the rows with one size per method, that of the fewest tasks: suites round shares to pages.

    The rates stay as they are.
    """

    def path_of(row: Row) -> tuple[str, str]:
        return row["method"], row["page_kind"]

    for _, group in groupby(sorted(rows, key=path_of), path_of):
        alike = list(group)
        fewest = min(alike, key=lambda row: row["threads"])
        for row in alike if fewest["unit"] == "byte" else ():
            row["wall_s"] *= fewest["size_bytes"] / row["size_bytes"]
            row["size_bytes"] = row["operations"] = fewest["size_bytes"]
    return rows


def _write(path: Path, kind: str, name: str, rows: list[Row], passes: int) -> None:
    """Write the files of the run."""
    host = {"host_id": f"imported-{kind}", "host_name": "not known", "imported_from": kind}
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cell = f"{kind}-{row['method']}-{row['page_kind']}"
        cells.setdefault(records.process_name(cell, row["pass"]), []).append(
            row | {"run_id": name, "host_id": host["host_id"], "cell_id": cell}
        )
    for process, own in cells.items():
        records.write_records(path / "records" / f"{process}.parquet", own)
    write_json(path / "machine.json", host)
    records.write_datapackage(path, name)
    threads = sorted({row["threads"] for row in rows})
    about = {"name": kind, "about": f"results of {kind}", "threads": threads, "passes": passes, "cells": []}
    (path / "grid.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
