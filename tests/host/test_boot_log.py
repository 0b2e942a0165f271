"""What the kernel did in parallel at boot: which of its lines count."""

import pytest

from ktask.host.boot_log import parallel_boot
from ktask.report.machine import describe

LOG = """\
6,290,0,-;HugeTLB: allocation took 712ms with hugepage_allocation_threads=64
6,291,0,-;HugeTLB: registered 2.00 MiB page size, pre-allocated 1024 pages
6,300,0,-,caller=T36;node 1 deferred pages initialised in 57ms
12,301,0,-;node 2 deferred pages initialised in 1ms
6,302,0,-;node 3 deferred pages initialised in 99999999999ms
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").write_text(LOG)
    return tmp_path


def test_only_lines_of_the_kernel_with_numbers_that_can_be_count(root):
    assert parallel_boot(root) == [
        {"task": "hugetlb_pages", "time_ms": 712, "threads": 64},
        {"task": "deferred_init", "nid": 1, "time_ms": 57},
    ]


def test_without_a_log_there_is_nothing(tmp_path):
    assert parallel_boot(tmp_path) == []


def text_of(machine):
    return dict(describe(machine))["In parallel at boot (padata)"]


def test_the_report_shows_them_beside_the_published_ones(root):
    text = text_of({"parallel_boot": parallel_boot(root)})
    assert text.startswith(
        "hugetlb pages in 712 ms by 64 threads, deferred page init of node 1 in 57 ms; publ"
    )
    assert "deferred page init 21.0 ms to 1.86 s (3 machines)" in text
    assert text_of({}).startswith("no line about it in the kernel's log, or that may not be read; published:")


@pytest.mark.parametrize(
    "odd", [[{}], [{"task": "x", "time_ms": 1}], ["x"], [{"task": "deferred_init", "time_ms": "1"}]]
)
def test_a_fact_of_another_hand_costs_its_line(odd):
    assert text_of({"parallel_boot": odd}) == "not known"
