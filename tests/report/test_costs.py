"""What it costs others, and the reviewers' questions: from rows with known truth to words."""

import re
from dataclasses import replace

import pyarrow as pa
import pytest
from markupsafe import Markup
from test_busy import busy_run
from test_report import FEW, GIB, MIB, make_records, make_run

from ktask.lab.bystanders import Bystanders, store
from ktask.lab.records import unconditioned
from ktask.report.costs import neighbours, questions
from ktask.report.costs import section as costs
from ktask.report.costs.questions import HERE, NOT_HERE, NOT_IN_RUN, QUESTIONS
from ktask.report.study import Study

SIZE = 64 * MIB
PLACE = {"process": "same", "place": "helper", "cpu": 1, "phase": "during", "n": 500, "repetitions": 3}
CASE = {"workload": "zeroing", "backend": "kernel", "method": "populate", "page_kind": "THP", "options": ""}
CASE |= {"policy": "ktask-v4", "size_bytes": SIZE, "boot_id": "boot", "threads_most": 2}
SPREAD = (0.9, 1.0, 1.1)


def rows_of(probe, serial_s, threads_s, scale=1.0, **place):
    """Return the rows of one process: beside nothing, beside the serial call and beside threads."""
    waits = {"idle": serial_s, "serial": serial_s, "threads": threads_s * scale}
    about = PLACE | {"probe": probe, "threads": 2, "wall_s": 0.01} | place
    return [
        about | {"way": way, "p50_s": wait / 2, "p99_s": wait, "max_s": 9 * wait}
        for way, wait in waits.items()
    ]


def probed(*rows_of_pass, case=CASE):
    """Return the table of a run whose processes found these rows."""
    labels = {"run_id": "run", "host_id": "host", "cell_id": "c"}
    found = [
        store.table_of(Bystanders(rows), case, labels | {"pass": k}) for k, rows in enumerate(rows_of_pass, 1)
    ]
    return pa.concat_tables(found).to_pandas()


@pytest.fixture(scope="module")
def records():
    return make_records(FEW, (4 * MIB, SIZE, GIB))


def study_of(records, bystanders=None):
    run = make_run(records)
    if bystanders is not None:
        run.bystanders = bystanders
    return Study(run)


@pytest.fixture(scope="module")
def study(records):
    """A run in which a page fault waits ten times as long, and a wake-up differs from process to process."""
    passes = [
        rows_of("page fault", 2e-6, 2e-5, scale)
        + rows_of("wake-up", 1e-5, 1e-5, 10**place, process="another")
        + rows_of("cache", 1e-5, 3e-5, scale, process="another")
        for place, scale in zip((-1, 0, 1), SPREAD, strict=True)
    ]
    return study_of(records, probed(*passes))


def test_a_wait_stands_beside_the_speedup_of_its_case(study):
    row = study.bystanders[study.bystanders["probe"] == "page fault"].iloc[0]
    assert row["speedup"] == pytest.approx(1.9, rel=0.05)
    assert row["p99_ratio"] == pytest.approx(10, rel=0.05)
    assert (row["longer"], row["verdict"], row["neighbour"]) == (
        "longer",
        "faster",
        "page fault, same process",
    )
    text = neighbours.section(study)
    assert "2 threads are 1.89 [" in text
    assert "one page fault in a hundred (same process) takes 19.9 µs or longer" in text
    assert "Beside the serial call it is 2.00 µs, so the wait is " in text
    assert "page fault, same process on 1 of 1; wake-up, another process on 0 of 1" in text


def test_what_is_undecided_is_not_said_to_wait_longer(study):
    row = study.bystanders[study.bystanders["probe"] == "wake-up"].iloc[0]
    assert row["longer"] == "undecided"


def test_a_run_that_clears_nothing_has_no_word_on_caches():
    rows = probed(rows_of("cache", 1e-5, 3e-5, process="another"))
    assert len(neighbours.cache_table(rows)) == 1
    assert len(neighbours.cache_table(rows.assign(workload="page_walk"))) == 0


