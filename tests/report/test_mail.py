"""The report as a mail and as a table."""

import io

import pandas as pd
import pytest
from test_report import EVIL, FEW, make_records, make_run, one_path

from ktask.report import Report
from ktask.report.forms import mail

LINES = 75


@pytest.fixture(scope="module")
def text():
    return mail.mail(Report([make_run()]))


def test_a_mail_has_75_columns_and_signs_that_every_client_shows(text):
    assert max(map(len, text.splitlines())) <= LINES
    assert text.isascii()


def test_a_mail_begins_with_kernel_machine_and_answer(text):
    first, second, blank, answer = text.splitlines()[:4]
    assert first.startswith("ktask: Linux ")
    assert second.startswith("run sample of 2")
    assert blank == ""
    assert answer.startswith("Mostly yes: 6 of 7 kernel paths are faster")


def test_each_workload_has_a_table_and_user_space_one_of_its_own(text):
    lines = text.splitlines()
    heads = [lines[k - 1] for k, line in enumerate(lines) if line.startswith("path ")]
    assert heads == ["Zeroing", "Zeroing, in user space", "Page walk", "Free"]


def case_line(found: str) -> list[str]:
    """Return the words of the line of 1 GiB."""
    (line,) = [line for line in found.splitlines() if line[19:27].strip() == "1 GiB"]
    return line[27:].split()


@pytest.mark.parametrize(("speedup", "mark"), [(1.6, "+"), (0.6, "-"), (1.0, "=")])
def test_a_verdict_is_a_mark(speedup, mark):
    assert case_line(mail.mail(Report([one_path({2: speedup})])))[-2] == mark


def test_the_number_of_threads_is_the_fewest_within_noise_of_the_fastest():
    assert case_line(mail.mail(Report([one_path({2: 1.9, 4: 3.5, 8: 3.5})])))[2] == "4"


def test_names_from_a_run_do_not_break_the_columns():
    records = make_records(FEW, n=7)
    records.loc[records.method == "munmap", "method"] = "a" * 300 + EVIL
    found = mail.mail(Report([make_run(records, host_name=EVIL)]))
    assert max(map(len, found.splitlines())) <= LINES


def test_a_table_has_a_row_per_case_and_threads_with_units_in_its_names():
    report = Report([one_path({2: 1.6, 4: 2.0})])
    table = pd.read_csv(io.StringIO(mail.columns(report).to_csv(index=False)))
    assert len(table) == len(report.studies[0].scaling)
    assert {"run", "wall_s", "wall_low_s", "wall_high_s", "speedup", "cpu_cost", "verdict"} <= set(
        table.columns
    )
    assert (table["wall_s"] > 0).all()
