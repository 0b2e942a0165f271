"""Two states, drift and settling: on recorded times, and how often on times that have none of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ktask.lab.measure import states

DATA = Path(__file__).parents[1] / "data" / "states"  # where each was measured stands in its first line
TRIALS = 300
# Logarithms of times without states: what real times look like, and worse.
SHAPES = {
    "lognormal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "gamma": lambda rng, shape: rng.gamma(2, size=shape),
    "t, 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape),
    "t, 2 degrees, one side": lambda rng, shape: np.abs(rng.standard_t(2, size=shape)),
    "Pareto": lambda rng, shape: rng.pareto(3, size=shape),
}


def recorded(name):
    return pd.read_csv(DATA / f"{name}.csv", comment="#")


def times(rng, shape, size, spread=0.1):
    return np.exp(spread * SHAPES[shape](rng, size))


# --- recorded times -------------------------------------------------------------------------------------


def test_two_states_of_pagemap_scan_are_found():
    rows = recorded("pagemap_scan_64MiB_serial")
    found = states.find(rows["wall_s"], rows["round"]).two_states
    assert found.fast_s == pytest.approx(0.22e-3, rel=0.02)
    assert found.slow_s == pytest.approx(0.33e-3, rel=0.02)
    assert found.slow_share == pytest.approx(0.58, abs=0.03)
    assert not found.between_processes
    one_call = rows.groupby("round").first()
    assert states.find(one_call["wall_s"]).two_states.slow_share == pytest.approx(0.56, abs=0.05)


def test_two_states_of_mprotect_are_found():
    rows = recorded("mprotect_1GiB_serial")
    found = states.find(rows["wall_s"], rows["round"])
    assert str(found) == "two states: 20.1 ms (64%) and 26.7 ms (36%)"


def test_settling_of_memset_is_found():
    rows = recorded("memset_64MiB_2_threads")
    found = states.find(rows["wall_s"], rows["round"])
    assert found.two_states is None
    assert found.settling.rounds == 14
    assert found.settling.first_s == pytest.approx(3.5e-3, rel=0.05)
    assert found.settling.settled_s == pytest.approx(1.65e-3, rel=0.05)


def test_processes_that_each_stay_in_one_state_are_found():
    rng = np.random.default_rng(3)
    middles = np.repeat([20e-3, 27e-3, 20.3e-3, 27.2e-3, 20.1e-3], 7)
    passes = np.repeat([4, 2, 9, 1, 5], 7)
    walls = middles * times(rng, "lognormal", 35, 0.01)
    found = states.find(walls, passes=passes).two_states
    assert found.between_processes
    assert (found.fast_s, found.slow_s) == pytest.approx((20.1e-3, 27.1e-3), rel=0.02)
    assert found.slow_share == pytest.approx(0.4)
    assert "(each process in one)" in str(found)
    three = np.isin(passes, [4, 2, 5])
    assert states.find(walls[three], passes=passes[three]).two_states.slow_share == pytest.approx(1 / 3)
    assert states.find(walls[:14], passes=passes[:14]).two_states is None  # two processes always differ


def test_states_that_change_within_processes_are_found():
    rng = np.random.default_rng(4)
    slow = rng.random(35) < 0.4
    walls = np.where(slow, 0.33, 0.22) * times(rng, "lognormal", 35, 0.03)
    found = states.find(walls, passes=np.repeat(range(5), 7)).two_states
    assert not found.between_processes
    assert found.slow_share == pytest.approx(slow.mean())


def test_settling_of_every_process_is_found_where_one_alone_is_too_short():
    rng = np.random.default_rng(5)
    walls = times(rng, "lognormal", (5, 7), 0.05)
    walls[:, 0] *= 1.5
    found = states.find(walls.ravel(), passes=np.repeat(range(5), 7)).settling
    assert found.rounds == 1
    assert found.first_s / found.settled_s == pytest.approx(1.5, rel=0.06)
    assert states.find(walls[0]).settling is None


# --- how often ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7, 15, 31, 101])
@pytest.mark.parametrize("shape", SHAPES)
def test_times_without_states_are_left_alone(shape, n):
    rng = np.random.default_rng(n)
    called = sum(bool(states.find(times(rng, shape, n))) for _ in range(TRIALS))
    assert called <= 0.02 * TRIALS + 3  # at most 2 %, and what chance adds to that in so few trials


@pytest.mark.parametrize("shape", ["lognormal", "gamma"])
def test_processes_that_just_differ_are_left_alone(shape):
    rng, passes = np.random.default_rng(8), np.repeat(range(5), 7)
    called = 0
    for _ in range(TRIALS):
        process = np.repeat(times(rng, "lognormal", 5, 0.1), 7)
        called += bool(states.find(process * times(rng, shape, 35, 0.03), passes=passes))
    assert called <= 0.02 * TRIALS + 3


@pytest.mark.parametrize(
    ("n", "share", "least"),
    [(9, 0.4, 0.6), (15, 0.4, 0.8), (31, 0.1, 0.7), (31, 0.5, 0.95), (62, 0.1, 0.8), (101, 0.1, 0.95)],
)
def test_two_states_half_as_long_again_are_found(n, share, least):
    """0.22 and 0.33 ms, each with a scatter of 4 %."""
    rng, found = np.random.default_rng(n), 0
    for _ in range(TRIALS):
        is_slow = rng.permutation(n) < round(share * n)
        one = states.find(np.where(is_slow, 0.33, 0.22) * times(rng, "lognormal", n, 0.04)).two_states
        found += one is not None and abs(one.slow_share - is_slow.mean()) < 0.1
    assert found >= least * TRIALS


@pytest.mark.parametrize(("n", "factor", "least"), [(9, 1.5, 0.7), (31, 1.2, 0.9), (101, 1.2, 0.95)])
def test_drift_and_settling_are_found(n, factor, least):
    """A scatter of 4 %, on a line and on a fall that is over after a quarter of the rounds."""
    rng, rounds = np.random.default_rng(n), np.arange(n)
    drift = settling = 0
    for _ in range(TRIALS):
        noise = times(rng, "lognormal", n, 0.04)
        drift += states.find(factor ** (rounds / n) * noise).drift is not None
        fall = states.find((1 + (factor**2 - 1) * (rounds < n / 4)) * noise)
        settling += fall.settling is not None or fall.drift is not None
    assert drift >= least * TRIALS
    assert n < 31 or settling >= least * TRIALS


@pytest.mark.parametrize(
    ("walls", "expected"),
    [
        ([1, 1.01, 1.02, 2, 2.01, 2.02], True),
        ([1, 1.01, 1.02, 1.03, 1.04, 2], False),
        (np.linspace(1, 2, 9), False),
        ([1, 1, 2, 2], False),
        ([1.0, 1.01] * 16 + [2, 2.01, 2.02], True),
        ([1.0, 1.01] * 16 + [2, 2.01], False),
    ],
)
def test_a_state_has_three_times_and_a_twelfth_of_them(walls, expected):
    assert bool(states.find_two_states(np.log(walls), np.zeros(len(walls), int))) == expected


def test_few_or_equal_times_have_no_states():
    for walls in ([], [1.0], [1.0, 1.0, 2.0, 2.0, 2.0], [1.0] * 50):
        assert not states.find(walls)
    assert str(states.find([1.0])) == ""


@pytest.mark.parametrize(
    ("wall_s", "expected"),
    [(1.0, True), (1.09, True), (0.92, True), (1.5, False), (0.74, False), (2.0, False), (np.nan, False)],
)
def test_a_typical_time_is_neither_slow_nor_fast(wall_s, expected):
    assert states.is_typical(wall_s, np.linspace(0.95, 1.05, 11)) is expected
    assert states.is_typical(1.5, np.linspace(0.5, 2, 11))  # inside of 10 to 90 %
    assert not states.is_typical(wall_s, [])
