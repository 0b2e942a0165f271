"""The report as slides."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from test_first_screen import run_of, with_speedups
from test_report import EVIL, FEW, GIB, TRUTHS, Page, make_records, make_run, one_path

from ktask.report import Report, headline, page
from ktask.report import sentences as words
from ktask.report.forms import slides
from ktask.report.paths.gains_figure import gains_figure


def report_of(run):
    """Return a report with the headline and the figures of workloads: drawing them all takes seconds."""
    report = Report([run])
    study = report.studies[0]
    keys = {name: words.figure_key("speedup", name) for name in study.workloads}
    drawn = [gains_figure(study.scaling, study.bottlenecks, name, key) for name, key in keys.items()]
    drawn.append(headline.headline_figure(study, headline.KEY))
    vars(report)["figures"] = {figure.key: figure for figure in drawn if figure}
    return report


def titles(report):
    return [one.title for one in slides.deck_of(report, report.studies[0])]


@pytest.fixture(scope="module")
def report():
    return report_of(make_run(make_records(FEW, (GIB,), n=3), skips=()))


@pytest.fixture(scope="module")
def html(report):
    return slides.slides(report)


def test_a_deck_goes_from_the_answer_to_the_questions(report):
    found = titles(report)
    assert found[0].startswith("Mostly yes: 3 of 4 kernel paths")
    assert found[1] == "Kernel paths, 2 threads: 3 faster, 1 slower"
    workloads = [one.split(":")[0] for one in found[2:5]]
    assert set(workloads) == {"Zeroing", "Page walk", "Free"}
    assert found[5:] == [
        "What it costs others",
        "How many threads, which chunk",
        "Method and caveats",
        "For discussion",
    ]


def test_a_deck_has_at_most_ten_slides_however_many_workloads_there_are():
    truths = [replace(TRUTHS[0], workload=f"w{k}", scaling={2: 1 + k / 10}) for k in range(7)]
    report = report_of(run_of(*truths, n=2, aa=False, passes=2))
    assert len(titles(report)) <= slides.MOST_SLIDES
    assert sum(one.split(":")[0] in {f"W{k}" for k in range(7)} for one in titles(report)) == 4


def test_the_workloads_of_the_claims_come_first(report):
    names = slides.telling(report.studies[0])
    assert names[:2] == ["page_walk", "free"]  # the largest gain and the largest loss


def test_few_thread_counts_say_why_there_is_no_law(report):
    points = " ".join(map(str, slides._method(report.studies[0]).points))
    assert "Any law fits 2 thread counts, so nothing is said about larger machines" in points
    many = report_of(one_path({2: 1.8, 4: 3, 8: 5}, sizes=(GIB,), n=3))
    assert "law" not in " ".join(map(str, slides._method(many.studies[0]).points))


def test_what_the_run_could_not_answer_is_asked_last():
    noisy = make_records(with_speedups(1.02, 1.02), (GIB,), noise=0.1)
    records = [noisy, make_records([TRUTHS[8]], (GIB,))]
    report = report_of(make_run(pd.concat(records, ignore_index=True), skips=()))
    last = slides.deck_of(report, report.studies[0])[-1]
    text = " ".join(map(str, last.points))
    assert re.search(r"Undecided here: zeroing m\d \(4 KiB\) \(\d.* and zeroing m\d", text)
    assert "Threads lose on free munmap (4 KiB): would helpers inside the kernel" in text
    assert "Does lockdep see helpers" in text


@pytest.mark.parametrize(
    "run",
    [
        make_run(make_records(FEW[:1], n=1).iloc[:0]),
        one_path({}, sizes=(GIB,), n=3),
        one_path({2: 1.6}, passes=1, n=3),
        one_path({2: 0.7}, sizes=(GIB,), n=3),
    ],
)
def test_unexpected_runs_have_slides(run):
    html = slides.slides(report_of(run))
    assert "For discussion" in html
    assert "is the surest gain" not in html


def test_a_deck_is_one_file_that_loads_nothing_and_runs_one_script(html):
    parsed = Page(html)
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert not re.search(r"url\((?!#)", html)
    assert parsed.tags["script"] == 1
    script = (page.TEMPLATE / "slides.js").read_text("utf-8")
    assert f'content="{page.policy(script)}"' in html.replace("&#39;", "'")
    assert parsed.tags["h1"] == 1
    assert parsed.tags["section"] == parsed.tags["h2"] + 1


def test_names_of_a_run_are_escaped_on_slides():
    records = make_records(FEW[3:], (GIB,), n=3, passes=2)
    records.loc[records["method"] == "munmap", "method"] = EVIL
    html = slides.slides(report_of(make_run(records, skips=(), cpu_model=EVIL)))
    assert EVIL not in html
    assert html.count("<script") == 1
