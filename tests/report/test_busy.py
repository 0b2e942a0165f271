"""Busy machines and quotas: made rows become a table, sentences and a figure."""

import re

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from test_report import GIB, Truth, make_records, make_run, skipped

from ktask.lab.records import unconditioned
from ktask.models.simulation import busy as simulated
from ktask.models.simulation.machines import Machine
from ktask.report import Report
from ktask.report.costs import busy, conditioned, questions, quota
from ktask.report.costs.busy import ALONE, EQUAL, HANDED, KEPT
from ktask.report.study import Study

ALONE_RATE = 1000.0
# Seconds for 1 GiB, and the share of its rate that the load loses, by load, way and threads.
TIMES = {
    ("none", "19", 1): (1.0, None),
    ("none", "19", 2): (0.5, None),
    ("spin:half", "19", 1): (1.0, 0.0),
    ("spin:half", "19", 2): (0.7, 0.01),
    ("spin:all", "19", 1): (2.0, 0.25),
    ("spin:all", "19", 2): (1.5, 0.3),
    ("none", "19:no-hand-over", 1): (1.0, None),
    ("none", "19:no-hand-over", 2): (0.5, None),
    ("spin:all", "19:no-hand-over", 1): (2.0, 0.25),
    ("spin:all", "19:no-hand-over", 2): (3.0, 0.1),
    ("none", "0", 1): (1.0, None),
    ("none", "0", 2): (0.5, None),
    ("spin:all", "0", 1): (2.0, 0.25),
    ("spin:all", "0", 2): (1.0, 0.5),
}


def cell(options, times, lost=None, throttled=None):
    """Rows of one cell: the serial call and two threads, each with its time and what load and quota did."""
    truth = Truth("zeroing", "kernel", "populate", "4KiB", GIB / times[1], {2: times[1] / times[2]}, 0.0)
    rows = make_records((truth,), (GIB,), noise=0.002)
    threads = rows["threads"]
    lost, throttled = (
        threads.map({n: np.nan if one is None else one for n, one in (given or {1: None, 2: None}).items()})
        for given in (lost, throttled)
    )
    return rows.assign(
        options=options,
        cell_id=options or "plain",
        load_alone_rate=np.where(lost.isna(), np.nan, ALONE_RATE),
        load_rate=ALONE_RATE * (1 - lost),
        throttled_s=throttled * rows["wall_s"],
    )


def busy_run(times=TIMES, plain=None):
    ways = dict.fromkeys((load, nice) for load, nice, _ in times)
    cells = [
        cell(
            ",".join(filter(None, [f"load={load}" * (load != "none"), f"nice={nice}"])),
            {n: times[load, nice, n][0] for n in (1, 2)},
            {n: times[load, nice, n][1] for n in (1, 2)},
        )
        for load, nice in ways
    ]
    return make_run(pd.concat([*cells, cell("", plain or {1: 1.0, 2: 0.5})], ignore_index=True), skips=())


@pytest.fixture(scope="module")
def run():
    return busy_run()


def pick(table, **wanted):
    rows = table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]
    return rows.iloc[0]


def test_times_are_over_the_idle_serial_call_and_so_is_what_the_load_lost(run):
    table = busy.busy_table(run)
    row = pick(table, load="spin:all", way=HANDED)
    assert row["relative"] == pytest.approx(1.5, rel=0.01)
    assert row["relative_low"] < 1.5 < row["relative_high"]
    assert row["taken"] == pytest.approx(0.3 * 1.5, rel=0.01)
    assert np.isnan(pick(table, load="none", way=HANDED)["taken"])
    assert pick(table, load="spin:all", way=ALONE)["taken"] == pytest.approx(0.5, rel=0.01)
    assert len(table) == len(TIMES)
    assert set(table["options"]) == {""}


