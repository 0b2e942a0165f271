"""Records: what is written is read again, whole or not at all, and damage is told with its file."""

import errno
import json
import math
import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ktask.lab import records
from ktask.lab.records import (
    COLUMNS,
    SCHEMA,
    load_run,
    read_records,
    time_measuring,
    write_datapackage,
    write_records,
)

# In the words and the order of the design; a reader of old runs relies on them.
# fmt: off
PROMISED = [
    "run_id", "host_id", "cell_id", "round", "order", "workload", "backend", "method",
    "page_kind", "page_size_bytes", "size_bytes", "unit", "operations", "policy", "threads_requested",
    "threads", "chunk_size", "n_chunks", "min_chunk_size", "warmup", "baseline", "wall_s",
    "cpu_user_s", "cpu_system_s", "faults_minor", "ctx_involuntary", "steal_s", "verified",
    "flags", "started_at",
]
ADDED = ["options", "calls", "apart_s", "helper_nice", "run_mode", "pass", "boot_id"]  # since 1.1, at the end
ADDED += ["cpus", "nodes", "shared_cores"]  # since 1.6
ADDED += ["load_rate", "load_alone_rate", "load_cpu_s", "throttled_s"]  # since 1.8
ADDED += ["huge_share"]  # since 1.9
# fmt: on


def row(**changes):
    return {
        "run_id": "r",
        "host_id": "h",
        "cell_id": "c",
        "round": -1,
        "order": 0,
        "workload": "zeroing",
        "backend": "kernel",
        "method": "populate",
        "page_kind": "THP",
        "page_size_bytes": 2 << 20,
        "size_bytes": 1 << 40,
        "unit": "byte",
        "operations": 1 << 40,
        "policy": "ktask-v4",
        "threads_requested": 2,
        "threads": 2,
        "chunk_size": 2 << 20,
        "n_chunks": 1 << 19,
        "min_chunk_size": 2 << 20,
        "warmup": True,
        "baseline": False,
        "wall_s": 0.1 + 0.2,
        "cpu_user_s": 0.0,
        "cpu_system_s": 1e-9,
        "faults_minor": 7,
        "ctx_involuntary": 0,
        "steal_s": 0.01,
        "verified": True,
        "flags": ["cold_memory", "Ωmega"],
        "started_at": datetime(2026, 11, 23, 5, 6, 7, 890123, tzinfo=UTC),
        "options": "layout=sparse",
        "calls": 3,
        "apart_s": 0.02,
        "helper_nice": 19,
        "run_mode": "pinned",
        "pass": 2,
        "boot_id": "5a1c",
        "cpus": "3,1",
        "nodes": "0,0",
        "shared_cores": 0,
        "load_rate": 1e9,
        "load_alone_rate": 2e9,
        "load_cpu_s": 0.3,
        "throttled_s": 0.05,
        "huge_share": 0.25,
    } | changes


ROWS = [row(), row(round=0, flags=[], warmup=False, wall_s=1.5)]


@pytest.fixture
def run(tmp_path):
    """A small run, as a sweep leaves it."""
    path = tmp_path / "a run"
    for folder in ("records", "skipped"):
        (path / folder).mkdir(parents=True)
    (path / "machine.json").write_text('{"host_id": "h"}')
    (path / "grid.yaml").write_text("name: tiny\n")
    case = {
        "workload": "zeroing",
        "backend": "kernel",
        "method": "populate",
        "page_kind": "THP",
        "size_bytes": 1,
    }
    skip = case | {"cell_id": "x", "reason": "no room", "failed": False}
    (path / "skipped/x.json").write_text(json.dumps(skip))
    write_records(path / "records/c.parquet", ROWS)
    write_records(path / "records/d.parquet", [row(cell_id="d")])
    return path


def test_the_columns_are_the_promised_ones():
    assert SCHEMA.names == PROMISED + ADDED
    assert set(row()) == set(SCHEMA.names)


