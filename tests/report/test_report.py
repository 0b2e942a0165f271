"""The report: tables, figures, words and the page, on synthetic runs with known truth."""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import yaml
from markupsafe import Markup
from nbformat import v4

from ktask.common import figures as drawing
from ktask.common.units import fmt_number
from ktask.lab.bystanders.store import SCHEMA
from ktask.lab.measure.flags import flag_effects
from ktask.lab.records import SKIPPED_COLUMNS
from ktask.lab.traces import read_traces, write_traces
from ktask.models.simulation.machines import Machine
from ktask.report import Report, first_screen, machine, page, sections, tables, write_report
from ktask.report import drawing as two_processes
from ktask.report import sentences as words
from ktask.report.paths import advice, bottlenecks, figures, gains, gains_figure, states, timeline
from ktask.report.scaling import larger_machines, laws, reproduction, roof
from ktask.report.study import Study, data_hash

MIB, GIB = 1 << 20, 1 << 30
PAGE_BYTES = {"4KiB": 4096, "THP": 2 * MIB, "2MiB": 2 * MIB, "1GiB": GIB}


@dataclass(frozen=True)
class Truth:
    """One path of a synthetic run: one-thread rate, start-up cost, and the speedup of threads."""

    workload: str
    backend: str
    method: str
    page_kind: str
    bytes_per_s: float
    scaling: dict[int, float] = field(default_factory=lambda: {2: 1.9})
    overhead_s: float = 2e-5
    unit: str = "byte"

    def wall_s(self, size_bytes: int, threads: int) -> float:
        """Return the seconds in chunks, or of the serial call for 0 threads."""
        alone = size_bytes / self.bytes_per_s
        return alone if threads == 0 else alone / self.scaling[threads] + self.overhead_s


TRUTHS = (
    Truth("zeroing", "kernel", "populate", "4KiB", 2.0 * GIB),
    Truth("zeroing", "kernel", "populate", "THP", 8.6 * GIB),
    Truth("zeroing", "kernel", "populate", "2MiB", 8.6 * GIB, {2: 1.85}),
    Truth("zeroing", "user", "memset", "4KiB", 9.7 * GIB, {2: 1.93}),
    Truth("zeroing", "user", "nontemporal", "4KiB", 22.6 * GIB, {2: 1.96}),
    Truth("page_walk", "kernel", "pagemap_scan", "4KiB", 188e6 * 4096, {2: 2.0}, unit="PTE"),
    Truth("page_walk", "kernel", "pagemap", "4KiB", 56e6 * 4096, {2: 1.97}, unit="PTE"),
    Truth("free", "kernel", "dontneed", "4KiB", 40 * GIB, {2: 1.6}),
    Truth("free", "kernel", "munmap", "4KiB", 38 * GIB, {2: 0.8}),
)


# One path or two per workload: enough for a page, and half as long to draw.
FEW = (TRUTHS[1], TRUTHS[4], TRUTHS[6], TRUTHS[7], TRUTHS[8])


@dataclass
class Run:
    name: str
    path: Path
    records: pd.DataFrame
    machine: dict
    grid: dict
    skipped: pd.DataFrame
    evidence: dict = field(default_factory=dict)
    bystanders: pd.DataFrame = field(default_factory=lambda: SCHEMA.empty_table().to_pandas())
    synthetic: str = ""

    @property
    def traces(self):
        return read_traces(self.path)


def rows_of_cell(truth, size_bytes, rng, *, n, threads, noise, aa, cold):
    """Yield the rows of one cell in rounds: serial, chunked, and the serial call again if `aa`."""
    calls = [(1, True, False), *([(1, True, True)] if aa else []), *((t, False, False) for t in threads)]
    levels = {key: noise * rng.standard_normal() for key in {call[:2] for call in calls}}  # of this process
    for round_ in range(-1, n):
        for order, turn in enumerate(rng.permutation(len(calls))):
            count, baseline, again = calls[turn]
            is_cold = round_ in cold and not baseline
            shift = levels[count, baseline] + noise * rng.standard_normal()
            wall = truth.wall_s(size_bytes, 0 if baseline else count) * np.exp(shift)
            yield {
                "round": round_,
                "order": order,
                "threads_requested": count,
                "threads": count,
                "warmup": round_ < 0,
                "baseline": baseline,
                "wall_s": wall * (8 if is_cold else 1),
                "cpu_user_s": wall * count * 0.02,
                "cpu_system_s": wall * count * 0.95,
                "flags": ["aa"] * again + ["cold_memory"] * is_cold + ["steal"] * (round_ == 3),
                "chunk_size": size_bytes if baseline else size_bytes // (4 * count),
                "n_chunks": 1 if baseline else 4 * count,
            }


PASSES = 5


def make_records(truths=TRUTHS, sizes=(4 * MIB, 64 * MIB, GIB), *, passes=PASSES, seed=7, **options):
    """Return the records of processes that differ by as much as the repetitions within one."""
    rng = np.random.default_rng(seed)
    parts = [one_pass(truths, sizes, rng, **options).assign(**{"pass": k}) for k in range(1, passes + 1)]
    return pd.concat(parts, ignore_index=True)


def one_pass(truths, sizes, rng, *, n=7, noise=0.01, aa=True, cold=()):
    parts = []
    for truth in truths:
        for size_bytes in sizes:
            rows = rows_of_cell(
                truth,
                size_bytes,
                rng,
                n=n,
                threads=sorted(truth.scaling),
                noise=noise,
                aa=aa and size_bytes == max(sizes),
                cold=cold,
            )
            parts.append(
                pd.DataFrame(rows).assign(
                    run_id="run",
                    host_id="host",
                    boot_id="boot",
                    cell_id=f"{truth.workload}-{truth.method}-{truth.page_kind}-{size_bytes}",
                    workload=truth.workload,
                    backend=truth.backend,
                    method=truth.method,
                    page_kind=truth.page_kind,
                    page_size_bytes=PAGE_BYTES[truth.page_kind],
                    size_bytes=size_bytes,
                    unit=truth.unit,
                    operations=size_bytes // (4096 if truth.unit == "PTE" else 1),
                    policy="ktask-v4",
                    options="",
                    min_chunk_size=2 * MIB,
                    faults_minor=0,
                    ctx_involuntary=1,
                    steal_s=0.0,
                    verified=True,
                    started_at=pd.Timestamp("2025-03-01T12:00:00Z"),
                )
            )
    return pd.concat(parts, ignore_index=True)


def machine_facts(**changes):
    return {
        "caches": [{"level": 1, "type": "Data", "size_bytes": 49152, "cpus_sharing": 1, "count": 2}],
        "python_version": "3.11.7",
        "host_name": "testhost",
        "cpu_model": "Test CPU 3000",
        "sockets": 1,
        "cores": 2,
        "threads": 2,
        "smt": False,
        "kernel_release": "6.18.0",
        "memory_total_bytes": 24 * GIB,
        "virtualised": True,
        "hypervisor": "KVM",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "lock_sha256": "ab" * 32,
        **changes,
    }


def skipped(*rows):
    """Return skipped cases; each is (workload, backend, method, page kind, size in bytes, reason)."""
    cells = [{"cell_id": f"skipped-{i}", "failed": False, "options": "", "pass": 1} for i in range(len(rows))]
    named = [
        dict(zip(SKIPPED_COLUMNS[1:7], row, strict=True)) | cell
        for row, cell in zip(rows, cells, strict=True)
    ]
    return pd.DataFrame(named, columns=SKIPPED_COLUMNS)


NO_POOL = ("zeroing", "kernel", "populate", "1GiB", GIB, "no free 1 GiB pages in the hugetlb pool")


def make_run(records=None, *, skips=(NO_POOL,), **facts):
    if records is None:
        records = make_records()
    grid = {
        "name": "quick",
        "about": "synthetic",
        "seed": 20250301,
        "threads": [1, 2],
        "protocol": {"least": 7, "most": 25, "budget_s": 1.0, "precision": 0.01, "warmup_s": 6.0, "seed": 1},
        "cells": [],
    }
    return Run("sample", Path("data/runs/sample"), records, machine_facts(**facts), grid, skipped(*skips))


def write_run(run, directory):
    """Write a run directory in the format of a sweep: one Parquet file per process."""
    (directory / "records").mkdir(parents=True)
    for (cell, number), part in run.records.groupby(["cell_id", "pass"]):
        part.to_parquet(directory / "records" / f"{cell}.pass{number}.parquet", index=False)
    (directory / "machine.json").write_text(json.dumps(run.machine))
    (directory / "grid.yaml").write_text(yaml.safe_dump(run.grid))
    (directory / "skipped").mkdir()
    for row in run.skipped.to_dict("records"):
        (directory / "skipped" / f"{row['cell_id']}.json").write_text(json.dumps(row))
    return directory


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.fixture(scope="module")
def scaling(run):
    return tables.scaling_table(run)


def one_path(scaling_by_threads, *, n=7, noise=0.002, sizes=(64 * MIB, GIB), overhead_s=0.0, **options):
    truth = Truth("free", "kernel", "dontneed", "4KiB", 10 * GIB, scaling_by_threads, overhead_s)
    return make_run(make_records([truth], sizes, n=n, noise=noise, **options), skips=())


def scaled(run):
    return tables.scaling_table(run)


def evidence_of(run):
    return bottlenecks.bottleneck_table(tables.scaling_table(run))


def advice_on(run):
    """Return the advice on the paths of a run, and what was skipped."""
    return advice.recommendation_table(tables.scaling_table(run), run.skipped, tables.chunk_table(run))


