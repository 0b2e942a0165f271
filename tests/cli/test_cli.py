"""The command line, as a user types it: results, refusals in one line, and Ctrl-C."""

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import descendants, wait_for
from typer.testing import CliRunner

from ktask import __main__, workloads
from ktask.cli import app as cli
from ktask.cli.case_options import thread_count
from ktask.cli.workload_names import option_names, workload_names
from ktask.engine.policy import POLICIES
from ktask.host import available_memory, control_groups, topology
from ktask.lab.records import write_records
from ktask.lab.sweep.notebooks import NotebookError

VERBS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
VECTORS = Path(__file__).parents[1] / "data" / "ktask-vectors.csv"
ESTIMATE = ["median", "low", "high", "best", "n"]
# In the words and the order of the design; scripts rely on them.
KEYS = ["workload", "backend", "method", "page_size", "size_bytes", "policy", "threads", "chunk_size"]
KEYS += ["n_chunks", "unit", "threads_requested", "threads_note"]
KEYS += ["wall_s", "baseline_wall_s", "rate", "speedup", "verdict", "passes"]
KEYS += ["between_processes_pct", "verified", "cpus", "nodes", "shared_cores", "placement", "flags"]
KEYS += ["kernel_log"]
KEYS += ["states", "cold", "options", "conditions", "seed"]

# What is typed, and what the one line must hold: the value, and what is allowed or what to do.
BAD = {
    "no such verb": ("frobnicate", "frobnicate", "No such command"),
    "no such option": ("run zeroing --frobnicate 1", "--frobnicate", "No such option"),
    "no workload": ("run", "workload", "Missing argument"),
    "no value": ("run zeroing --size", "--size", "requires an argument"),
    "workload": ("run zeroingg", "'zeroingg'", "use one of zeroing, page_walk, free"),
    "method": ("run zeroing --method magic", "'magic'", "use one of populate, "),
    "backend": ("run zeroing --backend gpu", "'gpu'", "use one of kernel, user"),
    "backend of method": ("run zeroing --method memset --backend kernel", "memset", "has backend user"),
    "page size": ("run zeroing --page-size 7KiB", "'7KiB'", "4KiB, THP, 2MiB, 1GiB"),
    "negative size": ("run zeroing --size -1", "'-1'", "such as 512MiB"),
    "size in parsecs": ("run zeroing --size 3parsecs", "'3parsecs'", "such as 512MiB"),
    "min chunk": ("run zeroing --min-chunk 0", "'0'", "positive"),
    "policy": ("run zeroing --policy ktask-v9", "ktask-v9", "ktask-v4"),
    "no threads": ("run zeroing --threads 0", "threads=0", "use 1 to"),
    "many threads": ("run zeroing --threads 9999", "threads=9999", "use 1 to"),
    "threads in words": ("run zeroing --threads two", "'two'", "whole number"),
    "passes": ("run zeroing --passes 0", "passes=0", "use 1 to 1000"),
    "sweep passes": ("sweep tiny --passes 0", "passes=0", "use 1 to 1000"),
    "bystanders of a sweep": ("sweep tiny --bystanders on", "'on'", "use auto or off"),
    "evidence of a sweep": ("sweep tiny --evidence maybe", "'maybe'", "use auto or off"),
    "repetitions": ("run zeroing --repetitions 0", "repetitions=0", "use 1 or more"),
    "memory": ("run zeroing --size 64TiB", "needs 65664.00 GiB", "use a smaller size"),
    "CPUs": ("run zeroing --cpus 0,9999", "9999", "use some of 0"),
    "no scheduler": ("sweep tiny --scheduler=", "''", "use tcp://host:8786"),
    "list of CPUs": ("sweep tiny --cpus 3-1", "'3-1'", "numbers up to 65535"),
    "no CPU": ("run zeroing --cpus ,", "no CPU", "use some of 0"),
    "placement": ("run zeroing --placement near", "'near'", "use one of cores, siblings"),
    "placement of a sweep": ("sweep tiny --placement near", "'near'", "use cores"),
    "load": ("run zeroing --load drums:2", "'drums:2'", "use none, or one of spin, memory"),
    "share of a load": ("run zeroing --load spin:150%", "'spin:150%'", "1% to 100%"),
    "many generators": ("run zeroing --load spin:9999", "spin:9999", "use up to"),
    "quota": ("run zeroing --quota 1.5", "'1.5'", "such as 150%"),
    "a quota of more CPUs": ("run zeroing --quota 999999%", "999999%", "use up to"),
    "nice": ("run zeroing --nice 20", "'20'", "a level from 0 to 19"),
    "node": ("run zeroing --set node=99", "no memory on node 99", "only on [0"),
    "trace": ("run zeroing --size 1MiB --trace no/t.csv", "no/t.csv", "no is not a directory"),
    "no grid": ("sweep nosuch", "'nosuch'", "neither a file nor one of coverage, free, full"),
    "damaged grid": ("sweep damaged.yaml", "damaged.yaml", "cannot be read"),
    "wrong grid": ("sweep wrong.yaml", "threads=0", "at least 1"),
    "run name": ("sweep tiny --run a/b", "'a/b'", "letters, digits"),
    "format of a report": ("report sample --format pdf", "'pdf'", "use html, slides, mail, csv"),
    "mail as JSON": ("report sample --format mail --json", "--json", "--out FILE"),
    "no run": ("report nosuch", "'nosuch'", "does not exist"),
    "damaged records": ("report damaged --out r.html", "c.parquet", "delete it and resume the run"),
    "damaged machine": ("report machineless --out r.html", "machine.json", "measure again"),
    "no vectors": ("vectors nosuch.csv", ": nosuch.csv: ", "No such file"),
    "no table": ("predict nosuch.csv", ": nosuch.csv: ", "No such file"),
    "malformed vectors": ("vectors malformed.csv", "malformed.csv", "the header needs"),
    "binary vectors": ("vectors binary.csv", "binary.csv", "not a CSV file"),
}