def test_files_from_before_options_are_read_as_having_none(tmp_path):
    write_records(tmp_path / "c.parquet", ROWS)
    pq.write_table(pq.read_table(tmp_path / "c.parquet").drop_columns(ADDED), tmp_path / "old.parquet")
    old = read_records(tmp_path / "old.parquet")
    assert (set(old["options"]), set(old["calls"])) == ({""}, {1})
    assert old[["apart_s", "helper_nice", "shared_cores"]].isna().all(axis=None)
    assert set(old["run_mode"]) == set(old["cpus"]) == set(old["nodes"]) == {""}
    assert (set(old["pass"]), set(old["boot_id"])) == ({1}, {""})


def test_what_is_written_is_read_again(tmp_path):
    write_records(tmp_path / "c.parquet", ROWS)
    found = read_records(tmp_path / "c.parquet")
    assert list(found.columns) == PROMISED + ADDED
    assert [
        {k: list(v) if k == "flags" else v for k, v in r.items()} for r in found.to_dict("records")
    ] == ROWS
    assert found["round"].dtype == np.int32
    assert found["warmup"].dtype == bool


@pytest.mark.parametrize(
    "bad", [{"wall_s": math.inf}, {"wall_s": math.nan}, {"cpu_user_s": math.inf}, {"size_bytes": 0}]
)
def test_numbers_that_no_measurement_gives_are_refused(tmp_path, bad):
    write_records(tmp_path / "c.parquet", [row(), row(**bad)])
    with pytest.raises(ValueError, match=f"row 1 has {next(iter(bad))} = .*delete it and resume"):
        read_records(tmp_path / "c.parquet")


def test_cpu_time_may_be_unknown(tmp_path):
    write_records(tmp_path / "c.parquet", [row(cpu_user_s=math.nan, cpu_system_s=math.nan)])
    assert read_records(tmp_path / "c.parquet")["cpu_user_s"].isna().all()


def test_time_measuring_runs_from_the_first_to_the_last_repetition_of_each_cell():
    start = datetime(2026, 11, 23, tzinfo=UTC)
    moments = [("a", 0, 0.5), ("a", 3, 1.0), ("b", 6, 2.0), ("b", 9, 1.0)]
    rows = [row(cell_id=c, started_at=start + timedelta(seconds=at), wall_s=w) for c, at, w in moments]
    assert time_measuring(pd.DataFrame(rows)) == (4 + 4, 10)


def test_no_rows_are_a_file_too(tmp_path):
    write_records(tmp_path / "c.parquet", [])
    assert read_records(tmp_path / "c.parquet").empty


