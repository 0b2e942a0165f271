"""Damaged and foreign runs: what is wrong is said once, when the run is loaded, with file and field."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ktask.common.resources import SAMPLE
from ktask.lab.records import load_run, read_records

SKIP = {
    "cell_id": "zeroing-populate-1GiB-2GiB",
    "pass": 1,
    "workload": "zeroing",
    "method": "populate",
    "page_kind": "1GiB",
    "size_bytes": 2 << 30,
    "backend": "kernel",
    "options": "",
    "reason": "the machine has no pool of 1GiB hugetlb pages",
    "failed": False,
}


@pytest.fixture
def run(tmp_path):
    """The sample, with few of its records and a skip."""
    path = tmp_path / "run"
    for folder in ("records", "skipped"):
        (path / folder).mkdir(parents=True)
    for name in ("machine.json", "grid.yaml"):
        shutil.copy(SAMPLE / name, path / name)
    (path / "skipped" / f"{SKIP['cell_id']}.json").write_text(json.dumps(SKIP))
    for file in sorted((SAMPLE / "records").glob("*.parquet"))[:2]:
        shutil.copy(file, path / "records")
    return path


def refused(run):
    with pytest.raises(ValueError) as caught:
        load_run(run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_run_is_loaded(run):
    assert len(load_run(run).records) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host_id": 5}, "machine.json: Expected `str`, got `int` - at `$.host_id`"),
        ({"kernel_release": ["6"]}, "got `array` - at `$.kernel_release`"),
        ({"nodes": [{"cpus": [0]}]}, "missing required field `nid` - at `$.nodes[0]`"),
        ({"nodes": 3}, "at `$.nodes`"),
        ({"resumed": [None]}, "at `$.resumed[0]`"),
        ({"load_average": [float("nan")]}, "machine.json is not a JSON file (NaN is no number of JSON)"),
        ({"anything": float("inf")}, "machine.json is not a JSON file (Infinity is no number of JSON)"),
    ],
)
def test_a_machine_that_cannot_be_is_named(changes, message, run):
    change(run / "machine.json", **changes)
    assert message in refused(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "grid.yaml: Expected `int` >= 1 - at `$.passes`"),
        ({"threads": ["two"]}, "at `$.threads[0]`"),
        ({"protocol": {"least": None}}, "at `$.protocol[...]`"),
        ({"cells": [{"cell_id": 7}]}, "at `$.cells[0].cell_id`"),
        ({"name": {"a", "b"}}, "grid.yaml cannot be read as YAML: "),
        ({"name": b"abc"}, "b'abc' is not allowed; use a text, a number, a list or a mapping"),
        ({5: 6}, "key 5 is not allowed; use a text"),
    ],
)
def test_a_grid_that_cannot_be_is_named(changes, message, run):
    grid = yaml.safe_load((run / "grid.yaml").read_text())
    (run / "grid.yaml").write_text(yaml.safe_dump(grid | changes))
    assert message in refused(run)


@pytest.mark.parametrize("field", ["cell_id", "reason", "failed", "size_bytes"])
def test_a_skip_without_a_field_is_named(field, run):
    file = min((run / "skipped").glob("*.json"))
    skip = json.loads(file.read_text())
    del skip[field]
    file.write_text(json.dumps(skip))
    assert refused(run).startswith(f"{file}: Object missing required field `{field}`")


@pytest.mark.parametrize(
    "name", ["workload", "cell_id", "threads", "verified", "flags", "started_at", "wall_s"]
)
def test_a_column_with_a_row_without_a_value_is_named(name, run):
    file = min((run / "records").glob("*.parquet"))
    table = pq.read_table(file)
    at = table.column_names.index(name)
    column = pa.array([None, *table[name].to_pylist()[1:]], table.schema.field(name).type)
    pq.write_table(table.set_column(at, name, column), file)
    assert f"{file} is not a readable record file" in refused(run)


def test_records_that_are_no_file_are_named(run):
    os.mkfifo(run / "records/z.parquet")
    assert "z.parquet is not a regular file" in refused(run)


def test_records_beyond_all_measure_are_refused(run, monkeypatch):
    monkeypatch.setattr("ktask.lab.parquet_files.MOST_ROWS", 3)
    with pytest.raises(ValueError, match="rows, more than 3"):
        read_records(min((run / "records").glob("*.parquet")))


def test_brackets_without_an_end_are_one_line(run):
    (run / "machine.json").write_text("[" * 100_000)
    assert "machine.json is not a JSON file" in refused(run)


def test_texts_are_without_what_steers_a_terminal(run):
    change(run / "machine.json", cpu_model="\x1b[31mred\x1b]0;\x07 \ud800", host_name="x" * 30_000)
    machine = load_run(run).machine
    assert (machine["cpu_model"], len(machine["host_name"])) == ("red]0; ?", 20_000)


def test_a_file_that_is_too_large_is_named(run):
    (run / "machine.json").write_text("[" + "[]," * 1_500_000 + "0]")
    assert "bytes, more than 4194304 bytes are not read" in refused(run)
