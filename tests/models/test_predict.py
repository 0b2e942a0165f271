"""Predicting curves: what a table may look like, what is refused, and that fit and test rows never mix."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from ktask.models import published
from ktask.models.scaling import laws, learn, scores
from ktask.models.scaling.posterior import Rows, fit, weighted_quantiles
from ktask.models.scaling.predict import Options, predict_curve, predict_size, predict_table
from ktask.models.scaling.table import Curve, TableError, read_curves
from ktask.models.simulation.machines import Machine
from ktask.report.scaling import laws as widened

HEADER = "machine,threads,size_gib,time_s\n"
GOOD = "a,1,1,10.0\na,2,1,5.2\na,4,1,2.9\na,8,1,1.8\n"
FOLDER = published.FOLDER


@pytest.fixture
def written(tmp_path):
    def write(text, name="t.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def times(curve):
    return dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))


def relative(law, threads, *values):
    """Return a law at single parameter values."""
    return law(np.array(threads, float), *(np.array([[value]]) for value in values))[0].tolist()


# --- reading tables ---------------------------------------------------------------------------------------


def test_a_table_becomes_curves(written):
    (curve,) = read_curves(written(HEADER + GOOD)).curves
    assert curve.group == {"machine": "a", "size_gib": 1}
    assert (times(curve), curve.size_bytes) == ({1: 10.0, 2: 5.2, 4: 2.9, 8: 1.8}, 1 << 30)
    assert curve.lines == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("header", "row", "time_s", "size_bytes"),
    [
        ("threads,size_bytes,time_s", "{n},4096,{t}", 3.0, 4096),
        ("nthreads,size_mib,time_ms", "{n},2,{t}", 0.003, 2 << 20),
        ("tasks,size,time_us", "{n},512 KiB,{t}", 3e-6, 512 << 10),
        ("threads,size,time", "{n}.0,1GiB,{t} ms", 0.003, 1 << 30),
    ],
)
def test_columns_and_units_are_recognised(header, row, time_s, size_bytes, written):
    lines = [row.format(n=n, t=t) for n, t in ((1, 3), (2, 2))]
    (curve,) = read_curves(written("\n".join([header, *lines]))).curves
    assert curve.time_s[0] == pytest.approx(time_s)
    assert curve.size_bytes == size_bytes


def test_columns_can_be_named(written):
    path = written("who,n,kib,took_ms\nx,1,4,30\nx,2,4,20\ny,1,4,50\ny,2,4,40\n")
    table = read_curves(path, threads="n", size="none", time="took_ms", by=["who"])
    assert [curve.group for curve in table.curves] == [{"who": "x"}, {"who": "y"}]
    assert [curve.time_s[1] for curve in table.curves] == pytest.approx([0.02, 0.04])


def test_repetitions_become_their_median(written):
    (curve,) = read_curves(written(HEADER + "a,1,1,9\na,1,1,10\na,1,1,30\na,2,1,5\n")).curves
    assert times(curve) == {1: 10.0, 2: 5.0}
    assert curve.spread[0] > 0.1


def test_tables_that_were_joined_keep_their_columns(written):
    header = "workload,threads,threads_per_node,size_gib,memory_gib,time_s\n"
    path = written(header + "w,1,,4,64,8\nw,2,,4,64,5\nboot,,1.0,,64,3\nboot,,4.0,,64,1\n")
    work, boot = read_curves(path).curves
    assert (work.threads.tolist(), work.size_bytes) == ([1, 2], 4 << 30)
    assert (boot.threads.tolist(), boot.size_bytes) == ([1, 4], 64 << 30)


def test_a_variant_that_names_the_point_is_no_curve_of_its_own(written):
    rows = "multiplier 1,2,1,9\nmultiplier 2,4,1,5\nmultiplier 3,6,1,4\n"
    (curve,) = read_curves(written(HEADER.replace("machine", "variant") + rows)).curves
    assert curve.threads.tolist() == [2, 4, 6]


def test_the_published_tables_read_as_curves():
    for name, count in {"ktask_clear_gigantic_page": 5, "ktask_vfio_pinning": 2}.items():
        assert len(read_curves(FOLDER / f"{name}.csv").curves) == count
    table = read_curves(FOLDER / "padata_deferred_init_2020.csv")
    assert "34 rows set aside: 0 threads: a kernel without helpers" in table.notes
    sweep = [c for c in table.curves if c.group["patch_version"] == "v1 thread sweep"]
    assert max(int(curve.threads.max()) for curve in sweep) == 52  # a repeat, but of another curve


def test_a_printed_zero_is_an_error_unless_the_collection_explains_it(written, tmp_path):
    name = "padata_vfio_pinning_2022.csv"
    assert "44 rows set aside: time below what the table prints" in read_curves(FOLDER / name).notes
    copy = shutil.copy(FOLDER / name, tmp_path / name)
    with pytest.raises(TableError, match=r"line \d+: time_s '0.0' is not allowed.*--skip-zero"):
        read_curves(copy)
    assert len(read_curves(copy, skip_zero=True).curves) == 188


REFUSED = {
    "no threads": ("machine,size_gib,time_s\na,1,1\n", "line 1: no column for the threads"),
    "no time": ("machine,threads,size_gib\na,1,1\n", "line 1: no column for the time"),
    "no size": ("machine,threads,time_s\na,1,1\n", "line 1: no column for the size"),
    "empty": ("", "line 1: no column"),
    "semicolons": ("threads;size_gib;time_s\n1;1;1\n", "line 1: no columns but one"),
    "no time of a task": (HEADER + GOOD + "a,16,1,1e-300\n", "line 6: time_s '1e-300' is not allowed"),
    "no rows": (HEADER, "line 1: no row"),
    "no rows left": (HEADER + "a,,1,2\na,0,1,5\n", "line 3: no row"),
    "zero": (HEADER + GOOD + "a,16,1,0\n", "line 6: time_s '0' is not allowed"),
    "negative": (HEADER + "a,1,1,-3\n" + GOOD, "line 2: time_s '-3' is not allowed"),
    "nan": (HEADER + "a,1,1,nan\n" + GOOD, "line 2: time_s 'nan' is not understood"),
    "word": (HEADER + GOOD + "a,16,1,fast\n", "line 6: time_s 'fast' is not understood"),
    "half a thread": (HEADER + GOOD + "a,1.5,1,3\n", "line 6: threads '1.5' is not allowed"),
    "threads in words": (HEADER + "a,all,1,3\n" + GOOD, "line 2: threads 'all' is not allowed"),
    "one thread count": (HEADER + "a,2,1,3\nb,2,1,3\n", "line 2: every row has 2 threads"),
    "unit in a cell": (
        HEADER + GOOD + "a,16,1,900 ms\n",
        "line 6: time_s '900 ms' is in ms, but line 1 in s",
    ),
    "two units": ("threads,size,time\n1,1,3 s\n2,1,2000 ms\n", "line 3: time '2000 ms' is in ms, but line 2"),
    "silent unit": (HEADER + GOOD + "a,16,1,1100\n", "line 6: time_s 1100 s does not fit its neighbours"),
    "silent first": (HEADER + "a,1,1,9000\n" + GOOD[10:], "line 2: time_s 9000 s does not fit"),
    "unit column": (
        "threads,size_gib,time_s,unit\n1,1,3,s\n2,1,2,ms\n",
        "line 3: unit 'ms' is not s as time_s has to be",
    ),
    "two times": ("threads,size_gib,time_s,time_ms\n1,1,3,3000\n2,1,2,2\n", "line 3: time_ms '2' and time_s"),
    "size": (HEADER + GOOD + "a,16,0,1\n", "line 6: size_gib '0' is no size"),
    "size unit": ("threads,size,time_s\n1,3 furlongs,1\n2,1,1\n", "line 2: size '3 furlongs'"),
    "cells": (HEADER + GOOD + "a,16,1\n", "line 6: 3 cells, but the first line has 4"),
    "twice": ("threads,threads,size_gib,time_s\n1,1,1,1\n", "line 1: two columns are called 'threads'"),
    "quotes": (HEADER + '"a,1,1,2\n', "line 2"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_table_is_refused_with_its_line(text, message, written, typed):
    path = written(text)
    code, out, err = typed("predict", path, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"ktask: {path}, ") and message in err and err.count("\n") == 1


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"threads,\xff\xfe\n")
    with pytest.raises(TableError, match="no UTF-8 text"):
        read_curves(tmp_path / "t.csv")


# --- laws -------------------------------------------------------------------------------------------------


def test_laws_say_what_their_formulas_say():
    assert relative(laws.amdahl, [1, 2, 4], 0.2) == pytest.approx([1, 0.6, 0.4])
    assert relative(laws.gustafson, [1, 2, 4], 0.2) == pytest.approx([1, 1 / 1.8, 1 / 3.4])
    assert relative(laws.usl, [1, 2, 4], 0.1, 0.01) == pytest.approx([1, 1.12 / 2, 1.42 / 4])
    # far from the corner the roof is Amdahl's law before it, and a floor behind it
    assert relative(laws.roof, [1, 2, 1000], 0.0, 10.0, 12.0) == pytest.approx([1, 0.5, 0.1], rel=1e-3)


def test_the_lock_law_meets_the_closed_queue():
    # One job never waits; of two, with shares Z = 0.5 and S = 0.5, X(2) = 2 / (Z + S (1 + Q(1))), Q(1) = 0.5
    assert relative(laws.lock, [1, 2], 0.5, 0.0, 8.0) == pytest.approx([1, (0.5 + 0.5 * 1.5) / 2])
    # many threads: the lock is always held
    assert relative(laws.lock, [400], 0.25, 0.0, 8.0) == pytest.approx([0.25], rel=1e-3)
    assert relative(laws.lock, [1 << 20], 0.25, 0.0, 8.0) == pytest.approx([0.25], rel=1e-5)
    # waiters that slow the turn make more threads slower than fewer, up to what a crowd of them does
    few, many, most = relative(laws.lock, [8, 64, 4096], 0.25, 0.1, 8.0)
    assert few < many < most == pytest.approx(0.25 * (1 + 0.1 * 8), rel=0.01)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.name)
def test_parameters_stay_in_their_bounds(law):
    normals = np.array([[x] * (len(law.parameters) + 2) for x in (-6.0, 0.0, 6.0)])
    assert np.isfinite(laws.log_times(law, normals, np.array([1, 2, 64]))).all()
    for parameter in law.parameters:
        value = parameter.value(normals[:, 0])
        assert (value > 0).all() and value[1] == pytest.approx(parameter.median)
        assert not parameter.is_fraction or (value < 1).all()


def test_law_weights_are_probabilities():
    assert math.isclose(sum(law.prior_weight for law in laws.LAWS), 1.0)


def test_design_tables_are_files_of_the_collection():
    assert all((FOLDER / f"{name}.csv").is_file() for name in laws.DESIGN_TABLES)


# --- fits -------------------------------------------------------------------------------------------------


def rows_of(law, values, threads):
    threads = np.array(threads, float)
    return Rows(threads, np.log(3 * np.array(relative(law, threads, *values))), np.full(len(threads), 0.02))


def test_a_fit_finds_the_law_and_its_parameters():
    many = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64]
    found = fit(rows_of(laws.amdahl, [0.1], many)).laws[0].parameters()["serial"]
    assert found["low"] < 0.1 < found["high"] and found["high"] - found["low"] < 0.02
    roof = fit(rows_of(laws.roof, [0.01, 9.0, 8.0], many))
    assert roof.best().law.name == "roof"
    assert roof.best().parameters()["roof_threads"]["value"] == pytest.approx(9.0, rel=0.05)
    lock = fit(rows_of(laws.lock, [0.2, 0.1, 8.0], many))
    assert lock.probabilities()["lock"] > 0.9


def test_weighted_quantiles_of_equal_weights_are_ordinary():
    values = np.arange(101.0)
    assert weighted_quantiles(values, np.ones(101), [0.1, 0.5]) == pytest.approx([9.6, 50.0], abs=0.5)


def test_a_superlinear_start_does_not_bend_the_rest(written):
    # three times faster with two threads, then ordinary: the cost belongs to one thread alone
    rows = "".join(f"a,{n},1,{t}\n" for n, t in {1: 127.5, 2: 41.3, 4: 22.3, 8: 13.5}.items())
    (curve,) = read_curves(written(HEADER + rows)).curves
    found = predict_curve(curve)
    assert found.fit.slow_start() > 1.4
    (eight,) = found.predictions
    assert eight.covered and eight.ape_pct < 15 and eight.high_s / eight.low_s < 2


@pytest.mark.parametrize(
    "times", [(1, 1.3, 1.7), (1, 0.3, 0.35), (1, 0.4, 0.35), (1, 0.7, 0.72), (1, 1.2, 0.6), (1, 0.3, 0.06)]
)
def test_a_start_that_turns_back_does_not_explode(times):
    curve = Curve({}, np.array([1, 2, 4]), np.array(times, float), np.zeros(3))
    least = min(n * t for n, t in zip((1, 2, 4), times, strict=True))
    for far in predict_curve(curve, Options(threads=(8, 32, 128))).predictions:
        # no faster than each thread ever was, no slower than twice the worst one; and it is not thought known
        assert 0.95 * least / far.threads < far.time_s < 2.5 * max(times)
        assert far.threads < 128 or far.high_s > 2 * far.low_s


# --- predictions ------------------------------------------------------------------------------------------


OTHER_SIZE = "a,1,2,20\na,2,2,10.4\na,4,2,5.8\na,8,2,{}\n"


@pytest.mark.parametrize("pool", [False, True])
def test_test_rows_have_no_say(pool, written):
    options = Options(pool=pool, threads=(8, 16))
    changed = GOOD.replace("a,8,1,1.8", "a,8,1,1.1")
    (one, _), (two, _) = (
        predict_table(read_curves(written(HEADER + rows + OTHER_SIZE.format(3.6))), options)
        for rows in (GOOD, changed)
    )
    assert one.pooled == int(pool)
    for p, q in zip(one.predictions, two.predictions, strict=True):
        assert (p.time_s, p.low_s, p.high_s) == (q.time_s, q.low_s, q.high_s)
    assert (one.predictions[0].observed_s, two.predictions[0].observed_s) == (1.8, 1.1)


@pytest.mark.parametrize("pool", [False, True])
def test_only_pooling_listens_to_another_size(pool, written):
    (one, _), (two, _) = (
        predict_table(read_curves(written(HEADER + GOOD + OTHER_SIZE.format(t))), Options(pool=pool))
        for t in (3.1, 4.1)
    )
    assert (one.predictions[0].time_s < two.predictions[0].time_s) is pool


def test_another_version_of_the_same_case_is_not_pooled(written):
    header = HEADER.replace("machine", "machine,patch_version")
    rows = "".join(f"{line.replace('a,', f'a,v{v},')}\n" for v in (1, 2) for line in GOOD.splitlines())
    one, two = predict_table(read_curves(written(header + rows)), Options(pool=True))
    assert (one.pooled, two.pooled) == (0, 0)


def test_pooling_listens_to_the_same_machine_only(written):
    noisy = "a,1,2,20\na,2,2,19.8\na,4,2,19.7\n"
    (alone, *_), (pooled, *_), (apart, *_) = (
        predict_table(read_curves(written(HEADER + GOOD + other)), Options(pool=pool))
        for other, pool in ((noisy, False), (noisy, True), (noisy.replace("a,", "b,"), True))
    )
    assert pooled.predictions[0].time_s > alone.predictions[0].time_s
    assert apart.predictions == alone.predictions


def test_a_curve_that_cannot_be_fitted_does_not_stop_the_others(written):
    result = scores.predict_file(written(HEADER + GOOD + "b,2,1,3\nb,8,1,2\n"))
    good, bad = result["curves"]
    assert len(good["predictions"]) == 1
    assert bad["predictions"] == [] and bad["reason"].startswith("has times for 2, 8 threads")
    assert result["score"]["n"] == 1


def test_a_described_machine_lends_its_roof_and_its_cpus(written):
    (curve,) = read_curves(written(HEADER + "a,1,1,8\na,2,1,4\na,4,1,2\n")).curves
    machine = Machine("small", cores_per_node=8, core_bandwidth=1 << 27, node_bandwidth=5 << 27)
    free = predict_curve(curve, Options(threads=(8,)))
    bound = predict_curve(curve, Options(threads=(8, 16), machine=machine))
    eight, sixteen = bound.predictions
    assert eight.time_s > free.predictions[0].time_s
    assert eight.time_s == pytest.approx(1.6, rel=0.1)  # five threads saturate the node
    assert sixteen.time_s == pytest.approx(eight.time_s, rel=0.02)
    assert "more threads than the 8 CPUs" in bound.warnings[-1]


def test_predictions_beyond_twice_the_measured_range_are_warned_of(written):
    (curve,) = read_curves(written(HEADER + GOOD)).curves
    assert predict_curve(curve, Options(threads=(8,))).warnings == ()
    (warning,) = predict_curve(curve, Options(threads=(8, 16, 64))).warnings
    assert warning == "16 to 64 threads are beyond twice the measured range, which ends at 4"


def test_intervals_widen_with_the_distance(written):
    (curve,) = read_curves(written(HEADER + GOOD)).curves
    near, far = predict_curve(curve, Options(threads=(5, 64))).predictions
    assert near.high_s / near.low_s < far.high_s / far.low_s


# --- other sizes ------------------------------------------------------------------------------------------


def test_another_size_follows_the_sizes_around_it(written):
    rows = "".join(f"a,{n},{s},{0.4 + 0.1 * s / n}\n" for n in (1, 4) for s in (10, 40, 80))
    curves = read_curves(written(HEADER + rows)).curves
    middle = next(curve for curve in curves if curve.group["size_gib"] == 40)
    predicted = predict_size(middle, curves)
    assert all(p.covered and p.ape_pct < 10 for p in predicted.predictions)
    assert predicted.warnings == () and predicted.pooled == 2
    edge = next(curve for curve in curves if curve.group["size_gib"] == 80)
    assert "outside" in predict_size(edge, curves).warnings[0]


def test_the_rows_of_the_size_itself_have_no_say(written):
    rows = "a,1,1,1\na,2,1,0.5\na,1,4,4\na,2,4,{}\n"
    results = [
        predict_size(curves[1], curves).predictions[1].time_s
        for curves in (read_curves(written(HEADER + rows.format(t))).curves for t in (2, 3))
    ]
    assert results[0] == results[1]


def test_a_lone_size_is_not_predicted(written):
    (curve,) = read_curves(written(HEADER + GOOD)).curves
    assert predict_size(curve, [curve]).reason == "no other size of the same work on the same machine"


# --- scores on the shipped tables ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return scores.score_folder(FOLDER)


def test_other_thread_counts_of_the_published_tables_are_predicted(shipped):
    score = shipped["score"]
    assert score["n"] == 104
    assert score["median_ape_pct"] <= 6
    assert score["p90_ape_pct"] <= 25
    assert score["coverage"] >= 0.85


@pytest.fixture(scope="module")
def learner():
    return learn.Learner(learn.examples())


@pytest.mark.long
def test_machines_are_predicted_by_laws_that_never_saw_them(learner, monkeypatch):
    monkeypatch.setattr(scores, "Learner", lambda found: learner)
    result = scores.score_held_out("machine")
    assert (result["score"]["n"], result["rates"]["n"]) == (104, 128)
    assert result["score"]["median_ape_pct"] <= 6
    assert result["score"]["p90_ape_pct"] <= 25
    assert result["score"]["coverage"] >= 0.85 and result["rates"]["coverage"] >= 0.85
    assert "other machines" in result["split"]["laws"]
    # The factor by which reports widen their intervals: nine of ten errors are within it.
    assert round(1 + result["score"]["p90_ape_pct"] / 100, 2) == widened.MISSED


def test_one_thread_alone_may_be_slower_or_faster_than_its_share():
    start = laws.SlowStart(slow=0.2, slow_mean=0.3, fast=0.1, fast_mean=0.2)
    size_one = np.full(3, ndtri(math.exp(-1)))
    assert start.value(np.array([-9.0, 0.0, 9.0]), size_one) == pytest.approx([0.3, 0.0, -0.2])


def test_the_priors_are_those_learned_from_the_design_tables(learner):
    for law, learned in zip(laws.LAWS, learner.laws(), strict=True):
        assert law.prior_weight == pytest.approx(learned.prior_weight, abs=0.02)
        assert law.slow_start.slow == pytest.approx(learned.slow_start.slow, abs=0.03)
        for prior, found in zip(law.parameters, learned.parameters, strict=True):
            assert math.log(prior.median) == pytest.approx(math.log(found.median), abs=0.1 * found.spread)
            assert prior.spread == pytest.approx(found.spread, rel=0.1)


def test_a_machine_left_out_has_no_say_in_the_laws(learner):
    name = "Intel(R) Xeon(R) CPU E7-8895 v3 @ 2.60GHz"
    some = [e for e in learner.examples if e.table in ("ktask_clear_gigantic_page", "ktask_vfio_pinning")]
    assert {name} < {e.machine for e in some}
    whole, without = learn.Learner(some), learn.Learner([e for e in some if e.machine != name])
    assert whole.laws(machine=name) == without.laws() != whole.laws()


def test_held_out_groups_are_named_and_folders_checked(typed, tmp_path):
    code, _, err = typed("predict", FOLDER, "--held-out", "author")
    assert code == 2 and "'author' is not known; use machine, workload, table" in err
    code, _, err = typed("predict", tmp_path, "--held-out", "machine")
    assert code == 2 and "give that folder" in err
    code, _, err = typed("predict", FOLDER, "--held-out", "machine", "--pool")
    assert code == 2 and "--fit-threads and --json only" in err


def test_a_size_left_out_of_the_published_tables_is_predicted(shipped):
    by_table = {table["table"]: table["sizes"] for table in shipped["tables"]}
    for name in ("ktask_clear_gigantic_page", "ktask_hugetlbfs_fallocate", "padata_vfio_pinning_2022"):
        assert by_table[f"{name}.csv"]["median_ape_pct"] <= 5
    assert shipped["sizes"]["median_ape_pct"] <= 5
    assert shipped["sizes"]["coverage"] >= 0.85


def test_other_sizes_sharpen_the_predictions_of_the_published_tables():
    for name, most in {"ktask_clear_gigantic_page": 8, "ktask_hugetlbfs_fallocate": 8}.items():
        table = read_curves(FOLDER / f"{name}.csv")
        alone, pooled = (scores.score(predict_table(table, Options(pool=pool))) for pool in (False, True))
        assert pooled["median_ape_pct"] < most < alone["median_ape_pct"]
        assert pooled["coverage"] >= 0.85


def test_tables_without_curves_are_listed_with_their_reason(shipped):
    assert "no column for the time" in shipped["unreadable"]["page_migration_multithread.csv"]
    assert "ktask_vfio_pinning.csv" not in shipped["unreadable"]


# --- the command --------------------------------------------------------------------------------------------


def test_the_json_keeps_its_contract(typed):
    path = FOLDER / "ktask_vfio_pinning.csv"
    code, out, err = typed("predict", path, "--fit-threads", "1,2,4", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result["score"]) == {"median_ape_pct", "p90_ape_pct", "coverage", "n"}
    curve = result["curves"][0]
    assert curve["machine"].startswith("Intel") and curve["size_gib"] == 320 and curve["law"]
    assert {"value", "low", "high"} == set(next(iter(curve["parameters"].values())))
    assert [p["threads"] for p in curve["predictions"]] == [3, 5, 6, 7, 8, 12, 16]
    for p in curve["predictions"]:
        assert set(p) == {"threads", "time_s", "low_s", "high_s", "observed_s"}
        assert p["low_s"] < p["time_s"] < p["high_s"]
    assert result["split"]["fit_threads"] == [1, 2, 4]
    assert result["used_for_design"] and "ktask_vfio_pinning" in result["designed_on"]


def test_the_text_shows_curves_and_score(typed, written):
    code, out, _ = typed("predict", written(HEADER + GOOD))
    assert code == 0
    assert "machine: a, size_gib: 1" in out and "law " in out
    assert "of 1 times inside the 90 % interval" in out


def test_a_table_without_a_curve_to_fit_is_exit_1(typed, written):
    code, out, _ = typed("predict", written(HEADER + "a,1,1,3\na,8,1,2\n"))
    assert code == 1
    assert "not predicted: has times for 1, 8 threads" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fit-threads", "1"], "'1' are not allowed; use at least two thread counts"),
        (["--fit-threads", "1,x"], "'1,x' are not allowed"),
        (["--threads", "0"], "'0' are not allowed"),
        (["--machine", "nosuch"], "'nosuch' is neither a file nor one of"),
        (["--work", "free"], "give --machine FILE"),
        (["--time-column", "t"], "line 1: no column 't'"),
        (["--by", "nobody"], "line 1: no column 'nobody'"),
    ],
)
def test_bad_options_are_refused(typed, words, message, written):
    code, out, err = typed("predict", written(HEADER + GOOD), *words)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_a_missing_table_and_an_empty_folder_are_refused(typed, tmp_path):
    assert typed("predict", tmp_path / "no.csv")[0] == 2
    code, _, err = typed("predict", tmp_path)
    assert code == 2 and "holds no table with scaling curves" in err


def test_an_impossible_machine_is_refused_with_its_line(typed, written, tmp_path):
    machine = tmp_path / "m.yaml"
    machine.write_text("nodes: 1\ncores_per_node: 0\n")
    code, _, err = typed("predict", written(HEADER + GOOD), "--machine", Path(machine))
    assert code == 2 and "m.yaml, line 2: cores_per_node=0 is not allowed" in err


def test_a_table_without_an_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv is not a regular file"):
        read_curves(tmp_path / "pipe.csv")
    wide = tmp_path / "wide.csv"
    wide.write_text("c," * 1001 + "\n")
    with pytest.raises(ValueError, match=r"wide\.csv, line 1: the table is too large; use"):
        read_curves(wide)


def test_more_curves_than_anybody_reads_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ktask.models.scaling.table.MOST_CURVES", 3)
    path = tmp_path / "many.csv"
    path.write_text("case,threads,size,time_s\n" + "".join(f"{k},1,1,2\n{k},2,1,1\n" for k in range(4)))
    with pytest.raises(ValueError, match=r"many\.csv, line 2: 4 curves, by case, size; use at most 3"):
        read_curves(path)
