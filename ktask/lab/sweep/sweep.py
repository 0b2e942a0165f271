"""A sweep: every cell of a grid, one at a time, in several passes, each in a fresh process by papermill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ktask.common.files import atomic_write, read_json, write_json
from ktask.common.private_folders import held_directory, remove_stale
from ktask.common.resources import runs_folder
from ktask.engine import cpu_order
from ktask.host import doctor, topology
from ktask.host.facts import machine_facts
from ktask.lab import records, run_files
from ktask.lab.measure.measurement import check_passes
from ktask.lab.sweep.cells import FOLDERS, CellTask, run_cell
from ktask.lab.sweep.grid import Grid
from ktask.lab.sweep.looks import Looks, summary_of_looks
from ktask.lab.sweep.passes import tasks_to_do
from ktask.lab.sweep.probing import Probing, summary_of_probing
from ktask.lab.sweep.progress import Progress

_PASS = re.compile(r"\.pass\d+$")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

RESUMPTION_FACTS = (
    "collected_at",
    "kernel_release",
    "ktask_version",
    "git_commit",
    "git_changed",
    "lock_sha256",
)

Done = Generator[CellTask, None, None]
# Runs cells and yields each once its files are in the directory of the run. It gets the cells in the order of
# measuring, and must not run two at once on one machine.
Executor = Callable[[Iterable[CellTask], Path], Done]


def run_here(tasks: Iterable[CellTask], path: Path) -> Done:
    """Run the cells on this machine, one after the other."""
    from ktask.lab.sweep.kernels import kernels_for_cells  # noqa: PLC0415  (0.2 s to import)

    with kernels_for_cells() as kernels:
        for task in tasks:
            run_cell(task, path, kernels)
            yield task


def new_run_name(grid: Grid) -> str:
    """Return a name for a run that starts now."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{re.sub('[^A-Za-z0-9]+', '-', grid.name)[:40]}"


def run_path(name: str, root: Path | None = None) -> Path:
    """Return the directory of the run called `name`; ValueError if that is no name for a run."""
    if not _RUN_NAME.fullmatch(name):
        raise ValueError(f"run name {name!r} is not allowed; use up to 80 letters, digits, dots and dashes")
    return (root or runs_folder()) / name


def sweep(
    grid: Grid,
    name: str | None = None,
    *,
    passes: int | None = None,
    resume: bool = False,
    retry: bool = False,
    root: Path | None = None,
    quiet: bool = False,
    evidence: bool = True,
    bystanders: bool = True,
    executor: Executor = run_here,
    machine: Mapping[str, Any] | None = None,
    title: str = "measuring",
) -> Path:
    """Measure every cell of `grid` in several passes and return the directory of the run.

    Parameters
    ----------
    grid
        From `ktask.lab.sweep.grid.load_grid`.
    name
        Of the run; made from date and grid if left out.
    passes
        How often each cell is measured, in a fresh process each time; what the grid says if left out, when
        resuming what the run was started with.
    resume
        Go on with a run of this name: only what it lacks is measured. With more passes than it had, each adds
        a process per cell, after a reboot, too. A run that was killed before it had a directory is started.
    retry
        When resuming, measure the cells that failed once more.
    root
        Where runs are kept; `data/runs` of the current directory by default.
    quiet
        Without the progress bar on stderr.
    evidence
        Look at more repetitions of each case, which are not timed: why not more (`ktask.lab.sweep.looks`).
    bystanders
        Have neighbours probe beside more repetitions of each path (`ktask.lab.sweep.probing`).
    executor
        Runs the cells that have no result yet.
    machine
        What `describe_machine` returns on the machine that the executor uses, if it is not this one.
    title
        Of the progress bar.

    Raises
    ------
    ValueError
        If the run exists and `resume` is off, or it is of another grid or machine, or another sweep is
        writing to it.
    OSError
        If the disk is full. The run holds all cells done before, and can be resumed.
    """
    path = run_path(name or new_run_name(grid), root)
    grid = with_passes(grid, passes, path)
    with topology.narrowed_to(None if machine else grid.cpus):
        resumption = start_run(path, grid, resume, machine)
    with _alone(path), Progress(grid, path, quiet, title) as progress:
        if resumption is not None:
            _note_resumption(path, grid, resumption)
        _tidy(path)
        if retry:
            _forget_failures(path)
        looks = Looks(grid.cases if evidence else (), path)
        probing, todo = Probing(grid, path), looks.asked(tasks_to_do(path, grid))
        tasks = progress.announced(probing.asked(todo) if bystanders else todo)
        with contextlib.closing(executor(tasks, path)) as done:
            for task in done:
                looks.update(task)
                probing.update(task)
                progress.update(task)
        looks.finish()
    return path


