"""Traces of a run: one more repetition per cell, chunk by chunk."""

import pandas as pd
import pytest
from test_measure import PLAIN, Bench

from ktask.engine.task import Result
from ktask.lab import traces
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol

LABELS = {"run_id": "r", "host_id": "h", "cell_id": "c"}
ROWS = [(0, 0, 3, 0, 50, 0.0, 0.4), (0, 1, 2, 50, 100, 0.1, 0.5)]  # part, helper, cpu, start, end, t0, t1


def traced(rows=ROWS):
    return Result(threads=2, chunk_size=50, n_chunks=len(rows), wall_s=0.5, trace_rows=rows)


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def measured(bench):
    rules = Protocol(least=2, most=2)
    return measure_case(PLAIN, (1, 2), rules, clock=lambda: bench.now, trace=True, chunked=False)


def test_a_trace_comes_back_in_bytes(tmp_path):
    (tmp_path / "traces").mkdir()
    traces.write_traces(tmp_path / "traces/c.parquet", traces.trace_table(traced(), 4096), LABELS)
    read = traces.read_traces(tmp_path)
    assert list(read.columns) == traces.SCHEMA.names
    assert read[["helper", "cpu", "start_bytes", "end_bytes", "t1_s"]].to_numpy().tolist() == [
        [0, 3, 0, 50 * 4096, 0.4],
        [1, 2, 50 * 4096, 100 * 4096, 0.5],
    ]
    common = read[[*LABELS, "threads", "wall_s"]].drop_duplicates()
    assert common.to_numpy().tolist() == [["r", "h", "c", 2, 0.5]]


def test_a_trace_that_nobody_could_read_is_left_out(monkeypatch):
    monkeypatch.setattr(traces, "MOST_CHUNKS", 1)
    assert traces.trace_table(traced()).empty
    assert traces.trace_table(Result()).empty


def test_a_run_without_traces_has_none(tmp_path):
    assert traces.read_traces(tmp_path).empty


def test_a_damaged_trace_is_named(tmp_path):
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces/bad.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.parquet is not a readable trace"):
        traces.read_traces(tmp_path)


def test_the_traced_repetition_has_the_most_threads_and_is_no_record(bench):
    cell = measured(bench)
    assert bench.runs[-1] == (2, PLAIN.policy)
    assert cell.traced.trace_rows
    assert len(cell.rows) == len(bench.runs) - 1
    assert bench.states[-1].log[-4:] == ["before", "run", "check", "close"]


@pytest.mark.parametrize(
    ("tries", "kept"),
    [
        ([5.0, 1.05], 1.05),
        ([0.74, 0.8, 1.0], 1.0),  # a fast one explains a result no better than a slow one
        ([5.0, 0.7, 2.0, 1.2, 0.5], 1.2),  # none is typical: the nearest is kept, for the figure only
    ],
)
def test_a_trace_that_took_no_typical_time_is_taken_again(bench, tries, kept):
    walls = iter([1.0] * 9 + tries)
    bench.wall = lambda threads: next(walls)
    assert measured(bench).traced.wall_s == kept
    assert next(walls, None) is None


def test_a_sweep_keeps_the_trace_beside_the_records(bench, tmp_path):
    for folder in ("records", "traces"):
        (tmp_path / folder).mkdir()
    measured(bench).save_records(tmp_path / "records/c.parquet", LABELS)
    assert (tmp_path / "records/c.parquet").exists()
    assert set(traces.read_traces(tmp_path)["cell_id"]) == {"c"}
    assert isinstance(pd.read_parquet(tmp_path / "traces/c.parquet"), pd.DataFrame)
