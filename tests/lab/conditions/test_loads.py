"""Load generators: what they do happens, is counted and limited, and ends with its cell."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import wait_for

from ktask.host.counters import sample_state, state_change
from ktask.lab.conditions import generators, load
from ktask.lab.conditions.generators import KINDS, ROW, WRONG, generate, words_for
from ktask.lab.conditions.load import RunningLoad
from ktask.workloads import CheckError
from ktask.workloads.conditions import LOADS, Load, parse_load


def test_the_kinds_are_those_that_may_be_asked_for():
    assert tuple(LOADS) == KINDS


def ran(kind, words, share=1.0, per_s=0.0, seconds=0.03):
    """Return the row of a generator after some time."""
    rows = np.zeros(1, ROW)
    how = rows.ctypes.data, KINDS.index(kind), words, share, per_s
    thread = threading.Thread(target=generate, args=how)
    thread.start()
    wait_for(lambda: rows["done"][0] or rows["error"][0], "a block")
    time.sleep(seconds)
    rows["stop"] = 1
    thread.join()
    return rows[0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_its_work_and_counts_it(monkeypatch, kind):
    monkeypatch.setattr(generators, "MIB", 1 << 14)  # a round over the memory in this time
    row = ran(kind, words_for(kind, 1))
    assert row["error"] == 0
    assert row["done"] > 0
    assert row["cpu_ns"] > 0
    assert row["thread"] not in (0, threading.get_native_id())


def test_adding_goes_through_all_words():
    words = np.ones(100_000, np.int64)
    count = ran("memory", words)["done"]
    assert words.sum() - words.size == count // 16
    assert words.max() - words.min() <= 1


def test_work_that_did_not_happen_is_an_error():
    words = np.ones(100_000, np.int64)
    words[-1] += 7
    assert ran("memory", words)["error"] == WRONG
    words = generators._cycle(1000)
    words[:-1] = 8  # all lines lead to the second, and none to the first
    assert ran("cache", words)["error"] == WRONG


def test_a_round_of_pointers_visits_every_line_once():
    words = generators._cycle(1000)
    place, seen = 0, set()
    for _ in range(1000):
        seen.add(place)
        place = int(words[place])
    assert place == 0
    assert seen == set(range(0, 8000, 8))


@pytest.mark.alone
def test_half_a_cpu_is_half_a_cpu():
    before, shares = sample_state(), []
    for _ in range(5):
        row, begun = np.zeros(1, ROW), time.monotonic()
        thread = threading.Thread(target=generate, args=(row.ctypes.data, 0, np.zeros(1, np.int64), 0.5, 0.0))
        thread.start()
        time.sleep(0.2)
        row["stop"] = 1
        thread.join()
        shares.append(row["cpu_ns"][0] / 1e9 / (time.monotonic() - begun))
        if 0.45 <= shares[-1] <= 0.55:
            return
    change = state_change(before, sample_state())
    if change["other_s"] > 0.2 * change["capacity_s"] or change["steal_s"] > 0.02 * change["capacity_s"]:
        pytest.skip(f"others use the CPUs; shares of a CPU were {shares}")
    raise AssertionError(shares)


def test_a_target_rate_is_not_exceeded_and_what_was_reached_is_said(monkeypatch):
    monkeypatch.setattr(generators, "MIB", 1 << 16)  # a smaller array
    running = RunningLoad(parse_load("memory:2:512MiB/s:same"))
    try:
        running.settle()
        first = running.read()
        time.sleep(0.1)
        wait_for(lambda: running.read().done > first.done, "more of it")
        reached = running.read().rate_since(first)
    finally:
        running.close()
    assert 0 < running.alone_rate < 1.5 * (512 << 20)
    assert 0 < reached < 1.5 * (512 << 20)


@pytest.mark.parametrize(
    ("rates", "found"), [([0, 0, 4, 10, 10.5, 99], 10.5), ([7, 7, 99], 7), ([1, 2, 4, 8, 16, 32, 99], 32)]
)
def test_a_rate_is_steady_when_two_in_a_row_are_alike_or_time_is_up(monkeypatch, rates, found):
    clock = iter([0.0, *(0.25 * k for k in range(9))])
    monkeypatch.setattr(load.time, "monotonic", lambda: next(clock))
    left = iter(rates)
    assert load.steady(lambda: next(left)) == found


def test_pinned_generators_start_from_the_last_cpu_that_a_task_takes(monkeypatch):
    monkeypatch.setattr(load.cpu_order, "order", lambda topo: (4, 5, 6))
    running = RunningLoad(Load("spin", "4", in_same_process=True))
    try:
        assert running.cpus == [-1] * 4
        running.load = Load("spin", "4", pinned=True)
        assert running.cpus == [6, 5, 4, 6]
        assert len(set(running.threads)) == 4
    finally:
        running.close()
    gone = {str(tid) for tid in running.threads}
    wait_for(lambda: not gone & set(os.listdir("/proc/self/task")), "their end")  # noqa: PTH208


def test_a_load_that_has_ended_is_an_error_and_close_leaves_nothing():
    running = RunningLoad(Load("spin"))
    running.settle()
    leader = psutil.Process(running._process.pid)
    (generator,) = leader.children()
    leader.kill()
    wait_for(lambda: not generator.is_running(), "the end of the generator")
    wait_for(lambda: running._process.poll() is not None, "the end of its parent")
    with pytest.raises(CheckError, match="the load spin has ended"):
        running.read()
    running.close()


def test_load_ends_when_its_cell_is_killed():
    code = """
        import time
        from ktask.lab.conditions.load import RunningLoad
        from ktask.workloads.conditions import Load
        running = RunningLoad(Load("spin", "2"))
        running.settle()
        print(running._process.pid, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cell:
        leader = psutil.Process(int(cell.stdout.readline()))
        family = [leader, *leader.children()]
        assert len(family) == 3
        cell.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{one.pid}").exists() for one in family), "the end of the load")