def with_passes(grid: Grid, passes: int | None, path: Path) -> Grid:
    """Return the grid with as many passes as asked for, else as the run in `path` has, else its own."""
    check_passes(passes)
    begun = run_files.read_grid(path)["passes"] if (path / "grid.yaml").exists() else grid.passes
    return replace(grid, passes=passes or begun)


def start_run(
    path: Path, grid: Grid, resume: bool = False, machine: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Make the directory of a run, or see that the one to resume is of the same grid and machine.

    Changes nothing in a run that exists. Returns what to add to its `machine.json` once it is held; None for
    one that is new.
    """
    if not path.exists() and _make(
        path, _as_yaml(grid.as_dict()), {**(machine or describe_machine()), "seed": grid.seed}
    ):
        return None
    if not resume:
        raise ValueError(f"run {path.name} exists in {path.parent}; use --resume, or another --run")
    if not (path / "grid.yaml").exists():
        raise ValueError(f"{path} is not a run: it has no grid.yaml; use another --run")
    if run_files.read_grid(path) | {"passes": 0} != yaml.safe_load(_as_yaml(grid.as_dict())) | {"passes": 0}:
        raise ValueError(f"run {path.name} was made with another grid; give the same one, or another --run")
    before, now = run_files.read_machine(path), machine or machine_facts()
    if before.get("host_id") != now.get("host_id"):
        raise ValueError(
            f"run {path.name} was made on another machine ({before.get('host_name')}); use another --run"
        )
    return {key: now[key] for key in RESUMPTION_FACTS if key in now}


def _as_yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)


def _note_resumption(path: Path, grid: Grid, facts: Mapping[str, Any]) -> None:
    """Keep in `machine.json` when the run went on, with what may have changed since it was started."""
    before = run_files.read_machine(path)
    write_json(path / "machine.json", before | {"resumed": [*before.get("resumed", []), facts]})
    if missing := [name for name in FOLDERS if not (path / name).exists()]:  # of before there were any
        for name in missing:
            (path / name).mkdir()
        records.write_datapackage(path, path.name)
    if grid.passes > run_files.read_grid(path)["passes"]:
        with atomic_write(path / "grid.yaml") as partial:
            partial.write_text(_as_yaml(grid.as_dict()), encoding="utf-8")


def describe_machine() -> dict[str, Any]:
    """Return the facts of this machine, what the doctor finds, and up to how many threads share nothing."""
    facts, borders = machine_facts(), cpu_order.borders(topology.read_topology())
    found = doctor.to_json(doctor.diagnose(facts=facts))["findings"]
    return facts | {"doctor": found, "thread_borders": borders}


def _make(path: Path, grid_text: str, machine: Mapping[str, Any]) -> bool:
    """Make the directory of a run, with all it needs or not at all; False if another start was first."""
    remove_stale(path.parent.glob(f".{path.name}.*.tmp"))  # of starts that were killed
    with held_directory(lambda: hidden(path)) as partial:
        for folder in FOLDERS:
            (partial / folder).mkdir()
        write_json(partial / "machine.json", dict(machine))
        records.write_datapackage(partial, path.name)
        (partial / "grid.yaml").write_text(grid_text, encoding="utf-8")
        try:
            partial.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    return True


def hidden(path: Path) -> Path:
    """Make a directory beside `path` in which to prepare it."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    partial.mkdir(parents=True)
    return partial


def _tidy(path: Path) -> None:
    """Remove what a sweep that was killed had begun to write."""
    begun = [partial for folder in FOLDERS for partial in (path / folder).glob(".*")]
    for partial in (*begun, *path.glob(".*.tmp")):
        partial.unlink(missing_ok=True)  # its writer may be about to die, and to remove it itself


def _forget_failures(path: Path) -> None:
    """Remove what says that a cell failed, so that it is measured again; not what cannot be measured here."""
    for file in (path / "skipped").glob("*.json"):
        if read_json(file).get("failed"):
            file.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the run for this process; the kernel lets go when it dies."""
    fd = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another sweep is writing to run {path.name}; wait for it") from None
        yield
    finally:
        os.close(fd)


def summary(path: Path) -> str:
    """Return in one line how many cells of a run were measured, and why others were not."""
    reasons = run_files.read_skips(path)
    failed = [one for one in reasons if one.get("failed")]
    files = (path / "records").glob("*.parquet")
    passes = Counter(_PASS.sub("", file.stem) for file in files)
    most = max(passes.values(), default=1)
    measured = f"{len(passes)} cells measured" + (f" in up to {most} passes" if most > 1 else "")
    parts = [measured, f"{len(reasons) - len(failed)} skipped", f"{len(failed)} failed"]
    seen = summary_of_looks(path), summary_of_probing(path)
    looked = "".join(f"; {text}" for text in seen if text)
    first = f" (first: {failed[0]['cell_id']}: {failed[0]['reason']})" if failed else ""
    return ", ".join(part for part in parts if not part.startswith("0 ")) + first + looked
