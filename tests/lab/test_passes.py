"""Passes: each cell in a fresh process, in another order; more of them on request; time where it decides."""

import io
import os
import pickle
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import ktask
from ktask.common.children import python
from ktask.lab import records
from ktask.lab.measure.measurement import Measurement, Protocol
from ktask.lab.measure.processes import measure_processes
from ktask.lab.records import load_run
from ktask.lab.sweep import passes, progress, sweep
from ktask.lab.sweep.cells import is_done
from ktask.lab.sweep.grid import cell_id, parse_grid

WALK = {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size": ["4MiB", "8MiB"]}
CONTENT = {
    "threads": [1, 2],
    "min_chunk": "64KiB",
    "passes": 2,
    "protocol": {"least": 2, "most": 5, "budget_s": 0.1, "warmup_s": 0.5},
    "work": [WALK, {"workload": "free", "method": "lazyfree", "page_kind": "1GiB", "size": "1GiB"}],
}
GRID = parse_grid(yaml.safe_dump(CONTENT), "two-passes")
ALONE = {"quiet": True, "evidence": False, "bystanders": False}  # nothing but the passes
CELLS = sorted(cell_id(case) for case in GRID.cases if case.workload == "page_walk")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished run of two passes."""
    return sweep.sweep(GRID, "done", root=tmp_path_factory.mktemp("runs"), **ALONE)


@pytest.fixture
def run(swept, tmp_path):
    return Path(shutil.copytree(swept, tmp_path / "runs" / "done"))


def files(run, folder="records"):
    return sorted(path.name for path in (run / folder).iterdir())


def test_each_pass_is_a_process_of_its_own(swept):
    found = load_run(swept).records
    assert sorted(found["cell_id"].unique()) == CELLS
    assert (found.groupby("cell_id")["pass"].unique().map(sorted) == [[1, 2]] * 2).all()
    assert set(found["boot_id"]) == {Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    assert files(swept) == sorted(f"{cell}{end}.parquet" for cell in CELLS for end in ("", ".pass2"))
    assert files(swept, "cells") == sorted(f"{cell}{end}.ipynb" for cell in CELLS for end in ("", ".pass2"))
    starts = found.groupby(["cell_id", "pass"])["started_at"].min().unstack()
    assert starts[1].max() < starts[2].min()  # the first pass was over before the second began


def test_what_cannot_be_measured_is_tried_in_one_pass_only(swept):
    assert load_run(swept).skipped[["pass", "failed"]].to_numpy().tolist() == [[1, False]]


def test_orders_differ_between_passes_and_follow_the_seed():
    grid = parse_grid(
        yaml.safe_dump(CONTENT | {"work": [WALK | {"size": [2**k for k in range(12, 32)]}]}), "g"
    )
    first, second = (passes.in_random_order(grid, number) for number in (1, 2))
    assert first != second
    assert set(first) == set(second) == set(grid.cases)
    assert passes.in_random_order(grid, 2) == second


def test_more_passes_are_added_and_nothing_is_measured_twice(run):
    before = {path: path.stat().st_mtime_ns for path in run.glob("records/*")}
    sweep.sweep(GRID, "done", resume=True, passes=3, root=run.parent, **ALONE)
    assert files(run) == sorted(f"{c}{end}.parquet" for c in CELLS for end in ("", ".pass2", ".pass3"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert records.read_grid(run)["passes"] == 3
    # Without a number it goes on to what the run has, not to what the grid says.
    (run / f"records/{CELLS[0]}.pass3.parquet").unlink()
    sweep.sweep(GRID, "done", resume=True, root=run.parent, **ALONE)
    assert load_run(run).records["pass"].max() == 3
    assert len(files(run)) == 6
    # Fewer than there are take nothing away.
    sweep.sweep(GRID, "done", resume=True, passes=1, root=run.parent, **ALONE)
    assert (len(files(run)), records.read_grid(run)["passes"]) == (6, 3)


def test_a_run_from_before_passes_gets_more_of_them(run):
    for path in run.glob("*/*.pass2.*"):
        path.unlink()
    grid = records.read_grid(run)
    del grid["passes"]
    (run / "grid.yaml").write_text(yaml.safe_dump(grid))
    sweep.sweep(GRID, "done", resume=True, root=run.parent, **ALONE)
    assert len(files(run)) == 2  # it has the one pass that it was made with
    sweep.sweep(GRID, "done", resume=True, passes=2, root=run.parent, **ALONE)
    assert len(files(run)) == 4


def test_a_grid_is_measured_as_often_as_asked(tmp_path):
    grid = replace(GRID, cases=GRID.cases[:1])
    path = sweep.sweep(grid, "r", passes=1, root=tmp_path, **ALONE)
    assert (len(files(path)), records.read_grid(path)["passes"]) == (1, 1)


@pytest.mark.parametrize("number", [0, -1, 1001])
def test_passes_that_cannot_be_are_refused(number, tmp_path):
    with pytest.raises(ValueError, match=rf"passes={number} is not allowed; use 1 to 1000, 5 to judge by"):
        sweep.sweep(GRID, "r", passes=number, root=tmp_path, **ALONE)
    with pytest.raises(ValueError, match=rf"passes={number} is not allowed"):
        ktask.measure("page_walk", size="4MiB", passes=number)
    assert list(tmp_path.iterdir()) == []


# --- where the time goes ----------------------------------------------------------------------------------


def spoil(run, cell, threads_s):
    """Write two passes of a cell over: serial calls of 1 s, those of two threads as given, one per pass."""
    for number, wall_s in enumerate(threads_s, 1):
        path = run / f"records/{records.process_name(cell, number)}.parquet"
        rows = records.read_records(path)
        rows["wall_s"] = np.where(rows["threads_requested"] > 1, wall_s, 1.0)
        records.write_records(path, rows.astype({"helper_nice": object}).to_dict("records"))


def test_later_passes_shift_their_time_to_what_is_undecided(run):
    spoil(run, CELLS[0], [0.5, 0.51])
    spoil(run, CELLS[1], [0.7, 1.6])
    tasks = list(passes.tasks_to_do(run, replace(GRID, passes=3)))
    rules = {cell_id(task.case): task.protocol for task in tasks if task.pass_number == 3}
    assert sorted(rules) == CELLS  # each has as many processes as the others
    assert rules[CELLS[0]] == replace(GRID.protocol, most=2, seed=GRID.seed + 2)
    assert rules[CELLS[1]].most == GRID.protocol.most
    assert rules[CELLS[1]].budget_s > GRID.protocol.budget_s


def counts(run, grid, number):
    """The thread counts of the cell that was spoilt, in a pass of a grid."""
    case = next(case for case in grid.cases if cell_id(case) == CELLS[0])
    return passes.thread_counts(case, number, run, grid)


def test_early_passes_add_thread_counts_around_the_knee_of_a_cell(run):
    grid = replace(GRID, threads=(1, 2, 4, 16, 64), passes=5, refined=True)
    file = run / f"records/{CELLS[0]}.parquet"
    rows = records.read_records(file)
    several = rows[~rows["baseline"] & (rows["threads_requested"] > 1)]
    speedups = {2: 1.9, 4: 3.7, 16: 9.0, 64: 9.1}
    found = [several.assign(threads_requested=n, wall_s=1 / speedup) for n, speedup in speedups.items()]
    found.append(rows[rows["baseline"]].assign(wall_s=1.0))
    for number in (1, 2):
        path = run / f"records/{records.process_name(CELLS[0], number)}.parquet"
        whole = pd.concat([one.assign(**{"pass": number}) for one in found]).astype({"helper_nice": object})
        records.write_records(path, whole.to_dict("records"))
    assert counts(run, grid, 1) == grid.threads
    assert counts(run, grid, 2) == (1, 2, 4, 8, 16, 32, 64)  # 16 reaches 95 % of the highest speedup
    assert counts(run, grid, 3) == (1, 2, 4, 8, 16, 32, 64)
    assert counts(run, grid, 4) == grid.threads  # too late to add any; what was measured stays
    added = several.assign(threads_requested=8, wall_s=0.2, **{"pass": 2}).astype({"helper_nice": object})
    path = run / f"records/{CELLS[0]}.pass2.parquet"
    records.write_records(
        path,
        [
            *records.read_records(path).astype({"helper_nice": object}).to_dict("records"),
            *added.to_dict("records"),
        ],
    )
    assert counts(run, grid, 4) == (1, 2, 4, 8, 16, 64)
    assert counts(run, replace(grid, refined=False), 2) == grid.threads  # the file names them


def test_two_passes_spend_alike(run):
    for path in run.glob("records/*.pass2.parquet"):
        path.unlink()
    spoil(run, CELLS[0], [0.5])
    rules = {task.protocol for task in passes.tasks_to_do(run, GRID)}
    assert rules == {replace(GRID.protocol, seed=GRID.seed + 1)}


def test_the_bar_shows_pass_cells_and_what_is_decided(run, monkeypatch):
    spoil(run, CELLS[0], [0.5, 0.51])
    err = io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", err)
    (run / f"records/{CELLS[0]}.pass2.parquet").rename(run / "kept")
    grid = replace(GRID, passes=2)
    with progress.Progress(grid, run, quiet=False, title="measuring") as bar:
        (task,) = bar.announced(passes.tasks_to_do(run, grid))
        (run / "kept").rename(run / f"records/{CELLS[0]}.pass2.parquet")
        bar.update(task)
        assert bar._known(2) == "1 of 3 decided, "
    assert "measuring, pass 2 of 2" in err.getvalue()
    assert f"0 of 3 decided, {CELLS[0]}" in err.getvalue()
    assert "6/6 cells" in err.getvalue()  # with the cell that was given up


def test_the_bar_names_the_cell_in_the_first_pass_too(run, monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(progress.sys, "stderr", err)
    (run / f"records/{CELLS[0]}.parquet").unlink()
    with progress.Progress(GRID, run, quiet=False, title="measuring") as bar:
        next(bar.announced(passes.tasks_to_do(run, GRID)))
    assert f"left, {CELLS[0]}" in err.getvalue()


def test_a_cell_that_was_given_up_is_done_for_the_passes_that_follow(swept):
    skipped = next(case for case in GRID.cases if case.workload == "free")
    assert [is_done(skipped, number, swept) for number in (1, 2, 9)] == [True] * 3


# --- one case ---------------------------------------------------------------------------------------------


def test_one_case_is_measured_by_fresh_processes(tmp_path):
    protocol = {"least": 2, "most": 2, "warmup_s": 0.1}
    found = ktask.measure(
        "page_walk", "pagemap", size="4MiB", threads=[1, 2], passes=3, protocol=protocol, quiet=True
    )
    assert [len({row["pass"] for row in rows}) for rows in found.processes] == [1, 1, 1]
    two = found.table.loc["2 threads"]
    assert (two["processes"], two["n"]) == (3, 6)
    assert two["verdict"] in ("faster", "slower", "same", "undecided")
    plain = found.as_dict(2)
    assert len(plain["passes"]) == 3
    assert plain["between_processes_pct"] > 0
    speedups = [one["speedup"] for one in plain["passes"]]
    assert plain["speedup"]["median"] == pytest.approx(np.exp(np.mean(np.log(speedups))), rel=0.2)
    kept = load_run(found.save("mine", tmp_path)).records
    assert sorted(kept["pass"].unique()) == [1, 2, 3]
    assert len(kept) == len(found.rows)


def test_one_pass_knows_nothing_of_the_next(tmp_path):
    found = ktask.measure("page_walk", "pagemap", size="4MiB", threads=[1, 2], **ALONE)
    assert found.as_dict(2)["verdict"] == "undecided"
    assert found.as_dict(2)["between_processes_pct"] is None
    assert {row["pass"] for row in found.rows} <= {1}


def test_what_a_process_raises_is_raised_here():
    with pytest.raises(ValueError, match=r"needs \d+.* GiB, but the budget"):
        ktask.measure("zeroing", "memset", size="64TiB", passes=2, **ALONE)


def test_a_process_that_dies_is_an_error(monkeypatch):
    dies = lambda: [*python(), "-c", "import os; os.kill(os.getpid(), 9)"]  # noqa: E731
    monkeypatch.setattr("ktask.lab.measure.processes.children.python", dies)
    with pytest.raises(RuntimeError, match=r"the process that measured the case died \(exit code -9\)"):
        ktask.measure("page_walk", size="4MiB", passes=2, **ALONE)


def test_a_process_ends_with_its_parent(tmp_path):
    """One whose parent is another than the one that it was started by ends at once."""
    pid = os.fork()
    if pid == 0:
        from ktask.common import children

        children.die_with(1 << 22)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_the_seed_differs_between_processes(monkeypatch):
    seeds = []

    def run(_, input, **__):
        case, _, protocol, _ = pickle.loads(input)
        seeds.append(protocol.seed)
        return subprocess.CompletedProcess([], 0, pickle.dumps(Measurement(case, protocol)))

    monkeypatch.setattr("ktask.lab.measure.processes.subprocess.run", run)
    measure_processes(GRID.cases[0], [1, 2], Protocol(), 3, **ALONE)
    assert seeds == [1, 2, 3]