def spoil(folder):
    """Put files there that are no good."""
    (folder / "damaged.yaml").write_text("work: [1,")
    (folder / "wrong.yaml").write_text("threads: 0\nwork: [{workload: free, size: 1MiB}]")
    (folder / "malformed.csv").write_text("a,b\n1,2\n")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    for name, machine in {"damaged": "{}", "machineless": "[]"}.items():
        (folder / name / "records").mkdir(parents=True)
        (folder / name / "grid.yaml").write_text("name: x")
        (folder / name / "machine.json").write_text(machine)
    write_records(folder / "damaged/records/c.parquet", [])
    (folder / "damaged/records/c.parquet").write_bytes(b"PAR1 and no more")


@pytest.fixture
def spoilt(commands, monkeypatch):
    """Commands typed among files that are no good."""
    spoil(commands.cwd)
    monkeypatch.chdir(commands.cwd)
    return commands


# --- refusals ---------------------------------------------------------------------------------------------


def is_refusal(stderr, value, allowed):
    """Return whether the last line says what is wrong, and the others only how far the report had come."""
    *progress, last = stderr.splitlines()
    assert all(line.startswith("report: ") for line in progress)
    return last.startswith("ktask: ") and value in last and allowed in last


@pytest.mark.parametrize(("line", "value", "allowed"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_one_line(line, value, allowed, spoilt, typed):
    before = spoilt.files()
    code, out, err = typed(*line.split())
    assert (code, out) == (2, "")
    assert is_refusal(err, value, allowed), err
    assert spoilt.files() == before


@pytest.mark.parametrize("name", ["no such option", "memory", "damaged records", "malformed vectors"])
def test_bad_input_is_refused_by_the_program_too(name, spoilt):
    line, value, allowed = BAD[name]
    before = spoilt.files()
    done = spoilt.run(line)
    assert (done.returncode, done.stdout) == (2, "")
    assert is_refusal(done.stderr, value, allowed), done.stderr
    assert spoilt.files() == before


def test_a_check_that_fails_is_no_traceback(monkeypatch, typed):
    def fail(*_, **__):
        raise workloads.CheckError("3 pages still hold data")

    monkeypatch.setattr("ktask.lab.measure.processes.measure_case", fail)
    said = "ktask: no result, the work was not done as it should: 3 pages still hold data\n"
    assert typed("run", "zeroing", "--passes", "1") == (1, "", said)


def test_a_report_whose_notebook_does_not_end_is_no_traceback(monkeypatch, typed, tmp_path):
    def fail(*_, **__):
        raise NotebookError("the process of the cell died (killed, or out of memory)")

    monkeypatch.setattr("ktask.report.page.notebooks.execute", fail)
    code, out, err = typed("report", "sample", "--out", tmp_path / "r.html")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == (
        "ktask: no report, its notebook did not end: the process of the cell died (killed, or out of memory)"
    )


@pytest.mark.parametrize("form", ["mail", "csv"])
def test_a_report_as_text_goes_to_stdout_or_to_a_file(form, typed, tmp_path):
    code, out, err = typed("report", "sample", "--format", form)
    assert (code, err) == (0, "")
    assert "populate" in out
    code, said, _ = typed("report", "sample", "--format", form, "--out", tmp_path / "deep" / "r.txt")
    assert (code, said.strip()) == (0, str(tmp_path / "deep" / "r.txt"))
    assert (tmp_path / "deep" / "r.txt").read_text() == out


def test_a_report_does_not_begin_where_memory_is_short(monkeypatch, typed, tmp_path):
    monkeypatch.setattr("ktask.host.available_memory.memory_room_bytes", lambda: [200 << 20, 1 << 40])
    code, _, err = typed("report", "sample", "--out", str(tmp_path / "page.html"))
    assert code == 2
    assert err == (
        "ktask: a report takes 300 MiB of memory more, and 200 MiB are left; --format mail takes less\n"
    )


def test_slides_are_a_file_beside_the_report(monkeypatch, typed, tmp_path):
    monkeypatch.setattr("ktask.report.forms.slides.slides", lambda report: f"slides of {report.runs[0].name}")
    code, out, _ = typed("report", "sample", "--format", "slides", "--dir", tmp_path, "--json")
    file = tmp_path / "reports" / "sample-slides.html"
    assert (code, json.loads(out)) == (0, {"report": str(file)})
    assert file.read_text() == "slides of sample"


def test_a_notebook_of_a_report_has_as_long_as_it_takes(monkeypatch, typed, tmp_path):
    limits = []

    def execute(_source, _out, _parameters, timeout_s=None, _kernels=None):
        limits.append(timeout_s)
        raise NotebookError("enough")

    monkeypatch.setattr("ktask.report.page.notebooks.execute", execute)
    typed("report", "sample", "--out", tmp_path / "r.html")
    assert limits == [None]


@pytest.mark.parametrize(
    ("cpus", "quota", "said"),
    [
        (8, None, "threads=9 is not allowed; use 1 to 8, the CPUs of this process"),
        (8, 2.5, "threads=9 is not allowed; use 1 to 2, the whole CPUs of this process's quota of 2.5 "),
        (2, 2.5, "threads=9 is not allowed; use 1 to 2, the CPUs of this process"),
    ],
)
def test_a_refusal_of_threads_names_the_quota_if_that_is_the_bound(cpus, quota, said, monkeypatch, typed):
    monkeypatch.setattr(topology, "allowed_cpus", lambda: tuple(range(cpus)))
    monkeypatch.setattr(control_groups, "quota_cpus", lambda *_: quota)
    code, out, err = typed("run", "zeroing", "--threads", "9")
    assert (code, out) == (2, "")
    assert err.startswith(f"ktask: {said}")


def test_threads_left_out_are_as_many_as_a_task_gets(monkeypatch):
    for cpus, threads in ((1, 1), (2, 2), (4, 4), (8, 7), (72, 58), (288, 231)):
        monkeypatch.setattr(topology, "allowed_cpus", lambda cpus=cpus: tuple(range(cpus)))
        assert thread_count(None) == threads


# --- results ----------------------------------------------------------------------------------------------


def test_run_as_json(commands):
    options = "--size 4MiB --page-size 4KiB --threads 1 --min-chunk 64KiB --repetitions 3 --json"
    done = commands.run(f"run zeroing {options}")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    for key in ("wall_s", "baseline_wall_s", "rate", "speedup"):
        assert list(found[key]) == ESTIMATE
        assert 0 < found[key]["low"] <= found[key]["median"] <= found[key]["high"]
    assert found["wall_s"]["best"] <= found["wall_s"]["median"]
    assert found["rate"]["best"] >= found["rate"]["median"]
    assert found["rate"]["best"] == pytest.approx(found["size_bytes"] / found["wall_s"]["best"])
    assert found["verified"] is True
    assert {k: found[k] for k in KEYS[:6]} == {
        "workload": "zeroing",
        "backend": "kernel",
        "method": "populate",
        "page_size": "4KiB",
        "size_bytes": 4 << 20,
        "policy": "ktask-v4",
    }
    assert (found["threads"], found["n_chunks"], found["unit"]) == (1, 1, "byte")


@pytest.mark.cpus(2)
def test_run_in_words_and_with_a_trace(commands):
    options = "--size 16MiB --threads 2 --min-chunk 64KiB --repetitions 2 --trace t.csv"
    done = commands.run(f"run page_walk {options}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("page_walk pagemap_scan, 16 MiB of 4KiB pages\n")
    assert [line.split()[0] for line in done.stdout.splitlines()[4:8]] == ["1", "2", "rate", "speedup"]
    trace = (commands.cwd / "t.csv").read_text().splitlines()
    assert trace[0] == "part,helper,cpu,start,end,t0_s,t1_s"
    chunks = sorted(tuple(map(int, line.split(",")[3:5])) for line in trace[1:])
    assert (chunks[0][0], chunks[-1][1]) == (0, 4096)
    assert all(one[1] == next_one[0] for one, next_one in itertools.pairwise(chunks))
    assert commands.files() == ["t.csv"]


def test_what_the_machine_cannot_do_is_skipped(commands):
    done = commands.run("run free --method lazyfree --page-size 2MiB --size 2MiB --json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {"skipped": "free lazyfree works on 4KiB, THP pages, not on 2MiB"}


def test_vectors_hold(commands):
    done = commands.run(f"vectors {VECTORS} --json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["mismatches"]) == (0, [])
    assert found["rows"] == found["passed"] > 50


def test_vectors_that_differ_are_listed(commands):
    lines = VECTORS.read_text().splitlines()
    column = lines[0].split(",").index("n_chunks")
    row = next(line for line in lines[1:] if line.split(",")[column].isdigit() and '"' not in line)
    cells = row.split(",")
    cells[column] = "77777"
    (commands.cwd / "mine.csv").write_text("\n".join([lines[0], ",".join(cells)]) + "\n")
    done = commands.run("vectors mine.csv")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"case {cells[0]}, n_chunks: expected 77777, got" in done.stdout
    assert done.stdout.endswith("0 of 1 rows hold\n")


def test_doctor_as_json(commands):
    done = commands.run("doctor --json")
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found["findings"]
    assert done.returncode == any(f["level"] == "blocker" for f in found["findings"])


# --- help -------------------------------------------------------------------------------------------------


def help_of(*args):
    """Return a help text, all words of it on one line."""
    done = CliRunner().invoke(cli.app, [*args, "--help"])
    assert done.exit_code == 0
    return " ".join(done.output.split())


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_has_an_example(verb):
    assert f"Examples: ktask {verb}" in help_of(verb)


def test_the_help_lists_the_verbs():
    assert {"doctor", "run", "sweep", "report", "vectors"} <= set(VERBS)
    assert all(f" {verb} " in help_of() for verb in VERBS)


def test_the_help_names_every_workload_and_method():
    text = help_of("run")
    for workload in workloads.registry().values():
        assert workload.name in text
        assert all(method.name in text for method in workload.methods)
        assert all(f"{option.name}" in text for method in workload.methods for option in method.options)


def test_options_read_from_the_source_are_those_of_the_registry():
    expected = {
        w.name: {option.name for method in w.methods for option in method.options}
        for w in workloads.registry().values()
    }
    found = {name: set(options) for name, options in option_names().items()}
    assert found == {name: options for name, options in expected.items() if options}


def test_names_read_from_the_source_are_those_of_the_registry():
    expected = {w.name: [m.name for m in w.methods] for w in workloads.registry().values()}
    assert list(workload_names().items()) == list(expected.items())


def test_without_a_verb_the_help_is_shown(commands):
    done = commands.run("")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
    assert done.stdout.count("\n") > 10


def test_the_default_policy_exists():
    assert "ktask-v4" in POLICIES


# --- Ctrl-C -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        (
            "raise ImportError('libfoo.so: failed to map segment')",
            1,
            r"libfoo\.so: failed to map segment; \w",
        ),
        ("raise ModuleNotFoundError('No module named x')", 1, r"No module named x; .*ktask\[lab\]"),
        ("raise MemoryError", 1, r"memory has run out; raise .*`ulimit -v`"),
        ("raise SystemError('error return without exception set')", 1, r".*raise .*`ulimit -v`"),
        ("raise KeyboardInterrupt", 130, "interrupted; nothing is left behind"),
    ],
)
@pytest.mark.parametrize("library", ["typer", "numba"])
def test_what_goes_wrong_while_libraries_are_loaded_is_one_line(library, source, code, said, commands):
    """The command line at its start, and what the measurement brings later."""
    (commands.cwd / f"{library}.py").write_text(source)
    done = commands.run("run zeroing --size 1MiB --repetitions 1 --passes 1")
    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(rf"ktask: .*{said}.*\n", done.stderr)


@pytest.mark.parametrize(
    ("limit", "said"),
    [("-d 65536", "67108864 bytes of data are too few"), ("-n 64", "64 open files are too few")],
)
def test_limits_that_libraries_do_not_bear_are_one_line(limit, said):
    """With little data, OpenBLAS goes on without end; with few files, notebooks end in tracebacks."""
    command = f"ulimit {limit}; exec {sys.executable} -m ktask sweep tiny"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"ktask: {said}, ktask needs \d+; raise the limit \(`ulimit {limit[:2]}`\)\n", done.stderr
    )


def test_without_threads_it_is_one_line(typed, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(cli, "app", refuse)
    code, _, err = typed("doctor")
    assert (code, err.count("\n")) == (1, 1)
    assert "no thread can be started; raise what limits them" in err


def test_what_the_run_cannot_write_is_not_taken_for_a_library(monkeypatch):
    def refuse():
        raise BrokenPipeError

    monkeypatch.setattr(cli, "main", refuse)
    with pytest.raises(BrokenPipeError):
        __main__.main()


def has_region(process) -> bool:
    with contextlib.suppress(OSError):
        return "ktask-alias" in Path(f"/proc/{process.pid}/maps").read_text()
    return False


def test_ctrl_c_ends_a_measurement_at_once(commands):
    pools = available_memory.hugetlb_pools()
    process = commands.start("run page_walk --size 4GiB --set pages=file --repetitions 500 --trace t.csv")
    wait_for(lambda: any(map(has_region, descendants(process.pid))), "the mapping of the region")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (out, err) == ("", "ktask: interrupted; nothing is left behind\n")
    assert commands.files() == []
    assert available_memory.hugetlb_pools() == pools
    assert subprocess.run(["pgrep", "-g", str(process.pid)], check=False).returncode == 1


def test_ctrl_c_while_compiled_code_calls_python_is_not_lost(monkeypatch, capsys):
    """As while numba compiles: LLVM calls back, and an exception there goes nowhere."""

    @ctypes.CFUNCTYPE(None)
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", lambda *_, **__: (interrupted(), time.sleep(20)))
    hook = sys.unraisablehook
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "ktask: interrupted; nothing is left behind\n"
    assert sys.unraisablehook is hook


def test_a_reader_that_goes_away_is_no_traceback(commands):
    process = commands.start(f"vectors {VECTORS} --json")
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=20)
    process.stderr.close()
    commands.started.remove(process)
    assert "Traceback" not in err
    assert err.count("\n") <= 1


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [(">&-", 2, "ktask: stdout is closed, so the result has no place"), ("2>&- <&-", 0, "")],
)
def test_closed_files_are_no_traceback(closed, code, said):
    line = f"{sys.executable} -m ktask simulate --help {closed}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr[: len(said)], done.stderr.count("\n")) == (code, said, bool(said))
