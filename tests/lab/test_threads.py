"""Thread counts: what is granted is what is named; large machines are measured where something happens."""

import itertools

import pytest

from ktask.engine import run as engine
from ktask.engine.policy import Machine, make_plan
from ktask.engine.task import Ctl
from ktask.lab.measure import threads as module
from ktask.lab.measure.measurement import Granted
from ktask.lab.measure.threads import (
    around_knee,
    counts_between,
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


def test_counts_that_give_as_many_threads_are_one():
    given = {2: 2, 4: 4, 64: 58, 72: 58}
    assert distinct({asked: Granted(threads) for asked, threads in given.items()}) == {2: 2, 4: 4, 64: 58}


# --- which to measure --------------------------------------------------------------------------------------

# CPUs, borders of one node (its cores), all cores; what is expected of the first pass.
MACHINES = {
    "1 CPU": (1, [1], (1,)),
    "2 CPUs": (2, [2], (1, 2)),
    "2 x 2 x 2": (8, [2, 4], (1, 2, 4, 7)),
    "2 x 18 x 2": (72, [18, 36], (1, 2, 4, 8, 18, 36, 58)),
    "Arm 2 x 64": (128, [64, 128], (1, 2, 8, 16, 32, 64, 103)),
    "EPYC 2 x 64 x 2, NPS4": (256, [8, 16, 64, 128], (1, 2, 8, 16, 64, 128, 205)),
    "8 x 18 x 2": (288, [18, 144], (1, 2, 8, 18, 64, 144, 231)),
}


@pytest.mark.parametrize(("cpus", "borders", "expected"), MACHINES.values(), ids=MACHINES)
def test_the_first_pass_measures_borders_and_the_most(cpus, borders, expected):
    most = most_threads(cpus)
    assert first_counts(counts_between(most, borders), borders) == expected


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
