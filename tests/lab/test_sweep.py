"""Sweeps: really by papermill, interrupted, killed, resumed; every cell is there once in the end."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import nbformat
import psutil
import pytest
import yaml
from conftest import descendants, is_gone, wait_for

from ktask.host import perf
from ktask.host.topology import cpu_count
from ktask.lab import runs
from ktask.lab.records import load_run
from ktask.lab.sweep import cells, looks, notebooks, passes, probing, sweep
from ktask.lab.sweep import kernels as kernel
from ktask.lab.sweep.grid import cell_id, parse_grid
from ktask.workloads import Case

WALK = {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size": ["4MiB", "8MiB"]}
TOO_LARGE = {"workload": "zeroing", "method": "memset", "page_kind": "4KiB", "size": "64TiB"}
UNFIT = {"workload": "free", "method": "lazyfree", "page_kind": "1GiB", "size": "1GiB"}
CONTENT = {
    "about": "a test",
    "seed": 1,
    "threads": [1, 2],
    "min_chunk": "64KiB",
    "protocol": {"least": 2, "most": 2, "budget_s": 0.1, "warmup_s": 0.5},
    "work": [WALK, TOO_LARGE, UNFIT],
}
GRID = parse_grid(yaml.safe_dump(CONTENT), "tiny")
WALKS = [cell_id(case) for case in GRID.cases if case.workload == "page_walk"]
FILES_OF_A_CELL = tuple((folder, "parquet") for folder in ("records", "traces", "evidence"))
FILES_OF_A_CELL += (("cells", "ipynb"),)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished run."""
    root = tmp_path_factory.mktemp("runs")
    return sweep.sweep(GRID, "done", root=root, quiet=True, bystanders=False)


KERNELS_FOR_CELLS = kernel.kernels_for_cells


@pytest.fixture(scope="module")
def warm(swept):
    """What the cells of further sweeps in this process are forked from; it takes over a second to start."""
    with kernel.kernels_for_cells() as kernels:
        yield kernels


@pytest.fixture(autouse=True)
def one_warm_process(warm, monkeypatch):
    """Have all sweeps in this process share it, but for the first one."""
    monkeypatch.setattr(kernel, "kernels_for_cells", lambda: contextlib.nullcontext(warm))


@pytest.fixture(autouse=True)
def no_time_to_look(monkeypatch):
    """Have sweeps in this process neither look nor probe, however slow it is, unless a test asks for it."""
    monkeypatch.setattr(looks, "may_look", lambda *_: False)
    monkeypatch.setattr(probing, "cases_to_probe", lambda *_: [])


@pytest.fixture
def always_looks(monkeypatch, no_time_to_look):
    """Have each process of a sweep look."""
    monkeypatch.setattr(looks, "may_look", lambda *_: True)


@pytest.fixture
def run(swept, tmp_path):
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(swept, tmp_path / "runs" / "done"))


