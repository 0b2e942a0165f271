"""The engine: every unit once, errors, undo, signals, placement, traces."""

import copy
import math
import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from conftest import run_python
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit, types

import ktask
from ktask.engine import native, policy
from ktask.engine import placement as helpers
from ktask.engine import run as engine
from ktask.engine.policy import POLICIES
from ktask.engine.slots import SLOTS, Slots
from ktask.engine.task import CPU_TIME_FROM_S
from ktask.host.topology import Topology, allowed_cpus

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
two_cpus = pytest.mark.skipif(len(allowed_cpus()) < 2, reason="needs two CPUs")


@ktask.thread_func
def mark(start, end, seen):
    """Count how often each unit was visited."""
    seen[start:end] += 1
    return 0


@ktask.thread_func
def fail_in(start, end, seen, bad, code):
    """Mark the range, or return `code` if it holds one of the bad units."""
    for unit in bad:
        if start <= unit < end:
            return code
    seen[start:end] += 1
    return 0


@ktask.thread_func
def unmark(start, end, seen, bad, code):
    seen[start:end] -= 1
    return 0


@njit
def arrive(arrived, wanted):
    """Wait until `wanted` threads are inside; return whether they came."""
    native.fetch_add(arrived.ctypes.data, 1)
    for _ in range(2_000_000_000):
        if native.load(arrived.ctypes.data) >= wanted:
            break
    return native.load(arrived.ctypes.data) >= wanted


@ktask.thread_func
def wait_for_all(start, end, arrived, wanted):
    """Return once `wanted` threads are inside; proves that they run at the same time."""
    return 0 if arrive(arrived, wanted) else 62


@ktask.thread_func
def take_steps(start, end, steps):
    """Spend `steps[0]` steps on each unit."""
    for _ in range(start, end):
        native.spend(steps[0])
    return 0


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [1, 7, 1000, 4097])
def test_every_unit_is_visited_once(name, size):
    seen = np.zeros(size + 20, np.int64)
    result = ktask.run(10, size, ktask.Ctl(mark, (seen,), 3, max_threads=4), policy=name)
    assert result.error == 0
    assert result.done == size
    assert seen.tolist() == [0] * 10 + [1] * size + [0] * 10
    assert sum(result.chunks_per_thread) == result.n_chunks


def test_empty_task_calls_nothing():
    seen = np.zeros(4, np.int64)
    result = ktask.run(0, 0, ktask.Ctl(mark, (seen,)))
    assert (result.threads, result.n_chunks, result.error, seen.sum()) == (0, 0, 0, 0)


@two_cpus
def test_two_threads_run_at_once_on_cpus_of_their_own():
    arrived = np.zeros(2, np.int64)
    ctl = ktask.Ctl(wait_for_all, (arrived, 2), 1, max_threads=2)
    result = ktask.run(0, 2, ctl)
    assert result.error == 0
    assert result.threads == 2
    assert result.chunks_per_thread == (1, 1)
    assert len(set(result.cpu_of_thread)) == 2


@ktask.thread_func
def count_up(start, end, sums):
    for unit in range(start, end):
        native.store(sums.ctypes.data, unit)
    return 0


@pytest.mark.timing
@two_cpus
def test_cpu_time_of_helpers_that_have_just_ended_is_counted():
    sums = np.zeros(1, np.int64)
    used = {}
    for threads in (1, 2):
        ctl = ktask.Ctl(count_up, (sums,), 1, max_threads=threads)
        results = [ktask.run(0, 4_000_000, ctl) for _ in range(30)]
        used[threads] = [r.cpu_user_s + r.cpu_system_s for r in results]
    assert np.median(used[2]) > 0.8 * min(used[1])


@pytest.mark.timing
@two_cpus
def test_helpers_that_still_spin_are_no_part_of_the_next_task():
    sums = np.zeros(1, np.int64)
    both, alone = (ktask.Ctl(count_up, (sums,), 1, max_threads=n) for n in (2, 1))
    ktask.run(0, 20_000_000, alone)
    for _ in range(30):
        ktask.run(0, 200_000, both)
        result = ktask.run(0, 20_000_000, alone)
        assert result.cpu_user_s + result.cpu_system_s < result.wall_s + 50e-6