def test_a_write_that_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    def full(table, path, **_):
        path.write_bytes(b"PAR1 and then")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_records(tmp_path / "c.parquet", ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [OSError("full"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_write_that_fails_keeps_the_old_file(stop, tmp_path, monkeypatch):
    path = tmp_path / "c.parquet"
    write_records(path, ROWS)

    def fail(*_):
        raise stop

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(stop)):
        write_records(path, [])
    assert list(tmp_path.iterdir()) == [path]
    assert len(read_records(path)) == len(ROWS)


def test_a_value_of_the_wrong_kind_writes_nothing(tmp_path):
    with pytest.raises(pa.ArrowException):
        write_records(tmp_path / "c.parquet", [row(threads="two")])
    assert list(tmp_path.iterdir()) == []


def damage(path, how):
    """Spoil a record file."""
    table = pq.read_table(path)
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("not parquet")
    elif how == "flipped":
        path.write_bytes(bytes(b ^ 0x55 for b in content[:400]) + content[400:])
    elif how == "a column short":
        pq.write_table(table.drop_columns(["wall_s"]), path)
    elif how == "a column twice":
        pq.write_table(table.append_column("wall_s", table["wall_s"]), path)
    elif how == "other types":
        pq.write_table(table.set_column(5, "workload", pa.array([[1], [2]])), path)


@pytest.mark.parametrize(
    "how", ["empty", "cut off", "text", "flipped", "a column short", "a column twice", "other types"]
)
def test_a_damaged_file_is_told_with_its_name(how, run):
    damage(run / "records/c.parquet", how)
    with pytest.raises(ValueError, match=r"c\.parquet is not a readable record file .*delete it and resume"):
        load_run(run)


def test_a_missing_column_is_named(run):
    damage(run / "records/c.parquet", "a column short")
    with pytest.raises(ValueError, match="lacks the columns wall_s"):
        load_run(run)


def test_more_columns_do_no_harm(run):
    path = run / "records/c.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("later", pa.array([1, 2])), path)
    assert list(read_records(path).columns) == PROMISED + ADDED


def test_a_run_is_read_whole(run):
    found = load_run(run)
    assert found.name == "a run"
    assert found.records["cell_id"].tolist() == ["c", "c", "d"]
    assert found.machine == {"host_id": "h"}
    assert found.grid == {"name": "tiny", "passes": 1}
    assert found.skipped["reason"].tolist() == ["no room"]


def test_a_file_half_written_by_a_killed_sweep_is_no_record(run):
    (run / "records/.e.parquet.0123.tmp").write_bytes(b"PAR1")
    assert len(load_run(run).records) == 3


def test_a_run_without_records_has_the_columns_anyway(run):
    for path in (run / "records").iterdir():
        path.unlink()
    found = load_run(run).records
    assert found.empty
    assert list(found.columns) == PROMISED + ADDED


@pytest.mark.parametrize("name", ["nosuch", "."])
def test_a_directory_that_is_no_run_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"is not a run: it has no machine\.json"):
        load_run(tmp_path / name)


@pytest.mark.parametrize("content", ["{", "[1]", "", "\x00"])
@pytest.mark.parametrize("name", ["machine.json", "grid.yaml", "skipped/x.json"])
def test_another_damaged_file_is_told_with_its_name(name, content, run):
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        load_run(run)


def test_a_run_without_its_grid_is_refused(run):
    (run / "grid.yaml").unlink()
    with pytest.raises(ValueError, match=r"grid\.yaml"):
        load_run(run)


def test_the_data_package_lists_every_column_in_order(tmp_path):
    write_datapackage(tmp_path, "Night-1")
    package = json.loads((tmp_path / "datapackage.json").read_text())
    resource, traced, seen, beside = package["resources"]
    assert [field["name"] for field in resource["schema"]["fields"]] == PROMISED + ADDED
    assert (package["name"], package["version"]) == ("night-1", records.SCHEMA_VERSION)
    assert resource["path"] == "records/*.parquet"
    assert (traced["path"], seen["path"]) == ("traces/*.parquet", "evidence/*.parquet")
    assert beside["path"] == "bystanders/*.parquet"
    for one in package["resources"]:
        assert all(field["description"] and field["type"] for field in one["schema"]["fields"])


def test_the_types_of_the_data_package_fit_the_schema():
    kinds = {
        "string": pa.types.is_string,
        "integer": pa.types.is_integer,
        "number": pa.types.is_floating,
        "boolean": pa.types.is_boolean,
        "array": pa.types.is_list,
        "datetime": pa.types.is_timestamp,
    }
    assert all(kinds[kind](arrow) for _, kind, arrow, _ in COLUMNS)


def test_older_records_say_that_each_cpu_filled_what_was_freed(tmp_path):
    work = [("free", "dontneed"), ("free", "munmap"), ("free", "exit"), ("zeroing", "populate")]
    write_records(tmp_path / "new", [row(workload=name, method=method, options="") for name, method in work])
    pq.write_table(pq.read_table(tmp_path / "new").drop_columns(["pass", "boot_id"]), tmp_path / "older")
    assert read_records(tmp_path / "older")["options"].tolist() == ["fill=each", "fill=each", "", ""]
    assert read_records(tmp_path / "new")["options"].tolist() == [""] * 4
