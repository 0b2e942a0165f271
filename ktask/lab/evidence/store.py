"""The evidence of a run as files: one for each process that looked at its case, or could not.

data/runs/<run>/evidence/<process>.parquet, long rows: one per time, stack, wait and counter of each way to
run the case. It is no part of the records: the repetitions behind it are extra ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ktask.common.files import atomic_write
from ktask.common.units import exact_size
from ktask.host.perf import SAMPLES_PER_S
from ktask.lab import parquet_files
from ktask.lab.evidence.case import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.mean import mean_of
from ktask.lab.records import process_name

KINDS = {
    "time": "seconds of one repetition, the mean, or another number of it",
    "stack": "CPU seconds in it",
    "wait": "seconds that all threads waited for a lock",
    "counter": "by how much it grew",
    "skipped": "why nothing was seen",
    "cost": "seconds that looking took",
}
# name, Frictionless type, Arrow type, what it is
COLUMNS: tuple[tuple[str, str, pa.DataType, str], ...] = (
    ("run_id", "string", pa.string(), "name of the run"),
    ("host_id", "string", pa.string(), "hash that tells machines apart"),
    ("cell_id", "string", pa.string(), "the cell whose extra repetitions were looked at"),
    ("pass", "integer", pa.int32(), "which process of the cell; 0 in older files, which have one of a case"),
    ("workload", "string", pa.string(), "what is done"),
    ("backend", "string", pa.string(), "kernel or user"),
    ("method", "string", pa.string(), "how it is done"),
    ("page_kind", "string", pa.string(), "4KiB, THP, 2MiB (hugetlb) or 1GiB (hugetlb)"),
    ("size_bytes", "integer", pa.int64(), "memory that one repetition covers"),
    ("options", "string", pa.string(), "what else is set apart from its default, as name=value,name=value"),
    ("threads_most", "integer", pa.int32(), "the most threads of the case, which the evidence is about"),
    ("way", "string", pa.string(), "serial; threads; alone: one thread in their chunks; empty: of the case"),
    ("threads", "integer", pa.int32(), "threads of this way"),
    ("kind", "string", pa.string(), f"what the row is: {'; '.join(map(': '.join, KINDS.items()))}"),
    ("name", "string", pa.string(), "of what; a stack has its outermost function first, with ; between"),
    ("lock_kind", "string", pa.string(), "of a wait: mutex, spinlock, ..."),
    ("site", "string", pa.string(), "of a wait: the function that takes the lock"),
    ("source", "string", pa.string(), "of a wait: how it was seen"),
    ("count", "integer", pa.int64(), "samples of a stack, or times of a wait, in all repetitions; else 0"),
    ("value", "number", pa.float64(), "seconds, or a number"),
)
SCHEMA = pa.schema([pa.field(name, kind) for name, _, kind, _ in COLUMNS])
WAYS = {"serial": "serial", "threads": "many", "alone": "alone"}  # the way, and its place in `Evidence`
BETWEEN = ";"
_NUMBERS = [one for one in fields(Look) if one.type in ("int", "float", "bool")]
_AT_LEAST = {"threads": 1, "repetitions": 1}


class CaseKey(NamedTuple):
    """What evidence is about: the columns of the records that name a case, and its most threads."""

    workload: str
    backend: str
    method: str
    page_kind: str
    size_bytes: int
    options: str
    threads: int

    @property
    def name(self) -> str:
        """What people call it: as the cell of a grid, without its policy and chunks."""
        parts = [self.workload, self.method, self.page_kind, exact_size(self.size_bytes)]
        return "-".join([*parts, *(self.options.split(",") if self.options else ())])


def key_of(rows: Sequence[Mapping[str, Any]]) -> CaseKey:
    """Return what names a case, by the rows of its records."""
    names = (name for name in CaseKey._fields if name != "threads")
    threads = max(int(row["threads"]) for row in rows)
    return CaseKey(**{name: rows[0][name] for name in names}, threads=threads)


def file_name(cell_id: str, pass_number: int) -> str:
    """Return the name of the file of a process; those of all processes are `<cell_id>.*parquet`."""
    return f"{process_name(cell_id, pass_number)}.parquet"


def save(folder: Path, key: CaseKey, evidence: Evidence, labels: Mapping[str, Any]) -> None:
    """Write what one process saw of a case to `folder` so that the file is there whole or not at all.

    `labels` are the values of the columns run_id, host_id and cell_id, and pass if it is not the first.
    """
    labels = {"pass": 1} | dict(labels)
    common = {**key._asdict(), **{name: labels[name] for name in ("run_id", "host_id", "cell_id", "pass")}}
    common["threads_most"] = key.threads
    rows = [_EMPTY | common | row for row in _rows(evidence)]
    with atomic_write(folder / file_name(labels["cell_id"], labels["pass"])) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")


_EMPTY = {name: 0 if kind in ("integer", "number") else "" for name, kind, _, _ in COLUMNS}


def _rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    yield {"kind": "cost", "name": "looking", "value": evidence.took_s}
    if evidence.skipped is not None:
        yield {"kind": "skipped", "name": evidence.skipped}
    for way, place in WAYS.items():
        look: Look | None = getattr(evidence, place)
        for row in _rows_of(look) if look else ():
            yield {"way": way, "threads": look.threads if look else 0} | row


def _rows_of(look: Look) -> Iterator[dict[str, Any]]:
    for one in _NUMBERS:
        yield {"kind": "time", "name": one.name, "value": float(getattr(look, one.name))}
    for frames, seconds in look.stacks.items():
        name = BETWEEN.join(frame.replace(BETWEEN, ":") for frame in reversed(frames))
        count = round(seconds * SAMPLES_PER_S * look.repetitions)
        yield {"kind": "stack", "name": name, "count": count, "value": seconds}
    for wait in look.waits:
        about = {"lock_kind": wait.kind, "site": wait.site, "source": wait.source, "count": wait.count}
        yield {"kind": "wait", "name": wait.lock, "value": wait.wait_s} | about
    for name, value in look.counters.items():
        yield {"kind": "counter", "name": name, "value": float(value)}


def load(run: Path) -> dict[CaseKey, Evidence]:
    """Return the evidence of the run in directory `run`, by case, the mean over processes; empty if none.

    Raises
    ------
    ValueError
        If a file is damaged; the message names it.
    """
    found: dict[CaseKey, list[Evidence]] = {}
    for key, evidence in parquet_files.read_each(read, run / "evidence"):
        found.setdefault(key, []).append(evidence)
    return {key: mean_of(each) for key, each in found.items()}


def read(path: Path) -> tuple[CaseKey, Evidence]:
    """Return what one process saw, and of which case; ValueError if the file is damaged."""
    try:
        table = parquet_files.read(path)
        if "pass" not in table.column_names:
            table = table.append_column("pass", pa.array([0] * len(table), pa.int32()))
        rows = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
        _check(rows)
        return _key(rows), _evidence(rows)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not readable evidence ({reason}); delete it, it is no measurement"
        ) from error


def _check(rows: list[dict[str, Any]]) -> None:
    """Refuse rows that `save` cannot have written."""
    for k, row in enumerate(rows):
        if unknown := [name for name, value in row.items() if value is None]:
            raise ValueError(f"row {k} has no {unknown[0]}")
        if row["kind"] not in KINDS or row["way"] not in ("", *WAYS):
            raise ValueError(f"row {k} has way {row['way']!r} and kind {row['kind']!r}")
        least = -math.inf if row["kind"] == "counter" else 0
        if not math.isfinite(row["value"]) or row["value"] < least or row["count"] < 0:
            raise ValueError(f"row {k} has value {row['value']:g} and count {row['count']}")


def _key(rows: list[dict[str, Any]]) -> CaseKey:
    named = [{"threads": row["threads_most"]} for row in rows]
    keys = {
        CaseKey(**{name: (row | more)[name] for name in CaseKey._fields})
        for row, more in zip(rows, named, strict=True)
    }
    if len(keys) != 1:
        raise ValueError(f"it is about {len(keys)} cases")
    key = keys.pop()
    if key.size_bytes < 1 or key.threads < 1:
        raise ValueError(f"size_bytes is {key.size_bytes}, threads_most {key.threads}")
    return key


def _evidence(rows: list[dict[str, Any]]) -> Evidence:
    of_way: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_way.setdefault(row["way"], []).append(row)
    of_case = {row["kind"]: row for row in of_way.pop("", [])}
    found: dict[str, Any] = {WAYS[way]: _look(found) for way, found in of_way.items()}
    if "skipped" in of_case:
        found["skipped"] = of_case["skipped"]["name"]
    elif not {"serial", "many"} <= found.keys():
        raise ValueError("it has neither what was seen nor why nothing was")
    cost = of_case.get("cost", {"value": 0.0})
    return Evidence(took_s=cost["value"], **found)


def _look(rows: list[dict[str, Any]]) -> Look:
    of_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ("time", "stack", "wait", "counter")}
    for row in rows:
        of_kind[row["kind"]].append(row)
    return Look(
        **_numbers({row["name"]: row["value"] for row in of_kind["time"]}),
        stacks={_frames(row["name"]): row["value"] for row in of_kind["stack"]},
        waits=[
            Wait(row["name"], row["lock_kind"], row["site"], row["value"], row["count"], row["source"])
            for row in of_kind["wait"]
        ],
        counters={row["name"]: row["value"] for row in of_kind["counter"]},
    )


def _frames(name: str) -> tuple[str, ...]:
    return tuple(reversed(name.split(BETWEEN))) if name else ()


def _numbers(found: Mapping[str, float]) -> dict[str, Any]:
    """Return the numbers of a look; one that is younger than the file has its default."""
    numbers: dict[str, Any] = {}
    for one in _NUMBERS:
        if one.name in found:
            numbers[one.name] = {"int": int, "bool": bool, "float": float}[str(one.type)](found[one.name])
        elif one.default is MISSING:
            raise ValueError(f"it lacks {one.name}")
    if wrong := [name for name, least in _AT_LEAST.items() if numbers[name] < least]:
        raise ValueError(f"{wrong[0]} is {numbers[wrong[0]]}")
    return numbers