@two_cpus
def test_threads_say_when_they_ended():
    seen = np.zeros(100, np.int64)
    result = ktask.run(0, 100, ktask.Ctl(mark, (seen,), 1, max_threads=2), trace=True)
    last = result.trace.groupby("helper")["t1_s"].max()
    assert len(result.ended_s) == result.threads
    assert all(result.ended_s[w] >= end for w, end in last.items())
    assert max(result.ended_s) <= result.wall_s
    assert result.apart_s == max(result.ended_s) - min(result.ended_s)
    assert ktask.run(0, 1, ktask.Ctl(mark, (seen,), 1)).apart_s == 0


@two_cpus
def test_affinity_of_the_caller_is_as_before():
    before = os.sched_getaffinity(0)
    ktask.run(0, 1000, ktask.Ctl(mark, (np.zeros(1000, np.int64),), 1))
    assert os.sched_getaffinity(0) == before


def test_result_agrees_with_the_plan():
    ctl = ktask.Ctl(mark, (np.zeros(1000, np.int64),), 7, max_threads=2)
    plan = ktask.plan(ktask.Node(0, 1000, 0), ctl)
    result = ktask.run(0, 1000, ctl)
    for name in ("threads", "chunk_size", "n_chunks"):
        assert getattr(result, name) == getattr(plan, name)


@pytest.mark.parametrize("name", POLICIES)
def test_trace_has_every_chunk_of_the_plan(name):
    seen = np.zeros(5000, np.int64)
    ctl = ktask.Ctl(mark, (seen,), 11, max_threads=2)
    plan = ktask.plan(ktask.Node(100, 4000), ctl, name)
    trace = ktask.run_numa(ktask.Node(100, 4000), ctl, name, trace=True).trace
    ran = sorted(zip(trace["start"], trace["end"], strict=True))
    assert ran == sorted(chunk for part in plan.chunks() for chunk in part)
    assert (trace["t1_s"] >= trace["t0_s"]).all()
    assert set(trace["cpu"]) <= set(allowed_cpus())


def test_first_error_stops_the_hand_out():
    seen = np.zeros(1000, np.int64)
    ctl = ktask.Ctl(fail_in, (seen, np.array([500]), 28), 10, max_threads=1)
    result = ktask.run(0, 1000, ctl, policy="dynamic")
    assert result.error == 28
    assert seen[:500].all()
    assert not seen[500:].any()
    assert result.done == 500
    assert result.failed == ((500, 510),)
    assert result.finished == ((0, 500),)


def test_undo_gets_what_was_finished_and_nothing_else():
    seen = np.zeros(1000, np.int64)
    ctl = ktask.Ctl(fail_in, (seen, np.array([500]), 28), 10, max_threads=2, undo_func=unmark)
    result = ktask.run(0, 1000, ctl, policy="dynamic")
    assert result.error == 28
    assert not seen.any()
    assert result.done == 0
    assert all(start < end for start, end in result.undone)


@QUIET
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    bad=st.lists(st.integers(0, 1199), min_size=1, max_size=3),
    threads=st.integers(1, 4),
    name=st.sampled_from(["ktask-v4", "ktask-uek", "padata-cur", "dynamic", "guided"]),
    undo=st.booleans(),
)
def test_failed_undone_and_untouched_units_partition_the_task(sizes, bad, threads, name, undo):
    seen, nodes, start = np.zeros(1300, np.int64), [], 0
    for size in sizes:
        nodes.append(ktask.Node(start, size, -1))
        start += 300
    ctl = ktask.Ctl(fail_in, (seen, np.array(bad), 5), 4, threads, undo_func=unmark if undo else None)
    result = ktask.run_numa(nodes, ctl, name)
    inside = any(n.start <= b < n.end for n in nodes for b in bad)
    assert result.error == (5 if inside else 0)
    assert len(result.failed) <= max(result.threads, 1)
    if not inside:
        assert seen.sum() == result.done == sum(sizes)
    elif undo:
        assert not seen.any()
    else:
        assert set(seen) <= {0, 1}
        assert seen.sum() == result.done
        assert all(seen[start:end].all() for start, end in result.finished)
    assert not SLOTS._held


