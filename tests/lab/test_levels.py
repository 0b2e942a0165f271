"""Intervals over processes and boots hold for the next process; one process decides nothing."""

import numpy as np
import pandas as pd
import pytest

from ktask.lab.measure import levels, stats
from ktask.lab.measure.stats import Estimate


def one(median, n=7):
    return Estimate(median, 0.99 * median, 1.01 * median, 0.98 * median, n)


def rows(walls, *, pass_number=1, boot="a", threads=1, baseline=True, flags=()):
    return pd.DataFrame(
        {
            "boot_id": boot,
            "pass": pass_number,
            "round": range(len(walls)),
            "wall_s": walls,
            "threads_requested": threads,
            "baseline": baseline,
            "warmup": False,
            "flags": [list(flags)] * len(walls),
        }
    )


def test_one_process_keeps_its_own_interval_and_decides_nothing():
    found = levels.across([one(2.0)])
    assert found == one(2.0)
    assert levels.verdict(found) == "undecided"


def test_several_processes_give_a_t_interval_of_the_geometric_mean():
    found = levels.across([one(1.0), one(2.0), one(4.0)])
    assert found.median == pytest.approx(2.0)
    reach = 4.302653 * np.log(2) / np.sqrt(3)  # t with 2 degrees of freedom
    assert np.log(found.high / found.median) == pytest.approx(reach, rel=1e-5)
    assert (found.n, found.processes, found.best) == (21, 3, 0.98)
    assert found.spread == pytest.approx(np.log(2))


def test_processes_without_a_value_are_left_out():
    found = levels.across([one(1.0), stats.NOTHING, one(1.1)], ["a", "a", "b"])
    assert (found.n, found.processes) == (14, 2)
    assert levels.across([stats.NOTHING]).n == 0
    assert levels.across([]).n == 0


def test_shares_may_be_zero():
    found = levels.across([one(0.0), one(0.1)], scale="linear")
    assert found.median == pytest.approx(0.05)


@pytest.mark.parametrize("processes", [3, 5, 9])
def test_the_interval_covers_the_truth_of_processes_that_differ(processes):
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(4000):
        found = levels.across([one(value) for value in np.exp(random.normal(0, 0.1, processes))])
        inside += found.low <= 1 <= found.high
    assert 0.94 <= inside / 4000 <= 0.96


@pytest.mark.parametrize(("boot_sd", "lowest"), [(0.0, 0.93), (0.03, 0.90), (0.2, 0.92)])
def test_the_interval_covers_the_truth_of_boots_that_differ(boot_sd, lowest):
    random, boots = np.random.default_rng(2), [name for name in "abcd" for _ in range(3)]
    inside = 0
    for _ in range(3000):
        values = np.repeat(random.normal(0, boot_sd, 4), 3) + random.normal(0, 0.03, 12)
        found = levels.across([one(value) for value in np.exp(values)], boots)
        inside += found.low <= 1 <= found.high
    assert lowest <= inside / 3000 <= 0.99


def test_boots_that_differ_widen_the_interval():
    values = [1.0, 1.01, 1.2, 1.21]
    same = levels.across([one(v) for v in values], ["a"] * 4)
    apart = levels.across([one(v) for v in values], ["a", "a", "b", "b"])
    assert apart.high / apart.low > 2 * same.high / same.low


@pytest.mark.parametrize(
    ("low", "high", "processes", "expected"),
    [
        (1.01, 1.5, 5, "faster"),
        (0.7, 0.99, 5, "slower"),
        (0.96, 1.04, 5, "same"),
        (0.94, 1.04, 5, "undecided"),
        (0.96, 1.06, 2, "undecided"),
        (1.5, 1.6, 1, "undecided"),
        (np.nan, np.nan, 5, "undecided"),
    ],
)
def test_a_verdict_says_what_is_known(low, high, processes, expected):
    assert levels.verdict(Estimate(1.0, low, high, 1.0, 9, processes)) == expected


def test_speedups_are_ratios_of_neighbours_in_each_process():
    # Two processes, one in a slow state: the times differ twofold, the speedup is 2 in both.
    table = pd.concat(
        [
            rows([2.0, 2.2, 2.1]),
            rows([1.0, 1.1, 1.05], threads=2, baseline=False),
            rows([4.0, 4.4, 4.2], pass_number=2),
            rows([2.0, 2.2, 2.1], pass_number=2, threads=2, baseline=False),
            rows([9.0, 9.0, 9.0], flags=["aa"]),
            rows([9.0, 9.0, 9.0], threads=2, baseline=False, flags=["cold_memory"]),
        ]
    )
    found = levels.speedups(levels.in_rates(table))
    assert list(found) == [2]
    assert found[2].median == pytest.approx(2.0)
    assert found[2].processes == 2
    assert found[2].spread == pytest.approx(0.0, abs=1e-12)
    assert levels.verdict(found[2]) == "faster"


def test_times_of_several_processes():
    found = levels.time_of(pd.concat([rows([1.0, 1.1, 1.2]), rows([2.0, 2.2, 2.4], pass_number=2)]))
    assert found.median == pytest.approx(np.sqrt(1.1 * 2.2))
    assert (found.n, found.processes) == (6, 2)


def drifting(random, drift, processes=5, spread=0.05):
    """Return a made sweep: serial calls and twice as fast ones, in processes that share a drift."""
    shared = random.normal(0, drift * spread)
    tables = []
    for number in range(1, processes + 1):
        process = np.exp(shared + random.normal(0, spread))
        other = process * np.exp(random.normal(0, 0.02)) / 2
        tables.append(rows([process] * 3, pass_number=number))
        tables.append(rows([other] * 3, pass_number=number, threads=2, baseline=False))
    return pd.concat(tables)


def test_intervals_of_times_hold_for_sweeps_that_drift():
    random = np.random.default_rng(4)
    sweeps = [drifting(random, drift=0.7) for _ in range(400)]
    times = [levels.time_of(levels.serial(one)) for one in sweeps]
    assert 0.92 <= np.mean([one.low <= 1 <= one.high for one in times]) <= 0.98
    speedups = [levels.speedups(one)[2] for one in sweeps]
    assert 0.92 <= np.mean([one.low <= 2 <= one.high for one in speedups]) <= 0.99


def test_what_a_sweep_may_drift_has_a_limit_and_shrinks_with_boots():
    assert levels.drift_of(0.01) == pytest.approx(0.007)
    assert levels.drift_of(1.0) == levels.MOST_DRIFT
    values = [one(v) for v in (1.0, 1.02, 1.01, 1.03)]
    in_one, in_four = (levels.across(values, boots, drift=0.7) for boots in (["a"] * 4, list("abcd")))
    assert in_four.high < in_one.high