def test_the_figure_has_a_point_per_path_and_probe_and_says_the_worst(study):
    figure = neighbours.bystander_figure(study.bystanders, "bystanders")
    assert len(figure.data) == 2
    assert "page fault, same process beside zeroing populate (THP)" in figure.caption
    assert "page fault, same process: 9.97 [" in figure.alt
    assert neighbours.bystander_figure(study.bystanders.iloc[:0], "x") is None


def test_a_neighbours_cache_is_compared_with_nothing_beside_it(study):
    (row,) = study.caches.to_dict("records")
    assert row["beside_threads"] == pytest.approx(3, rel=0.02)
    assert row["beside_serial"] == pytest.approx(1)
    assert "takes 2.99 [" in neighbours.cache_section(study)


def test_without_neighbours_the_section_says_how_to_have_them(records):
    text = neighbours.section(study_of(records))
    assert "No neighbour probed in this run" in text
    skipped = store.table_of(
        Bystanders(skipped="there is one thread"),
        CASE,
        {"run_id": "", "cell_id": ""} | {"host_id": "host", "pass": 1},
    )
    assert "Not measured: there is one thread." in neighbours.section(study_of(records, skipped.to_pandas()))


def test_the_section_has_every_part_with_its_number(study):
    text = costs.section(study, {"neighbours-wait": Markup("<figure></figure>")}, 10)
    heads = re.findall(r"<h3 id=.*?>(10\.\d) (.*?)</h3>", text)
    assert [number for number, _ in heads] == ["10.1", "10.2"]
    assert re.findall(r"<h3 id=.*?>(E\.\d) .*?</h3>", costs.more(study)) == ["E.1", "E.2"]
    assert "A saved second costs" in text
    assert text.index("<figure>") < text.index("10.2")


def test_load_and_quota_answer_their_questions():
    run = busy_run()
    found = {number: answer for number, _, answer in questions.answers(Study(unconditioned(run), whole=run))}
    assert {n for n in (2, 3, 9) if found[n].kind == HERE} == {2, 3, 9}
    assert re.search(
        r"2 threads with helpers at nice 19 take 0\.4\d+ \[.*one thread 0\.\d+ \[", found[2].text
    )
    assert re.search(r"with handing over 1\.5\d? \[.*without 3\.0", found[9].text)


def test_rules_are_scored_on_the_run_and_on_published_tables(study):
    table = study.rules.set_index("rule")
    assert table.loc["4 (ktask)", "here_threads"] == "2"  # of two CPUs
    assert table.loc["a quarter of the machine (hugetlb, 2025)", "here"] > 1.3
    assert table.loc[["4 (ktask)", "bandwidth over one thread's"], "published_paths"].min() > 0
    assert (table["here_paths"] > 0).all()


# --- questions ------------------------------------------------------------------------------------------


def answers(study):
    return {number: answer for number, _, answer in questions.answers(study)}


def test_every_question_is_there_once_with_who_asked(study):
    assert len(QUESTIONS) == len({one.title for one in QUESTIONS}) == 17
    assert all(one.asked for one in QUESTIONS)
    text = questions.section(study)
    assert text.count("<tr") == 18
    assert (
        f"{sum(a.kind == HERE for a in answers(study).values())} of 17 have an answer from this run" in text
    )


def test_an_answer_from_this_run_has_a_number_with_an_interval(study):
    found = answers(study)
    for n in (1, 4, 13, 15, 16):
        assert found[n].kind == HERE
        assert re.search(r"\d+(\.\d+)? \[\d", found[n].text), n


def test_nothing_is_claimed_that_the_rows_do_not_carry(records):
    few = records[records["workload"] == "zeroing"]
    found = answers(study_of(few))
    assert {n for n in (2, 3, 5, 6, 9, 15, 16) if found[n].kind != NOT_IN_RUN} == set()
    assert {n for n in (11, 14, 17) if found[n].kind != NOT_HERE} == set()
    assert "ktask sweep questions" in found[12].text
    of_grid = study_of(few)
    of_grid = replace(of_grid, run=replace(of_grid.run, grid={"name": "questions"}))
    assert "Chunk sizes were not varied. Appendix B lists" in answers(of_grid)[12].text
    nothing = answers(study_of(records[records["threads"] == 1]))
    assert {n for n, one in nothing.items() if one.kind == HERE} == set()