@two_cpus
def test_idle_helpers_take_over_the_other_node():
    seen = np.zeros(2000, np.int64)
    topo = Topology.by_hand({0: [allowed_cpus()[0]], 1: [allowed_cpus()[1]]})
    nodes = [ktask.Node(0, 10, 0), ktask.Node(1000, 1000, 1)]
    result = ktask.run_numa(nodes, ktask.Ctl(mark, (seen,), 1, 2), "dynamic", topo=topo)
    assert seen[:10].all()
    assert seen[1000:].all()
    assert result.done == seen.sum() == 1010


def test_topology_with_foreign_cpus_is_refused():
    with pytest.raises(ValueError, match="this process may use"):
        ktask.run_numa(ktask.Node(0, 1), ktask.Ctl(mark, (np.zeros(1),)), topo=Topology.by_hand({0: [99999]}))


@pytest.mark.parametrize("name", ["ktask-v4", "ktask-uek", "padata-cur", "guided", "static"])
@pytest.mark.parametrize("threads", [1, 3, 8])
def test_plan_for_another_machine_runs_with_the_same_chunks(name, threads):
    machine = policy.Machine(cpus=16)
    plan = policy.make_plan(name, [policy.Part(5, 995, 0)], 10, threads, machine=machine)
    seen = np.zeros(1000, np.int64)
    result = engine.carry_out(plan, ktask.Ctl(mark, (seen,), 10), trace=True)
    ran = sorted(zip(result.trace["start"], result.trace["end"], strict=True))
    assert ran == [chunk for part in plan.chunks() for chunk in part]
    assert seen[5:].all()


@ktask.thread_func
def spin(start, end, out):
    total = 0
    for i in range(start, end):
        for k in range(2000):
            total += (i * k) ^ total
    out[0] = total
    return 0


def _signal_soon(number, out=None):
    """Send a signal after 0.1 s; with `out` not before something has been written there."""

    def send():
        while out is not None and not out[0]:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    timer = threading.Timer(0.1, send)
    timer.start()
    return timer


def test_interrupt_stops_within_a_chunk_and_says_what_is_done():
    before = os.sched_getaffinity(0)
    out = np.zeros(1, np.int64)
    ctl = ktask.Ctl(spin, (out,), 10)
    ktask.run(0, 10, ctl)
    out[0] = 0
    _signal_soon(signal.SIGINT, out)
    with pytest.raises(KeyboardInterrupt) as caught:
        ktask.run(0, 100_000_000, ctl, policy="dynamic")
    assert 0 < caught.value.result.done < 100_000_000
    done = caught.value.result.done
    assert caught.value.result.finished == ((0, done),)
    assert f"stopped after {done} of 100000000 units: 0 to {done} is done" in caught.value.__notes__[0]
    assert os.sched_getaffinity(0) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert ktask.run(0, 1000, ctl).done == 1000


def test_other_signals_are_handled_and_the_task_goes_on():
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    try:
        ctl = ktask.Ctl(spin, (np.zeros(1, np.int64),), 10)
        timer = _signal_soon(signal.SIGUSR1)
        result = ktask.run(0, 2_000_000, ctl, policy="dynamic")
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == [1]
    assert result.done == 2_000_000


