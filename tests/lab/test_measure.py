"""Measuring, with scripted times and a clock that only they move: exact and instant."""

import errno
import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest

from ktask.cli import run as cli
from ktask.cli.tables import as_text
from ktask.engine.policy import POLICIES
from ktask.engine.task import Ctl, Result
from ktask.host.counters import sample_state
from ktask.lab.measure import cell as module
from ktask.lab.measure import rounds as core
from ktask.lab.measure import rows
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import CHUNKED, Granted, Protocol, Variant, variants
from ktask.lab.measure.stats import Estimate
from ktask.memory import region as memory
from ktask.workloads import Case, CheckError, Method, Workload
from ktask.workloads import base as workloads

CASE = Case("toy", "alloc", "4KiB", 400 << 10, 8192, "ktask-v3")
PLAIN = Case("toy", "plain", "4KiB", 400 << 10)
SERIAL, AA, TWO = variants([1, 2])
NEVER_PRECISE = itertools.cycle([1.0, 1.4, 1.1, 1.3])


class Toy:
    """A case set up: 100 pages, and a log of what was called."""

    def __init__(self, case):
        self.size, self.bytes_per_unit, self.operations = 100, 4096, 100
        self.ctl = Ctl(None, min_chunk_size=2)
        self.log = []

    def before(self):
        self.log.append("before")

    def check(self):
        self.log.append("check")

    def close(self):
        self.log.append("close")


class Bench:
    """A machine whose every repetition takes the time that a script says."""

    def __init__(self, monkeypatch):
        self.now, self.runs, self.least, self.states = 0.0, [], [], []
        self.wall = lambda threads: 1.0
        self.cpu = lambda wall_s: wall_s
        self.error, self.make, self.n_chunks = 0, Toy, 2
        self.grants = {}  # by the count that is asked for; as asked if not here
        fixed = sample_state()
        workload = Workload(
            "toy",
            "about",
            "page",
            (
                Method("plain", "", "user", ("4KiB",)),
                Method("alloc", "", "kernel", ("4KiB",), allocates=True),
                Method("absent", "", "kernel", ("4KiB",), probe=lambda: "not on this machine"),
            ),
            setup=self.setup,
            memory_need=lambda case: case.size_bytes,
        )
        monkeypatch.setattr(workloads, "registry", lambda: {"toy": workload})
        monkeypatch.setattr(core.engine, "run", self.run)
        monkeypatch.setattr(rows.counters, "sample_state", lambda: fixed)
        monkeypatch.setattr(module, "is_virtual", lambda: True)
        monkeypatch.setattr(module, "granted", lambda _, asked, __: self.given(asked))

    def given(self, asked):
        return self.grants.get(asked, Granted(asked))

    def setup(self, case):
        self.states.append(self.make(case))
        return self.states[-1]

    def run(self, start, size, ctl, policy, trace=False, nice=None, hand_over=True):
        assert (start, size) == (0, 100)
        self.states[-1].log.append("run")
        self.runs.append((ctl.max_threads, policy))
        self.least.append(ctl.min_chunk_size)
        wall = self.wall(ctl.max_threads)
        if isinstance(wall, BaseException):
            raise wall
        self.now += wall
        rows = [(0, 0, 0, 0, 100, 0.0, wall)] if trace else None
        return Result(
            self.error,
            self.given(ctl.max_threads).threads,
            50,
            self.n_chunks,
            wall_s=wall,
            cpu_system_s=self.cpu(wall),
            trace_rows=rows,
        )

    def measure(self, case=PLAIN, threads=(1, 2), *, chunked=False, **protocol):
        return measure_case(case, threads, Protocol(**protocol), chunked=chunked, clock=lambda: self.now)

    def plain_values(self, case, threads, rounds):
        return self.measure(case, [threads], least=rounds, most=rounds).as_dict(threads)

    def script(self, *walls, then=1.0):
        """Let the next repetitions take these times, whatever they are."""
        left = iter(walls)
        self.wall = lambda threads: next(left, then)


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def rounds(cell):
    """Return the variants of each round, in order."""
    table = cell.records.query("not warmup")
    names = [(row.threads_requested, "aa" in row.flags) for row in table.itertuples()]
    return [names[k : k + 3] for k in range(0, len(names), 3)]