def joined(*runs):
    return make_run(pd.concat([one.records for one in runs], ignore_index=True), skips=())


def pick(table, **wanted):
    rows = table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0]


def page_text(report):
    """Return everything that the notebook would show, as one string."""
    pieces = """title first_screen side_by_side results costs recommendations reproduction larger_machines
        questions design machine_state reproduce workloads all_numbers all_facts checks more_evidence
        footer"""
    return "".join(str(getattr(report, name)().body) for name in pieces.split())


# --- tables --------------------------------------------------------------------------------------------


def test_scaling_without_noise_is_exact():
    table = scaled(one_path({2: 1.6, 4: 2.5}, noise=0))
    row = pick(table, threads=4, size_bytes=GIB)
    assert row.wall == pytest.approx(0.1 / 2.5)
    assert row.base_wall == pytest.approx(0.1)
    assert row.rate == pytest.approx(25 * GIB)
    assert row.bandwidth == pytest.approx(25 * GIB)
    assert [row.speedup, row.speedup_low, row.speedup_high] == pytest.approx([2.5] * 3)
    assert row.efficiency == pytest.approx(2.5 / 4)
    assert row.cpu_cost == pytest.approx(4 / 2.5)
    assert row.busy == pytest.approx(0.97)
    assert row.verdict == "faster"
    assert len(table) == 2 * 3


def test_scaling_is_the_mean_over_processes_of_the_ratio_of_medians(run, scaling):
    rows = run.records[
        (run.records.method == "munmap") & (run.records.size_bytes == GIB) & ~run.records.warmup
    ]
    again = rows["flags"].map(lambda flags: "aa" in flags)
    serial = rows[rows.baseline & ~again].groupby("pass").wall_s.median()
    threads = rows[~rows.baseline].groupby("pass").wall_s.median()
    row = pick(scaling, method="munmap", size_bytes=GIB, threads=2)
    assert row.speedup == pytest.approx(np.exp(np.log(serial / threads).mean()))
    assert row.spread == pytest.approx(np.log(threads).std(ddof=1))
    assert (row.processes, row.boots) == (PASSES, 1)
    assert row.speedup_low < row.speedup < row.speedup_high < 1
    assert row.verdict == "slower"


def test_true_speedups_are_found(scaling):
    rows = scaling[(scaling.threads == 2) & (scaling.size_bytes == GIB)]
    truth = {(t.method, t.page_kind): t.wall_s(GIB, 0) / t.wall_s(GIB, 2) for t in TRUTHS}
    for _, row in rows.iterrows():
        assert row.speedup == pytest.approx(truth[row.method, row.page_kind], rel=0.03)


def test_cold_repetitions_are_counted_and_enter_no_rate():
    cold, warm = (scaled(one_path({2: 1.6}, noise=0, cold=rounds)) for rounds in ((1, 4), ()))
    one, other = pick(cold, threads=2, size_bytes=GIB), pick(warm, threads=2, size_bytes=GIB)
    assert (one.n, one.n_cold, other.n_cold) == (5 * PASSES, 2 * PASSES, 0)
    assert one.wall == one.wall_high == pytest.approx(other.wall)


def test_warm_ups_enter_nothing():
    run = one_path({2: 1.6}, noise=0)
    run.records.loc[run.records.warmup, "wall_s"] = 1e6
    assert scaled(run).wall_high.max() < 1
    assert len(tables.repetitions(run)) == (~run.records.warmup).sum()


def test_other_flags_stay_in(scaling):
    row = pick(scaling, method="munmap", size_bytes=GIB, threads=2)
    assert (row.n, row.n_flagged) == (7 * PASSES, PASSES)


def test_the_second_baseline_is_only_a_check():
    run = one_path({2: 1.6}, noise=0)
    again = tables.has_flag(run.records["flags"], "aa")
    run.records.loc[again, "wall_s"] *= 1.1
    assert pick(scaled(run), threads=2, size_bytes=GIB).base_wall == pytest.approx(0.1)
    row = tables.aa_table(run).iloc[0]
    assert row.ratio == pytest.approx(1 / 1.1)
    assert (row.unequal, row.processes) == (True, PASSES)
    caption = words.aa_caption(tables.aa_table(run))
    assert (
        "1 of 1 interval excludes 1 (chance alone: about 1 in 20): free dontneed (4 KiB), 1 GiB." in caption
    )
    assert "no verdict rests on it" in caption


def test_one_process_decides_nothing():
    run = one_path({2: 1.6}, passes=1)
    row = pick(scaled(run), threads=2, size_bytes=GIB)
    assert 1.5 < row.speedup_low < row.speedup_high < 1.7
    assert (row.verdict, row.processes) == ("undecided", 1)
    assert np.isnan(row.spread)


def test_processes_that_differ_widen_the_interval():
    run = one_path({2: 1.2}, noise=0)
    assert pick(scaled(run), threads=2, size_bytes=GIB).verdict == "faster"
    slow = ~run.records.baseline & (run.records["pass"] == 2)
    run.records.loc[slow, "wall_s"] *= 1.6
    row = pick(scaled(run), threads=2, size_bytes=GIB)
    assert row.speedup_low < 1 < row.speedup_high
    assert (row.verdict, row.n) == ("undecided", 7 * PASSES)
    assert row.spread == pytest.approx(np.log(1.6) / np.sqrt(PASSES))


def test_boots_that_differ_widen_it_further():
    run = one_path({2: 1.2}, passes=6, noise=0.001)
    once = pick(scaled(run), threads=2, size_bytes=GIB)
    run.records["boot_id"] = np.where(run.records["pass"] <= 3, "first", "second")
    same = pick(scaled(run), threads=2, size_bytes=GIB)
    run.records.loc[~run.records.baseline & (run.records["boot_id"] == "second"), "wall_s"] *= 1.1
    row = pick(scaled(run), threads=2, size_bytes=GIB)
    assert (once.boots, same.boots, row.verdict, once.verdict) == (1, 2, "undecided", "faster")
    assert row.speedup_high - row.speedup_low > 0.3 > same.speedup_high - same.speedup_low


def test_a_speedup_of_one_is_the_same():
    assert pick(scaled(one_path({2: 1.0})), threads=2, size_bytes=GIB).verdict == "same"


def test_the_best_serial_method_is_the_other_base(scaling):
    memset = pick(scaling, method="memset", size_bytes=GIB, threads=2)
    best = pick(scaling, method="nontemporal", size_bytes=GIB, threads=1)
    assert memset.vs_best == pytest.approx(best.wall / memset.wall)
    assert memset.vs_best_high < 1 < memset.speedup_low
    said = gains.finding(scaling[scaling.workload == "zeroing"])
    assert "Another method is faster on one thread: against it, threads reach 0." in said
    assert " with memset (4 KiB)." in said


def test_policies_are_compared_with_their_own_cells():
    first, second = one_path({2: 1.9}, noise=0).records, one_path({2: 1.2}, noise=0).records
    second = second.assign(policy="padata-cur", cell_id=second.cell_id + "-padata", wall_s=second.wall_s * 3)
    table = scaled(make_run(pd.concat([first, second], ignore_index=True)))
    row = pick(table, policy="padata-cur", threads=2, size_bytes=GIB)
    assert row.speedup == pytest.approx(1.2)
    assert words.path_label(row) == "dontneed (4 KiB, padata-cur)"


def test_crossover_is_the_smallest_size_of_an_unbroken_win():
    # 0.5 ms for the helpers: 1 MiB takes 0.1 ms alone, 16 MiB 1.6 ms.
    run = one_path({2: 2.0}, sizes=(MIB, 4 * MIB, 16 * MIB, GIB), overhead_s=5e-4)
    row = tables.crossover_table(scaled(run)).iloc[0]
    assert row.from_size_bytes == 16 * MIB
    assert row.slower_sizes == [MIB, 4 * MIB]
    assert row.faster_sizes == [16 * MIB, GIB]
    assert row.smallest_bytes == MIB
    assert row.price == pytest.approx(5e-4, rel=0.02)
    assert row.price_low < 5e-4 < row.price_high


@pytest.mark.parametrize(
    ("verdicts", "start"),
    [("ffff", 1.0), ("sfff", 2.0), ("fsff", 3.0), ("fffs", np.nan), ("ssss", np.nan), ("fuuf", 4.0)],
)
def test_wins_have_to_reach_the_largest_size(verdicts, start):
    names = {"f": "faster", "s": "slower", "u": "undecided"}
    judged = pd.DataFrame({"verdict": [names[one] for one in verdicts], "size_bytes": [1, 2, 3, 4]})
    assert tables._wins_from(judged) == pytest.approx(start, nan_ok=True)


@pytest.mark.parametrize(
    ("make", "outcome", "text"),
    [
        (lambda: one_path({2: 1.6}), "threads", "yes: 1."),
        (lambda: one_path({2: 0.7}), "slower", "no: slower than the serial call ("),
        (lambda: one_path({2: 1.0}), "same", "no: as fast as the serial call ("),
        (lambda: one_path({2: 1.0}, noise=0.05), "undecided", "undecided ("),
        (lambda: one_path({}), "single", "undecided: no thread count above one"),
        (lambda: one_path({2: 1.6}, passes=1), "undecided", "undecided (1.5"),
        (lambda: one_path({2: 1.6}, n=2, cold=(0, 1)), "cold", "undecided: no warm repetition"),
    ],
)
def test_advice_and_reason(make, outcome, text):
    run = make()
    row = advice_on(run).iloc[0]
    assert row.outcome == outcome
    assert advice.reason(row, run.skipped).startswith(text)


