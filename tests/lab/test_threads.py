"""Thread counts: what is granted is what is named; large machines are measured where something happens."""

import itertools
from types import SimpleNamespace

import pytest
from topologies import TOPOLOGIES, machine

from ktask.engine import cpu_order
from ktask.engine import run as engine
from ktask.engine.policy import Machine, make_plan
from ktask.engine.task import Ctl
from ktask.lab.measure import threads as module
from ktask.lab.measure.measurement import Granted
from ktask.lab.measure.threads import (
    around_knee,
    counts_between,
    default_threads,
    distinct,
    first_counts,
    granted,
    most_threads,
)

MIB = 1 << 20


class Bare:
    """A case set up, as far as its thread counts need it: pages of 4 KiB."""

    def __init__(self, pages, least):
        self.size, self.bytes_per_unit = pages, 4096
        self.ctl = Ctl(None, min_chunk_size=least)


@pytest.fixture
def cpus(monkeypatch):
    """A function that gives this process another number of CPUs, as far as plans go."""

    def give(count):
        monkeypatch.setattr(module.topology, "cpu_count", lambda *_: count)
        where = SimpleNamespace(machine=Machine(count), placement="cores")
        monkeypatch.setattr(module.placement, "site", lambda: where)
        monkeypatch.setattr(
            engine,
            "plan",
            lambda part, ctl, policy: make_plan(
                policy, [part], ctl.min_chunk_size, ctl.max_threads, machine=Machine(count)
            ),
        )

    return give


# --- what a count gives ------------------------------------------------------------------------------------


def test_a_count_that_is_granted_needs_no_words(cpus):
    cpus(8)
    assert granted(Bare(1 << 20, 512), 7, "ktask-v4") == Granted(7)


def test_four_fifths_of_the_cpus_are_named(cpus):
    cpus(8)
    found = granted(Bare(1 << 20, 512), 8, "ktask-v4")
    assert found.note(8) == (
        "8 threads asked for, 7 granted: at most four fifths of the CPUs, 6 of 8, go to helpers"
    )


def test_too_little_work_is_named(cpus):
    cpus(288)
    found = granted(Bare(2048, 512), 64, "ktask-v4")
    assert found == Granted(4, "8 MiB in chunks of at least 2 MiB are work for 4 under ktask-v4")


def test_a_policy_that_takes_no_cap_is_named(cpus):
    cpus(8)
    assert granted(Bare(1 << 20, 512), 2, "ktask-v1") == Granted(
        4, "ktask-v1 knows no cap per task, and its own is 4"
    )


@pytest.mark.parametrize(
    ("limit", "why"),
    [(6, "placement cores has 3 CPUs"), (2, "NUMBA_NUM_THREADS is 3")],
)
def test_what_else_leaves_fewer_threads_is_named(cpus, monkeypatch, limit, why):
    cpus(8)
    where = SimpleNamespace(machine=Machine(8, limit=limit), placement="cores")
    monkeypatch.setattr(module.placement, "site", lambda: where)
    plan = make_plan("ktask-v4", [module.Node(0, 1 << 20)], 1, 8, machine=Machine(8), helpers=2)
    monkeypatch.setattr(engine, "plan", lambda *_: plan)
    assert granted(Bare(1 << 20, 1), 8, "ktask-v4") == Granted(3, why)


def test_counts_that_give_as_many_threads_are_one():
    given = {2: 2, 4: 4, 64: 58, 72: 58}
    assert distinct({asked: Granted(threads) for asked, threads in given.items()}) == {2: 2, 4: 4, 64: 58}


# --- which to measure --------------------------------------------------------------------------------------

# What is expected of the first pass.
MACHINES = {
    "1 CPU": (1,),
    "2 CPUs": (1, 2),
    "2x2x2": (1, 2, 4, 7),
    "xeon 2x24x2": (1, 2, 8, 24, 32, 48, 77),
    "arm 128": (1, 2, 8, 16, 32, 64, 103),
    "epyc 2x64x2 nps4": (1, 2, 8, 16, 64, 128, 205),
    "8 sockets, 288 CPUs": (1, 2, 8, 18, 64, 144, 231),
}
MACHINES |= {"2 sockets, 72 CPUs": (1, 2, 4, 8, 18, 36, 58)}


def topology_called(name):
    return TOPOLOGIES.get(name) or machine(2, 18, 2)


def first_counts_of(name):
    """The thread counts that a sweep begins with on a described machine."""
    topo = topology_called(name)
    borders = cpu_order.borders(topo).values()
    return first_counts(counts_between(most_threads(len(topo.cpus)), borders), borders)


@pytest.mark.parametrize(("name", "expected"), MACHINES.items())
def test_the_first_pass_measures_borders_and_the_most(name, expected):
    assert first_counts_of(name) == expected


def test_a_machine_without_many_cpus_is_measured_at_all_counts(monkeypatch):
    topo = topology_called("2x2x2")
    monkeypatch.setattr(module.topology, "read_topology", lambda *_: topo)
    monkeypatch.setattr(module.topology, "cpu_count", lambda *_: 8)
    monkeypatch.setattr(module.config, "NUMBA_NUM_THREADS", 8)
    assert default_threads() == (1, 2, 4, 7)
    monkeypatch.setattr(module.config, "NUMBA_NUM_THREADS", 3)
    assert default_threads() == (1, 2, 3)


@pytest.mark.parametrize("cpus", range(1, 300))
def test_no_two_counts_give_as_many_threads(cpus):
    machine = Machine(cpus)
    found = counts_between(most_threads(cpus), [cpus // 4, cpus // 2, cpus])
    plans = [
        make_plan("ktask-v4", [module.Node(0, 1 << 40)], 1, n, machine=machine).threads
        for n in found
        if n > 1
    ]
    assert [1, *plans] == list(found)
    assert all(high > low for low, high in itertools.pairwise(found))


def test_the_knee_is_narrowed_down_over_passes():
    speedup = {n: min(n, 40) for n in range(1, 232)}
    known = {1, 2, 8, 18, 64, 144, 231}
    seen = []
    for _ in range(4):
        added = around_knee({n: speedup[n] for n in known if n > 1})
        seen.append(added)
        known |= {*added}
    assert seen == [(34, 96), (47,), (), ()]


@pytest.mark.parametrize(
    ("speedups", "added"),
    [
        ({2: 1.9}, ()),
        ({2: 1.9, 4: 3.6}, (3,)),
        ({2: 0.8, 4: 0.7}, ()),  # one thread is best, and there is nothing between 1 and 2
        ({2: 1.9, 8: float("nan")}, ()),  # nothing is known of 8 threads
        ({}, ()),
    ],
)
def test_where_there_is_no_room_nothing_is_added(speedups, added):
    assert around_knee(speedups) == added
