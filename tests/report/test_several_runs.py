"""Several runs: machines side by side, and before and after with the evidence of both."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from runs_of_passes import measured, slowed

from ktask.lab.compare import compare
from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.mean import mean_of
from ktask.lab.evidence.store import CaseKey
from ktask.report.numbering import SHOWN, kind_of
from ktask.report.runs import beside, changes, several_runs
from ktask.report.study import Study

MIB = 1 << 20


def study(label, speedups, *, reach=0.05, processes=5):
    """Return what the figure needs of a study: kernel paths with these speedups by method."""
    same = {"workload": "free", "backend": "kernel", "page_kind": "4KiB", "options": "", "policy": ""}
    same |= {"size_bytes": 64 * MIB, "threads": 2, "processes": processes, "n": 35, "above_threads": False}
    rows = [
        same
        | {"method": method, "speedup": one, "speedup_low": one - reach, "speedup_high": one + reach}
        | {"verdict": "faster"}
        for method, one in speedups.items()
    ]
    return SimpleNamespace(label=label, headline=pd.DataFrame(rows))


# --- machines side by side ------------------------------------------------------------------------------


def test_the_runs_have_a_mark_each_on_the_rows_that_both_have():
    two = [
        study("old", {"zap": 1.9, "unmap": 1.5, "only": 1.2}),
        study("new", {"unmap": 1.0, "zap": 1.88, "else": 1}),
    ]
    figure = beside.beside_figure(two)
    assert figure.data[["method", "run"]].to_numpy().tolist() == [
        ["zap", "old"],
        ["zap", "new"],
        ["unmap", "old"],
        ["unmap", "new"],
    ]
    assert figure.caption.startswith(
        "The runs differ most on free unmap (4 KiB), 1.00 in new and 1.50 in old; "
        "intervals exclude each other on 1 of 2 paths. "
    )
    assert "5 processes, n = 35" in figure.caption
    assert "new, Free: unmap (4 KiB), 4KiB pages, 64 MiB, 2 threads: speedup 1.00 [0.950, 1.05]" in figure.svg
    assert "Free: unmap (4 KiB): old 1.50 [1.45, 1.55], new 1.00 [0.95, 1.05]" in figure.alt
    assert kind_of(figure) in SHOWN


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"reach": 0.5}, "No two intervals exclude each other on 1 path."),
        ({"processes": 1}, "Whether the runs differ is not known: that needs several processes of each."),
    ],
)
def test_runs_that_cannot_be_told_apart_are_not_said_to_differ(options, finding):
    table = beside.beside_table(
        [study("old", {"zap": 1.9}, **options), study("new", {"zap": 1.5}, **options)]
    )
    assert beside.finding(table) == finding


def test_of_many_paths_those_that_differ_most_are_drawn():
    speedups = {f"m{i:02}": 3 - i / 100 for i in range(30)}
    later = speedups | {f"m{i:02}": 1.0 for i in range(5, 29)}
    figure = beside.beside_figure([study("old", speedups), study("new", later)])
    assert len(figure.data) == 60
    assert "Of 30 paths, the 24 that differ most; the table has all." in figure.caption
    labels = [text.get_text() for text in figure.drawing.axes[0].get_yticklabels()]
    assert labels == [f"Free: m{i:02} (4 KiB)" for i in range(5, 29)]


def test_one_run_or_no_path_in_common_has_no_figure():
    one = study("old", {"zap": 1.9})
    assert beside.beside_figure([one]) is None
    assert beside.beside_figure([one, study("new", {"unmap": 1.9})]) is None
    assert beside.beside_figure([one, study("new", {})]) is None


# --- before and after -----------------------------------------------------------------------------------

KEY = CaseKey("free", "kernel", "munmap", "4KiB", 64 * MIB, "", 2)


def seen(work_s, wait_s, *, sees_locks=True):
    """Return evidence of two threads for 0.1 s: work, and waiting for a lock."""

    def look(threads, stacks, waits):
        return Look(threads, 0.1, 0.0, stacks, waits, sees_locks, {}, 10)

    waits = [Wait("mmap_lock", "semaphore, to write", "do_munmap", wait_s, 9)]
    many = look(2, {("zap_pte_range", "do_syscall_64"): work_s}, waits)
    return Evidence(look(1, {("zap_pte_range", "do_syscall_64"): 0.1}, []), many)


def before_and_after(first, second, factor=2.0):
    """Return what is said of two threads in munmap that take longer in the second run."""
    old = measured(1, 5, "old")
    new = slowed(
        measured(6, 10),
        factor,
        lambda rows: (rows["method"] == "munmap") & (rows["threads_requested"] == 2),
        "new",
    )
    for run, found in ((old, first), (new, second)):
        run.__dict__["evidence"] = {KEY: found} if found else {}
    return changes.before_and_after(compare(old, new), "grown")


def test_beside_a_changed_time_stands_what_grew():
    said = before_and_after(seen(0.10, 0.05), seen(0.102, 0.09))
    assert "From old to new, 0 of 24 times got better and 1 worse." in said
    assert "waiting for mmap_lock in <code>do_munmap</code> grew (50.0 ms to 90.0 ms)" in said
    assert "waiting for no lock shrank (50.0 ms to 8.00 ms)" in said
    assert "zap_pte_range" not in said  # by 2 of 200 ms


def test_locks_that_one_run_could_not_see_are_in_the_time_asleep():
    said = before_and_after(seen(0.15, 0.02), seen(0.10, 0.02, sees_locks=False))
    assert "waiting grew (50.0 ms to 100 ms)" in said
    assert "<code>zap_pte_range</code> shrank (150 ms to 100 ms)" in said
    assert "mmap_lock" not in said


def test_what_grew_has_an_interval_over_the_processes_of_both_runs():
    first = mean_of([seen(0.10, 0.05 + error) for error in (-0.001, 0.0, 0.001)])
    surely = mean_of([seen(0.10, 0.09 + error) for error in (-0.001, 0.0, 0.001)])
    said = before_and_after(first, surely)
    grew = re.search(
        r"mmap_lock in <code>do_munmap</code> grew by 40.0 \[(.*?), (.*?)\] ms \(50.0 ms to", said
    )
    assert 35 < float(grew[1]) < 38  # three processes each: 4.3 standard errors of 0.58 ms, and the drift
    assert 42 < float(grew[2]) < 45
    assert "no interval" not in said
    perhaps = mean_of([seen(0.10, 0.09 + error) for error in (-0.04, 0.0, 0.04)])
    assert "no change of 3 % of the time is beyond chance" in before_and_after(first, perhaps)
    assert "no interval: one process looked in new<" in before_and_after(first, seen(0.10, 0.09))


@pytest.mark.parametrize(
    ("first", "second", "missing"),
    [(None, seen(0.1, 0), "old"), (seen(0.1, 0), None, "new"), (None, None, "old and new")],
)
def test_a_run_without_evidence_is_named(first, second, missing):
    assert f"no evidence in {missing}<" in before_and_after(first, second)


def test_what_was_seen_of_other_threads_is_no_evidence():
    old = measured(1, 5)
    old.__dict__["evidence"] = {KEY: seen(0.1, 0.05)}
    rows = compare(old, measured(6, 10)).rows
    munmap = {(row.threads, row.baseline): row for row in rows if row.method == "munmap"}
    looks = {case: changes.looks_at(old, row) for case, row in munmap.items()}
    assert {case: look[0].threads for case, look in looks.items() if look} == {(1, True): 1, (2, False): 2}


def test_without_a_change_nothing_is_listed():
    said = before_and_after(None, None, factor=1.0)
    assert said.endswith("<p>Of 24 times, none is known to have changed.</p>")


def test_most_changes_are_folded():
    old = measured(1, 5, "old")
    said = changes.before_and_after(compare(old, slowed(measured(6, 10), 2.0, name="new")), "grown")
    shown, folded = said.split("<details>")
    assert shown.count("<tr>") - 1 == changes.MOST_CHANGES
    assert "<summary>14 smaller changes</summary>" in folded


@pytest.mark.parametrize(
    ("first", "second", "only_two", "expected"),
    [
        ({"host_id": "a"}, {"host_id": "a"}, False, True),
        ({"host_id": "a"}, {"host_id": "b"}, True, False),
        ({"cpu_model": "x", "kernel_release": "1"}, {"cpu_model": "x", "kernel_release": "2"}, False, True),
        ({"cpu_model": "x", "git_commit": "1"}, {"cpu_model": "x", "git_commit": "1"}, True, False),
        ({"cpu_model": "x", "git_commit": "1"}, {"cpu_model": "y", "git_commit": "2"}, True, False),
        (
            {"cpu_model": "x", "threads": 2, "git_commit": "1"},
            {"cpu_model": "x", "threads": 4, "git_commit": "2"},
            True,
            False,
        ),
        ({}, {}, True, True),
        ({}, {}, False, False),
    ],
)
def test_runs_of_one_machine_are_known_by_host_or_processor(first, second, only_two, expected):
    records = pd.DataFrame({"host_id": ["a"]})
    old, new = (SimpleNamespace(records=records, machine=one) for one in (first, second))
    assert changes.is_before_and_after(old, new, only_two=only_two) is expected


# --- names ------------------------------------------------------------------------------------------------


def test_runs_of_one_name_have_names_and_anchors_of_their_own(tmp_path):
    folders = ("a/sample", "b/sample", "b/sample", "later", "a/sample")
    runs = [replace(measured(1, 2, "sample"), path=tmp_path / folder) for folder in folders]
    runs[3] = replace(runs[3], name="later")
    found = several_runs.with_own_names(runs)
    assert [run.name for run in found] == ["a/sample", "b/sample", "b/sample (2)", "later", "a/sample (2)"]
    keys = [Study(run, run.name).key("numbers") for run in found]
    assert len(set(keys)) == len(keys)
    assert [run.name for run in several_runs.with_own_names(runs[2:4])] == ["sample", "later"]


def test_times_that_differ_in_their_chunks_alone_are_told_apart():
    old, new = measured(1, 5, "old"), measured(6, 10, "new")

    def with_more(run):
        part = run.records[run.records["method"] == "munmap"]
        other = part.assign(cell_id=part["cell_id"] + "-large", min_chunk_size=16 * MIB)
        return replace(run, records=pd.concat([run.records, other], ignore_index=True))

    columns = changes._columns(compare(with_more(old), with_more(new)))
    assert "Minimum chunk" in columns
    assert "Minimum chunk" not in changes._columns(compare(measured(1, 5, "old"), measured(6, 10, "new")))