def test_the_published_table_is_in_the_same_unit():
    table = busy.published_table()
    assert len(table) == 9
    assert pick(table, load="none", way=ALONE)["relative"] == 1
    assert pick(table, load="spin:all", way=KEPT)["relative"] == pytest.approx(13.7 / 13.5)
    assert pick(table, load="spin:all", way=HANDED)["taken"] == pytest.approx((27.0 - 25.3) / 13.5)
    assert pick(table, load="spin:half", way=ALONE)["taken"] == pytest.approx((24.1 - 24.0) / 13.5)


def test_the_published_table_has_its_own_shape():
    made = {
        (row["load"], nice, row["threads"]): (row["relative"], lost)
        for _, row in busy.published_table().iterrows()
        for nice, way in (("19", HANDED), ("19:no-hand-over", KEPT))
        if row["way"] in (ALONE, way)
        for lost in [None if np.isnan(row["taken"]) else row["taken"] / row["relative"]]
    }
    made = {(load, nice, min(n, 2)): one for (load, nice, n), one in made.items()}
    points = busy.shape(busy._first_work(busy.busy_table(busy_run(made))))
    assert [one.holds for one in points] == [True] * 6


def test_what_is_not_so_here_and_what_is_undecided_are_said(run):
    said = busy.shape_sentence(busy._first_work(busy.busy_table(run)))
    assert said.startswith("Of 6 properties of the table of 2018-11-07, this machine shows 6.")
    slow = TIMES | {("spin:half", "19", 2): (1.3, 0.4), ("spin:all", "19", 2): (3.0, 0.25)}
    said = busy.shape_sentence(busy._first_work(busy.busy_table(busy_run(slow))))
    assert "Not so here: helpers at nice 19 make the task faster on the half loaded machine; " in said
    assert said.endswith("on the fully loaded machine, handing the priority over makes it faster.")
    assert "Undecided" not in said


def test_one_process_decides_nothing(run):
    first = run.records[run.records["pass"] == 1]
    table = busy._first_work(busy.busy_table(make_run(first, skips=())))
    assert {one.holds for one in busy.shape(table)} == {None}


def test_the_page_says_it_in_sentences_a_table_and_a_figure(run):
    text = str(busy.section(run))
    assert "On the idle machine, 2 threads take 0.50" in text
    assert "With load on every CPU, one thread takes 2" in text
    assert (
        "2 threads take 1.50 [1.49, 1.51] with helpers that get the caller&#39;s priority once it waits"
        in text
    )
    for words in (HANDED, KEPT, escape(EQUAL), "fully loaded", "Lost by the load"):
        assert words in text
    figure = busy.busy_figure(run)
    assert set(figure.data["where"]) == {busy.HERE, busy.PUBLISHED}
    assert "8 CPUs, 2018-11-07, fully loaded, nice 19, kept: 1.01" in figure.alt
    assert len(busy.answers(run)) == 2


def test_a_run_without_such_cells_says_nothing():
    plain = make_run(cell("", {1: 1.0, 2: 0.5}), skips=())
    assert busy.busy_table(plain).empty
    assert (busy.section(plain), quota.section(plain), busy.busy_figure(plain)) == ("", "", None)
    assert busy.answers(plain) == ()


# --- the simulator ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine():
    return Machine("m", cores_per_node=2, work={"zeroing-populate-4KiB": {"core_bandwidth": float(GIB)}})


def way(threads, load, nice, policy="ktask-v4"):
    return simulated.Busy("zeroing-populate-4KiB", GIB, 2 << 20, policy, threads, load, nice)


def test_the_simulator_knows_load_and_priorities(machine):
    alone, both = (simulated.wall_s(machine, way(n, "none", "19")) for n in (1, 2))
    assert (alone, both) == (pytest.approx(1, rel=0.02), pytest.approx(0.5, rel=0.1))
    full = {nice: simulated.wall_s(machine, way(2, "spin:all", nice)) for nice in busy.WAYS}
    assert simulated.wall_s(machine, way(1, "spin:all", "19")) == pytest.approx(2, rel=0.2)
    assert full["0"] < full["19"] < full["19:no-hand-over"]
    assert np.isnan(simulated.wall_s(machine, way(2, "memory:2", "19")))
    assert np.isnan(simulated.wall_s(machine, way(2, "none", "19")._replace(work="other")))


