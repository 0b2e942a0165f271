"""Results of other suites: what their files hold, and what is refused in them."""

import os
import re

import pytest

from ktask.lab.compare import compare
from ktask.lab.imports import import_results
from ktask.lab.imports.readers import KINDS
from ktask.lab.records import load_run
from ktask.report.study import Study

SCALE = """\
tasks,processes,processes_idle,threads,threads_idle,linear
0,0,100,0,100,0
1,500000,75.0,400000,75.0,500000
2,1000000,50.0,600000,50.0,1000000
4,0,0.00,800000,0.17,0
"""
USEMEM = """\
1073741824 bytes / 500000 usecs = 2097152 KB/s
4096 usecs to free memory
1073745920 bytes / 524290 usecs = 2000000 KB/s
"""
MMAP = """\
$ perf bench mem mmap -s 4gb -p 4kb -l 10 -f populate
# Running 'mem/mmap' benchmark:
# function 'populate' (Eagerly populated map())
# Copying 4gb bytes ...

       2.000000 GB/sec

$ perf bench mem mmap -s 4gb -p 2mb -l 10 -f populate
# Running 'mem/mmap' benchmark:
# function 'demand' (Demand loaded mmap())
# Copying 64GB bytes ...

      512.000000 MB/sec
# function 'populate' (Eagerly populated mmap())
# Copying 64GB bytes ...

      16.000000 GB/sec
"""


def read(kind, text, name="page_fault1"):
    return list(KINDS[kind][0](name, text))


def test_rates_of_will_it_scale_become_times_of_as_many_operations():
    found = {(one.method, one.threads): one.operations / one.wall_s for one in read("will-it-scale", SCALE)}
    assert found == {
        ("page_fault1_processes", 1): 500000,
        ("page_fault1_processes", 2): 1000000,
        ("page_fault1_threads", 1): 400000,
        ("page_fault1_threads", 2): pytest.approx(600000),
        ("page_fault1_threads", 4): 800000,
    }


def test_tasks_of_vm_scalability_count_together_by_the_longest():
    (found,) = read("vm-scalability", USEMEM, "case-anon-w-seq-2")
    assert (found.method, found.threads, found.wall_s) == ("case-anon-w-seq", 2, 0.52429)
    assert found.size_bytes == found.operations == 2 * 1073741824 + 4096


def test_perf_bench_has_functions_sizes_and_page_kinds():
    found = [
        (one.method, one.page_kind, one.size_bytes >> 30, one.wall_s) for one in read("perf-bench-mmap", MMAP)
    ]
    assert found == [
        ("mmap_populate", "4KiB", 4, 2.0),
        ("mmap_demand", "2MiB", 64, 128.0),
        ("mmap_populate", "2MiB", 64, 4.0),
    ]


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (
            "will-it-scale",
            "tasks,processes\n1,2\n",
            "does not begin with the line tasks,processes,processes_idle",
        ),
        ("will-it-scale", SCALE + "8,-1,0,1,0,1\n", r"line 6: processes='-1' is not allowed"),
        ("will-it-scale", SCALE + "8,1,0\n", "line 6: threads=''"),
        ("will-it-scale", SCALE + "1e9,1,0,1,0,1\n", "tasks='1e9'"),
        ("will-it-scale", SCALE + "2.5,1,0,1,0,1\n", "tasks=2.5 is not allowed"),
        ("will-it-scale", SCALE + f"8,{'9' * 400},0,1,0,1\n", "is not allowed"),
        ("vm-scalability", "nothing\n", "has no line such as"),
        ("vm-scalability", "5 bytes / 0 usecs = 1 KB/s\n", "is no measurement"),
        ("perf-bench-mmap", MMAP.replace("-p 2mb", "-p 3mb"), "page size '3mb' is not allowed"),
        ("perf-bench-mmap", MMAP.replace("2.000000 GB", "0.000000 GB"), "a rate of 0 bytes per second"),
        ("perf-bench-mmap", MMAP.replace("4gb bytes", "x bytes"), "size 'x' is not understood"),
    ],
)
def test_what_no_such_suite_writes_is_refused_with_the_place(kind, text, words, tmp_path):
    (tmp_path / "one.csv").write_text(text)
    with pytest.raises(ValueError, match=words) as refused:
        import_results(kind, [tmp_path], "run", tmp_path / "runs")
    assert "\n" not in str(refused.value)[:-1] and str(tmp_path / "one.csv") in str(refused.value)
    assert not list(tmp_path.glob("runs/*"))


@pytest.fixture
def folders(tmp_path):
    """Three passes of a test of will-it-scale, each a bit slower than the one before."""
    for k in range(3):
        (tmp_path / f"pass{k}").mkdir()
        (tmp_path / f"pass{k}/page_fault1.csv").write_text(SCALE.replace("00000,", f"0{k}000,"))
    return [tmp_path / f"pass{k}" for k in range(3)]


def test_a_run_of_them_can_be_compared_and_reported(folders, tmp_path, typed):
    runs = tmp_path / "data/runs"
    before = load_run(import_results("will-it-scale", folders, "before", runs))
    assert len(before.records) == 15 and before.records["pass"].max() == 3
    code, _, err = typed("import", "will-it-scale", *folders, "--run", "after", "--dir", tmp_path)
    assert (code, err) == (0, "")
    found = compare(before, load_run(runs / "after"))
    assert found.judged and {row.verdict for row in found.rows} == {"same"}
    scaling = Study(before).scaling.set_index(["method", "threads"])["speedup"]
    assert scaling["page_fault1_threads", 4] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lmbench", "."), "results of 'lmbench' cannot be read; use one of will-it-scale"),
        (("will-it-scale", "nowhere"), "nowhere is not a folder"),
        (("will-it-scale", "empty"), "has 0 files \\*.csv; use 1 to 1000"),
        (("will-it-scale", "pipe"), "is not a regular file"),
        (("will-it-scale", "pass0", "--run", "../x"), "run name '../x' is not allowed"),
    ],
)
def test_bad_input_is_refused_in_one_line(words, said, folders, tmp_path, typed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/a.csv")
    code, out, err = typed("import", *words)
    assert (code, out) == (2, "")
    assert re.search(said, err) and err.count("\n") == 1
