"""Comparing runs: verdicts on runs that are alike, slowed, of other machines, and of several kernels."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from runs_of_passes import filled, made, measured, slowed

from ktask.cli.compare import render as parts
from ktask.cli.compare_mail import mail
from ktask.cli.tables import as_text
from ktask.lab import records
from ktask.lab.compare import compare, compare_kernels, rows, to_json, to_table
from ktask.lab.compare.judgement import Side, alarms, change, passes_needed, verdict
from ktask.lab.records import SCHEMA, load_run

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
CELLS = [
    ("dontneed", "4KiB"),
    ("munmap", "4KiB"),
    ("pagemap", "4KiB"),
    ("pagemap_scan", "4KiB"),
    ("mprotect", "4KiB"),
    ("memset", "THP"),
    ("populate", "4KiB"),
    ("populate", "THP"),
]


def verdicts(found):
    return Counter(row.verdict for row in found.rows)


def alarmed(found):
    """Whether a table says that something changed."""
    return bool({"better", "worse"} & {*verdicts(found), found.overall_verdict})


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# --- on real passes of one commit ---------------------------------------------------------------------------


def test_runs_of_one_commit_give_no_false_alarm():
    """Ten runs of five passes: neighbours in time, and all pairs."""
    runs = [measured(first, first + 4, str(first)) for first in range(1, 51, 5)]
    assert [alarmed(compare(*pair)) for pair in itertools.pairwise(runs)] == [False] * 9
    found = [compare(*pair) for pair in itertools.combinations(runs, 2)]
    assert sum(map(alarmed, found)) <= 2
    held = [row.ratio.low <= 1 <= row.ratio.high for one in found for row in one.rows]
    assert np.mean(held) > 0.93


@pytest.mark.parametrize(("factor", "expected"), [(1.3, "worse"), (1 / 1.3, "better")])
def test_a_change_of_everything_is_found(factor, expected):
    found = compare(measured(6, 10, "old"), slowed(measured(11, 15), factor))
    assert verdicts(found)[expected] >= 0.9 * len(found.rows)
    assert found.overall_verdict == expected
    assert found.overall.median == pytest.approx(factor, rel=0.03)
    assert found.slower == (expected == "worse")


@pytest.mark.parametrize(("method", "pages"), CELLS)
def test_a_change_of_one_method_is_found_and_no_other(method, pages):
    def is_it(rows):
        return (rows["method"] == method) & (rows["page_kind"] == pages)

    found = compare(measured(6, 10, "old"), slowed(measured(11, 15), 1.3, is_it))
    changed = {(row.method, row.page_kind) for row in found.rows if row.verdict in ("better", "worse")}
    assert changed == {(method, pages)}
    assert found.slower


def test_a_run_compared_with_itself_is_not_worse():
    run = measured(1, 5)
    found = compare(run, run)
    assert set(verdicts(found)) == {"same", "undecided"}
    assert {row.ratio.median for row in found.rows} == {1.0}
    assert not found.differences
    assert not found.slower


# --- the statistics -----------------------------------------------------------------------------------------


def sides(rng, rows, passes, spread, drift=0.0, turns=1):
    return [
        Side(
            drift * rng.standard_normal() + spread * rng.standard_normal(passes),
            tuple(("boot", k) for k in range(passes)),
            turns,
        )
        for _ in range(rows)
    ]


def null_tables(rng, tables=300, rows=12, old=(5, 0.1), new=(5, 0.1), **how):
    """The changes in tables of two runs of the same thing."""
    for _ in range(tables):
        pairs = zip(sides(rng, rows, *old, **how), sides(rng, rows, *new, **how), strict=True)
        yield [change(*pair) for pair in pairs]


def share_alarmed(tables):
    return np.mean([any(alarms([one.p_value for one in table])) for table in tables])


def share_held(tables):
    return np.mean([abs(one.value) <= one.reach for table in tables for one in table])


@pytest.mark.parametrize(
    "how",
    [
        {"turns": 10**9},
        {"turns": 10**9, "old": (5, 0.03), "new": (9, 0.2)},
        {"turns": 10**9, "old": (3, 0.1), "new": (3, 0.1)},
    ],
    ids=["alike", "unlike", "few"],
)
def test_tables_without_a_change_have_an_alarm_in_at_most_5_percent(how, rng):
    tables = [*null_tables(rng, **how)]
    assert share_alarmed(tables) <= 0.06
    assert 0.935 <= share_held(tables) <= 0.98


@pytest.mark.parametrize(("spread", "drift"), [(0.03, 0.02), (0.02, 0.014), (0.2, 0.02), (0.005, 0.0035)])
def test_drift_between_runs_gives_no_alarm(spread, drift, rng):
    """With that, the spread between processes alone would give an alarm in most tables."""
    tables = [*null_tables(rng, old=(5, spread), new=(5, spread), drift=drift)]
    assert share_alarmed(tables) <= 0.06
    assert share_held(tables) >= 0.93


def test_runs_that_take_turns_share_the_drift(rng):
    apart, in_turns = made(rng, start_s=3600, name="new"), made(rng, start_s=30, name="new")
    old = made(rng)
    assert rows._turns(old, apart) == (1, 1)
    assert rows._turns(old, in_turns) == (5, 5)
    widths = [np.mean([r.smallest_visible for r in compare(old, run).rows]) for run in (apart, in_turns)]
    assert widths[1] < widths[0]


def test_a_reboot_begins_a_new_series(rng):
    old, new = made(rng, 2, passes=6, boots=3), made(rng, 2, start_s=3600, name="new")
    assert rows._turns(old, new) == (3, 1)
    unknown = replace(new, records=new.records.assign(started_at=pd.NaT))
    assert rows._turns(unknown, unknown) == (1, 1)


def test_boots_that_differ_are_what_counts(rng):
    """Ten processes in two boots each are not ten processes when the boots differ by far more."""
    false = 0
    for _ in range(20):
        old, new = (
            made(rng, 6, passes=10, spread=0.005, drift=0.1, boots=2, name=name) for name in ("old", "new")
        )
        false += alarmed(compare(old, new))
    assert false <= 3
    unaware = [replace(run, records=run.records.assign(boot_id="")) for run in (old, new)]
    assert alarmed(compare(*unaware))


def test_false_alarms_follow_benjamini_and_hochberg():
    assert alarms([0.01, 0.02, 0.03, 0.9]) == [True, True, True, False]
    assert alarms([0.04, 0.9]) == [False, False]
    assert alarms([]) == []


@pytest.mark.parametrize(
    ("low", "high", "alarm", "expected"),
    [
        (1.01, 1.2, True, "worse"),
        (1.01, 1.2, False, "undecided"),
        (0.8, 0.99, True, "better"),
        (0.96, 1.04, False, "same"),
        (0.96, 1.06, False, "undecided"),
        (0.9, 1.1, True, "undecided"),
        (np.nan, np.nan, False, "undecided"),
    ],
)
def test_verdicts_need_interval_and_alarm(low, high, alarm, expected):
    assert verdict(low, high, alarm) == expected


def test_processes_without_any_spread_are_compared():
    same = Side(np.zeros(3), (("", 1), ("", 2), ("", 3)))
    other = same._replace(logs=np.full(3, 0.1))
    assert change(same, same).p_value == 1
    assert change(same, other).p_value < 1e-9
    assert change(same, other).reach < 1e-9


def test_a_small_change_of_everything_shows_in_all_rows_together(rng):
    """Each row is undecided; their mean is not."""
    old = made(rng, 40, passes=5, spread=0.1)
    new = made(rng, 40, passes=5, spread=0.1, factor=1.1, start_s=30, name="new")
    found = compare(old, new)
    assert verdicts(found)["undecided"] > 60
    assert found.overall_verdict == "worse"
    assert found.slower
    assert "all rows together got slower by more than 5%" in as_text(parts(found)) or found.regressions


# --- what can be judged -------------------------------------------------------------------------------------


def test_quiet_runs_are_judged_without_a_regression(rng):
    found = compare(made(rng, spread=0.004), made(rng, spread=0.004, name="new"))
    assert found.judged
    assert found.reason is None
    assert set(verdicts(found)) == {"same"}


def test_noise_above_the_threshold_is_not_judged(rng):
    found = compare(made(rng, 6, 3, spread=0.2), made(rng, 6, 3, spread=0.2, name="new"))
    assert not found.judged
    assert "cannot judge: a slowdown of 5% would not show in 12 of 12 rows" in found.reason
    assert "Passes of each run, in turns (A, B, A, B):" in found.reason


def test_a_noisy_row_among_many_is_named_and_the_others_judged(rng):
    old, new = made(rng, 10, spread=0.004), made(rng, 10, spread=0.004, name="new")
    for cell, judged in (("c0", True), ("c1", False)):  # two of twenty rows, then four
        noisy = new.records["cell_id"] == cell
        new.records.loc[noisy, "wall_s"] *= np.exp(0.5 * rng.standard_normal(noisy.sum()))
        found = compare(old, new)
        assert found.judged == judged
        assert len(found.blind) == (2 if judged else 4)
    small = compare(old, new, only="1 MiB")
    assert not small.judged


@pytest.mark.parametrize(("spread", "threshold"), [(0.1, 0.05), (0.03, 0.05), (0.1, 0.2)])
def test_as_many_passes_as_needed_show_the_threshold(spread, threshold, rng):
    first = [side[0] for side in (sides(rng, 1, 200, spread), sides(rng, 1, 200, spread))]
    needed = passes_needed(*first, threshold)
    shown = [
        np.mean(
            [
                c.reach <= np.log1p(threshold)
                for c in next(null_tables(rng, 1, 400, (n, spread), (n, spread), turns=n))
            ]
        )
        for n in (max(needed // 2, 2), 2 * needed)
    ]
    assert shown[0] < 0.3
    assert shown[1] > 0.8


def test_no_number_of_passes_shows_a_threshold_of_nothing(rng):
    old, new = made(rng, 2), made(rng, 2, name="new")
    assert passes_needed(Side(np.zeros(1), (("", 1),)), Side(np.zeros(1), (("", 1),)), 0.05) is None
    assert "more than 1000 would do" in compare(old, new, threshold=0).reason


def test_one_pass_on_a_side_decides_nothing(rng):
    found = compare(made(rng, 2), made(rng, 2, passes=1, factor=9.0, name="short"))
    assert set(verdicts(found)) == {"undecided"}
    assert not found.judged
    assert "cannot judge: short measured each case in a single process (one pass)" in found.reason
    assert "\n" not in found.reason
    row = to_json(found)["rows"][0]
    assert (row["low"], row["high"]) == (None, None)
    assert row["ratio"] == pytest.approx(9, rel=0.5)
    json.dumps(to_json(found), allow_nan=False)


def test_a_run_without_passes_is_read_and_not_judged():
    sample = load_run(SAMPLE)
    old = replace(sample, records=sample.records.assign(**{"pass": 1, "boot_id": ""}))
    found = compare(old, slowed(old, 2.0))
    assert not found.judged
    assert [row.ratio.median for row in found.rows] == pytest.approx([2.0] * len(found.rows))
    assert set(verdicts(found)) == {"undecided"}


def test_a_small_regression_needs_a_small_threshold(rng):
    old, new = made(rng, 30, spread=0.002), made(rng, 30, spread=0.002, factor=1.045, name="new")
    assert verdicts(compare(old, new)) == {"worse": 60}
    assert not compare(old, new, threshold=0.06).slower
    assert len(compare(old, new, threshold=0.01).regressions) == 60


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_that_makes_no_sense_is_refused(threshold, rng):
    with pytest.raises(ValueError, match=r"threshold=.* is not allowed; use a share such as 0\.05"):
        compare(made(rng), made(rng), threshold)


# --- which rows ---------------------------------------------------------------------------------------------


def test_cold_repetitions_are_not_compared(rng):
    cold = made(rng, 2)
    cold.records["flags"] = [["cold_memory"]] * len(cold.records)
    with pytest.raises(ValueError, match="have no case in common"):
        compare(cold, made(rng, 2))


def test_what_only_one_run_has_is_said(rng):
    found = compare(made(rng, 4), made(rng, 5, name="more"))
    assert found.only_old == ()
    assert found.only_new == tuple(
        f"free m THP 5 MiB ktask-v4 min 2 MiB {v}" for v in ("serial", "2 threads")
    )
    assert "only in more: 2 rows, such as free m THP 5 MiB" in as_text(parts(found))


def test_some_rows_can_be_asked_for():
    found = compare(measured(1, 5, "old"), measured(6, 10), only="free munmap")
    assert {(row.workload, row.method) for row in found.rows} == {("free", "munmap")}
    with pytest.raises(ValueError, match="have no case with 'nothing' in common"):
        compare(measured(1, 5, "old"), measured(6, 10), only="nothing")


def test_rows_are_sorted_by_effect_within_their_workload(rng):
    found = compare(made(rng), made(rng))
    for workload in ("free", "zeroing"):
        effects = [abs(np.log(row.ratio.median)) for row in found.rows if row.workload == workload]
        assert effects == sorted(effects, reverse=True)
    assert [row.workload for row in found.rows] == sorted(row.workload for row in found.rows)


def test_both_baselines_of_a_cell_are_one_sample(rng):
    run = made(rng, 1, passes=2)
    again = run.records[run.records["baseline"]].assign(wall_s=lambda rows: 3 * rows["wall_s"])
    both = replace(run, records=pd.concat([run.records, again], ignore_index=True))
    serial = next(row for row in compare(both, run).rows if row.baseline)
    assert serial.ratio.median == pytest.approx(0.5)  # the median of 1 and 3 is 2


# --- what differs -------------------------------------------------------------------------------------------


def test_what_differs_between_the_machines_is_said(rng):
    volatile = {"load_average": [9.0, 9.0, 9.0], "boot_id": "b", "resumed": [{"kernel_release": "6.18"}]}
    found = compare(made(rng), made(rng, host_id="b", packages={"numba": "0.63"}, **volatile))
    assert [(d.fact, d.old, d.new) for d in found.differences] == [
        ("host_id", "a", "b"),
        ("packages.numba", "0.62", "0.63"),
    ]
    assert "the machines differ:" in as_text(parts(found))
    assert "packages.numba: 0.62 -> 0.63" in as_text(parts(found))


def test_different_protocols_are_compared_and_said(rng):
    other = replace(made(rng, name="new"), grid={"protocol": {"least": 9}})
    found = compare(made(rng), other)
    line = "the runs were measured in different ways: protocol.least: 3 -> 9"
    assert len(found.rows) == 40
    assert line in as_text(parts(found)).splitlines()
    assert line in mail(found).splitlines()


# --- mail and tables ----------------------------------------------------------------------------------------


def test_a_mail_has_75_columns_and_both_machines():
    old, new = (
        measured(1, 5, "old" * 30, kernel_release="6.12.1" + "x" * 80),
        measured(6, 10, cpu_model="C" * 90),
    )
    text = mail(compare(old, slowed(new, 1.3)))
    assert max(map(len, text.splitlines())) <= 75
    assert text.isascii()
    assert "old: Linux" in text
    assert "new: Linux 6.18" in text
    assert "5 passes in 1 boot" in text
    assert " 1 GiB 2 thr" in text
    assert " +-" in text


@pytest.mark.parametrize("factor", [1e-4, 0.01, 0.5, 1.0, 2.2, 40.0, 1e4])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_wide_numbers_fit_in_a_mail(factor, passes, rng):
    old, new = made(rng, 3, passes, spread=1.5), made(rng, 3, passes, spread=1.5, factor=factor, name="new")
    for run in (old, new):
        run.records["threads_requested"] *= 256
        run.records["size_bytes"] = run.records["size_bytes"] * 1000
        run.records["options"] = "fill=one,other=" + "y" * 70
    assert max(map(len, mail(compare(old, new)).splitlines())) <= 75
    three = [
        old,
        new,
        replace(new, name="newer", machine=new.machine | {"kernel_release": "7.0-" + "z" * 40}),
    ]
    three[1] = replace(new, machine=new.machine | {"kernel_release": "6.20"})
    assert max(map(len, mail(compare_kernels(three)).splitlines())) <= 75


def test_the_table_is_tidy():
    table = to_table(compare(measured(1, 5, "old"), measured(6, 10)))
    assert len(table) == 24
    assert table["size_bytes"].dtype == int
    assert (table["low"] <= table["ratio"]).all()
    assert ((table["old_low_s"] < table["old_s"]) & (table["old_s"] < table["old_high_s"])).all()
    assert set(table["old_passes"]) == {5}


# --- several kernels ----------------------------------------------------------------------------------------


def kernels(*releases):
    """Runs of five real passes each, under other kernels."""
    return [measured(5 * k + 1, 5 * k + 5, f"run{k}", kernel_release=name) for k, name in enumerate(releases)]


def munmap(rows):
    return rows["method"] == "munmap"


def test_the_kernel_at_which_a_case_steps_is_marked():
    runs = kernels("6.12", "6.15", "6.17", "6.18")
    runs[2], runs[3] = slowed(runs[2], 1.6, munmap, "run2"), slowed(runs[3], 1.6, munmap, "run3")
    found = compare_kernels(runs)
    assert found.names == ("6.12", "6.15", "6.17", "6.18")
    steps = {
        (step.row.method, step.kernel, step.step)
        for case in found.cases().values()
        for step in case
        if step.step
    }
    assert steps == {("munmap", "6.17", "worse")}
    last = {case[-1].row.verdict for case in found.cases().values() if case[-1].row.method == "munmap"}
    assert last == {"worse"}
    assert found.slower


def test_runs_of_one_kernel_are_taken_together():
    runs = kernels("6.12", "6.18", "6.18", "6.12")
    found = compare_kernels(runs)
    assert found.names == ("6.12", "6.18")
    assert found.runs == (("run0", "run3"), ("run1", "run2"))
    assert {row.old.processes for row in found.to_base[0].rows} == {10}
    assert not alarmed(found.to_base[0])
    assert rows._turns(found.to_base[0].old, found.to_base[0].new) == (2, 1)


def test_two_builds_of_one_release_are_two_kernels():
    runs = kernels("6.18", "6.18")
    runs[1].machine["kernel_version"] = "#2 SMP"
    assert compare_kernels(runs).names == ("6.18", "6.18 #2 SMP")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (kernels("6.18", "6.18"), "all runs are of kernel 6.18; give runs of two kernels or more"),
        (kernels("6.18", ""), "run run1 does not say which kernel it is of"),
    ],
)
def test_runs_that_are_not_of_several_kernels_are_refused(runs, message):
    with pytest.raises(ValueError, match=message):
        compare_kernels(runs)


def test_a_run_on_two_kernels_is_refused():
    runs = kernels("6.12", "6.18")
    runs[1].machine["resumed"] = [{"kernel_release": "6.19"}]
    with pytest.raises(ValueError, match=r"run1 has passes of several kernels \(6.18, 6.19\)"):
        compare_kernels(runs)


# --- the command --------------------------------------------------------------------------------------------


def keep(run, folder):
    """Write a run into a directory of its own."""
    path = folder / run.name
    (path / "records").mkdir(parents=True)
    (path / "machine.json").write_text(json.dumps(run.machine))
    (path / "grid.yaml").write_text(yaml.safe_dump(run.grid))
    table = run.records.assign(run_id=run.name)[SCHEMA.names].astype(object)
    for (cell, number), part in table.groupby(["cell_id", "pass"]):
        rows = part.to_dict("records")
        plain = [filled({k: v for k, v in row.items() if not _missing(v)}) for row in rows]
        records.write_records(path / f"records/{cell}.pass{number}.parquet", plain)
    return path


def _missing(value):
    return not isinstance(value, list) and pd.isna(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    runs = folder / "data" / "runs"
    old, new = measured(6, 10, "old"), measured(11, 15, "new")
    for run in (old, new, slowed(new, 1.3), measured(16, 16, "short"), *kernels("6.12", "6.15", "6.18")):
        keep(run, runs)
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (["old", "slowed"], 1, "rows got slower by more than 5%"),
        (["slowed", "old", "--threshold", "200%"], 0, "no row got slower by more than 200%"),
        (["old", "new"], 125, "cannot judge: a slowdown of 5% would not show in"),
        (["old", "short"], 125, "cannot judge: short measured each case in a single process (one pass)"),
        (["old", "new", "--threshold", "0.5"], 0, "more than 50%; of 1 too noisy row that is not known"),
        (["old", "slowed", "--only", "munmap"], 1, "3 rows got slower by more than 5%"),
    ],
)
def test_the_exit_code_is_for_git_bisect(arguments, code, last, folder, typed):
    found, out, err = typed("compare", *arguments, "--dir", folder)
    assert (found, err) == (code, "")
    assert last in out.splitlines()[-1]


@pytest.mark.parametrize("flag", [["--json"], ["--format", "json"]])
def test_the_command_gives_json(flag, folder, typed):
    code, out, err = typed("compare", "old", "slowed", *flag, "--dir", folder)
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert (found["judged"], found["reason"]) == (True, None)
    row = next(row for row in found["rows"] if row["method"] == "mprotect")
    wanted = "workload method page_kind size_bytes threads baseline old_s new_s ratio low high verdict"
    assert set(wanted.split()) <= set(row)
    assert row["verdict"] == "worse"
    assert row["ratio"] == pytest.approx(row["new_s"] / row["old_s"])
    assert found["regressions"] == sum(row["verdict"] == "worse" for row in found["rows"])


def test_the_command_gives_a_table_and_a_mail(folder, typed):
    _, out, _ = typed("compare", "old", "slowed", "--format", "csv", "--dir", folder)
    assert out.startswith("workload,backend,method,page_kind,size_bytes,")
    assert len(out.splitlines()) == 25
    _, out, _ = typed("compare", "old", "slowed", "--format", "mail", "--dir", folder)
    assert max(map(len, out.splitlines())) <= 75


@pytest.mark.parametrize("form", ["text", "mail", "csv", "json"])
def test_the_command_compares_kernels(form, folder, typed):
    arguments = ("--by", "kernel", "run0", "run1", "run2", "--format", form, "--dir", folder)
    code, out, err = typed("compare", *arguments)
    assert (code, err) == (125, "")
    assert all(name in out for name in ("6.12", "6.15", "6.18"))
    if form == "json":
        found = json.loads(out)
        assert [one["kernel"] for one in found["kernels"]] == ["6.12", "6.15", "6.18"]
        assert [one["kernel"] for one in found["rows"][0]["kernels"]] == ["6.15", "6.18"]
        assert not found["judged"]


@pytest.mark.parametrize("text", ["x", "-5%", "nan", "", "%"])
def test_a_threshold_that_is_no_share_is_refused(text, typed):
    code, out, err = typed("compare", SAMPLE, SAMPLE, f"--threshold={text}")
    assert (code, out) == (2, "")
    assert f"threshold {text!r} is not allowed; use a share such as 5% or 0.05" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["old"], "one run cannot be compared; give two, or more with --by kernel"),
        (["old", "new", "slowed"], "3 runs cannot be compared; give two, or more with --by kernel"),
        (["old", "new", "--by", "host"], "--by 'host' is not allowed; use kernel"),
        (["old", "new", "--format", "xml"], "format 'xml' is not allowed; use text, mail, csv, json"),
        (["old", "none"], "run 'none' does not exist"),
        (["old", "new", "--only", "zzz"], "no case with 'zzz' in common"),
    ],
)
def test_bad_input_is_named(arguments, message, folder, typed):
    code, out, err = typed("compare", *arguments, "--dir", folder)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_run_that_is_not_there_is_named(typed, tmp_path):
    code, _, err = typed("compare", SAMPLE, tmp_path)
    assert code == 2
    assert "does not exist" in err