def test_what_the_simulator_says_is_beside_what_was_measured(run, monkeypatch, machine):
    monkeypatch.setattr(busy, "calibrate", lambda _: machine)
    table = busy.with_simulated(busy.busy_table(run), run)
    idle = pick(table, load="none", way=ALONE)
    assert idle["simulated_s"] == pytest.approx(1, rel=0.02)
    assert abs(idle["error"]) < 0.03
    said = busy.simulated_sentence(table)
    assert said.startswith("The simulator, calibrated without load, is within 15 % in ")
    assert "farthest off, by " in said
    assert busy.simulated_sentence(table.assign(error=0.1)).endswith(f"in {len(table)} of {len(table)} rows.")
    monkeypatch.setattr(busy, "calibrate", lambda _: (_ for _ in ()).throw(ValueError("nothing")))
    assert busy.simulated_sentence(busy.with_simulated(busy.busy_table(run), run)) == ""


# --- quotas ----------------------------------------------------------------------------------------------


def quota_run():
    times = {"50%": (2.0, 2.02), "100%": (1.0, 0.8), "150%": (1.0, 0.6), "200%": (1.0, 0.5)}
    cells = [
        cell(f"quota={text}", {1: one, 2: two}, throttled={1: 0.1, 2: 0.6})
        for text, (one, two) in times.items()
    ]
    return make_run(pd.concat(cells, ignore_index=True), skips=())


def test_threads_under_a_quota_are_compared_with_one_under_the_same():
    table = quota.quota_table(quota_run())
    assert table["cpus"].tolist() == [0.5, 0.5, 1.0, 1.0, 1.5, 1.5, 2.0, 2.0]
    two = table[table["threads"] == 2]
    assert two["speedup"].tolist() == pytest.approx([0.99, 1.25, 1.67, 2.0], rel=0.02)
    assert two["capped"].tolist() == [True, True, True, False]
    assert two["throttled"].tolist() == pytest.approx([0.6] * 4)


def test_whether_a_cap_by_quota_is_right_is_said():
    text = str(quota.section(quota_run()))
    assert re.search(r"refuses \d of \d rows with threads", text)
    assert re.search(r"Wrongly, as threads are faster: 1\.\d+ \[[\d., ]+\] with 2 threads at 1[05]0%", text)
    assert re.search(r"Rightly, as threads gain nothing: 0\.98\d* \[[\d., ]+\] with 2 threads at 50%", text)
    assert re.search(r"On average it took away at most [\d.]+ \[[\d., ]+\] CPUs, at \d+%", text)
    assert "the longest took 2.0" in text.replace("\u00a0", " ")
    assert "so short tasks gain most" in text  # of 20 periods
    (answer,) = (
        one for n, _, one in questions.answers(Study(unconditioned(quota_run()), whole=quota_run())) if n == 6
    )
    assert "would refuse 2 threads at 150%, 1 GiB, speedup 1.6" in answer.text
    assert "the least gained: 2 threads at 50%, 1 GiB, speedup 0.98" in answer.text


def test_a_quota_that_was_not_permitted_has_its_reason():
    reason = "quota=50% needs a control group: run it as root"
    cells = skipped(("zeroing", "kernel", "populate", "4KiB", GIB, reason)).assign(options="quota=50%")
    one = make_run(skips=())
    one.skipped = cells
    assert "Under a quota nothing was measured: quota=50% needs a control group" in quota.section(one)
    assert unconditioned(one).skipped.empty


# --- the rest of the report ------------------------------------------------------------------------------


def test_cells_under_a_condition_are_no_paths(run):
    (study,) = Report([run]).studies
    assert set(study.repetitions["options"]) == {""}
    assert len(study.scaling) == 2
    assert len(study.whole.records) == len(run.records)
    assert conditioned.condition_table(study.run).empty