@pytest.mark.parametrize("threads", [1, 2])
def test_a_repeated_task_that_was_short_hears_an_interrupt_when_it_is_long(threads):
    steps = np.ones(1, np.int64)
    ctl = ktask.Ctl(take_steps, (steps,), 1, threads)
    for _ in range(2):
        assert ktask.run(0, 1000, ctl, policy="dynamic").done == 1000
    steps[0] = 50_000_000
    _signal_soon(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        ktask.run(0, 1000, ctl, policy="dynamic")
    assert 0 < caught.value.result.done < 1000
    assert signal.set_wakeup_fd(-1) == -1
    assert not SLOTS._held


@two_cpus
def test_a_repeated_task_sees_what_has_changed():
    seen, ctl = np.zeros(10, np.int64), ktask.Ctl(mark, (np.zeros(10, np.int64),), 1, 2)
    before = os.sched_getaffinity(0)
    assert [ktask.run(0, 10, ctl, "dynamic").threads for _ in range(3)] == [2] * 3
    try:
        os.sched_setaffinity(0, {min(before)})
        assert ktask.run(0, 10, ctl, "dynamic").threads == 1
    finally:
        os.sched_setaffinity(0, before)
    assert ktask.run(0, 10, ctl, "dynamic").threads == 2
    others = SLOTS.take([allowed_cpus()] * 64, 64)
    assert ktask.run(0, 10, ctl, "dynamic").threads == 1
    SLOTS.give_back(others)
    assert ktask.run(0, 10, ctl, "dynamic").threads == 2
    ctl = replace(ctl, args=(seen,))
    assert ktask.run(0, 10, ctl, "dynamic").done == seen.sum() == 10
    ctl = replace(ctl, max_threads=1)
    assert ktask.run(0, 10, ctl, "dynamic").threads == 1
    assert seen.sum() == 20


@two_cpus
def test_a_repeated_task_finds_the_slot_of_another_process_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "SLOTS", Slots(tmp_path / "slots"))
    ctl = ktask.Ctl(mark, (np.zeros(10, np.int64),), 1, 2)
    assert [ktask.run(0, 10, ctl, "dynamic").threads for _ in range(2)] == [2, 2]
    other = Slots(tmp_path / "slots")  # with a file description of its own, as another process has
    taken = other.take([allowed_cpus()] * 64, 64)
    assert ktask.run(0, 10, ctl, "dynamic").threads == 1
    other.give_back(taken)
    assert [ktask.run(0, 10, ctl, "dynamic").threads for _ in range(2)] == [2, 2]
    assert len(other.take([allowed_cpus()], 1)) == 1  # nothing is left locked


def test_what_the_engine_keeps_with_a_control_block_does_not_go_into_copies():
    ctl = ktask.Ctl(mark, (np.zeros(10, np.int64),), 1)
    ktask.run(0, 10, ctl)
    made = copy.copy(ctl)
    assert made == ctl
    assert not [name for name in vars(made) if name.startswith("_")]


def test_a_result_can_be_compared_and_pickled():
    ctl = ktask.Ctl(mark, (np.zeros(10, np.int64),), 1)
    result = replace(ktask.run(0, 10, ctl), cpu_user_s=0.0, cpu_system_s=0.0)  # NaN does not equal itself
    assert pickle.loads(pickle.dumps(result)) == result
    assert "done=10" in repr(result)


def test_a_control_block_is_frozen_and_a_changed_copy_is_another():
    seen = np.zeros(10, np.int64)
    ctl = ktask.Ctl(mark, (seen,), 1)
    with pytest.raises(FrozenInstanceError):
        ctl.max_threads = 1
    ktask.run(0, 10, ctl)
    other = np.zeros(10, np.int64)
    ktask.run(0, 10, replace(ctl, args=(other,)))
    assert (seen.sum(), other.sum()) == (10, 10)


def test_a_changed_copy_compiles_nothing():
    @ktask.thread_func
    def one_more(start, end, out):
        out[start:end] += 1
        return 0

    ctl = ktask.Ctl(one_more, (np.zeros(10, np.int64),), 1)
    entry = engine.bound(ctl)[0][0]
    assert engine.bound(replace(ctl, max_threads=1, args=(np.ones(9, np.int64),)))[0][0] == entry
    assert len(one_more.dispatcher.signatures) == 1


