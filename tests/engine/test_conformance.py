"""The engine against the worked cases: its real chunks and its real undo calls."""

import ctypes
import os
from pathlib import Path

import pytest

from ktask.engine import run as engine
from ktask.engine import worker
from ktask.engine.conformance import check as conformance
from ktask.engine.conformance import vectors
from ktask.engine.layout import HEADER, PART
from ktask.engine.policy import Machine, Part, make_plan
from ktask.engine.undo import undo_ranges

VECTORS = Path(__file__).parents[1] / "data/ktask-vectors.csv"


def test_engine_holds_every_row():
    result = conformance.check_file(VECTORS)
    assert result == {"rows": 60, "passed": 60, "mismatches": []}


@pytest.mark.parametrize(
    ("claimed", "failed"),
    [
        ((10, 0), {(0, 3)}),
        ((10, 2), {(0, 9), (1, 0)}),
        ((3, 2), {(0, 0), (0, 2), (1, 1)}),
        ((1, 10), {(0, 0)}),
        ((10, 10), {(0, k) for k in range(5)} | {(1, k) for k in range(5)}),
    ],
)
def test_scripted_failures_really_happen(claimed, failed):
    parts = (Part(0, 100, 0), Part(1000, 100, 1))
    plan = make_plan("dynamic", parts, 10, 1, machine=Machine(2, {0: 1, 1: 1}))
    undone, code = conformance.run_undo(parts, 10, claimed, failed, -7)
    assert undone == undo_ranges(plan, claimed, failed)
    assert code == -7


def test_an_engine_that_skips_a_chunk_is_noticed(monkeypatch):
    def one_less(address):
        ctypes.c_int64.from_address(address + HEADER.n_bytes + PART.next_chunk).value = 1
        return real(address)

    engine._warm()
    real = worker.work
    monkeypatch.setattr(worker, "work", one_less)
    result = conformance.check_file(VECTORS)
    assert result["passed"] < result["rows"]
    assert any("chunks run" in mismatch["column"] for mismatch in result["mismatches"])


def test_a_table_without_an_end_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv is not a regular file"):
        vectors.check_vectors(tmp_path / "pipe.csv")
    monkeypatch.setattr(vectors, "MOST_ROWS", 10)
    with pytest.raises(ValueError, match="too many rows; use at most 10"):
        vectors.check_vectors(VECTORS)