def test_advice_against_wins_that_do_not_last():
    run = joined(one_path({2: 1.6}, sizes=[MIB]), one_path({2: 0.9}, sizes=[GIB]))
    assert advice_on(run).outcome.tolist() == ["mixed"]


def test_losses_at_other_sizes_are_reported():
    run = joined(one_path({2: 0.6}, sizes=[MIB]), one_path({2: 1.0}, noise=0.05, sizes=[GIB]))
    row = advice_on(run).iloc[0]
    assert row.outcome == "undecided"
    assert advice.reason(row, run.skipped).endswith("with 2 threads, 1 GiB); slower at 1 MiB")


def test_there_is_no_advice_while_the_largest_size_is_undecided():
    run = joined(one_path({2: 1.6}, sizes=[MIB]), one_path({2: 1.2}, passes=1, sizes=[GIB]))
    found = advice_on(run)
    assert (found.outcome[0], found.size_bytes[0]) == ("undecided", GIB)
    assert advice.reason(found.iloc[0], run.skipped).endswith("1 GiB); faster at 1 MiB")
    assert advice._threads(found.iloc[0]) == "undecided"
    assert advice.in_short(found) == "No advice: no path is decided."
    assert advice.headline(found).endswith("1 path is undecided: no advice.")


def test_an_undecided_size_in_between_is_said():
    parts = [one_path({2: 1.6}, sizes=[MIB]), one_path({2: 1.05}, noise=0.06, sizes=[64 * MIB])]
    run = joined(*parts, one_path({2: 1.6}, sizes=[GIB]))
    row = advice_on(run).iloc[0]
    assert (row.outcome, row.from_size_bytes) == ("threads", GIB)
    assert advice.reason(row, run.skipped).endswith("at 1 GiB; undecided at 64 MiB")


def test_the_decided_thread_count_is_advised_though_another_is_undecided():
    run = one_path({2: 1.6, 4: 1.7}, noise=0.002)
    wild = (run.records.threads == 4) & (run.records["pass"] == 2)
    run.records.loc[wild, "wall_s"] *= 8
    row = advice_on(run).iloc[0]
    assert (row.outcome, row.threads) == ("threads", 2)


def test_skipped_paths_are_advised_about_with_their_reason(run, scaling):
    found = advice.recommendation_table(scaling, run.skipped)
    row = pick(found, page_kind="1GiB")
    assert row.outcome == "skipped"
    assert advice.reason(row, run.skipped) == f"not measured: {NO_POOL[-1]}"


def test_the_fewest_threads_that_are_as_good_as_the_best_are_advised():
    run = one_path({2: 1.9, 4: 3.0, 8: 3.01, 16: 2.0}, noise=0.01)
    found = advice_on(run).iloc[0]
    assert found.threads == 4
    text = gains.finding(scaled(run))
    worse = r"More threads make it worse again: dontneed \(4 KiB\) to (1.9\d|2.0\d) \[[\d., ]+\] with 16\."
    assert re.search(worse, text)


@pytest.mark.parametrize(("cpu_share", "expected"), [(1.0, "busy"), (0.5, "waiting")])
def test_the_bottleneck_is_found_from_cpu_time(cpu_share, expected):
    run = one_path({2: 1.2})
    run.records.loc[~run.records.baseline, ["cpu_user_s", "cpu_system_s"]] *= cpu_share
    assert evidence_of(run).bottleneck.tolist() == [expected]


def test_spinning_and_sleeping_are_distinguished():
    run = one_path({2: 0.95})
    run.records.loc[~run.records.baseline, ["cpu_user_s", "cpu_system_s"]] *= 0.83
    row = evidence_of(run).iloc[0]
    assert (row.busy, row.cpu_cost) == (pytest.approx(0.8, abs=0.02), pytest.approx(1.75, abs=0.05))
    assert row.bottleneck == "busy"  # 34 % of the thread time is more CPU time, 20 % were spent off the CPU


def test_the_roof_is_the_highest_user_space_rate(scaling):
    roof = bottlenecks.memory_roof(scaling)
    assert roof.label == "nontemporal, 2 threads"
    assert roof.bytes_per_s == pick(scaling, method="nontemporal", size_bytes=GIB, threads=2).bandwidth
    assert bottlenecks.memory_roof(scaling[scaling.backend == "kernel"]) is None


def test_flags_are_counted(run):
    counted = tables.flags_table(run).set_index("workload")
    assert counted.loc["free", ["flag", "repetitions", "of"]].tolist() == ["steal", 14 * PASSES, 98 * PASSES]


def test_tables_are_in_reading_order(scaling):
    assert list(dict.fromkeys(scaling.workload)) == ["zeroing", "page_walk", "free"]
    zeroing = scaling[(scaling.workload == "zeroing") & (scaling.method == "populate")]
    assert list(dict.fromkeys(zeroing.page_kind)) == ["4KiB", "THP", "2MiB"]


# --- figures -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(run):
    return Report([run])


def test_a_run_has_all_its_figures(report):
    names = ("zeroing", "page-walk", "free")
    shown = ["headline", *(f"speedup-{name}" for name in names), "published"]
    folded = [f"distribution-{name}" for name in names] + ["noise", "crossover"]
    assert list(report.figures) == [*shown, *folded]
    numbers = [figure.number for figure in report.figures.values()]
    assert numbers == [*map(str, range(1, len(shown) + 1)), *(f"S{i}" for i in range(1, len(folded) + 1))]


def test_figures_are_drawn_where_the_second_process_was_killed(report):
    class Killed(Executor):
        def submit(self, *_):
            found = Future()
            found.set_exception(BrokenExecutor())
            return found

    todo = [lambda one=one: one for one in (*report.figures.values(), None)]
    drawn = two_processes.drawn(todo, Killed())
    assert [one.key for one in drawn] == list(report.figures)
    assert [one.svg for one in drawn] == [one.svg for one in report.figures.values()]


def test_the_roof_stands_in_the_scaling_figure_where_it_is_in_sight(report):
    caption, svg = (getattr(report.figures["speedup-zeroing"], name) for name in ("caption", "svg"))
    assert re.search(r"The memory roof, [\d.]+ GiB/s, is the highest rate of user-space stores", caption)
    assert svg.count("memory roof") == 1  # in the legend
    assert "memory roof" not in report.figures["speedup-free"].svg + report.figures["speedup-free"].caption


def test_drawings_are_text_in_the_colour_of_the_page(report):
    for figure in report.figures.values():
        assert "<text" in figure.svg
        assert "currentColor" in figure.svg
        assert drawing.INK not in figure.svg
        assert "<metadata" not in figure.svg
        assert f'aria-label="{figure.alt}"' in figure.svg.replace("&#39;", "'")


def test_identifiers_of_drawings_do_not_clash(report):
    found = Counter(
        key for figure in report.figures.values() for key in re.findall(r'\bid="([^"]+)"', figure.svg)
    )
    assert found.most_common(1)[0][1] == 1
    used = {
        key
        for figure in report.figures.values()
        for key in re.findall(r'(?:href="#|url\(#)([^")]+)', figure.svg)
    }
    assert used <= set(found)


def test_captions_state_interval_and_n(report):
    for key, figure in report.figures.items():
        assert len(figure.alt) > 40
        if key.split("-")[0] not in ("distribution", "published"):
            assert "95 %" in figure.caption
            assert f"5 processes, n = {7 * PASSES}" in figure.caption


def test_captions_of_one_process_say_that_they_do_not_hold_for_the_next():
    drawn = Report([one_path({2: 1.6}, passes=1)]).figures
    for key in ("noise", "speedup-free", "crossover"):
        assert "inside one process, which does not hold for the next; 1 process, n = 7" in drawn[key].caption


def test_data_come_along_as_csv(report):
    figure = report.figures["speedup-free"]
    text = base64.b64decode(figure.csv_uri.partition(",")[2]).decode()
    read = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert np.allclose(read.speedup, figure.data.speedup)
    assert read.method.tolist() == [name for name in ("dontneed", "munmap") for _ in range(6)]


def test_drawing_leaves_no_trace(run, scaling):
    before = dict(mpl.rcParams)
    first, second = (figures.crossover_figure(scaling, "crossover") for _ in range(2))
    assert first.svg == second.svg
    assert dict(mpl.rcParams) == before


def test_names_are_no_formulas():
    run = one_path({2: 1.6})
    run.records["method"] = "$x^2$"
    drawn = gains_figure.gains_figure(scaled(run), evidence_of(run), "free", "speedup-free")
    assert "$x^2$ (4 KiB)" in drawn.svg


def test_rates_count_operations_where_they_are_alike(scaling):
    found = gains_figure.gains_data(scaling, "page_walk")
    assert set(found.unit) == {"PTE"}
    serial = found[found.threads == 1]
    assert np.allclose(serial.ideal, serial.rate)
    mixed = gains_figure.gains_data(scaling.assign(operations=np.arange(len(scaling)) + 1.0), "page_walk")
    assert set(mixed.unit) == {"byte"}
    assert np.allclose(mixed.ideal[mixed.threads == 2], 2 * mixed.rate[mixed.threads == 1])