def test_tasks_from_many_python_threads_at_once():
    done = []

    def work():
        seen = np.zeros(1000, np.int64)
        for _ in range(50):
            ktask.run(0, 1000, ktask.Ctl(mark, (seen,), 1), policy="dynamic")
        done.append(int(seen.sum()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [50_000] * 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"min_chunk_size": 0},
            ValueError,
            "min_chunk_size=0 is not allowed; use a whole number of at least 1",
        ),
        ({"min_chunk_size": -5}, ValueError, "min_chunk_size=-5"),
        ({"min_chunk_size": 1.5}, TypeError, "min_chunk_size=1.5 is not a whole number"),
        ({"max_threads": -1}, ValueError, "max_threads=-1 is not allowed; use a whole number of at least 0"),
        ({"thread_func": len}, TypeError, "put @ktask.thread_func above its def"),
        ({"undo_func": print}, TypeError, "undo_func="),
        ({"args": ()}, TypeError, "missing a required argument: 'seen'"),
        ({"args": (1, 2)}, TypeError, "too many positional arguments"),
    ],
)
def test_bad_control_block_is_refused_before_any_chunk(change, error, message):
    seen = np.zeros(10, np.int64)
    values = {"thread_func": mark, "args": (seen,)} | change
    with pytest.raises(error, match=message):
        ktask.run(0, 10, ktask.Ctl(**values))
    assert not seen.any()


@pytest.mark.parametrize(
    ("start", "size", "name", "error", "message"),
    [
        (0, -1, "ktask-v4", ValueError, "size=-1"),
        (-1, 1, "ktask-v4", ValueError, "start=-1"),
        (0, 2.5, "ktask-v4", TypeError, "size=2.5"),
        (0, 1, "ktask-v9", ValueError, "'ktask-v9' is not known; use one of ktask-v1"),
    ],
)
def test_bad_range_or_policy_is_refused(start, size, name, error, message):
    with pytest.raises(error, match=message):
        ktask.run(start, size, ktask.Ctl(mark, (np.zeros(10, np.int64),)), policy=name)


def test_node_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="nid=77"):
        ktask.run_numa(ktask.Node(0, 1, 77), ktask.Ctl(mark, (np.zeros(10, np.int64),)))
    with pytest.raises(TypeError, match=r"not a ktask\.Node"):
        ktask.run_numa([(0, 1)], ktask.Ctl(mark, (np.zeros(10, np.int64),)))


def test_thread_function_must_return_a_code():
    @ktask.thread_func
    def nothing(start, end):
        pass

    with pytest.raises(TypeError, match="return 0 for success"):
        ktask.run(0, 1, ktask.Ctl(nothing))


def test_arguments_of_many_kinds_reach_the_function():
    @ktask.thread_func
    def mix(start, end, out, grid, factor, pair):
        out[start:end] = grid[1, start:end] * factor + pair[1]
        return 0

    out, grid = np.zeros(50), np.arange(100.0).reshape(2, 50)
    ktask.run(0, 50, ktask.Ctl(mix, (out, grid, 2.0, (1, 3)), 5))
    assert (out == grid[1] * 2 + 3).all()


def test_packed_arguments_outlive_the_packing():
    results = []
    for _ in range(200):
        grids = [np.full(64, k, np.int64) for k in range(4)]
        ctl = ktask.Ctl(mark, (grids[0],), 1, undo_func=None)
        engine.bound(ctl)
        junk = [np.zeros(64, np.int64) for _ in range(50)]
        ktask.run(0, 64, ctl)
        results.append(int(grids[0].sum()))
        del junk
    assert results == [64] * 200


def test_an_array_is_let_go_after_the_run():
    ktask.run(0, 9, ktask.Ctl(mark, (np.zeros(9, np.int64),)))  # numba leaves a cycle when it compiles
    array = np.zeros(1000, np.int64)
    before = sys.getrefcount(array)
    for _ in range(10):
        ktask.run(0, 1000, ktask.Ctl(mark, (array,), 1))
    assert sys.getrefcount(array) == before


@pytest.mark.parametrize("value", ["text", [1, 2], {"a": 1}, None, (1, "text")])
def test_arguments_that_threads_cannot_share_are_refused(value):
    with pytest.raises(TypeError, match="use NumPy arrays, numbers, and tuples of them"):
        ktask.run(0, 1, ktask.Ctl(mark, (value,)))


RANGES = np.array([(0, 10), (100, 103), (50, 70), (500, 501), (200, 240)])  # in no order, of any length
ENDS = np.cumsum(RANGES[:, 1] - RANGES[:, 0])


