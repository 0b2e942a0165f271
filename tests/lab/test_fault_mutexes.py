"""Pairs of hugetlb pages that cannot be faulted in at once."""

import numpy as np
import pandas as pd
import pytest

from ktask.engine.thread_functions import thread_func
from ktask.host import kernel_files, topology
from ktask.lab.studies import fault_mutexes
from ktask.memory import region as memory
from ktask.workloads import CheckError


@pytest.mark.parametrize(("possible", "count"), [("0", 8), ("0-1", 16), ("0-4", 64), ("0-287", 4096)])
def test_mutexes_are_eight_per_possible_cpu_and_a_power_of_two(monkeypatch, tmp_path, possible, count):
    file = tmp_path / "sys/devices/system/cpu/possible"
    file.parent.mkdir(parents=True)
    file.write_text(possible)
    monkeypatch.setattr(kernel_files, "ROOT", tmp_path)
    assert fault_mutexes.how_many() == count


@pytest.mark.cpus(2)
@pytest.mark.pool("2MiB", fault_mutexes.FEWEST_PAIRS + 1)
def test_each_other_page_has_a_time_and_all_go_back(monkeypatch):
    monkeypatch.setattr(fault_mutexes, "MOST_PAIRS", fault_mutexes.FEWEST_PAIRS)
    free = memory.free_pool_pages("2MiB")
    table = fault_mutexes.pairs(rounds=3)
    assert list(table.index) == list(range(1, fault_mutexes.FEWEST_PAIRS + 1))
    assert (table["wall_us"].dropna() > 0).all()
    assert table["wall_us"].notna().any()
    assert memory.free_pool_pages("2MiB") == free


@thread_func
def do_nothing(start, end, base, apart):
    return 0


@pytest.mark.cpus(2)
@pytest.mark.pool("2MiB", fault_mutexes.FEWEST_PAIRS + 1)
def test_pages_that_were_not_faulted_in_are_an_error(monkeypatch):
    monkeypatch.setattr(fault_mutexes, "fault_in", do_nothing)
    with pytest.raises(CheckError, match="faults, not one for each page"):
        fault_mutexes.pairs(rounds=1)


def test_what_takes_turns_is_told_beside_chance(monkeypatch):
    monkeypatch.setattr(fault_mutexes, "how_many", lambda: 16)
    wall_us = np.array([np.nan, *[100.0] * 29, 190.0, 200.0])
    table = pd.DataFrame({"wall_us": wall_us, "takes_turns": wall_us > 150})
    said = "2 of 31 pages take turns with the first one; with 16 mutexes chance would give 2."
    assert fault_mutexes.finding(table) == said


def test_where_it_was_not_measured_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(topology, "cpu_count", lambda: 1)
    assert fault_mutexes.finding(None) == "Not tried: this process may use one CPU only."