def test_paths_with_rates_far_apart_get_axes_of_their_own(report):
    assert "axis of its own" not in report.figures["speedup-free"].caption
    records = make_records([one for one in TRUTHS if one.workload == "free"])
    records.loc[records.method == "munmap", "wall_s"] *= 100
    run = make_run(records)
    far = gains_figure.gains_figure(scaled(run), evidence_of(run), "free", "speedup-free")
    assert "axis of its own" in far.caption


def test_every_size_and_its_speedup_stands_beside_its_bars(report):
    svg = report.figures["speedup-free"].svg
    several = report.figures["speedup-free"].data.query("threads == 2")
    assert set(several.size_bytes) == {4 * MIB, 64 * MIB, GIB}
    for _, row in several.iterrows():
        assert f"{fmt_number(row.speedup)}×{' slower' if row.verdict == 'slower' else ''}<" in svg


def test_several_thread_counts_are_curves():
    run = one_path({2: 1.9, 4: 3.5, 8: 3.0})
    figure = gains_figure.gains_figure(scaled(run), evidence_of(run), "free", "speedup-free")
    assert "Curves: " in figure.caption
    assert "ideal, largest size" in figure.svg
    assert figure.data.query("panel == 'rate'").threads.nunique() == 4


def test_cold_repetitions_are_drawn():
    run = one_path({2: 1.6}, cold=(1,))
    figure = figures.distribution_figure(run, "free", "distribution-free")
    assert figure.data.cold.sum() == PASSES
    assert "cold memory" in figure.svg
    assert f"Cold, crossed and in no rate: {PASSES} of {21 * PASSES}." in figure.caption


def test_two_states_are_reported_below_the_figure():
    run = one_path({2: 1.6}, n=12)
    slow = ~run.records.baseline & (run.records["round"] % 2 == 0)
    run.records.loc[slow, "wall_s"] *= 2
    caption = figures.distribution_figure(run, "free", "d").caption
    assert "dontneed (4 KiB) with 2 threads: two states: " in caption
    still = figures.distribution_figure(one_path({2: 1.6}, n=12), "free", "d").caption
    assert "No sample has two states or a trend." in still


# --- what medians hide ---------------------------------------------------------------------------------


def test_states_of_every_size_are_shown():
    run = one_path({2: 1.6}, n=30)
    rows = run.records
    small = (rows.size_bytes == rows.size_bytes.min()) & ~rows.baseline
    assert states.states_table(run).empty
    assert "None of 4 samples has two states or a trend." in states.states_section(Study(run))
    rows.loc[small & (rows["round"] % 3 == 0), "wall_s"] *= 1.5
    found = states.states_table(run)
    assert found.size_bytes.tolist() == [rows.size_bytes.min()]
    assert found.two_states[0].slow_share == pytest.approx(1 / 3)
    assert (found.factor[0], found.n[0]) == (pytest.approx(1.5, rel=0.02), 150)
    said = states.states_section(Study(run))
    assert "1 have two states, 0 drift over" in said
    assert "(67 %)" in said
    assert "(33 %)" in said
    assert "within a process" in said
    assert "Settling</th>" not in said
    assert said in Report([run]).checks().body


def test_states_of_processes_are_shown_and_drawn():
    run = one_path({2: 1.6}, n=6)
    rows = run.records
    slow = rows.baseline & (rows.size_bytes == GIB) & rows["pass"].isin([2, 4])
    rows.loc[slow, "wall_s"] *= 1.35
    study = Study(run)
    assert "between processes" in states.states_section(study)
    figure = states.states_figure(run, study.states, "states")
    assert "two states (each process in one)" in figure.caption
    assert "60 in 5 processes. Dotted: the two states." in figure.caption
    assert figure.data.groupby("process").size().tolist() == [12] * 5  # both serial calls of six rounds
    assert set(figure.data["size_bytes"]) == {GIB}
    assert Report([run]).figures["states"].number


def test_a_speedup_is_given_with_and_without_cold_repetitions():
    assert states.cold_section(Study(one_path({2: 1.6}))) == ""
    run = one_path({2: 1.6}, n=9, cold=(1, 2))  # 8 times as long, with threads only
    (row,) = states.cold_table(run).query("size_bytes == @GIB").to_dict("records")
    assert (row["cold_base"], row["cold"], row["n"]) == (0, 10, 45)  # of five processes
    assert row["without"].median == pytest.approx(1.6, rel=0.02)
    assert row["all"].median == pytest.approx(1.6, rel=0.02)
    assert row["means"] == pytest.approx(1.6 * 9 / (7 + 2 * 8), rel=0.02)
    said = states.cold_section(Study(run))
    assert "10 of 45" in said
    assert said in Report([run]).checks().body


# --- words ---------------------------------------------------------------------------------------------


def test_noise_above_the_effect_is_no_gain():
    table = scaled(one_path({2: 1.1}, noise=0.3, n=9))
    assert set(table.verdict) == {"baseline", "undecided"}
    text = gains.finding(table)
    assert text.count("dontneed (4 KiB)") == 1
    assert "With 2 threads, dontneed (4 KiB) is undecided: 0.9" in text
    assert "faster" not in text


def test_without_verdicts_nothing_is_called_no_slower():
    caption = Report([one_path({2: 1.6}, passes=1)]).figures["crossover"].caption
    assert caption.startswith("All 2 points are undecided.")
    assert "do threads make" not in caption


def test_one_cpu_says_nothing_about_more_threads():
    run = one_path({})
    report = Report([run])
    text = page_text(report)
    assert list(report.figures) == ["speedup-free", "distribution-free", "noise"]
    assert "more were not measured" in text
    assert "Only one thread was measured: this says nothing about splitting." in text
    assert "No thread count above one was measured, so there is no crossover." in text
    assert "Nothing was measured with several threads, so there is nothing to compare." in text
    assert "No published times" not in text
    assert "Only one thread was measured." in report.figures["speedup-free"].caption
    assert "faster than the serial call" not in text


def test_a_run_where_everything_was_skipped():
    run = make_run(make_records().iloc[:0])
    report = Report([run])
    text = page_text(report)
    assert not report.figures
    assert "Nothing was measured with several threads, so there is nothing to compare." in text
    assert "Nothing was measured: 1 case skipped, with the reason in appendix B." in text
    assert NO_POOL[-1] in text
    assert "times as fast" not in text


def test_all_cold_run_reports_no_rate():
    text = page_text(Report([one_path({2: 1.6}, n=2, cold=(0, 1))]))
    assert "undecided: no warm repetition" in text


def test_cpu_time_of_other_processes_is_not_taken_for_that_of_the_work():
    run = one_path({2: 1.6})
    run.records[["cpu_user_s", "cpu_system_s"]] *= 0.01
    row = pick(scaled(run), size_bytes=GIB, threads=2)
    assert np.isnan(row.cpu_cost)
    assert np.isnan(row.busy)
    assert evidence_of(run).bottleneck.tolist() == ["unknown"]


def test_what_is_too_short_has_no_cpu_time_of_its_own():
    run = one_path({2: 1.6})
    times = ["wall_s", "cpu_user_s", "cpu_system_s"]
    largest = run.records[(run.records["size_bytes"] == GIB) & (run.records["threads"] == 2)]
    run.records[times] *= 2 * tables.NO_CPU_TIME_BELOW_S / largest["wall_s"].median()
    row = pick(scaled(run), size_bytes=GIB, threads=2)
    assert row.cpu_cost > 0 and row.busy > 0
    run.records[times] *= 0.2
    row = pick(scaled(run), size_bytes=GIB, threads=2)
    assert np.isnan(row.cpu_cost) and np.isnan(row.busy)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<p>96 % of 1 GiB in 12 ms, 79%</p>", "<p>96_% of 1_GiB in 12_ms, 79_%</p>"),
        ("<td>1.9 [1.8, 2.0] GiB/s</td>", "<td>1.9 [1.8, 2.0]_GiB/s</td>"),
        ('<i style="width: 9%">4 sizes</i>', '<i style="width: 9%">4 sizes</i>'),
        ("<style>a { top: 9% }</style><code>1 ms</code>", "<style>a { top: 9% }</style><code>1 ms</code>"),
    ],
)
def test_numbers_and_units_stay_together(before, after):
    assert page.with_hard_spaces(before) == after.replace("_", "\u00a0")


@pytest.mark.parametrize(
    ("parts", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_read_like_sentences(parts, text):
    assert words.listed(parts) == text


# --- machine -------------------------------------------------------------------------------------------


def test_odd_facts_cost_their_line_only():
    odd = {"cpu_model": "X", "caches": 3, "nodes": [{}], "memory_total_bytes": "many", "mitigations": None}
    described = dict(machine.describe(odd))
    assert described["Processor"] == "X"
    assert {described[name] for name in ("Caches", "NUMA nodes", "Memory", "Mitigations")} == {"not known"}
    assert machine.scope({}) == "CPU of unknown model, not known"


def test_a_node_without_cpus_or_without_memory_is_a_node():
    nodes = [
        {"nid": 0, "cpus": [0, 1], "memory_bytes": 3 * GIB},
        {"nid": 2, "memory_bytes": 64 * GIB},  # CXL or HBM
        {"nid": 3, "cpus": [2], "memory_bytes": 0},
    ]
    assert dict(machine.describe({"nodes": nodes}))["NUMA nodes"] == (
        "node 0: 2 CPUs, 3.00 GiB; node 2: no CPUs, 64.0 GiB; node 3: 1 CPU, no memory"
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"page_reporting": True, "balloon": False}, "no"),  # the module is there, a balloon is not
        ({"page_reporting": True, "balloon": True}, "yes, free pages are reported to the host"),
        (
            {"page_reporting": True, "balloon": True, "balloon_reports_free_pages": False},
            "it can, by a balloon; free pages are not reported",
        ),
        ({"page_reporting": True}, "not known"),
    ],
)
def test_a_host_takes_memory_by_a_balloon_not_by_a_module(facts, text):
    assert dict(machine.describe(facts))["Host takes free memory"] == text