def advance(position, units):
    """Walk a list of ranges: a position is the range's index times 1000 plus the place inside it."""
    index, place = divmod(position, 1000)
    while units:
        room = RANGES[index, 1] - RANGES[index, 0] - place
        step = min(units, room)
        units, place = units - step, place + step
        if place == RANGES[index, 1] - RANGES[index, 0]:
            index, place = index + 1, 0
    return int(index * 1000 + place)


@njit
def add_along(start, end, ranges, seen, amount):
    """Add `amount` to each unit between two positions of a list of ranges."""
    index, place = start // 1000, start % 1000
    while index * 1000 + place < end:
        seen[ranges[index, 0] + place] += amount
        place += 1
        if ranges[index, 0] + place == ranges[index, 1]:
            index, place = index + 1, 0


@ktask.thread_func
def mark_ranges(start, end, ranges, seen, bad):
    """Mark the units between two positions, or fail at position `bad`."""
    if start <= bad < end:
        return 9
    add_along(start, end, ranges, seen, 1)
    return 0


@ktask.thread_func
def unmark_ranges(start, end, ranges, seen, bad):
    add_along(start, end, ranges, seen, -1)
    return 0


def wanted_marks():
    wanted = np.zeros(600, np.int64)
    for start, end in RANGES:
        wanted[start:end] = 1
    return wanted


@pytest.mark.parametrize("name", ["ktask-v4", "ktask-uek", "dynamic", "guided", "static"])
def test_iterator_walks_a_list_of_ranges(name):
    seen = np.zeros(600, np.int64)
    ctl = ktask.Ctl(mark_ranges, (RANGES, seen, -1), 3, 2, iter_func=advance)
    result = ktask.run(0, int(ENDS[-1]), ctl, policy=name)
    assert result.error == 0
    assert result.done == ENDS[-1]
    assert (seen == wanted_marks()).all()


def test_iterator_with_a_failure_undoes_in_positions():
    seen = np.zeros(600, np.int64)
    ctl = ktask.Ctl(mark_ranges, (RANGES, seen, 3000), 3, 2, undo_func=unmark_ranges, iter_func=advance)
    result = ktask.run(0, int(ENDS[-1]), ctl, policy="dynamic")
    assert result.error == 9
    assert not seen.any()
    (failed,) = result.failed
    assert failed[0] <= 3000 < failed[1]