@pytest.fixture
def fake_cell(tmp_path, monkeypatch):
    """A notebook of a few lines in place of that of a cell; or one for each workload."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)

    def write(source="", **sources):
        choice = [f"if workload == {name!r}:\n    {line}" for name, line in sources.items()]
        cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})]
        cells.append(nbformat.v4.new_code_cell("\n".join([source, *choice])))
        spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
        nbformat.write(book, folder / "cell.ipynb")

    return write


def state(path):
    """Return every file of a run with its time of change."""
    return {p.relative_to(path).as_posix(): p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


# --- a run ------------------------------------------------------------------------------------------------


def test_a_run_holds_every_cell_once(swept):
    found = load_run(swept)
    per_cell = found.records.query("not warmup").groupby(["cell_id", "round", "order"]).size()
    assert sorted({cell for cell, *_ in per_cell.index}) == sorted(WALKS)
    assert (per_cell == 1).all()
    assert len(per_cell) == 2 * 2 * 4  # cells, rounds, variants
    assert set(found.records["run_id"]) == {"done"}
    assert set(found.records["host_id"]) == {found.machine["host_id"]}
    assert found.records["verified"].all()


def test_a_run_says_what_was_asked_and_on_what_machine(swept):
    found = load_run(swept)
    assert found.grid == yaml.safe_load(yaml.safe_dump(GRID.as_dict()))
    assert found.machine["host_id"]
    assert found.machine["doctor"]
    assert json.loads((swept / "datapackage.json").read_text())["title"] == "ktask run done"


def test_what_cannot_be_measured_is_skipped_with_the_reason(swept):
    skipped = load_run(swept).skipped.set_index("cell_id")
    assert len(skipped) == 2
    assert not skipped["failed"].any()
    too_large = skipped.loc["zeroing-memset-4KiB-64TiB-min64KiB"]
    assert "zeroing memset needs 65664.00 GiB, but the budget is" in too_large["reason"]
    assert (
        "works on 4KiB, THP pages, not on 1GiB" in skipped.loc["free-lazyfree-1GiB-1GiB-min64KiB"]["reason"]
    )
    assert (too_large["backend"], too_large["size_bytes"]) == ("user", 64 << 40)


def test_a_run_holds_nothing_else(swept):
    expected = {"machine.json", "grid.yaml", "datapackage.json", ".lock"}
    expected |= {f"{kind}/{cell}.parquet" for cell in WALKS for kind in ("records", "traces", "evidence")}
    expected |= {f"cells/{cell}.ipynb" for cell in WALKS}
    expected |= {f"skipped/{cell_id(case)}.json" for case in GRID.cases if cell_id(case) not in WALKS}
    assert set(state(swept)) == expected
    assert [p.name for p in swept.parent.iterdir()] == ["done"]
    assert psutil.Process().children() == []


def test_the_executed_notebooks_are_kept(swept):
    for cell in WALKS:
        book = nbformat.read(swept / "cells" / f"{cell}.ipynb", as_version=4)
        (injected,) = [c for c in book.cells if "injected-parameters" in c.metadata.get("tags", [])]
        assert f'"cell_id": "{cell}"' in injected.source
        assert all(c.execution_count for c in book.cells if c.cell_type == "code")


def test_the_order_is_random_and_follows_the_seed():
    grid = parse_grid(
        yaml.safe_dump(CONTENT | {"work": [WALK | {"size": [2**k for k in range(12, 32)]}]}), "g"
    )
    order = passes.in_random_order(grid)
    assert order == passes.in_random_order(grid) != list(grid.cases)
    assert Counter(order) == Counter(grid.cases)
    assert passes.in_random_order(replace(grid, seed=2)) != order


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "/abs", "", ".hidden", "-dash", "a b", "a\n", "ü", "x" * 81]
)
def test_a_name_that_is_no_plain_file_name_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is not allowed; use up to 80 letters"):
        sweep.sweep(GRID, name or " ", root=tmp_path / "runs", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_made_of_date_and_grid():
    name = sweep.new_run_name(replace(GRID, name="my grid/ü"))
    assert sweep.run_path(name).name.endswith("-my-grid-")


def test_a_run_is_found_by_name_or_directory(run):
    assert runs.find_run("done", run.parent) == run
    assert runs.find_run(str(run)) == run
    with pytest.raises(ValueError, match="'nosuch' does not exist; there are done"):
        runs.find_run("nosuch", run.parent)
    with pytest.raises(ValueError, match="there is none yet; `ktask sweep` makes one"):
        runs.find_run("nosuch", run / "cells")


# --- resuming ---------------------------------------------------------------------------------------------


def test_a_run_that_exists_is_not_touched_without_resume(run):
    before = state(run)
    with pytest.raises(ValueError, match=r"run done exists in .*; use --resume, or another --run"):
        sweep.sweep(GRID, "done", root=run.parent, quiet=True)
    assert state(run) == before


def test_a_run_that_lost_its_machine_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "records").mkdir()
    with pytest.raises(ValueError, match=r"is a run without its machine\.json; take that from a copy"):
        runs.find_run(str(tmp_path))


def test_a_run_is_not_resumed_with_another_grid(run):
    before = state(run)
    other = parse_grid(yaml.safe_dump(CONTENT | {"seed": 2}), "tiny")
    with pytest.raises(ValueError, match="run done was made with another grid; give the same one"):
        sweep.sweep(other, "done", resume=True, root=run.parent, quiet=True)
    assert state(run) == before


def test_resuming_a_run_that_was_killed_before_it_had_a_directory_starts_it(tmp_path):
    left = tmp_path / ".new.0123.tmp"
    (left / "records").mkdir(parents=True)
    grid = replace(GRID, cases=tuple(case for case in GRID.cases if case.workload != "page_walk"))
    sweep.sweep(grid, "new", resume=True, root=tmp_path, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert len(load_run(tmp_path / "new").skipped) == 2


def test_a_directory_that_is_no_run_is_not_resumed(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"mine is not a run: it has no grid\.yaml; use another --run"):
        sweep.sweep(GRID, "mine", resume=True, root=tmp_path, quiet=True)
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_run_is_not_resumed_on_another_machine(run):
    facts = json.loads((run / "machine.json").read_text())
    (run / "machine.json").write_text(json.dumps(facts | {"host_id": "other", "host_name": "elsewhere"}))
    before = state(run)
    with pytest.raises(
        ValueError, match=r"done was made on another machine \(elsewhere\); use another --run"
    ):
        sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True)
    assert state(run) == before


def test_when_a_run_went_on_is_kept_with_what_may_have_changed(run):
    before = json.loads((run / "machine.json").read_text())
    for _ in range(2):
        sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True)
    after = json.loads((run / "machine.json").read_text())
    assert [one["kernel_release"] for one in after.pop("resumed")] == [before["kernel_release"]] * 2
    assert after == before
    assert before["seed"] == GRID.seed


def test_a_run_is_written_by_one_sweep_at_a_time(run):
    with sweep._alone(run):
        before = state(run)
        with pytest.raises(ValueError, match="another sweep is writing to run done; wait"):
            sweep.sweep(GRID, "done", resume=True, passes=7, root=run.parent, quiet=True)
        assert state(run) == before


def measure_nothing(tasks, path):
    yield from ()


def start_raced(go, **more):
    """Start the run "raced" in another process as soon as `go` is closed; return its pid and answer."""
    heard, said = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(go[1])
        os.read(go[0], 1)
        try:
            answer = b"won" if sweep.sweep(GRID, "raced", **more).exists() else b"lost"
        except ValueError as error:
            answer = str(error).encode()
        except BaseException as error:
            answer = repr(error).encode()
        os.write(said, answer)
        os._exit(0)
    os.close(said)
    return pid, heard


def race(root, count, **more):
    """Let `count` processes start one run at once; return what each came to."""
    go = os.pipe()
    machine = {"host_id": "here", "kernel_release": "6"}
    options = {"root": root, "quiet": True, "machine": machine, "executor": measure_nothing}
    started = [start_raced(go, **options, **more) for _ in range(count)]
    os.close(go[1])
    answers = []
    for pid, heard in started:
        with os.fdopen(heard, "rb") as file:
            answers.append(file.read().decode())
        os.waitpid(pid, 0)
    os.close(go[0])
    return answers


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_starts_of_a_run_one_wins_and_neither_loses_a_file(resume, tmp_path):
    whole = {"machine.json", "grid.yaml", "datapackage.json", ".lock", *cells.FOLDERS}
    told = ("run raced exists in ", "another sweep is writing to run raced")
    for number in range(12):
        root = tmp_path / str(number)
        answers = race(root, 3, resume=resume)
        assert all(answer == "won" or answer.startswith(told) for answer in answers), answers
        assert "won" in answers
        assert resume or answers.count("won") == 1
        assert {path.name for path in root.iterdir()} == {"raced"}
        assert {path.name for path in (root / "raced").iterdir()} == whole
        assert load_run(root / "raced").machine["host_id"] == "here"


def test_a_start_that_was_killed_is_no_run(tmp_path):
    left = tmp_path / ".raced.0123.tmp"
    left.mkdir()
    (left / "machine.json").write_text("{}")
    assert runs.list_runs(tmp_path) == []
    with pytest.raises(ValueError, match="run 'raced' does not exist; there is none yet"):
        runs.find_run("raced", tmp_path)


def test_resuming_measures_only_what_is_missing(run):
    before = state(run)
    missing = f"records/{WALKS[0]}.parquet"
    (run / missing).unlink()
    (run / f"records/.{WALKS[0]}.parquet.0123.tmp").write_bytes(b"PAR1")  # as a killed sweep leaves it
    (run / ".machine.json.0123.tmp").write_text("{")
    assert sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True) == run
    after = state(run)
    assert set(after) == set(before)
    made = {missing, f"cells/{WALKS[0]}.ipynb", f"traces/{WALKS[0]}.parquet", "machine.json"}
    assert {p for p in after if after[p] != before[p]} == made


def test_resuming_a_finished_run_does_nothing(run):
    before = state(run)
    sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True)
    after = state(run)
    assert {p for p in after if after[p] != before[p]} == {"machine.json"}


def test_a_start_that_fails_leaves_no_run(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.records, "write_datapackage", fail)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(GRID, "new", root=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


# --- evidence ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(perf.why_not() is not None or cpu_count() < 2, reason=str(perf.why_not()))
def test_a_process_looks_at_its_case_after_its_records(always_looks, tmp_path):
    fill = Case.of("zeroing", "populate", size="32MiB", page_kind="4KiB")
    path = sweep.sweep(replace(GRID, cases=(fill,)), "r", root=tmp_path, quiet=True)
    (seen,) = load_run(path).evidence.values()
    assert seen.took_s > 0
    assert len(load_run(path).records.query("not warmup")) == 2 * 4  # rounds, variants
    if seen.is_unlike:
        pytest.skip("others used the CPUs meanwhile")
    assert seen.skipped is None
    assert (seen.serial.threads, seen.many.threads, seen.alone.threads) == (1, 2, 1)


@pytest.mark.skipif(perf.why_not() is not None or cpu_count() < 2, reason=str(perf.why_not()))
def test_a_perf_that_cannot_look_here_costs_no_cell(always_looks, tmp_path, monkeypatch):
    (tmp_path / "perf").write_text("#!/bin/sh\necho this kernel is too new >&2\nexit 1\n")
    (tmp_path / "perf").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = load_run(sweep.sweep(GRID, "r", root=tmp_path / "runs", quiet=True))
    assert {one.skipped for one in run.evidence.values()} == {"perf ended at once: this kernel is too new"}
    assert set(run.records["cell_id"]) == set(WALKS)
    assert not run.skipped["failed"].any()


def test_a_process_that_dies_while_it_looks_keeps_its_records(always_looks, fake_cell, swept, tmp_path):
    written = swept / f"records/{WALKS[0]}.parquet"
    fake_cell(f"import os, shutil; shutil.copy({str(written)!r}, save_as); os._exit(3)")
    run = load_run(sweep.sweep(replace(GRID, cases=GRID.cases[:1]), "r", root=tmp_path / "runs", quiet=True))
    assert len(run.records)
    assert run.skipped.empty
    (seen,) = run.evidence.values()
    assert seen.skipped == "looking failed: the process of the cell ended itself with exit code 3"


def test_without_evidence_a_process_that_dies_has_failed(fake_cell, swept, tmp_path):
    written = swept / f"records/{WALKS[0]}.parquet"
    fake_cell(f"import os, shutil; shutil.copy({str(written)!r}, save_as); os._exit(3)")
    one = replace(GRID, cases=GRID.cases[:1])
    run = load_run(sweep.sweep(one, "r", root=tmp_path / "runs", quiet=True, evidence=False))
    assert run.skipped["failed"].all()
    assert run.evidence == {}
    assert len(run.records) == 0


def test_a_run_of_before_there_was_evidence_gets_some(always_looks, run):
    shutil.rmtree(run / "evidence")
    sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True)
    assert len(load_run(run).evidence) == len(WALKS)


@pytest.mark.cpus(2)
def test_neighbours_probe_after_the_records_of_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "cases_to_probe", list)
    fill = Case.of("zeroing", "populate", size="32MiB", page_kind="4KiB")
    path = sweep.sweep(replace(GRID, cases=(fill,), bystanders_s=0.5), "r", root=tmp_path, quiet=True)
    run = load_run(path)
    assert set(run.bystanders["skipped"]) == {""}
    assert set(run.bystanders["cell_id"]) == set(run.records["cell_id"])
    assert len(run.records.query("not warmup")) == 2 * 4  # rounds, variants
    assert "; bystanders of 1 cells (" in sweep.summary(path)


def test_a_process_that_dies_while_neighbours_probe_keeps_its_records(
    fake_cell, swept, tmp_path, monkeypatch
):
    monkeypatch.setattr(probing, "cases_to_probe", list)
    written = swept / f"records/{WALKS[0]}.parquet"
    fake_cell(f"import os, shutil; shutil.copy({str(written)!r}, save_as); os._exit(3)")
    run = load_run(sweep.sweep(replace(GRID, cases=GRID.cases[:1]), "r", root=tmp_path / "runs", quiet=True))
    assert len(run.records)
    (reason,) = run.bystanders["skipped"]
    assert reason == "probing failed: the process of the cell ended itself with exit code 3"


# --- failures ---------------------------------------------------------------------------------------------


def test_a_cell_that_fails_is_told_and_the_sweep_goes_on(fake_cell, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(kernel, "kernels_for_cells", KERNELS_FOR_CELLS)
    others = psutil.Process().children()
    fake_cell(
        page_walk="raise ValueError('3 pages\\n still hold data')",
        zeroing="import os; os.kill(os.getpid(), 9)",
        free="import time; time.sleep(60)",
    )
    work = [
        {"workload": name, "size": "64KiB", "page_kind": "4KiB"} for name in ("page_walk", "zeroing", "free")
    ]
    methods = ("pagemap", "memset", "dontneed")
    entries = [w | {"method": m} for w, m in zip(work, methods, strict=True)]
    grid = parse_grid(yaml.safe_dump({"limit_s": 1, "work": entries}), "failing")
    path = sweep.sweep(grid, "r", root=tmp_path / "runs", quiet=True)
    skipped = load_run(path).skipped.set_index("workload")
    assert skipped["reason"].to_dict() == {
        "page_walk": "ValueError: 3 pages still hold data",
        "zeroing": "the process of the cell died (killed, or out of memory)",
        "free": "the cell took longer than 1 s",
    }
    assert skipped["failed"].all()
    assert list((path / "records").iterdir()) == []
    assert [p.name for p in (path / "cells").iterdir()] == ["page_walk-pagemap-4KiB-64KiB.ipynb"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notebooks", "runs"]
    assert psutil.Process().children() == others


def test_failed_cells_are_measured_once_more_if_asked(run):
    (run / f"records/{WALKS[0]}.parquet").rename(run / "kept")
    a_skip = json.loads(next((run / "skipped").iterdir()).read_text())
    failed = a_skip | {"cell_id": WALKS[0], "reason": "it died", "failed": True}
    (run / f"skipped/{WALKS[0]}.json").write_text(json.dumps(failed))
    skipped = sorted(p.name for p in (run / "skipped").iterdir())
    sweep.sweep(GRID, "done", resume=True, root=run.parent, quiet=True)
    assert sorted(p.name for p in (run / "skipped").iterdir()) == skipped
    assert sweep.summary(run).startswith("1 cells measured, 2 skipped, 1 failed (first: ")
    sweep.sweep(GRID, "done", resume=True, retry=True, root=run.parent, quiet=True)
    assert (run / f"records/{WALKS[0]}.parquet").exists()
    assert sweep.summary(run).startswith("2 cells measured, 2 skipped; evidence on ")


def test_a_cell_that_the_kernel_killed_for_want_of_memory_says_so(fake_cell, tmp_path, monkeypatch):
    fake_cell("import os; os.kill(os.getpid(), 9)")
    counts = iter([3, 4])
    monkeypatch.setattr(cells, "oom_kills", lambda: next(counts))
    grid = replace(GRID, cases=GRID.cases[:1])
    path = sweep.sweep(grid, "r", root=tmp_path / "runs", quiet=True)
    (reason,) = load_run(path).skipped["reason"]
    assert reason.endswith("; memory ran out meanwhile, and the kernel killed a process")


def test_oom_kills_are_read_from_vmstat(tmp_path, monkeypatch):
    monkeypatch.setattr(cells.kernel_files, "ROOT", tmp_path)
    assert cells.oom_kills() == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 5\noom_kill 12\nswap_ra 0\n")
    assert cells.oom_kills() == 12


@pytest.mark.parametrize(
    "source",
    [
        "raise OSError(28, 'No space left on device')",
        "raise OSError('[Errno 122] Error writing bytes to file. Detail: [errno 122] Disk quota exceeded')",
    ],
)
def test_a_disk_that_is_full_in_a_cell_ends_the_sweep(source, fake_cell, tmp_path):
    fake_cell(source)
    with pytest.raises(OSError, match="the disk is full"):
        sweep.sweep(GRID, "r", root=tmp_path / "runs", quiet=True)
    run = tmp_path / "runs" / "r"
    assert not list((run / "records").iterdir()) + list((run / "cells").iterdir())
    assert not [p for p in (run / "skipped").iterdir() if "page_walk" in p.name]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "runs"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_the_sweep_cleanly_and_room_lets_it_go_on(small_disk):
    filler = small_disk / "filler"

    def until_full(tasks, path):
        for outcome in sweep.run_here(tasks, path):
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield outcome

    grid = replace(GRID, cases=tuple(case for case in GRID.cases if case.workload == "page_walk"))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        sweep.sweep(grid, "r", root=small_disk, quiet=True, executor=until_full)
    done = load_run(small_disk / "r")
    assert (done.records["cell_id"].nunique(), len(done.skipped)) == (1, 0)
    assert {p.name for p in small_disk.rglob(".*")} <= {".lock"}

    filler.unlink()
    sweep.sweep(grid, "r", root=small_disk, quiet=True, resume=True)
    assert load_run(small_disk / "r").records["cell_id"].nunique() == 2


def test_the_command_tells_how_to_go_on_after_a_full_disk(typed, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "the disk is full", "/data/runs/night")

    monkeypatch.setattr(sweep, "sweep", full)
    assert typed("sweep", "tiny", "--run", "night") == (
        1,
        "",
        "ktask: the disk is full (/data/runs/night); the cells done so far are kept, make room "
        "and go on with `ktask sweep tiny --run night --resume`\n",
    )


def test_a_cell_without_its_notebook_ends_the_sweep(fake_cell, tmp_path):
    with pytest.raises(ValueError, match="no notebook 'cell'"):
        sweep.sweep(GRID, "r", root=tmp_path / "runs", quiet=True)


# --- stopped from outside ---------------------------------------------------------------------------------


@pytest.fixture
def start(commands, tmp_path):
    """Start `ktask sweep` on a grid whose cells take their time, in `tmp_path`."""
    slow = CONTENT | {"protocol": {"least": 2, "most": 10**6, "budget_s": 0.2, "precision": 1e-9}}
    slow["work"] = [WALK | {"size": ["4MiB", "8MiB"]}]
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow))

    def begin(options=""):
        return commands.start(f"sweep slow.yaml --run slow {options}")

    return begin


def structure(path):
    """Return what a run is made of: its files, and how many warm and kept rows each variant has at least."""
    files = {name for name in state(path) if name not in (".lock", "machine.json")}
    rows = load_run(path).records
    variants = rows.groupby(["cell_id", "threads_requested", "baseline", "warmup"]).size()
    return files, set(variants.index), not rows.duplicated(["cell_id", "round", "order"]).any()


def killed_and_resumed(start, path, kills, cells, random):
    """Kill a sweep of `cells` cells `kills` times, at moments spread over all of it; then let it finish.

    Returns how many records were there at each kill.
    """
    kept, counts = {}, []

    def found():
        return {p: p.stat().st_mtime_ns for p in path.glob("records/*.parquet")}

    for moment in sorted(random.uniform(0, cells) for _ in range(kills)):
        process = start("--resume --json")
        wait_for(lambda p=process, m=moment: len(found()) >= int(m) or p.poll() is not None, "a record")
        time.sleep(random.uniform(0.1, 1.5))
        started = descendants(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        wait_for(lambda left=started: all(map(is_gone, left)), "the end of the orphaned cell")
        assert kept.items() <= found().items(), "a record was lost, or measured twice"
        kept = found()
        counts.append(len(kept))
    process = start("--resume --json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out) == {"run": str(path)}
    assert "100%" in err  # the cells that were done before count, too
    assert kept.items() <= found().items()
    return counts


def test_a_sweep_survives_kills_at_random_moments(start, tmp_path, record_property):
    cells, kills = 3, 2  # `make chaos` has many
    content = yaml.safe_load((tmp_path / "slow.yaml").read_text())
    content["work"] = [WALK | {"size": [f"{4 + k}MiB" for k in range(cells)]}, UNFIT]
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(content))
    path = tmp_path / "data/runs" / "slow"
    counts = killed_and_resumed(start, path, kills, cells, Random(1))
    record_property("records at each kill", counts)
    assert counts[-1] > cells / 2
    grid = parse_grid(yaml.safe_dump(content), "slow")
    walks = [cell_id(case) for case in grid.cases if case.workload == "page_walk"]
    files, variants, each_once = structure(path)
    assert files == {
        *("grid.yaml", "datapackage.json", f"skipped/{cell_id(grid.cases[-1])}.json"),
        *(f"{folder}/{cell}.{end}" for folder, end in FILES_OF_A_CELL for cell in walks),
    }
    assert {(cell, threads) for cell, threads, *_ in variants} == {
        (cell, n) for cell in walks for n in (1, 2)
    }
    assert each_once
    assert {p.name for p in path.rglob(".*")} == {".lock"}
    assert [p.name for p in path.parent.glob(".*")] == []


def test_ctrl_c_ends_a_sweep_at_once_and_tells_how_to_go_on(start, commands, tmp_path):
    path = tmp_path / "data/runs" / "slow"
    process = start()
    wait_for(lambda: list(path.glob("records/*.parquet")), "the first cell")
    kernels = wait_for(lambda: descendants(process.pid), "the process of the second cell")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("ktask: interrupted; the cells done so far are kept")
    assert "`ktask sweep slow.yaml --run slow --resume`" in last
    assert "Traceback" not in err
    assert all(map(is_gone, kernels))
    assert list(commands.temporary.iterdir()) == []
    assert {p.name for p in path.rglob(".*")} == {".lock"}
    assert not load_run(path).records.empty


def test_python_is_the_same_inside(swept):
    book = nbformat.read(swept / "cells" / f"{WALKS[0]}.ipynb", as_version=4)
    assert book.metadata.language_info.version == sys.version.split()[0]
