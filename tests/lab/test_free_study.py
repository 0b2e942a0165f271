"""Studies of freeing: the tables; figures are drawn by the notebook's own test."""

import numpy as np
import pytest

from ktask.engine.task import Result
from ktask.host import kernel_files
from ktask.lab.measure.rounds import Repetition
from ktask.lab.studies import freeing as free_study
from ktask.lab.studies import sampling, ways


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("NMI:  0  0 x\n TLB:        12         30   TLB shootdowns\n", 42),
        ("TLB: 7   TLB shootdowns\n", 7),
        ("IPI0:  1  2  Rescheduling interrupts\n", np.nan),
        (None, np.nan),
    ],
)
def test_shootdowns_of_all_cpus(monkeypatch, text, count):
    monkeypatch.setattr(kernel_files, "read_text", lambda _: text)
    np.testing.assert_equal(sampling.shootdowns(), count)


def repetition(wall_s, cpu_s, n_chunks, shootdowns):
    return Repetition(Result(wall_s=wall_s, cpu_system_s=cpu_s, n_chunks=n_chunks), 5, 5 + shootdowns)


def test_a_row_has_speedup_busy_share_and_shootdowns_per_chunk():
    serial = [repetition(0.2, 0.2, 1, 1)] * 7
    row = sampling.row_of([repetition(0.1, 0.15, 10, 30)] * 7, serial, threads=2)
    assert row["speedup"] == pytest.approx(2)
    assert row["serial_ms"] == pytest.approx(200)
    assert row["wall_ms"] == pytest.approx(100)
    assert row["busy"] == row["cpu"] == pytest.approx(0.75)
    assert row["shootdowns_per_chunk"] == 3
    assert np.isnan(sampling.row_of([repetition(1e-5, 1e-5, 1, 0)], serial[:1], threads=2)["busy"])


@pytest.mark.cpus(2)
def test_each_way_that_the_machine_has_is_a_row():
    table = ways.ways("4MiB", ways.entries_of("free", "4KiB"), threads=2, rounds=1)
    assert list(table.index) == ["dontneed", "lazyfree", "munmap", "munmap_at_once", "exit"]
    assert (table[["serial_ms", "wall_ms"]] > 0).all(axis=None)
    assert np.isnan(table.loc["exit", "busy"])


@pytest.mark.cpus(2)
def test_chunks_go_up_to_one_per_thread():
    table = free_study.chunk_sizes("32MiB", threads=2, rounds=1)
    assert list(table.index / free_study.MIB) == [2, 8]


@pytest.mark.cpus(2)
def test_locks_are_held_for_a_part_of_the_time():
    table = free_study.zone_lock("16MiB", [{}, {"batch": 1, "zones": 2}], threads=2, rounds=1)
    assert list(zip(table["batch"], table["zones"], strict=True)) == [("63", "1"), ("1", "2")]
    assert ((table["held"] > 0) & (table["held"] < 1)).all()
    assert (table["ceiling"] > 1).all()


def test_lazily_freed_memory_stays_and_is_unmarked_by_a_write():
    table = free_study.lazy_then_pressed("2MiB")
    assert table.loc["MADV_FREE"].tolist() == ["2 MiB", "2 MiB"]
    assert table.loc["a write to the first half"].tolist() == ["2 MiB", "1 MiB"]
    assert table.loc["MADV_DONTNEED"].tolist() == ["0 B", "0 B"]