def test_iterator_is_never_asked_beyond_the_end():
    asked = []

    def plain(position, units):
        asked.append((position, units))
        return position + units

    seen = np.zeros(100, np.int64)
    nodes = [ktask.Node(50, 13, -1), ktask.Node(0, 20, -1)]
    ktask.run_numa(nodes, ktask.Ctl(mark, (seen,), 4, 2, iter_func=plain), "dynamic")
    assert asked == [(50, 4), (54, 4), (58, 4), (62, 1), (0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]
    assert seen.sum() == 33


@pytest.mark.parametrize(
    ("iter_func", "error", "message"),
    [
        (lambda position, units: position, ValueError, "where it was; it must advance"),
        (lambda position, units: "x", TypeError, "return a whole number"),
    ],
)
def test_iterator_that_misbehaves_is_refused_before_any_chunk(iter_func, error, message):
    seen = np.zeros(100, np.int64)
    with pytest.raises(error, match=message):
        ktask.run(0, 100, ktask.Ctl(mark, (seen,), 10, iter_func=iter_func))
    assert not seen.any()


def test_padata_has_no_iterators():
    ctl = ktask.Ctl(mark, (np.zeros(10, np.int64),), iter_func=lambda position, units: position + units)
    with pytest.raises(ValueError, match="has no iterators"):
        ktask.run(0, 10, ctl, policy="padata-cur")


getpriority = types.ExternalFunction("getpriority", types.int32(types.int32, types.int64))
may_renice = pytest.mark.skipif(
    not helpers.may_renice(), reason="this process may not raise a nice level again"
)


@ktask.thread_func
def note_nice(start, end, arrived, nice, patience):
    """Write down the nice level of the thread, while both threads are inside.

    A helper at level 19 then stays until it has another level, but looks `patience` times at most.
    """
    for wanted in (2, 4):  # nobody leaves before both have looked: the caller would hand its level over
        arrive(arrived, wanted)
        if wanted == 2:
            nice[start] = getpriority(0, 0)
    for _ in range(patience):
        if nice[start] != 19 or getpriority(0, 0) != 19:
            break
    return 0


def nice_levels(patience=0, **options):
    arrived, nice = np.zeros(1, np.int64), np.full(2, -99, np.int64)
    ctl = ktask.Ctl(note_nice, (arrived, nice, patience), 1, 2)
    return ktask.run(0, 2, ctl, **options), sorted(nice.tolist())


@two_cpus
@may_renice
def test_helpers_run_at_nice_19_and_come_back():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    result, levels = nice_levels()
    assert levels == [own, 19]
    assert result.helper_nice == 19
    result, levels = nice_levels(nice=0)
    assert levels == [own, own]
    assert result.helper_nice is None
    assert nice_levels(policy="static")[1] == [own, own]
    assert nice_levels(policy="static", nice=19)[1] == [own, 19]
    result, levels = nice_levels(nice=own + 7)
    assert (levels, result.helper_nice) == ([own, own + 7], own + 7)


@two_cpus
@may_renice
def test_caller_without_chunks_hands_its_priority_over():
    result, _ = nice_levels(patience=50_000_000)
    assert result.hand_overs == 1
    result, _ = nice_levels(patience=1000, hand_over=False)
    assert (result.hand_overs, result.run_mode.split(", ")[1]) == (0, "helpers at nice 19 without hand-over")


@pytest.mark.parametrize("nice", [-1, 20])
def test_a_nice_level_that_does_not_exist_is_refused(nice):
    with pytest.raises(ValueError, match=f"nice={nice} is not allowed"):
        ktask.run(0, 8, ktask.Ctl(mark, (np.zeros(8, np.int64),)), nice=nice)


@two_cpus
def test_process_that_may_not_renice_keeps_its_priority(monkeypatch):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(helpers, "may_renice", lambda: False)
    result, levels = nice_levels()
    assert levels == [own, own]
    assert result.helper_nice is None
    with pytest.warns(RuntimeWarning, match="helpers keep the caller's priority"):
        nice_levels(nice=19)


def test_fewer_threads_than_workers_take_turns_without_waiting_for_each_other():
    code = """
        import numpy as np, ktask
        from ktask.engine import run as engine, policy
        @ktask.thread_func
        def mark(start, end, seen):
            seen[start:end] += 1
            return 0
        seen = np.zeros(1000, np.int64)
        result = ktask.run(0, 1000, ktask.Ctl(mark, (seen,), 1, 2), nice=19)
        assert (seen == 1).all() and result.done == 1000
    """
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    assert run_python(code, env=environment).returncode == 0


@ktask.thread_func
def busy_then_fail(start, end, inside, seen_by_undo, bad):
    """Be inside for a while; fail on unit `bad`."""
    native.fetch_add(inside.ctypes.data, 1)
    total = 0
    for k in range(20_000):
        total += (k ^ start) * 3
    inside[1] = total
    native.fetch_add(inside.ctypes.data, -1)
    return 7 if start <= bad < end else 0


@ktask.thread_func
def look_inside(start, end, inside, seen_by_undo, bad):
    seen_by_undo[0] += 1
    seen_by_undo[1] += native.load(inside.ctypes.data)
    return 0


def test_undo_begins_after_the_last_thread_function_has_returned():
    for bad in range(0, 40, 3):
        inside, seen = np.zeros(2, np.int64), np.zeros(2, np.int64)
        ctl = ktask.Ctl(busy_then_fail, (inside, seen, bad), 1, 2, undo_func=look_inside)
        result = ktask.run(0, 40, ctl, policy="dynamic")
        assert result.error == 7
        assert seen[1] == 0
        assert seen[0] == len(result.undone)


@pytest.mark.parametrize("name", POLICIES)
def test_plan_stays_within_the_slots_of_the_machine(name, monkeypatch):
    topo = Topology.by_hand({0: range(10)})
    monkeypatch.setattr(helpers.topology, "allowed_cpus", lambda: tuple(range(10)))
    ctl = ktask.Ctl(mark, (np.zeros(1, np.int64),), 10, max_threads=64)
    plan = ktask.plan(ktask.Node(0, 1000, 0), ctl, name, topo=topo)
    assert plan.threads <= 9
    assert plan.n_chunks >= 1


@two_cpus
def test_a_run_has_the_same_mode_whatever_ran_before():
    steps = np.ones(1, np.int64)
    ctl, other = ktask.Ctl(take_steps, (steps,), 1, 2), ktask.Ctl(mark, (np.zeros(99, np.int64),), 1, 2)
    modes = set()
    for n_steps in (1, 1, 30_000_000, 1, 1):  # below 20 us, and above 20 ms
        steps[0] = n_steps
        modes.add(ktask.run(0, 8, ctl).run_mode)
        ktask.run(0, 99, other, "static", nice=0)
    nice = "nice 19" if helpers.may_renice() else "the caller's nice"
    assert modes == {f"pinned, helpers at {nice}, signals watched"}
    assert ktask.run(0, 8, ctl, nice=0).run_mode == "pinned, helpers at the caller's nice, signals watched"
    assert ktask.run(0, 8, replace(ctl, max_threads=1)).run_mode == "caller alone, signals watched"


def test_signals_are_watched_in_the_main_thread_only():
    modes = []
    ctl = ktask.Ctl(mark, (np.zeros(9, np.int64),), 1, 1)
    thread = threading.Thread(target=lambda: modes.append(ktask.run(0, 9, ctl).run_mode))
    thread.start()
    thread.join()
    assert modes == ["caller alone, signals not watched"]


def test_a_signal_for_the_main_thread_does_not_end_the_task_of_another():
    out = np.zeros(1, np.int64)
    ctl, done = ktask.Ctl(spin, (out,), 10, 1), []
    ktask.run(0, 10, ctl)
    thread = threading.Thread(target=lambda: done.append(ktask.run(0, 1_500_000, ctl, "dynamic").done))
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        timer = _signal_soon(signal.SIGUSR1)
        thread.start()
        assert ktask.run(0, 1_500_000, ctl, policy="dynamic").done == 1_500_000
        thread.join()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert done == [1_500_000]


@ktask.thread_func
def note_thread(start, end, arrived, tids):
    """Write down the number of the thread; both threads are inside at once."""
    arrive(arrived, 2)
    tids[start] = native.gettid()
    return 0


@two_cpus
def test_nothing_of_the_mode_stays_with_the_helpers():
    own, nice = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    arrived, tids = np.zeros(1, np.int64), np.zeros(2, np.int64)
    ktask.run(0, 2, ktask.Ctl(note_thread, (arrived, tids), 1, 2))
    assert len(set(tids.tolist())) == 2
    for tid in tids.tolist():
        assert os.sched_getaffinity(tid) == own
        assert os.getpriority(os.PRIO_PROCESS, tid) == nice


@pytest.mark.timing
def test_cpu_time_is_unknown_below_what_the_clocks_can_tell():
    steps = np.ones(1, np.int64)
    ctl = ktask.Ctl(take_steps, (steps,), 1, 1)
    results = [ktask.run(0, 1, ctl) for _ in range(20)]
    short = [r for r in results if r.wall_s < CPU_TIME_FROM_S]
    assert short
    assert all(math.isnan(r.cpu_user_s) and math.isnan(r.cpu_system_s) for r in short)
    steps[0] = 3_000_000
    result = ktask.run(0, 1, ctl)
    assert 0 < result.cpu_user_s + result.cpu_system_s < result.wall_s + 50e-6


def test_cpu_time_is_unknown_where_the_clock_of_a_helper_cannot_be_read():
    plan = policy.make_plan("dynamic", [policy.Part(0, 10, 0)], 1, 2, machine=policy.Machine(cpus=16))
    result = engine.carry_out(plan, ktask.Ctl(take_steps, (np.full(1, 1_000_000),), 1))
    assert result.wall_s > CPU_TIME_FROM_S
    assert math.isnan(result.cpu_user_s)
    assert math.isnan(result.cpu_system_s)