# --- rounds ---------------------------------------------------------------------------------------------


def test_each_round_runs_every_variant_once(bench):
    cell = bench.measure(least=6, most=6)
    assert len(rounds(cell)) == 6
    assert all(Counter(one) == Counter([(1, False), (1, True), (2, False)]) for one in rounds(cell))
    assert [(r["round"], r["order"]) for r in cell.rows if not r["warmup"]] == [
        (n, k) for n in range(6) for k in range(3)
    ]


def test_the_order_is_random_and_follows_the_seed(bench):
    orders = [rounds(bench.measure(least=8, most=8, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(one) for one in orders[0]}) > 1


def test_variants_are_two_baselines_and_each_thread_count():
    assert variants([4, 1, 2, 2]) == [
        Variant("serial", 1, baseline=True),
        Variant("aa", 1, baseline=True),
        Variant("2 threads", 2),
        Variant("4 threads", 4),
    ]
    assert [v.is_aa for v in variants([2])] == [False, True, False]


def test_variants_are_named_by_the_threads_that_are_granted():
    assert variants({8: 7, 2: 2, 4: 1})[2:] == [
        Variant("2 threads", 2),
        Variant("1 thread", 4),
        Variant("7 threads", 8),
    ]


def test_what_is_granted_is_what_is_named_and_why(bench):
    seven = Granted(7, "at most four fifths of the CPUs, 6 of 8, go to helpers")
    bench.grants = {4: Granted(4), 8: seven, 16: seven}
    cell = bench.measure(threads=(1, 4, 8, 16), least=6, most=6)
    assert list(cell.table.index) == ["serial", "serial again (A/A)", "4 threads", "7 threads"]
    assert list(cell.table["threads"]) == [1, 1, 4, 7]
    assert {r["threads_requested"] for r in cell.rows} == {1, 4, 8}
    assert cell.notes[:2] == [seven.note(8), seven.note(16)]
    found = cell.as_dict(8)
    assert (found["threads"], found["threads_requested"]) == (7, 8)
    assert found["threads_note"] == f"8 threads asked for, 7 granted: {seven.why}"
    assert f"\n{found['threads_note']}\n" in as_text(cli.render(found))
    assert cell.as_dict(4)["threads_note"] is None


def test_the_baseline_is_the_kernels_way_and_the_others_follow_the_case(bench):
    bench.measure(CASE, least=2, most=2)
    assert Counter(bench.runs) == {(1, core.SERIAL_POLICY): 6, (2, "ktask-v3"): 3}


def test_one_thread_gets_the_chunks_of_the_most_threads_as_a_variant_of_its_own(bench):
    bench.wall = lambda threads: 1.0 / threads
    cell = bench.measure(threads=(1, 2, 4), chunked=True, least=6, most=6)
    alone = [at for at, (threads, policy) in enumerate(bench.runs) if policy == "dynamic"]
    assert {bench.runs[at] for at in alone} == {(1, "dynamic")}
    assert {bench.least[at] for at in alone} == {50}  # the chunks that the bench gives
    assert {size for at, size in enumerate(bench.least) if at not in alone} == {2}
    rows = [r for r in cell.rows if r["threads_requested"] == 1 and not r["baseline"]]
    assert [r["warmup"] for r in rows] == [True] + [False] * 6
    assert {r["min_chunk_size"] for r in rows} == {2 * 4096}
    table = cell.table
    assert list(table.index) == ["serial", "serial again (A/A)", CHUNKED, "2 threads", "4 threads"]
    assert set(table["n"]) == {6}


def test_one_chunk_is_not_measured_in_chunks(bench):
    bench.n_chunks = 1
    bench.measure(chunked=True, least=6, most=6)
    assert "dynamic" not in {policy for _, policy in bench.runs}


def test_a_repetition_is_prepared_run_and_checked_in_this_order(bench):
    bench.measure(least=2, most=2)
    (state,) = bench.states
    assert state.log == ["before", "run", "check"] * 9 + ["close"]


# --- when to stop ----------------------------------------------------------------------------------------


def test_stops_at_least_when_out_of_time(bench):
    bench.wall = lambda threads: next(NEVER_PRECISE)
    assert len(rounds(bench.measure(least=3, most=50, budget_s=0.1, precision=0.0))) == 3


def test_stops_at_most_when_never_precise(bench):
    bench.wall = lambda threads: next(NEVER_PRECISE)
    assert len(rounds(bench.measure(least=3, most=9, budget_s=1e9, precision=0.0))) == 9


def test_stops_early_when_precise(bench):
    assert len(rounds(bench.measure(least=4, most=50, budget_s=1e9, precision=0.01))) == 4


def test_goes_on_until_the_budget_is_used_up(bench):
    bench.wall = lambda threads: next(NEVER_PRECISE)
    cell = bench.measure(least=2, most=50, budget_s=20.0, precision=0.0)
    spent = [sum(r["wall_s"] for r in cell.rows if 0 <= r["round"] < n) for n in range(len(rounds(cell)) + 1)]
    assert spent[-2] <= 20.0 < spent[-1]


def test_every_round_is_told(bench):
    told = []
    measure_case(PLAIN, [1, 2], Protocol(least=4, most=4), on_round=told.append, clock=lambda: bench.now)
    assert told == [1, 2, 3, 4]


# --- warm-ups --------------------------------------------------------------------------------------------


def test_warms_up_until_two_repetitions_are_as_fast_as_the_best(bench):
    bench.script(10.0, 5.0, 1.0, 1.21, 1.2, 0.5, then=1.0)
    cell = bench.measure(least=2, most=2, warmup_s=100.0)
    warm = [r for r in cell.rows if r["warmup"]]
    assert [r["wall_s"] for r in warm] == [10.0, 5.0, 1.0, 1.21, 1.2, 0.5]
    assert [r["threads_requested"] for r in warm] == [1, 1, 1, 1, 1, 2]
    assert {r["round"] for r in warm} == {-1}
    assert [r["order"] for r in warm] == list(range(6))


def test_warms_up_no_longer_than_allowed(bench):
    walls = (8.0, 4.0, 2.0, 1.0, 0.5)
    bench.script(*walls, then=0.1)
    cell = bench.measure(least=2, most=2, warmup_s=13.0)
    assert [r["wall_s"] for r in cell.rows if r["warmup"]] == [8.0, 4.0, 2.0, 1.0]


def test_warm_ups_enter_no_rate(bench):
    bench.script(5.0, 1.0, 1.0, 7.0, then=1.0)
    cell = bench.measure(least=3, most=3)
    for variant in (SERIAL, AA, TWO):
        assert cell.walls(variant).tolist() == [1.0] * 3


# --- cold memory -----------------------------------------------------------------------------------------


def cold(cell):
    return [r["wall_s"] for r in cell.rows if "cold_memory" in r["flags"]]


@pytest.mark.parametrize(("wall_s", "is_cold"), [(2.0, False), (2.001, True), (40.0, True)])
def test_a_repetition_is_cold_beyond_a_factor_of_the_fastest_quarter(bench, wall_s, is_cold):
    bench.script(1.0, 1.0, 1.0, wall_s, then=1.0)
    assert cold(bench.measure(CASE, least=3, most=3)) == [wall_s] * is_cold


def test_one_lucky_repetition_makes_the_others_not_cold(bench):
    bench.script(1.0, 1.0, 1.0, 0.8, 1.9, then=1.0)
    assert cold(bench.measure(CASE, least=9, most=9)) == []


def test_most_may_be_cold_and_are_still_seen(bench):
    bench.wall = lambda threads: 1.0 if len(bench.runs) <= 3 else 2.6
    assert len(cold(bench.measure(CASE, least=3, most=3))) == 9


def test_the_best_is_that_of_the_thread_count(bench):
    bench.wall = lambda threads: 1.0 / threads
    assert cold(bench.measure(CASE, least=3, most=3)) == []


def test_a_repetition_that_only_waited_is_not_cold(bench):
    bench.script(1.0, 1.0, 1.0, 40.0, then=1.0)
    bench.cpu = lambda wall_s: min(wall_s, 1.5)
    assert cold(bench.measure(CASE, least=3, most=3)) == []


@pytest.mark.parametrize("case", [CASE, PLAIN], ids=["allocates", "does not allocate"])
@pytest.mark.parametrize("virtual", [True, False])
def test_memory_is_cold_only_where_it_can_be(case, virtual, bench, monkeypatch):
    monkeypatch.setattr(module, "is_virtual", lambda: virtual)
    bench.script(1.0, 1.0, 1.0, 40.0, then=1.0)
    assert bool(cold(bench.measure(case, least=3, most=3))) == (case is CASE and virtual)


def test_cold_repetitions_enter_no_rate_and_are_made_up_for(bench):
    bench.script(1.0, 1.0, 1.0, 40.0, 40.0, 40.0, then=1.0)
    cell = bench.measure(CASE, least=3, most=9, budget_s=1e9)
    assert [cell.walls(v).tolist() for v in (SERIAL, AA, TWO)] == [[1.0] * 3] * 3
    assert len(rounds(cell)) == 4
    assert cold(cell) == [40.0] * 3


def test_results_with_and_without_cold_repetitions_are_both_given(bench):
    bench.wall = lambda threads: 1.0 / threads
    cell = bench.measure(CASE, least=10, most=10)
    assert cell.as_dict(2)["cold"] is None
    for row in [row for row in cell.rows if row["threads"] == 2][:2]:
        row |= {"wall_s": 5.5, "flags": ["cold_memory"], "warmup": False}
    found = cell.as_dict(2)
    with_cold = 1 / np.mean([row["wall_s"] for row in cell.rows if row["threads"] == 2])
    assert found["speedup"]["median"] == 2.0
    assert found["cold"] == {"serial": 0, "threads": 2, "speedup_of_all": pytest.approx(with_cold)}
    said = "left out as cold: 0 serial, 2 with 2 threads; the speedup of the means of all is 0.710"
    assert said in str(cell)
    assert said in cell._repr_html_()
    assert said in as_text(cli.render(found))


def test_two_states_of_the_serial_call_are_said(bench):
    walls = itertools.cycle([20.0, 27.0, 20.2, 20.1, 27.1, 20.3, 27.2])
    bench.wall = lambda threads: next(walls) if threads == 1 else 13.0
    cell = bench.measure(least=9, most=9)
    found = cell.as_dict(2)
    assert list(found["states"]) == ["serial"]
    assert found["states"]["serial"]["two_states"]["slow_s"] == pytest.approx(27.1)
    assert found["flags"].get("cold_memory") is None
    for text in (str(cell), cell._repr_html_(), as_text(cli.render(found))):
        assert "serial: two states: 20.1 s (" in text


def test_patience_with_cold_memory_ends(bench):
    times = itertools.count(1)
    bench.wall = lambda threads: 1.0 if len(bench.runs) <= 3 else 10.0 + next(times)
    cell = bench.measure(CASE, least=2, most=10**6, budget_s=100.0)
    assert 2 < len(rounds(cell)) < 50
    assert len(cell.walls(SERIAL)) == 0


# --- short repetitions, outliers --------------------------------------------------------------------------


def test_short_repetitions_are_the_mean_of_as_many_calls_as_it_takes(bench):
    bench.wall = lambda threads: 4e-4 / threads
    cell = bench.measure(CASE, least=2, most=2, sample_s=0.001)
    assert {(r["warmup"], r["calls"]) for r in cell.rows} == {(True, 1), (False, 5)}
    assert {(r["threads"], r["wall_s"]) for r in cell.rows} == {(1, 4e-4), (2, 2e-4)}
    assert len(bench.runs) == 3 + 2 * 3 * 5
    assert bench.states[0].log == ["before", "run", "check"] * len(bench.runs) + ["close"]
    assert not any(r["flags"] for r in cell.rows if r["threads"] == 2)


def test_a_repetition_is_the_mean_of_its_calls(bench):
    walls = itertools.cycle([1.0, 3.0])
    bench.script(0.5, 0.5, 0.5)
    bench.wall = lambda threads, first=bench.wall: first(threads) if len(bench.runs) <= 3 else next(walls)
    rows = [r for r in bench.measure(least=1, most=1, sample_s=1.0).rows if not r["warmup"]]
    assert [(r["calls"], r["wall_s"], r["cpu_system_s"]) for r in rows] == [(2, 2.0, 2.0)] * 3


def test_warm_ups_that_were_slow_do_not_make_repetitions_too_short(bench):
    bench.wall = lambda threads: 1e-3 if len(bench.runs) <= 3 else 1e-4
    rows = [r for r in bench.measure(least=3, most=3, sample_s=0.001).rows if not r["warmup"]]
    assert [{r["calls"] for r in rows if r["round"] == number} for number in range(3)] == [{1}, {10}, {10}]
    assert [r["round"] for r in rows if "short" in r["flags"]] == [0, 0, 0]


def test_calls_that_take_long_to_prepare_are_fewer(bench):
    """As the free of a page of 1 GiB, 10 us long, which is cleared before each call."""

    class Slow(Toy):
        def before(self):
            bench.now += 0.3

    bench.make, bench.wall = Slow, lambda threads: 1e-5
    cell = bench.measure(least=2, most=2)
    assert {r["calls"] for r in cell.rows if not r["warmup"]} == {5}


def test_what_many_calls_do_not_make_long_enough_is_flagged(bench):
    bench.wall = lambda threads: 4e-6
    cell = bench.measure(least=1, most=1, sample_s=0.001)
    assert {(r["calls"], "short" in r["flags"]) for r in cell.rows} == {(1, False), (module.MOST_CALLS, True)}


def test_a_time_of_zero_is_survived(bench):
    bench.wall = lambda threads: 0.0
    assert {r["calls"] for r in bench.measure(least=1, most=1).rows} == {1, module.MOST_CALLS}


def test_outliers_are_marked_and_stay(bench):
    bench.script(1.0, 1.0, 1.0, *[1.0, 1.01, 0.99] * 4, 1.3, then=1.0)
    cell = bench.measure(least=7, most=7)
    marked = [r["wall_s"] for r in cell.rows if "outlier" in r["flags"]]
    assert marked == [1.3]
    assert sum(len(cell.walls(v)) for v in (SERIAL, AA, TWO)) == 21
    assert 1.3 in [wall for v in (SERIAL, AA, TWO) for wall in cell.walls(v)]


def test_equal_times_have_no_outliers(bench):
    bench.script(1.0, 1.0, 1.0, 1.02, then=1.0)
    cell = bench.measure(least=7, most=7)
    assert not any("outlier" in r["flags"] for r in cell.rows)


def test_few_times_have_no_outliers(bench):
    bench.script(1.0, 1.0, 1.0, 40.0, then=1.0)
    assert not any("outlier" in r["flags"] for r in bench.measure(least=2, most=2).rows)


# --- failures --------------------------------------------------------------------------------------------


def test_a_check_that_fails_ends_the_cell(bench, monkeypatch):
    def check(self):
        if len(bench.runs) == 5:
            raise CheckError("3 pages still hold data")

    monkeypatch.setattr(Toy, "check", check)
    with pytest.raises(CheckError, match="3 pages still hold data"):
        bench.measure(least=3, most=3)
    assert len(bench.runs) == 5
    assert bench.states[0].log[-1] == "close"


def test_the_error_code_of_a_thread_function_is_told_in_words(bench):
    bench.error = errno.ENOMEM
    with pytest.raises(CheckError, match="toy plain failed: Cannot allocate memory"):
        bench.measure()
    assert bench.states[0].log == ["before", "run", "close"]


@pytest.mark.parametrize("at", [1, 3, 7])
def test_ctrl_c_gives_everything_back(at, bench):
    bench.wall = lambda threads: KeyboardInterrupt() if len(bench.runs) == at else 1.0
    with pytest.raises(KeyboardInterrupt):
        bench.measure()
    assert bench.states[0].log[-1] == "close"


@pytest.mark.parametrize("threads", [[0], [2, -1]])
def test_threads_that_cannot_be_are_refused(threads, bench):
    with pytest.raises(ValueError, match=f"threads={threads[-1]} is not allowed; use 1 to"):
        bench.measure(threads=threads)
    assert not bench.states


def test_an_unknown_policy_is_refused_with_all_names(bench):
    with pytest.raises(ValueError, match="ktask-v9") as caught:
        Case.of("toy", "plain", size=4096, policy="ktask-v9")
    assert all(name in str(caught.value) for name in POLICIES)


def test_what_the_machine_cannot_do_is_told(bench):
    with pytest.raises(memory.UnavailableError, match="not on this machine"):
        bench.measure(Case("toy", "absent", "4KiB", 4096))
    with pytest.raises(memory.UnavailableError, match="works on 4KiB pages, not on THP"):
        bench.measure(Case("toy", "plain", "THP", 4096))


def test_more_memory_than_there_is_is_refused_before_any_is_taken(bench):
    with pytest.raises(memory.BudgetError, match=r"needs 1048576\.00 GiB"):
        bench.measure(Case("toy", "plain", "4KiB", 1 << 50))
    assert not bench.states


# --- rows ------------------------------------------------------------------------------------------------


def test_a_row_says_what_was_done(bench):
    row = bench.measure(CASE, least=2, most=2).rows[-1]
    expected = {
        "workload": "toy",
        "backend": "kernel",
        "method": "alloc",
        "page_kind": "4KiB",
        "options": "",
        "page_size_bytes": 4096,
        "size_bytes": 400 << 10,
        "unit": "page",
        "operations": 100,
        "policy": "ktask-v3",
        "chunk_size": 50 * 4096,
        "n_chunks": 2,
        "min_chunk_size": 8192,
        "warmup": False,
        "wall_s": 1.0,
        "cpu_system_s": 1.0,
        "steal_s": 0.0,
        "verified": True,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["started_at"].tzinfo is not None


def test_only_the_second_baseline_is_marked(bench):
    table = bench.measure(least=2, most=2).records.query("not warmup")
    assert [list(f) for f in table.query("not baseline")["flags"]] == [[], []]
    assert sorted(list(f) for f in table.query("baseline")["flags"]) == [[], [], ["aa"], ["aa"]]
    assert set(table.query("baseline")["threads_requested"]) == {1}


# --- one case, and the notebook's tables -----------------------------------------------------------------

KEYS = [
    "workload",
    "backend",
    "method",
    "page_size",
    "size_bytes",
    "policy",
    "threads",
    "chunk_size",
    "n_chunks",
]
KEYS += [
    "unit",
    "threads_requested",
    "threads_note",
    "wall_s",
    "baseline_wall_s",
    "rate",
    "speedup",
    "verdict",
    "passes",
    "between_processes_pct",
]
KEYS += ["verified", "cpus", "nodes", "shared_cores", "placement"]
KEYS += ["flags", "kernel_log", "states", "cold", "options", "conditions", "seed"]


def test_one_case_is_told_in_plain_values(bench):
    bench.wall = lambda threads: 1.0 / threads
    found = bench.plain_values(PLAIN, 2, 7)
    assert list(found) == KEYS
    assert found["wall_s"] == {"median": 0.5, "low": 0.5, "high": 0.5, "best": 0.5, "n": 7}
    assert found["baseline_wall_s"]["median"] == 1.0
    assert found["rate"]["median"] == found["rate"]["best"] == 200.0
    assert found["speedup"]["median"] == pytest.approx(2.0)
    assert found["verified"] is True
    assert found["flags"] == {}


def test_a_speedup_above_the_threads_is_flagged_and_explained(bench):
    bench.wall = lambda threads: 1.0 / threads**2
    found = bench.plain_values(PLAIN, 2, 7)
    assert found["flags"] == {"above_threads": 7}
    said = as_text(cli.render(found))
    assert "the speedup is more than the number of threads: either the serial call started from" in said
    assert "warnings" not in said
    bench.wall = lambda threads: 1.0 / threads
    assert "above_threads" not in as_text(cli.render(bench.plain_values(PLAIN, 2, 7)))


def test_best_is_the_shortest_time_and_the_highest_rate(bench):
    bench.script(1.0, 1.0, 1.0, *[1.0, 2.0, 4.0] * 5, then=4.0)
    found = bench.plain_values(PLAIN, 2, 5)
    assert found["rate"]["best"] == pytest.approx(100 / found["wall_s"]["best"])
    assert found["wall_s"]["best"] <= found["wall_s"]["median"]


def test_one_repetition_has_no_interval(bench):
    found = bench.plain_values(PLAIN, 2, 1)
    assert found["wall_s"] == {"median": 1.0, "low": None, "high": None, "best": 1.0, "n": 1}
    assert "–" in as_text(cli.render(found))


def test_one_thread_is_compared_with_itself(bench):
    found = bench.plain_values(PLAIN, 1, 3)
    assert found["threads"] == 1
    assert found["speedup"]["median"] == 1.0


def test_a_case_that_stayed_cold_has_no_rate_and_says_so(bench):
    bench.wall = lambda threads: 1.0 if len(bench.runs) <= 3 else 10.0
    found = bench.plain_values(CASE, 2, 3)
    assert found["wall_s"] == {"median": None, "low": None, "high": None, "best": None, "n": 0}
    assert found["flags"] == {"cold_memory": 9}
    assert "cold_memory (9 repetitions)" in as_text(cli.render(found))


TYPED = ["run", "toy", "--method=plain", "--page-size=4KiB", "--size=400KiB", "--threads=2"]
TYPED += ["--repetitions=1", "--passes=1"]


@pytest.fixture
def two_cpus(monkeypatch):
    monkeypatch.setattr(module.topology, "cpu_count", lambda: 2)


def test_a_case_that_cannot_be_run_is_skipped_with_the_reason(bench, two_cpus, typed):
    absent = [word.replace("plain", "absent") for word in TYPED]
    assert typed(*absent) == (1, "skipped: not on this machine\n", "")

    def refused(case):
        raise memory.UnavailableError("mmap of 4096 bytes: Cannot allocate memory")

    bench.make = refused
    code, out, _ = typed(*TYPED, "--json")
    assert (code, json.loads(out)) == (1, {"skipped": "mmap of 4096 bytes: Cannot allocate memory"})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--threads=0", "threads=0 .*use 1 to 2"),
        ("--threads=3", "threads=3 .*use 1 to 2"),
        ("--repetitions=0", "repetitions=0 .*1 or more"),
        ("--trace=absent/t.csv", "absent is not a directory"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(option, message, bench, two_cpus, typed):
    code, _, said = typed(*TYPED, option)
    assert code == 2
    assert re.search(message, said)
    assert not bench.states


def test_a_trace_has_one_row_per_chunk(bench, two_cpus, typed, tmp_path):
    assert typed(*TYPED, "--trace", tmp_path / "t.csv")[0] == 0
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "part,helper,cpu,start,end,t0_s,t1_s",
        "0,0,0,0,100,0.0,1.0",
    ]
    assert bench.states[-1].log[-4:] == ["before", "run", "check", "close"]


def test_a_trace_that_fails_leaves_nothing(bench, two_cpus, typed, tmp_path):
    (tmp_path / "t.csv").mkdir()
    code, _, said = typed(*TYPED, "--trace", tmp_path / "t.csv")
    assert code == 2
    assert "t.csv" in said
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(("chunks", "words"), [(1, "1 chunk of 200 KiB"), (2, "2 chunks of 200 KiB")])
def test_chunks_are_counted_in_words(chunks, words, bench, two_cpus, typed):
    bench.n_chunks = chunks
    assert f"\n{words}, " in typed(*TYPED)[1]


def test_the_summary_has_a_row_per_variant(bench):
    bench.wall = lambda threads: 1.0 / threads
    table = bench.measure(threads=[1, 2, 4], least=7, most=7).table
    assert list(table.index) == ["serial", "serial again (A/A)", "2 threads", "4 threads"]
    assert table["speedup"].tolist() == [1.0, 1.0, 2.0, 4.0]
    assert set(table["n"]) == {7}


@pytest.mark.parametrize(
    ("text", "virtual"), [("flags\t: fpu hypervisor sse", True), ("flags\t: fpu sse", False)]
)
def test_a_virtual_machine_is_known_by_its_cpu_flags(text, virtual, monkeypatch):
    monkeypatch.setattr(module.kernel_files, "read_text", lambda path: text)
    assert module.is_virtual() is virtual


def test_nan_is_not_a_time():
    assert Estimate(1.0, math.nan, math.nan, 1.0, 1).as_dict() == {
        "median": 1.0,
        "low": None,
        "high": None,
        "best": 1.0,
        "n": 1,
    }
