"""How many threads: the search on curves with known truth, and the rules of the versions."""

import math

import numpy as np
import pytest

from ktask.models import thread_counts
from ktask.models.thread_counts import Curve, Known, fewest, scores, search, slower

MOST = 288
LAWS = {
    "scales": lambda n: 1 / n,
    "one serial part": lambda n: 0.1 + 0.9 / n,
    "a roof at 13": lambda n: 1 / min(n, 13),
    "worse from 20 on": lambda n: 0.05 + 1 / n + 0.0025 * n,
    "only worse": lambda n: 1 + 0.2 * n,
    "flat": lambda n: 1.0,
}


@pytest.mark.parametrize("name", LAWS)
def test_the_search_finds_the_fewest_threads_that_are_as_fast(name):
    law, random = LAWS[name], np.random.default_rng(3)
    truth = {n: law(n) for n in range(1, MOST + 1)}
    asked = []

    def measure(n):
        asked.append(n)
        return truth[n] * math.exp(0.005 * random.standard_normal())

    found = search(measure, range(1, MOST + 1))
    assert len(asked) == len(set(asked)) <= 22
    assert truth[found.threads] <= 1.06 * min(truth.values())
    assert found.threads <= 1.25 * fewest(truth, 0.02)


def test_the_search_asks_for_allowed_counts_only():
    found = search(lambda n: 1 / n, [6, 2, 12, 1])
    assert (found.threads, set(found.times) <= {1, 2, 6, 12}) == (12, True)
    assert search(lambda n: 1.0, [5]).threads == 5
    with pytest.raises(ValueError, match=r"counts=\[0, 2\] are not allowed"):
        search(lambda n: 1.0, [0, 2])


def test_between_two_counts_a_time_is_on_the_line():
    times = {1: 8.0, 4: 2.0, 16: 2.0}
    assert slower(times, 2) == pytest.approx(2)
    assert slower(times, 16) == 1
    assert math.isnan(slower(times, 32))


def test_rules_are_what_the_versions_say():
    known = Known(96, 2, bandwidth=100e9, of_one_thread=13e9)
    numbers = {rule: number(known) for rule, number in thread_counts.RULES.items()}
    assert list(numbers.values()) == [4, 12, 4, 24, 48, 96, 8]
    curve = Curve("x", "m", {1: 8.0, 4: 2.0, 96: 1.0}, known)
    table = scores([curve]).set_index("rule")
    assert table.loc["4 (ktask)", "slower"] == pytest.approx(2)
    assert table.loc["all CPUs", "slower"] == 1
    assert set(table["fewest"]) == {96}
    unknown = scores([Curve("x", "m", {1: 1.0}, Known(2))]).set_index("rule")
    assert math.isnan(unknown.loc["bandwidth over one thread's", "slower"])


def test_published_curves_have_scores_of_every_rule():
    curves = thread_counts.published_curves()
    assert {"SPARC T7-4"} < {curve.machine for curve in curves}
    assert all(curve.known.nodes > 1 and len(curve.times) > 2 for curve in curves)
    table = scores(curves)
    assert table.loc[table["rule"] == "4 (ktask)", "slower"].notna().all()
    assert (table["slower"].dropna() >= 1 - 1e-9).all()
    assert table.loc[table["rule"] == "bandwidth over one thread's", "slower"].notna().any()