def test_the_processor_is_named_with_family_model_and_stepping():
    intel = {"cpu_model": "Virtual", "cpu_family": 6, "cpu_model_number": 60, "cpu_stepping": 4}
    assert dict(machine.describe(intel))["Processor"] == "Virtual, family 6, model 60, stepping 4"
    arm = {"cpu_model": "Neoverse-N1", "cpu_part": "0xd0c", "cpu_revision": "r3p1"}
    assert dict(machine.describe(arm))["Processor"] == "Neoverse-N1, part 0xd0c, revision r3p1"


def test_nested_facts_are_listed_by_name():
    facts = machine.other_facts({"b": {"x": 1}, "a": [1, 2], "c": [{"y": 2}], "doctor": [{"name": "n"}]})
    assert facts == [("a", "1, 2"), ("b.x", "1"), ("c.0.y", "2")]


def test_findings_come_worst_first_with_a_mark_in_words():
    findings = [
        {"name": "clock", "level": "ok", "value": "tsc", "means": "fine", "remedy": ""},
        {"name": "thp", "level": "blocker", "value": "never", "means": "None.", "remedy": "Run `echo 1`."},
    ]
    text = str(Report([make_run(doctor=findings)]).all_facts().body)
    assert text.index("✗ blocker") < text.index("✓ ok")
    assert '<span class="bad">✗ blocker</span>' in text
    assert "Run <code>echo 1</code>." in text
    severe = str(Report([make_run(doctor=findings)]).machine_state().body)
    assert "1 of 2 findings would or may disturb" in severe
    assert "✓ ok" not in severe


# --- the page ------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collects what the checks ask about."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.loads, self.links = Counter(), Counter(), [], []
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags[tag] += 1
        self.elements.append((tag, known))
        if "id" in known:
            self.ids[known["id"]] += 1
        self.loads += [known[name] for name in ("src", "srcset", "data", "poster", "action") if name in known]
        if tag == "a":
            self.links.append(known["href"])
        elif "href" in known and not known["href"].startswith("#"):
            self.loads.append(known["href"])

    handle_startendtag = handle_starttag


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    records = make_records(FEW, n=7)
    records.loc[records.method == "munmap", "method"] = "a$b$" + EVIL
    evil = ("zeroing", "kernel", EVIL, "1GiB", GIB, EVIL)
    return write_run(
        make_run(records, skips=(NO_POOL, evil), host_name=EVIL), tmp_path_factory.mktemp("r") / "sample"
    )


@pytest.fixture(scope="module")
def html_path(run_path, tmp_path_factory):
    return write_report([run_path], tmp_path_factory.mktemp("out") / "deep" / "report.html")


@pytest.fixture(scope="module")
def html(html_path):
    return html_path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(html):
    return Page(html)


def test_the_page_loads_nothing(html, parsed):
    assert [one for one in parsed.loads if not one.startswith("data:")] == []
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", html)
    assert not {"iframe", "link", "object", "embed", "img"} & set(parsed.tags)
    assert len(html) < 5_000_000


def test_a_browser_is_asked_to_run_nothing_but_the_script_of_the_page(parsed):
    """The browser tests try it; here the page is one with text from a hostile run."""
    (policy,) = (
        known["content"] for tag, known in parsed.elements if tag == "meta" and "http-equiv" in known
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules["script-src"])
    assert [known for tag, known in parsed.elements if tag == "script"] == [{}]


def test_the_page_can_be_read_by_machines(html, parsed):
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert (parsed.tags["h1"], parsed.tags["main"]) == (1, 1)
    assert html[: html.index("<body")].count("<title>") == 1
    assert parsed.tags["caption"] == parsed.tags["table"] > 10
    assert all(known.get("scope") in ("col", "row") for tag, known in parsed.elements if tag == "th")
    assert [key for key, times in parsed.ids.items() if times > 1] == []


def test_every_figure_is_there_with_words(html, parsed):
    drawings = [known for tag, known in parsed.elements if tag == "svg"]
    assert len(drawings) == parsed.tags["figure"] == parsed.tags["figcaption"] == 10
    assert all(known["role"] == "img" and len(known["aria-label"]) > 40 for known in drawings)
    assert "No description has been provided" not in html


def test_links_inside_the_page_lead_somewhere(parsed):
    inside = [link[1:] for link in parsed.links if link.startswith("#")]
    assert len(inside) > 20
    assert set(inside) <= set(parsed.ids)
    assert all(re.match("#|data:text/csv|https://github.com/", link) for link in parsed.links)


def test_the_first_screen_has_answer_figure_claims_advice_and_caveat(html):
    head = html[html.index('class="first-screen"') : html.index("</section>")]
    assert head.index("Mostly yes: 3 of 4 kernel paths are faster with 2\u00a0threads") < head.index(
        "<figure"
    )
    assert head.count("<figure") == 1
    assert head.count("<li>") == 3
    assert "narrows it" not in head
    assert head.index("<b>Use.</b> 2\u00a0threads") < head.index("<b>Caveat.</b>")
    assert 'href="#advice"' in head


def test_sections_are_numbered_and_listed(html):
    listed = re.search("<nav.*?</nav>", html, re.DOTALL)[0]
    titles = [re.sub("<[^>]+>", "", one) for one in re.findall("<h2.*?</h2>", html)]
    assert [title.split()[0] for title in titles] == [*map(str, range(1, 10)), *"ABCDEF"]
    assert all(title in listed for title in titles)
    assert '<h3 id="results-free">1.3 Free</h3>' in html


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("A", "no program gains as much as the path inside it"),
        ("A", "zeroing memory that is already resident are different measurements and are never mixed"),
        ("7", "All threads are released together, and the clock stops with the last of them"),
        ("7", "a speedup is the ratio of two medians, never a mean of ratios"),
        ("7", "from seed 20250301"),
        ("1", "Helpers inside the kernel would differ in two ways"),
        ("5", "What more threads than were measured would do"),
        ("2", "No neighbour probed in this run"),
        ("6", "How many threads?"),
        *(("8", f"{kind}: ") for kind in ("Internal", "Construct", "External", "Statistical")),
        *(("9", title) for title in ("Requirements", "Smoke run", "Full run", "Expected variation")),
        ("B", "no free 1\u00a0GiB pages in the hugetlb pool"),
        ("F", "Speedup stack"),
    ],
)
def test_what_a_reviewer_looks_for_is_said_where_it_belongs(html, section, said):
    parts = [re.sub(r"\s+", " ", re.sub("<[^>]*>", "", f"<h2{one}")) for one in html.split("<h2")[1:]]
    (text,) = [one for one in parts if one.startswith(f"{section} ")]
    assert said.replace("\u00a0", " ") in text


def test_code_is_hidden(html):
    assert "report.title()" not in html
    assert "runs = [" not in html
    assert "In&nbsp;[" not in html


def test_names_from_outside_are_escaped(html):
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "a$b$" in html


def test_the_footer_names_commit_data_and_lock(html, run_path):
    footer = html[html.index("<footer") :]
    assert "0123456789ab" in footer
    assert data_hash(run_path) in footer
    assert "ab" * 32 in footer


