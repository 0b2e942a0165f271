"""Comparing two runs: verdicts on runs that are alike, slowed, or of other machines."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ktask.cli.compare import render as parts
from ktask.cli.tables import as_text
from ktask.lab import compare as module
from ktask.lab import records
from ktask.lab.compare import compare, robust_spread, to_json
from ktask.lab.measure import stats
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import SCHEMA, Run, load_run

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
MACHINE = {"host_id": "a", "virtualised": True, "kernel_release": "6.18", "packages": {"numba": "0.62"}}


def make_run(
    rng,
    cells=20,
    rounds=11,
    between=0.08,
    within=0.02,
    slowed=(),
    factor=1.0,
    name="run",
    cold=False,
    **machine,
):
    """A run of `cells` cells: serial, A/A and two threads, with a factor of its own per process."""
    rows = []
    for cell in range(cells):
        process = np.exp(between * rng.standard_normal()) * (factor if cell in slowed else 1.0)
        for variant, (threads, baseline, flags) in enumerate(
            [(1, True, []), (1, True, ["aa"]), (2, False, [])]
        ):
            walls = 1e-3 * (cell + 1) / threads * process * np.exp(within * rng.standard_normal(rounds))
            rows += [
                {
                    "cell_id": f"c{cell}",
                    "host_id": "a",
                    "round": number,
                    "order": variant,
                    "workload": "zeroing" if cell % 2 else "free",
                    "backend": "kernel",
                    "method": "m",
                    "page_kind": "THP",
                    "size_bytes": (cell + 1) << 20,
                    "options": "",
                    "policy": "ktask-v4",
                    "min_chunk_size": 2 << 20,
                    "threads_requested": threads,
                    "baseline": baseline,
                    "warmup": False,
                    "wall_s": wall,
                    "flags": flags + ["cold_memory"] * cold,
                }
                for number, wall in enumerate(walls)
            ]
    table = pd.DataFrame(rows).reindex(columns=SCHEMA.names)
    grid = {"protocol": {"least": rounds}, "threads": [1, 2]}
    return Run(name, Path(name), table, MACHINE | machine, grid, pd.DataFrame())


def verdicts(found):
    return Counter(row.verdict for row in found.rows)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def sample():
    return load_run(SAMPLE)


# --- verdicts ---------------------------------------------------------------------------------------------


def test_a_run_compared_with_itself_is_within_noise(sample):
    found = compare(sample, sample)
    assert set(verdicts(found)) <= {"within noise", "too few"}
    assert {row.ratio.median for row in found.rows if row.ratio} == {1.0}
    assert not found.differences
    assert not found.regressions


def slow_down(run, factor, where=lambda table: table["wall_s"] > 0):
    table = run.records.copy()
    table.loc[where(table), "wall_s"] *= factor
    return Run("slowed", run.path, table, run.machine, run.grid, run.skipped)


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "worse"), (1 / 1.3, "better")])
def test_a_slowed_run_is_worse_and_the_other_way_round_better(sample, factor, verdict):
    found = compare(sample, slow_down(sample, factor))
    judged = [row for row in found.rows if row.ratio]
    assert {row.verdict for row in judged} == {verdict}
    assert all(row.ratio.median == pytest.approx(factor) for row in judged)
    assert len(found.regressions) == (len(judged) if verdict == "worse" else 0)


def test_only_the_slowed_workload_is_worse(sample):
    found = compare(sample, slow_down(sample, 1.5, lambda table: table["workload"] == "free"))
    by_workload = {row.workload: set() for row in found.rows}
    for row in found.rows:
        by_workload[row.workload].add(row.verdict)
    assert by_workload["free"] == {"worse"}
    assert by_workload["page_walk"] == by_workload["zeroing"] == {"within noise"}


@pytest.mark.parametrize(("rounds", "cells"), [(7, 4), (11, 4), pytest.param(11, 33, marks=pytest.mark.long)])
def test_runs_of_one_commit_are_within_noise(rounds, cells, rng):
    """At least 95 % of the tables have no alarm at all, and nearly as many intervals hold 1."""
    tables = [
        compare(make_run(rng, cells, rounds, name="a"), make_run(rng, cells, rounds, name="b"))
        for _ in range(60)
    ]
    assert np.mean([set(verdicts(found)) == {"within noise"} for found in tables]) >= 0.95
    held = [row.ratio.low <= 1 <= row.ratio.high for found in tables for row in found.rows]
    assert np.mean(held) >= 0.93


def test_a_change_of_all_cells_with_threads_by_different_factors_is_no_noise(rng):
    """As beside other load: what ran on one thread is as it was, and tells what the noise is."""
    old, new = make_run(rng, 16, between=0.05), make_run(rng, 16, between=0.05)
    factors = dict(zip(sorted(set(old.records["size_bytes"])), np.geomspace(1.2, 20, 16), strict=True))
    threaded = new.records["threads_requested"] == 2
    new.records.loc[threaded, "wall_s"] *= new.records["size_bytes"].map(factors)[threaded]
    found = compare(old, new)
    assert found.spread < 0.25
    worse = {row.size_bytes for row in found.rows if row.verdict == "worse"}
    assert worse >= {size for size, factor in factors.items() if factor > 2}
    assert {row.threads for row in found.rows if row.verdict == "worse"} == {2}


def test_quiet_machines_show_small_changes(rng):
    quiet = {"between": 0.005, "within": 0.005, "virtualised": False}
    old, new = make_run(rng, 30, **quiet), make_run(rng, 30, **quiet, slowed={3, 4}, factor=1.12)
    found = compare(old, new)
    assert {row.size_bytes >> 20 for row in found.rows if row.verdict == "worse"} == {4, 5}
    assert found.spread < 0.03


def test_a_small_regression_needs_a_small_threshold(rng):
    quiet = {"between": 0.001, "within": 0.002, "virtualised": False}
    old, new = make_run(rng, 30, **quiet), make_run(rng, 30, **quiet, slowed=range(30), factor=1.045)
    assert verdicts(compare(old, new)) == {"worse": 60}
    assert not compare(old, new, threshold=0.05).regressions
    assert len(compare(old, new, threshold=0.01).regressions) == 60


def test_three_values_a_side_tell_a_large_change_from_none(rng):
    old, new = make_run(rng, 3, 3), make_run(rng, 3, 3, slowed={0, 1, 2}, factor=3.0)
    assert verdicts(compare(old, new)) == {"worse": 6}
    assert verdicts(compare(old, make_run(rng, 3, 3))) == {"within noise": 6}


def test_one_value_a_side_tells_nothing(rng):
    found = compare(make_run(rng, 2, 1), make_run(rng, 2, 1))
    counts = Counter((row.baseline, row.verdict) for row in found.rows)
    assert counts == {(True, "within noise"): 2, (False, "too few"): 2}  # the baseline is measured twice
    assert next(row for row in found.rows if not row.baseline).ratio is None


def test_cold_repetitions_are_not_compared(rng):
    with pytest.raises(ValueError, match="have no case in common"):
        compare(make_run(rng, 2, cold=True), make_run(rng, 2))


# --- how the spread is estimated --------------------------------------------------------------------------


@pytest.mark.parametrize("m", [4, 9, 10, 33])
def test_the_robust_spread_is_that_of_normal_values(m, rng):
    found = [robust_spread(rng.standard_normal(m)) for _ in range(2000)]
    assert 0.9 < np.sqrt(np.mean(np.square(found))) < 1.2


def test_the_robust_spread_does_not_see_changes_of_less_than_half(rng):
    values = 0.01 * rng.standard_normal(20)
    shifted = values + np.where(np.arange(20) < 9, 0.5, 0.0)
    assert robust_spread(shifted) < 3 * robust_spread(values)
    assert robust_spread(values + 0.5) == pytest.approx(robust_spread(values))


def test_false_alarms_follow_benjamini_and_hochberg():
    assert module._alarms([0.01, 0.02, 0.03, 0.9]) == [True, True, True, False]
    assert module._alarms([0.04, 0.9]) == [False, False]
    assert module._alarms([]) == []


# --- what differs -----------------------------------------------------------------------------------------


def test_what_differs_between_the_machines_is_told(rng):
    packages = {"numba": "0.63"}
    found = compare(
        make_run(rng), make_run(rng, host_id="b", packages=packages, load_average=[9.0, 9.0, 9.0])
    )
    assert [(d.fact, d.old, d.new) for d in found.differences] == [
        ("host_id", "a", "b"),
        ("packages.numba", "0.62", "0.63"),
    ]
    assert "the machines differ:" in as_text(parts(found))
    assert "packages.numba: 0.62 -> 0.63" in as_text(parts(found))


def test_what_only_one_run_has_is_told(rng):
    found = compare(make_run(rng, 4), make_run(rng, 5, name="more"))
    assert found.only_old == ()
    assert found.only_new == tuple(
        f"free m THP 5 MiB ktask-v4 min 2 MiB {v}" for v in ("serial", "2 threads")
    )
    assert "only in more: 2 rows, such as free m THP 5 MiB" in as_text(parts(found))


def test_rows_are_sorted_by_effect_within_their_workload(rng):
    found = compare(make_run(rng), make_run(rng))
    for workload in ("free", "zeroing"):
        effects = [abs(np.log(row.ratio.median)) for row in found.rows if row.workload == workload]
        assert effects == sorted(effects, reverse=True)
    assert [row.workload for row in found.rows] == sorted(row.workload for row in found.rows)


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_that_makes_no_sense_is_refused(threshold, rng):
    with pytest.raises(ValueError, match=r"threshold=.* is not allowed; use a share such as 0\.05"):
        compare(make_run(rng), make_run(rng), threshold)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slowed(tmp_path_factory, sample):
    """The sample run, half as fast, in a directory of its own."""
    path = tmp_path_factory.mktemp("runs") / "slowed"
    (path / "records").mkdir(parents=True)
    for name in ("machine.json", "grid.yaml"):
        (path / name).write_bytes((SAMPLE / name).read_bytes())
    rows = slow_down(sample, 2.0).records
    for cell, part in rows.groupby("cell_id"):
        table = [
            {k: (list(v) if k == "flags" else v) for k, v in row.items()} for row in part.to_dict("records")
        ]
        records.write_records(path / f"records/{cell}.parquet", table)
    return path


def test_the_command_ends_with_1_on_a_regression_only(slowed, typed):
    assert typed("compare", SAMPLE, SAMPLE)[0] == 0
    code, out, _ = typed("compare", SAMPLE, slowed)
    assert code == 1
    assert "got slower by more than 5%" in out.splitlines()[-1]
    assert typed("compare", slowed, SAMPLE)[0] == 0
    assert typed("compare", SAMPLE, slowed, "--threshold", "150%")[0] == 0


def test_the_command_gives_json(slowed, typed):
    code, out, err = typed("compare", SAMPLE, slowed, "--json")
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert list(found["workloads"]) == sorted({row for row in load_run(SAMPLE).records["workload"]})
    row = found["workloads"]["free"][0]
    assert row["verdict"] == "worse"
    assert row["new"]["median"] == pytest.approx(2 * row["old"]["median"])
    assert set(row["ratio"]) == {"median", "low", "high", "best", "n"}
    assert found["regressions"] == sum(len(rows) for rows in found["workloads"].values())


@pytest.mark.parametrize("text", ["x", "-5%", "nan", "", "%"])
def test_a_threshold_that_is_no_share_is_refused(text, typed):
    code, out, err = typed("compare", SAMPLE, SAMPLE, f"--threshold={text}")
    assert (code, out) == (2, "")
    assert f"threshold {text!r} is not allowed; use a share such as 5% or 0.05" in err


def test_a_run_that_is_not_there_is_named(typed, tmp_path):
    code, _, err = typed("compare", SAMPLE, tmp_path)
    assert code == 2
    assert "does not exist" in err


def test_an_estimate_without_an_interval_has_a_json_form(rng):
    found = compare(make_run(rng, 2, 1), make_run(rng, 2, 1))
    text = json.dumps(to_json(found), allow_nan=False)
    assert '"ratio": null' in text
    assert isinstance(found.rows[0].old, Estimate)
    assert stats.ENOUGH == 6
