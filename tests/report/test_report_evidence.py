"""Why not more, on the page: evidence made by hand with known shares, missing, or hostile."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from test_report import GIB, TRUTHS, make_records, make_run

from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.mean import mean_of
from ktask.lab.evidence.proxy import ASLEEP, BY_CLOCK, IN_THE_QUEUE, UNNAMED
from ktask.lab.evidence.store import CaseKey
from ktask.report import Report, page
from ktask.report.costs import questions
from ktask.report.paths import bottlenecks, evidence, evidence_tables, flame, gains_figure, stack
from ktask.report.study import Study

ENTRY = ("do_syscall_64", "entry_SYSCALL_64_after_hwframe", "?")
CLEAR = ("clear_page_erms", "do_anonymous_page", "__x64_sys_madvise", *ENTRY)
ZAP = ("zap_pte_range", "unmap_page_range", "__x64_sys_madvise", *ENTRY)
LOCK = ("mmap_lock", "semaphore, to write", "do_mprotect_pkey", 0.036, 40)


def look(threads, wall_s, stacks, waits=(), *, idle_s=0.0, sees_locks=True, counters=None):
    return Look(threads, wall_s, idle_s, stacks, list(waits), sees_locks, counters or {"steal_s": 0.0}, 10)


def seen_case(**changes):
    """Return evidence of two threads for 0.08 s: 0.1 s of work, 0.038 s waiting, 0.022 s more clearing."""
    serial = look(1, 0.1, {ZAP: 0.07, CLEAR: 0.03}, counters={"pgfault": 10.0})
    many = look(2, 0.08, {ZAP: 0.07, CLEAR: 0.052}, [Wait(*LOCK)], counters={"pgfault": 30.0})
    return Evidence(serial, replace(many, **changes))


def run_with(found, truth=TRUTHS[8], speedup=1.25):
    """Return a run of one path, with this evidence on its largest size."""
    run = make_run(make_records((replace(truth, scaling={2: speedup}, overhead_s=0.0),), (GIB,)))
    names = ("workload", "backend", "method", "page_kind")
    key = CaseKey(*(getattr(truth, name) for name in names), GIB, "", 2)
    return replace(run, evidence={key: found} if found else {})


def table_of(run):
    return Study(run).bottlenecks


def plain(html):
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", page.with_hard_spaces(str(html)))).replace("\u00a0", " ")


def test_why_not_is_written_from_what_was_seen():
    found = table_of(run_with(seen_case()))
    assert found.bottleneck.tolist() == ["waiting"]
    said = plain(bottlenecks.finding(found))
    assert (
        "munmap (4 KiB), 62 % of the ideal: 24 % of the thread time goes to waiting (mmap_lock in "
        "do_mprotect_pkey), 14 % to memory (clear_page_erms)." in said
    )
    assert "source" not in said  # what was seen is enough
    assert plain(bottlenecks.table(found, "key")).count("waiting") == 1
    assert "Losses" not in bottlenecks.table(found, "key")


def test_traces_and_cpu_time_tell_where_nothing_was_seen():
    found = table_of(run_with(None))
    assert found.bottleneck.tolist() == ["busy"]
    said = plain(bottlenecks.finding(found))
    assert "CPU time grew" in said
    assert "By the kernel's source: munmap takes mmap_lock for writing" in said.replace("&#39;", "'")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "In this run, threads waited 22 % of the time for mmap_lock."),
        ({"waits": []}, "Not seen in this run: no thread waited for mmap_lock."),
        ({"waits": [Wait("LRU lock", "spinlock", "release_pages", 0.05, 9)]}, "Not seen in this run"),
        ({"waits": [], "sees_locks": False}, "waits for the call that is freeing under it.</p>"),
    ],
)
def test_the_source_is_set_beside_what_this_run_saw(changes, text):
    (row,) = [row for _, row in table_of(run_with(seen_case(**changes))).iterrows()]
    said = page.with_hard_spaces(str(evidence_tables.of_path(row, row["seen"], "key"))).replace("\u00a0", " ")
    assert "<i>By the kernel&#39;s source: </i>munmap takes mmap_lock for writing" in said
    assert text in said


def test_a_wait_that_no_lock_explains_names_none():
    said = plain(bottlenecks.finding(table_of(run_with(seen_case(waits=[])))))
    assert "24 % of the thread time goes to waiting (for no lock that was seen)" in said
    said = plain(bottlenecks.finding(table_of(run_with(seen_case(waits=[], sees_locks=False)))))
    assert "waiting (locks could not be seen)" in said


def test_a_stand_in_for_locks_names_the_place_where_threads_slept():
    asleep = [
        Wait(UNNAMED, IN_THE_QUEUE, "?", 0.03, 5, BY_CLOCK),
        Wait(UNNAMED, ASLEEP, "do_wait", 0.02, 5, BY_CLOCK),
    ]
    said = plain(bottlenecks.finding(table_of(run_with(seen_case(waits=asleep, sees_locks=False)))))
    assert "waiting (asleep in do_wait)" in said


def test_a_spinlock_without_its_slow_path_is_named_from_samples():
    spins = ("_raw_spin_lock", "rmqueue_bulk", "get_page_from_freelist", *ENTRY)
    on_owner = ("rwsem_spin_on_owner", "down_write", "__vm_munmap", *ENTRY)
    found = seen_case(stacks={ZAP: 0.07, CLEAR: 0.03, spins: 0.03, on_owner: 0.01}, waits=[])
    (row,) = [row for _, row in table_of(run_with(found, TRUTHS[7])).iterrows()]
    assert "25 % of the thread time goes to spinning (zone lock in rmqueue_bulk)" in plain(
        evidence.sentence(row, row["seen"])
    )
    assert "threads waited 19 % of the time for zone lock." in plain(evidence.by_source(row, row["seen"]))


def test_spinning_before_sleep_is_for_the_lock_that_threads_slept_for():
    spins = ("mutex_spin_on_owner", "__mutex_lock", "hugetlb_fault", *ENTRY)
    slept = [Wait("hugetlb fault mutex", "mutex", "hugetlb_fault", 0.02, 9)]
    found = seen_case(stacks={ZAP: 0.07, CLEAR: 0.03, spins: 0.03}, waits=slept)
    (row,) = [row for _, row in table_of(run_with(found)).iterrows()]
    assert "spinning (hugetlb fault mutex in hugetlb_fault)" in plain(evidence.sentence(row, row["seen"]))
    none = seen_case(stacks={ZAP: 0.07, CLEAR: 0.03, spins: 0.03}, waits=[])
    (row,) = [row for _, row in table_of(run_with(none)).iterrows()]
    assert "spinning (for no lock that was seen)" in plain(evidence.sentence(row, row["seen"]))


def test_a_path_that_was_slower_while_it_was_looked_at_is_said_to_be():
    said = plain(bottlenecks.finding(table_of(run_with(seen_case(wall_s=0.1)))))
    assert "While it was looked at, it reached 50 % of the ideal." in said
    assert "While" not in plain(bottlenecks.finding(table_of(run_with(seen_case()))))


def test_the_stack_adds_up_to_the_threads():
    run = run_with(seen_case())
    figure = gains_figure.gains_figure(Study(run).scaling, table_of(run), "free", "speedup-free")
    data = figure.data.query("panel == 'stack'").set_index("part")
    assert data.share.sum() == pytest.approx(1)
    assert data.in_threads.sum() == pytest.approx(2)
    assert data.share["ideal"] == pytest.approx(0.625)
    assert (
        "ideal 62 %, waiting 24 % (mmap_lock in do_mprotect_pkey), memory 14 % (clear_page_erms)"
        in figure.alt
    )
    assert "waiting 24 % (mmap_lock in do_mprotect_pkey)" in figure.svg
    assert figure.caption.startswith("The largest loss: waiting, 24 % of the thread time of munmap (4 KiB).")
    assert stack.stack_data(table_of(run_with(None)), "free").empty


def test_no_loss_is_named_below_what_the_parts_are_above_the_whole():
    run = run_with(seen_case(wall_s=0.045))  # 0.1 s serially, 0.09 s of two threads
    table = table_of(run)
    said = plain(bottlenecks.finding(table))
    assert "no cause is named, as the parts add up to 1" in said
    assert "goes to" not in said
    figure = gains_figure.gains_figure(Study(run).scaling, table, "free", "speedup-free")
    assert figure.caption.startswith("No path lost thread time.")
    assert "parts add up to 1" in figure.svg
    parts = figure.data[(figure.data["panel"] == "stack") & (figure.data["in_threads"] > 0)]
    assert figure.drawing.axes[-1].get_xlim()[1] >= parts["in_threads"].sum() > 2  # nothing is cut off


def test_functions_locks_and_counters_are_listed_by_name():
    (row,) = [row for _, row in table_of(run_with(seen_case())).iterrows()]
    html = evidence_tables.of_path(row, row["seen"], "key")
    said = plain(html)
    assert html.startswith('<details class="evidence"><summary>munmap (4 KiB), 1 GiB, 2 threads: functions')
    assert "clear_page_erms memory 30 % 43 % 30.0 ms 52.0 ms 22.0 ms" in said
    assert "zap_pte_range" not in said.partition("locks that threads")[0].partition("functions whose")[2]
    assert "mmap_lock semaphore, to write do_mprotect_pkey 36.0 ms 22.5 % 4.00 lock:contention_begin" in said
    assert "pgfault 10.0 30.0" in said


def test_the_longest_wait_for_a_lock_has_an_interval_over_processes():
    shares = (0.036, 0.04, 0.044)
    found = mean_of([seen_case(waits=[Wait(*LOCK[:3], wait_s, 40)]) for wait_s in shares])
    answer = questions.locks(Study(run_with(found)))
    assert answer.kind == questions.HERE
    assert re.search(r"free munmap \(4 KiB\): mmap_lock 25\.0 \[17\.\d, 32\.\d\] %", answer.text)
    assert "of each path: 3." in answer.text
    assert "mmap_lock 22.5 [no interval] %" in questions.locks(Study(run_with(seen_case()))).text


# --- what is missing -------------------------------------------------------------------------------------

NOT_ALLOWED = (
    "kernel.perf_event_paranoid is 2; `sudo sysctl kernel.perf_event_paranoid=1` allows it, or run as root "
    "or with CAP_PERFMON"
)


def missing(run):
    study = Study(run)
    return plain(evidence.not_looked_at(study.bottlenecks, run.evidence, study.findings))


def test_what_could_not_be_looked_at_is_said_once_with_what_allows_it():
    run = run_with(Evidence(skipped=NOT_ALLOWED))
    said = plain(Report([run]).results().body)
    assert (
        said.count("Not looked at: where time goes inside the kernel, and which locks threads wait for.") == 1
    )
    assert f"On the one path: {NOT_ALLOWED.replace('`', '')}." in said
    assert "CPU time grew" in said  # as much as traces and CPU time tell


def test_an_older_run_says_how_to_record_it():
    assert (
        "On the one path: this run has no evidence; ktask sweep GRID --evidence auto records it"
        in missing(run_with(None))
    )


def test_what_a_sweep_did_not_reach_is_told_from_what_it_may_not_see():
    run = run_with(seen_case())
    ((key, seen),) = run.evidence.items()
    run = replace(run, evidence={key._replace(size_bytes=1): seen})
    assert "On the one path: the sweep ended before it; ktask sweep with --resume" in missing(run)


def test_the_page_says_what_the_machine_check_said():
    run = run_with(None)
    finding = {"name": "evidence", "level": "note", "value": "perf is not installed", "remedy": "install it"}
    run.machine["doctor"] = [finding]
    assert "On the one path: perf is not installed; install it." in missing(run)


def test_nothing_is_missing_where_everything_was_seen():
    assert missing(run_with(seen_case())) == ""
    said = missing(run_with(seen_case(waits=[], sees_locks=False)))
    assert said.startswith("Which locks threads waited for could not be seen: that needs Linux 5.19")


def test_one_thread_leaves_nothing_to_explain():
    run = make_run(make_records((replace(TRUTHS[8], scaling={}),), (GIB,)))
    assert missing(run) == ""
    assert bottlenecks.finding(table_of(run)) == ""


# --- hostile names ---------------------------------------------------------------------------------------

EVIL = '</title><script>alert(1)</script>"&'


def drawn(stacks, waits=()):
    """Return the details of a path with these stacks, parsed, and their size."""
    found = seen_case(stacks=stacks, waits=list(waits))
    run = run_with(found)
    table = table_of(run)
    (row,) = [row for _, row in table.iterrows()]
    html, said = str(evidence_tables.of_path(row, row["seen"], "key")), str(bottlenecks.finding(table))
    figure = gains_figure.gains_figure(Study(run).scaling, table, "free", "key")
    assert len(figure.svg) < 60_000
    ElementTree.fromstring(figure.svg)
    ElementTree.fromstring(re.search("<svg.*</svg>", html, re.DOTALL)[0])
    return html + said


def test_markup_in_names_stays_text():
    html = drawn({(EVIL, EVIL, *ENTRY): 0.12}, [Wait(EVIL, EVIL, EVIL, 0.05, 3, EVIL)])
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_endless_names_are_cut():
    html = drawn({("x" * 10_000_000, *ENTRY): 0.12}, [Wait("y" * 10_000_000, "z", "w", 0.05, 3)])
    assert len(html) < 60_000


def test_any_number_of_stacks_gives_a_graph_of_limited_size():
    deep = [[f"{'d' * 50}{i}_{k}" for k in range(20)] for i in range(150)]
    many = {(f"leaf{i}", *deep[i % 150], *ENTRY): 0.12 / 30_000 for i in range(30_000)}
    html = drawn(many | {CLEAR: 0.02})
    graph = re.search("<svg.*</svg>", html, re.DOTALL)[0]
    assert len(graph) < flame.MOST_BYTES + 5_000
    assert len(html) < 60_000


def test_deep_stacks_are_cut():
    html = drawn({(*(f"f{i}" for i in range(5_000)), *ENTRY): 0.12})
    assert html.count("<rect") <= flame.MOST_DEPTH


# --- the flame graph -------------------------------------------------------------------------------------


def test_a_frame_is_as_wide_as_its_time_and_lies_below_its_caller():
    found = {one.name: one for one in flame.frames(*looks(seen_case()))}
    top = found["entry_SYSCALL_64_after_hwframe"]
    assert (top.depth, top.start_s) == (0, 0.0)
    assert top.many_s == pytest.approx(0.122)
    assert top.serial_s == pytest.approx(0.1)
    clear, zap = found["clear_page_erms"], found["zap_pte_range"]
    assert clear.more_s == pytest.approx(0.022)
    assert zap.start_s == pytest.approx(clear.start_s + clear.many_s)
    assert clear.depth == zap.depth == 4


def looks(found):
    return found.serial, found.many


def test_threads_are_merged_whatever_called_the_kernel():
    stacks = {(*ZAP[:-1], "PyEval"): 0.05, (*ZAP[:-1], "start_thread", "clone3"): 0.07, ("memset", "?"): 0.02}
    names = [one.name for one in flame.frames(*looks(seen_case(stacks=stacks)))]
    assert names == [*reversed(ZAP[:-1]), "user code"]


def test_what_was_narrow_is_left_out():
    stacks = {ZAP: 0.1, CLEAR: 0.0004}
    assert "clear_page_erms" not in [one.name for one in flame.frames(*looks(seen_case(stacks=stacks)))]


def test_a_graph_can_be_read_without_seeing_it():
    html = str(flame.graph(*looks(seen_case()), "munmap (4 KiB)", "key"))
    root = ElementTree.fromstring(re.search("<svg.*</svg>", html, re.DOTALL)[0])
    known = {one.get("id"): one.text for one in root.iter() if one.get("id")}
    assert root.get("aria-labelledby").split() == ["key-title", "key-text"]
    assert known["key-title"] == "Flame graph of munmap (4 KiB), 2 threads against one"
    assert "clear_page_erms: 42.6 %, 52.0 ms (+22.0 ms)" in known["key-text"]
    assert '<p class="flame-search" hidden>' in html  # a script shows it


# --- origins ---------------------------------------------------------------------------------------------


def test_the_columns_of_the_key_are_those_of_the_store():
    assert CaseKey._fields == evidence.KEY