def test_the_data_hash_is_over_names_and_contents(run_path):
    lines = [
        f"{f.name} {hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in sorted(run_path.glob("records/*"))
    ]
    assert data_hash(run_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_same_run_gives_the_same_bytes_by_two_processes_too(run_path, html_path, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MANY_FILES", 1)
    steps = []
    again = write_report([str(run_path)], tmp_path / "again.html", steps.append)
    assert again.read_bytes() == html_path.read_bytes()
    assert len(steps) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["again.html"]


def test_a_progress_bar_is_not_in_the_page():
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab"}, "text/plain": "figures: 18%"}
    line = v4.new_output("stream", name="stderr", text="figures: 20%")
    drawing = v4.new_code_cell(outputs=[v4.new_output("display_data", bar), line])
    cells = [drawing, v4.new_markdown_cell("## Method")]
    html = page.to_html(v4.new_notebook(cells=cells), "title")
    assert "figures: 20" not in html
    assert html.count("Method") == 1


@pytest.mark.long
def test_two_machines_in_one_report():
    two = make_records(FEW)
    two["host_id"] = np.where(two.method == "munmap", "second", "first")
    report = Report([make_run(two, host_id="first")])
    assert [study.label for study in report.studies] == ["sample on first", "sample on second"]
    text = page_text(report)
    assert "1.4 sample on second: Free" in text
    assert [key for key, n in Page(text).ids.items() if n > 1] == []


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no run to report on; give at least one directory"):
        write_report([], tmp_path / "out.html")
    with pytest.raises(ValueError, match=r"is not a run"):
        write_report([tmp_path], tmp_path / "out.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("heading", "key"), [("4 Method", "method"), ("A All <b>numbers</b>", "all-numbers"), ("7", "section")]
)
def test_anchors_are_the_words_of_the_heading(heading, key):
    assert page.anchor(heading) == key


# --- why not double ---------------------------------------------------------------------------------------


def chunks(*spans, threads=2, wall_s=1.0):
    """Return a trace: each span is (helper, start, end) in seconds."""
    rows = [dict(zip(("helper", "t0_s", "t1_s"), span, strict=True)) for span in spans]
    return pd.DataFrame(rows).assign(threads=threads, wall_s=wall_s, cpu=0, start_bytes=0, end_bytes=1)


@pytest.mark.parametrize(
    ("spans", "start", "gaps", "end"),
    [
        ([(0, 0, 1), (1, 0, 1)], 0, 0, 0),
        ([(0, 0, 1), (1, 0.5, 1)], 0.25, 0, 0),
        ([(0, 0, 1), (1, 0, 0.4)], 0, 0, 0.3),
        ([(0, 0, 0.3), (0, 0.7, 1), (1, 0, 1)], 0, 0.2, 0),
        ([(0, 0, 1)], 0.5, 0, 0),  # the helper came too late for any chunk
    ],
)
def test_thread_time_is_accounted_for(spans, start, gaps, end):
    found = bottlenecks.trace_losses(chunks(*spans))
    assert [found["start"], found["gaps"], found["end"]] == pytest.approx([start, gaps, end])
    assert sum(found[name] for name in ("start", "gaps", "end", "chunks")) == pytest.approx(1)
    assert found["traced_imbalance"] == pytest.approx(
        2 * end
    )  # of two threads, one of which ends with the task


def traced(run, *spans):
    """Return the evidence of a one-path run with this trace (times as shares of its own), and the trace."""
    scaling = scaled(run)
    row = scaling[scaling.size_bytes == scaling.size_bytes.max()].sort_values("threads").iloc[-1]
    spent = [(helper, start * row.wall, end * row.wall) for helper, start, end in spans]
    trace = chunks(*spent, wall_s=row.wall).assign(cell_id=row.cell_id, run_id="r", host_id="h")
    return bottlenecks.bottleneck_table(scaling, trace, tables.repetitions(run)), trace


@pytest.mark.parametrize(
    ("spans", "bottleneck", "text"),
    [
        ([(0, 0, 1), (1, 0.6, 1)], "start", "the largest loss is before a helper has its first chunk"),
        ([(0, 0, 1), (1, 0, 0.4)], "end", "imbalance"),
        ([(0, 0, 1), (1, 0, 0.1), (1, 0.7, 1)], "gaps", "between chunks"),
        ([(0, 0, 1), (1, 0, 1)], "busy", "CPU time grew"),
    ],
)
def test_the_bottleneck_is_found_from_the_trace(spans, bottleneck, text):
    found, _ = traced(one_path({2: 1.2}), *spans)
    assert found.bottleneck.tolist() == [bottleneck]
    said = bottlenecks.finding(found)
    assert said.startswith(
        "<p><b>Why not double?</b></p>\n<ul><li><b>dontneed (4 KiB)</b>, 60 % of the ideal: "
    )
    assert "<i>By the kernel&#39;s source: </i>Each call ends with a TLB flush" in said
    assert text in said


@pytest.mark.parametrize(("alone", "bottleneck"), [(0.8, "chunking"), (0.98, "busy")])
def test_chunking_overhead_is_separated_from_what_threads_cost(alone, bottleneck):
    run = one_path({1: alone, 2: 1.4})  # of a loss of 0.3, chunks alone explain 0.17 or 0.01
    found, _ = traced(run, (0, 0, 1), (1, 0, 1))
    assert found.bottleneck.tolist() == [evidence_of(run).bottleneck[0]] == [bottleneck]
    assert found.alone[0] == pytest.approx(1 / alone, rel=0.02)
    assert found.alone_low[0] < found.alone[0] < found.alone_high[0]
    said = f"one thread in the same chunks takes {words.value(found.iloc[0], 'alone')}"
    finding = bottlenecks.finding(found)
    overhead = f"Chunking overhead: {said} times the serial time (dontneed (4 KiB))."
    assert (overhead in finding) == (bottleneck == "chunking")  # 2 % are not worth a sentence
    assert (f"{said} times as long" in finding) == (bottleneck == "chunking")
    assert "Chunks, 1 thread" in bottlenecks.table(found, "key")
    scaling = scaled(run)
    assert scaling[scaling.size_bytes == GIB].apply(words.threads_label, axis=1).tolist() == [
        "1 serial",
        "1 in chunks",
        "2",
    ]
    assert first_screen.losses(scaling) == ""


@pytest.mark.parametrize(
    ("speedup", "bottleneck", "text"),
    [
        (1.98, "scales", "dontneed (4 KiB) reaches 90 % of the ideal or more."),
        (1.84, "near", "Undecided: dontneed (4 KiB), whose interval holds 90 %."),
        (1.6, "busy", "CPU time grew"),
    ],
)
def test_what_scales_is_decided_by_the_whole_interval(speedup, bottleneck, text):
    found = evidence_of(one_path({2: speedup}, noise=0.02 if bottleneck == "near" else 0.002))
    assert found.bottleneck.tolist() == [bottleneck]
    assert text in bottlenecks.finding(found)


def test_spinning_or_sleeping_is_left_open_where_the_intervals_do():
    run = one_path({2: 1.2})
    run.records.loc[~run.records.baseline, ["cpu_user_s", "cpu_system_s"]] *= 0.835
    shaken = run.records.loc[~run.records.baseline, "cpu_system_s"]
    run.records["cpu_system_s"] = run.records["cpu_system_s"].where(
        run.records.baseline, shaken * np.resize([0.9, 1.1], len(run.records))[shaken.index]
    )
    found = evidence_of(run)
    assert found.bottleneck.tolist() == ["both"]
    assert "which of them costs more is undecided" in bottlenecks.finding(found)


def test_imbalance_is_given_over_all_repetitions():
    run = one_path({2: 1.2})
    run.records["apart_s"] = run.records["wall_s"] * np.where(run.records.baseline, 0, 0.04)
    found, trace = traced(run, (0, 0, 1), (1, 0, 0.4))
    caption = timeline.timeline_figure(found, trace, "free", "timeline-free").caption
    reach = "4.00 [4.00, 4.00] % (dontneed (4 KiB)) of the wall time."
    assert f"Imbalance over all repetitions (5 processes, n = {7 * PASSES}): {reach}" in caption
    old, trace = traced(one_path({2: 1.2}), (0, 0, 1), (1, 0, 0.4))
    caption = timeline.timeline_figure(old, trace, "free", "timeline-free").caption
    assert "Imbalance in the trace: 60 % of the wall time." in caption


def test_a_drift_with_the_rounds_is_reported():
    run = one_path({2: 1.5}, n=20)
    assert "drift" not in figures.distribution_figure(run, "free", "d").caption
    run.records.loc[run.records.baseline, "wall_s"] *= 1 - 0.005 * run.records["round"]
    caption = figures.distribution_figure(run, "free", "d").caption
    assert "dontneed (4 KiB) with 1 thread: drift: " in caption


@pytest.mark.parametrize("factor", [0.74, 1.3])
def test_a_trace_that_took_no_typical_time_is_no_evidence(factor):
    run = one_path({2: 1.2})
    found, trace = traced(run, (0, 0, 1), (1, 0, 0.4))
    assert (found.bottleneck.tolist(), found.typical.tolist()) == (["end"], [True])
    odd = trace.assign(wall_s=factor * trace.wall_s)
    found = bottlenecks.bottleneck_table(scaled(run), odd, tables.repetitions(run))
    assert (found.bottleneck.tolist(), found.typical.tolist()) == (["busy"], [False])
    assert found[["start", "gaps", "end", "slower"]].isna().all(axis=None)
    table = bottlenecks.table(found, "key")
    assert "After last chunk" not in table
    assert "No trace took a typical time, so no loss is given: dontneed (4 KiB)." in table
    figure = timeline.timeline_figure(found, odd, "free", "timeline-free")
    assert "no try took a typical time: dontneed (4 KiB)" in figure.caption


def test_chunking_is_taken_out_before_threads_are_blamed():
    """As memset of 64 MiB: slower with two threads, because the chunks cost more than they win."""
    run = one_path({1: 0.5, 2: 0.9})
    found, _ = traced(run, (0, 0, 1), (1, 0, 1))
    row = found.iloc[0]
    assert row.bottleneck == "chunking"
    assert row.alone == pytest.approx(2, rel=0.02)
    assert row.beyond == pytest.approx(1.8, rel=0.02)
    parts = row[["start", "gaps", "end", "slower", "chunking"]]
    assert parts.sum() + row.efficiency == pytest.approx(1, abs=0.02)
    assert row.slower == pytest.approx(0.1, abs=0.02)
    said = bottlenecks.finding(found)
    assert "the threads are not to blame for that" in said
    assert "2 threads are 1.8" in said
    assert "Speedup over that" in bottlenecks.table(found, "key")
    blame = bottlenecks.slower_by_chunks(scaled(run))
    assert "Slower for the chunking overhead, not for the threads:" in blame
    assert "free dontneed (4 KiB), 1 GiB: one thread in the same chunks takes 2.0" in blame
    assert blame in Report([run]).checks().body
    (worst,) = [one.scope for one in first_screen.claims(Report([run]).studies[0]) if "loses" in one.text]
    assert "one thread in the same chunks 2.0" in worst
    assert bottlenecks.slower_by_chunks(scaled(one_path({1: 0.95, 2: 0.9}))) == ""


def test_too_few_repetitions_do_not_come_out_equal():
    run = one_path({2: 1.5}, n=2, passes=1)
    assert "Too few repetitions to tell" in words.aa_caption(tables.aa_table(run))


def test_without_a_serial_call_there_is_no_speedup():
    run = one_path({2: 1.5})
    run = replace(run, records=run.records[~run.records.baseline])
    text = Report([run]).results().body
    assert "The serial call has no warm repetition, so no speedup is known." in text
    assert "of the ideal" not in text


def test_cells_that_a_killed_run_lacks_are_reported():
    run = make_run(make_records(FEW, n=7))
    lost = {"cell_id": "free-exit-4KiB-1GiB", "workload": "free", "method": "exit", "page_kind": "4KiB"}
    cells = [{"cell_id": run.records.cell_id[0]}, lost | {"size_bytes": GIB, "options": {}}]
    report = Report([replace(run, grid=run.grid | {"cells": cells})])
    assert "The run is not complete: 1 cell of its grid was not measured." in report.first_screen().body
    assert "the run ended before it" in report.all_numbers().body
    assert "not measured: the run ended before it" in report.recommendations().body


def test_a_path_at_the_roof_is_reported():
    truths = [Truth("zeroing", "user", "memset", "4KiB", 10 * GIB, {2: 1.1})]
    found = evidence_of(make_run(make_records(truths)))
    assert found.bottleneck.tolist() == ["roof"]


def test_the_question_names_the_most_threads():
    run = one_path({2: 1.5, 4: 2.0})
    assert "Why not 4 times?" in bottlenecks.finding(evidence_of(run))


def test_the_timeline_shows_every_chunk_and_says_what_is_lost():
    found, trace = traced(one_path({2: 1.2}), (0, 0, 1), (1, 0, 0.4))
    figure = timeline.timeline_figure(found, trace, "free", "timeline-free")
    assert figure.data[["helper", "method"]].to_numpy().tolist() == [[0, "dontneed"], [1, "dontneed"]]
    assert (
        "The largest loss of thread time is after the last chunk (dontneed (4 KiB) 30 %)." in figure.caption
    )
    assert "n = 1" in figure.caption
    assert "70 % of their time inside chunks, imbalance" in figure.alt
    assert timeline.timeline_figure(found, trace.iloc[:0], "free", "timeline-free") is None


def test_traces_of_a_run_enter_its_report(tmp_path):
    run = one_path({2: 1.2})
    _, trace = traced(run, (0, 0, 1), (1, 0, 0.4))
    path = write_run(run, tmp_path / "run")
    (path / "traces").mkdir()
    cell = trace["cell_id"].iloc[0]
    write_traces(path / "traces/c.parquet", trace, {"run_id": "r", "host_id": "h", "cell_id": cell})
    report = Report.open([path])
    assert "timeline-free" in report.figures


# --- advice and several runs ------------------------------------------------------------------------------


def in_chunks(walls_by_chunk, policy="dynamic", passes=PASSES, **changes):
    """Return a run of one path, and of the same at 1 GiB in chunks that multiply its time with threads."""
    usual = one_path({1: 0.95, 2: 1.8}, passes=passes).records
    parts = [usual]
    for chunk, slower in walls_by_chunk.items():
        mine = usual[usual.size_bytes == GIB].assign(
            min_chunk_size=chunk, chunk_size=chunk, policy=policy, cell_id=f"chunk-{chunk}"
        )
        mine["wall_s"] *= np.where(mine.baseline, 1, slower)
        parts.append(mine.assign(**changes))
    return make_run(pd.concat(parts, ignore_index=True), skips=())


CHUNKS = {2 * MIB: 1.3, 8 * MIB: 1.002, 32 * MIB: 1.0, 128 * MIB: 1.1}


def test_the_minimum_chunk_is_the_smallest_within_noise_of_the_best():
    found = advice_on(in_chunks(CHUNKS))
    assert (len(found), found.outcome[0]) == (1, "threads")
    assert advice.minimum_chunk(found.iloc[0]) == "8 MiB"
    smallest = advice_on(in_chunks(CHUNKS | {2 * MIB: 1.001})).iloc[0]
    assert advice.minimum_chunk(smallest) == "≤ 2 MiB"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (lambda: one_path({2: 1.8}), "not varied"),
        (lambda: in_chunks(CHUNKS, wall_s=0.01), "undecided"),  # every chunk is as fast as the serial call
    ],
)
def test_without_decided_chunk_sizes_no_chunk_is_advised(run, text):
    row = advice_on(run()).iloc[0]
    assert row.outcome == "threads"
    assert advice.minimum_chunk(row) == text


@pytest.mark.parametrize("policy", ["dynamic", "ktask-v4"])
def test_chunk_sizes_are_an_axis_and_no_paths(policy):
    chunks = CHUNKS if policy == "dynamic" else {k: v for k, v in CHUNKS.items() if k > 2 * MIB}
    run = in_chunks(chunks, policy)
    assert len(scaled(run)) == 2 * 3
    assert set(scaled(run).min_chunk_size) == {2 * MIB}
    report = Report([run])
    assert len(report.studies[0].headline) == 1
    figure = report.figures["chunks"]
    assert sorted(set(figure.data.min_chunk_size)) == sorted(CHUNKS)
    assert set(figure.data.threads) == {1, 2}
    assert all(f">{name}</text>" in figure.svg for name in ("1 thread", "2 threads"))
    assert "serial call" in figure.svg
    assert "5 processes, n = 35 per point" in figure.caption
    best, worst = ("32 MiB", "2 MiB") if policy == "dynamic" else ("128 MiB", "128 MiB")
    assert re.search(f"takes [^;]* in chunks of {best} and [^;]* in chunks of {worst}", figure.caption)
    assert "Cases that were measured with several chunk sizes." in report.all_numbers().body


def test_least_chunks_that_change_no_chunk_are_no_chunk_sizes():
    run = in_chunks(CHUNKS)
    run.records["chunk_size"] = 128 * MIB
    assert "chunks" not in Report([run]).figures
    assert advice.minimum_chunk(advice_on(run).iloc[0]) == "not varied"


def test_without_several_chunk_sizes_there_is_no_such_figure(report):
    assert "chunks" not in report.figures
    assert "several chunk sizes" not in report.all_numbers().body


def test_a_speedup_above_the_number_of_threads_is_marked_and_explained(report):
    run = one_path({2: 2.3})
    assert pick(scaled(run), threads=2, size_bytes=GIB).above_threads
    marked = Report([run])
    for part in (marked.first_screen(), marked.results(), marked.all_numbers(), marked.recommendations()):
        assert re.search(r"2\.\d+ \[2\.\d+, 2\.\d+\] †", part.body)
    for part in (marked.first_screen(), marked.results(), marked.all_numbers()):
        assert "† More than the number of threads: either the serial call started" in part.body
    assert "†" not in page_text(report)


def test_both_are_said_where_the_memory_was_filled_in_two_ways():
    one, each = one_path({2: 1.5}).records, one_path({2: 1.5}).records
    each = each.assign(options="fill=each", cell_id=each["cell_id"] + "-fill-each")
    each["wall_s"] *= np.where(each.baseline, 1.4, 1)
    run = make_run(pd.concat([one, each], ignore_index=True), skips=())
    said = gains.finding(scaled(run))
    each_way = r"2\.\d+ \[[\d., ]+\]( †)? over 8\.7\d \[[\d., ]+\] ms serial; filled by one, 1\.\d+ \["
    path = r"dontneed \(4 KiB, fill=each\) with 2 threads at 64 MiB"
    assert re.search(f"Who filled the memory: {path}: {each_way}", said)
    assert "Who filled" not in gains.finding(scaled(one_path({2: 1.5})))


# --- passes -----------------------------------------------------------------------------------------------


def test_one_pass_is_said_at_the_top_with_what_narrows_it():
    body = Report([one_path({2: 1.6}, passes=1)]).first_screen().body
    assert "One pass: each interval knows one process only, so every path is undecided." in body
    assert "<code>ktask sweep quick --run sample --resume --passes 5</code> narrows it." in body
    assert not re.search("(is|are) faster", body)
    assert body.index("One pass:") < body.index("<figure")


def test_cells_that_lack_passes_are_counted():
    run = one_path({2: 1.6})
    run = replace(run, records=run.records[(run.records["pass"] == 1) | (run.records.size_bytes < GIB)])
    body = Report([run]).first_screen().body
    assert "1 cell of 2 had one process so far and stay undecided." in body
    assert "--passes 5" in body
    assert "each measured by 1 to 5 processes" in Report([run]).design().body


def test_several_boots_are_said():
    run = one_path({2: 1.6})
    assert "boots" not in Report([run]).first_screen().body
    run.records["boot_id"] = np.where(run.records["pass"] < 3, "first", "second")
    assert "Measured in 2 boots" in Report([run]).first_screen().body


def test_a_session_that_was_saved_by_hand_is_measured_again_by_hand():
    run = one_path({2: 1.6}, passes=1)
    body = Report([replace(run, grid=run.grid | {"name": "by-hand"})]).first_screen().body
    assert "<code>ktask.measure(..., passes=5)</code> narrows it." in body


def test_a_cell_that_failed_in_some_passes_has_one_line():
    run = one_path({2: 1.6})
    cell = run.records.cell_id[0]
    lines = [NO_POOL, NO_POOL, ("free", "kernel", "dontneed", "4KiB", 64 * MIB, "killed")]
    lost = skipped(*lines).assign(failed=[False, False, True], cell_id=["pool", "pool", cell])
    lost["pass"] = [1, 2, 3]
    run = replace(
        run, skipped=lost, records=run.records[~((run.records.cell_id == cell) & (run.records["pass"] == 3))]
    )
    report = Report([run])
    assert tables.skipped_table(report.studies[0].run).passes_with.tolist() == [0, PASSES - 1]
    text = report.all_numbers().body
    assert text.count(NO_POOL[-1]) == 1
    assert "failed in 1 of 5 passes" in text


def test_the_trace_that_took_a_usual_time_is_shown():
    run = one_path({2: 1.6})
    row = pick(scaled(run), threads=2, size_bytes=GIB)
    walls = {1: 3 * row.wall, 2: 1.01 * row.wall, 3: 0.5 * row.wall}
    parts = [
        chunks((0, 0, wall), (1, 0, wall), wall_s=wall).assign(cell_id=row.cell_id, **{"pass": number})
        for number, wall in walls.items()
    ]
    kept = tables.typical_traces(pd.concat(parts, ignore_index=True), scaled(run))
    assert set(kept["pass"]) == {2}
    assert len(kept) == 2


def test_the_advice_is_summed_up(report):
    assert "Threads pay on 8 of the 9 decided paths." in report.recommendations().body


def renamed(run, name):
    return Run(name, Path("data/runs") / name, run.records, run.machine, run.grid, run.skipped)


def test_two_runs_are_put_side_by_side_and_compared():
    old, new = one_path({2: 1.8}), renamed(one_path({2: 1.8}), "after")
    new.records["wall_s"] *= np.where(new.records.baseline, 1, 2)
    text = page_text(Report([old, new]))
    assert "Of 1 path decided in every run, 0 have the same verdict everywhere." in text
    assert "after against sample: of 4 times, 0 better, 2 worse, 2 same and 0 undecided" in text
    assert [key for key, n in Page(text).ids.items() if n > 1] == []


def test_one_run_has_nothing_beside_it(report):
    assert report.side_by_side().body == ""


def test_runs_of_different_work_are_not_compared():
    other = renamed(make_run(make_records([TRUTHS[5]]), skips=()), "other")
    text = str(Report([one_path({2: 1.8}), other]).side_by_side().body)
    assert "no case in common" in text
    assert "The runs have no path in common that is decided in each." in text


# --- model, prediction and published results --------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "have"),
    [
        (lambda: one_path({2: 1.8, 4: 3.0}), "this run has 1, 2 and 4 threads."),
        (lambda: one_path({n: n for n in (2, 3, 4, 5)}, passes=1), "this run has no thread count."),
        (lambda: one_path({}), "this run has 1 threads."),
    ],
)
def test_below_four_thread_counts_there_is_no_law_and_no_prediction(run, have):
    report = Report([run()])
    said = Markup(report.larger_machines().body).striptags()
    assert f"a law needs 4 thread counts with several processes each, and {have}" in said
    assert "make report PASSES=5 on a machine with at least 8 CPUs gets one." in said
    assert not {"larger", "residuals"} & set(report.figures)
    assert not report.studies[0].fits


def test_a_machine_with_enough_cpus_is_told_how_to_get_a_law():
    said = larger_machines.why_none(scaled(one_path({2: 1.8})), {"threads": 16})
    assert "<code>ktask sweep quick --cpus 0-15 --passes 5</code>" in said
    assert "8 CPUs" in larger_machines.why_none(scaled(one_path({2: 1.8})), {"threads": 4})


def amdahl(serial, counts=(2, 4, 8)):
    return {n: 1 / (serial + (1 - serial) / n) for n in counts}


def test_a_law_finds_its_own_curve_with_an_interval_as_wide_as_its_failures():
    (one,) = laws.fits(scaled(one_path(amdahl(0.05), noise=0)))
    table = one.curve.set_index("threads")
    assert table.index.tolist() == [1, 2, 4, 8, 15]
    assert table["residual"].abs().dropna().max() < 0.02
    assert table.loc[15, "low_s"] < 0.1 * (0.05 + 0.95 / 15) < table.loc[15, "high_s"]
    plain = one.predicted.table([15]).iloc[0]
    assert table.loc[15, "high_s"] / plain["high_s"] == pytest.approx(laws.MISSED)
    assert plain["low_s"] / table.loc[15, "low_s"] == pytest.approx(laws.MISSED)
    assert table.loc[15, "speedup_low"] == pytest.approx(0.1 / table.loc[15, "high_s"], rel=0.01)


def test_law_and_simulation_stand_in_one_figure_and_paper_machines_are_marked():
    report = Report([one_path(amdahl(0.05), noise=0)])
    figure, said = report.figures["larger"], Markup(report.larger_machines().body).striptags()
    assert figure.data["threads"].tolist() == [1, 2, 4, 8, 15]
    cpus = report.studies[0].larger.machine.cpus
    for drawn in ("measured", "law, 90 % interval × 1.22", "simulated", "ideal", "last measured"):
        assert f">{drawn}</text>" in figure.svg
    assert f">simulated, enlarged on paper to {cpus} CPUs</text>" in figure.svg
    assert f"The {cpus} CPUs of the simulated machine exist on paper only" in said
    assert "a factor of 1.22" in figure.caption
    assert "simulated" in figure.alt


def test_law_and_simulation_that_disagree_are_said_to():
    run = one_path(amdahl(0.01), noise=0)
    run.records["min_chunk_size"] = run.records["size_bytes"] // 4
    said = Markup(Report([run]).larger_machines().body).striptags()
    assert "Law and simulation disagree in 1 of 1 case, and nobody measured who is right" in said
    assert "the law ignores that it has no more than 4 chunks" in said
    agreeing = Report([one_path(amdahl(0.3), noise=0)])
    assert "Law and simulation agree" in agreeing.larger_machines().body


def test_no_machine_is_larger_than_the_simulator_can():
    assert laws.enlarged(Machine("two", cores_per_node=2), 8).cpus == 16
    with pytest.raises(ValueError, match="a machine for 60000 threads has more than 65536 CPUs"):
        laws.enlarged(Machine("two", cores_per_node=2), 60_000)


def test_a_run_that_cannot_be_calibrated_says_why_nothing_is_simulated():
    run = one_path(amdahl(0.05))
    run.records["flags"] = [["steal"]] * len(run.records)
    report = Report([run])
    assert "Nothing was simulated: run sample has no settled repetition" in report.larger_machines().body
    assert report.figures["larger"].data["simulated_s"].isna().all()
    assert ">simulated</text>" not in report.figures["larger"].svg


def test_the_roof_is_reported_or_unknown(report):
    assert re.search(
        r"The roof, .*GiB/s \(nontemporal, 2 threads\). The highest median rate of the kernel is 1[56]",
        report.larger_machines().body,
    )
    assert "so no roof of the memory" in Report([one_path({2: 1.5})]).larger_machines().body


def test_auto_is_compared_with_the_best_kind_of_store():
    truths = [TRUTHS[3], TRUTHS[4], Truth("zeroing", "user", "auto", "4KiB", 11.3 * GIB, {2: 1.96})]
    text = roof.choice_sentence(scaled(make_run(make_records(truths, (GIB,), noise=0))))
    assert "auto reaches 50 % of nontemporal (22.6 GiB/s; 1 thread, 1 GiB) and 50 % of nontemporal (" in text
    assert not roof.choice_sentence(scaled(one_path({2: 1.6})))


def test_published_speedups_start_at_one_thread():
    table = reproduction.published_speedups()
    assert set(table["workload"]) == {"zeroing", "free"}
    assert (table.loc[table["threads"] == 1, "speedup"] == 1).all()
    curves = table.groupby(["what", "machine", "size_bytes", "source"])
    assert (curves["threads"].min() == 1).all()


def test_published_results_stand_beside_those_of_the_run(report):
    text = report.reproduction().body
    assert "No published times with one thread and with several were found for page walk." in text
    assert "SPARC T7-4" in text
    assert re.search(
        r"Free with 2 threads: published 1\.58 \(1 curve\), here 0\.[78]", report.figures["published"].caption
    )


def test_warnings_are_shown_with_what_they_did(run):
    text = str(sections.flags(Study(run)))
    assert "Times as long" in text
    effects = flag_effects(run.records).set_index(["workload", "flag"])
    assert sections._effect(effects, "free", "steal")[0].split(" ")[0] in text
    assert sections._effect(effects, "free", "no such flag") == ("–", "–")


@pytest.mark.parametrize(
    ("facts", "borders"),
    [
        ({"sockets": 1, "cores": 2, "threads": 2}, {}),
        ({"sockets": 1, "cores": 4, "threads": 8}, {4: "one thread per core"}),
        ({"sockets": 2, "cores": 8, "threads": 16}, {4: "one socket", 8: "one thread per core"}),
        ({"sockets": "?", "cores": 2}, {}),
        ({}, {}),
    ],
)
def test_borders_of_cores_and_sockets(facts, borders):
    assert machine.thread_borders(facts) == borders


def test_borders_are_drawn_where_threads_go_beyond_them():
    run = one_path({2: 1.9, 4: 2.5})
    scaling = scaled(run)
    borders = {2: "one socket", 4: "one thread per core"}
    marked = gains_figure.gains_figure(scaling, evidence_of(run), "free", "s", borders)
    assert "one socket" in marked.svg
    assert "one thread per core" not in marked.svg


def test_no_label_of_the_sample_is_left_in_tex():
    html = (Path(__file__).parents[2] / "reports/sample.html").read_text(encoding="utf-8")
    assert "mathdefault" not in html
