"""A sweep: every cell of a grid, one at a time, each in a fresh process by papermill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ktask.common.files import write_json
from ktask.common.resources import SAMPLE, runs_folder
from ktask.host import doctor
from ktask.host.facts import machine_facts
from ktask.lab import records
from ktask.lab.sweep.cells import FOLDERS, CellTask, is_done, run_cell
from ktask.lab.sweep.grid import Grid
from ktask.workloads import Case

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
    resume: bool = False,
    retry: bool = False,
    root: Path | None = None,
    quiet: bool = False,
    executor: Executor = run_here,
    machine: Mapping[str, Any] | None = None,
    title: str = "measuring",
) -> Path:
    """Measure every cell of `grid` and return the directory of the run.

    Parameters
    ----------
    grid
        From `ktask.lab.sweep.grid.load_grid`.
    name
        Of the run; made from date and grid if left out.
    resume
        Go on with a run of this name: only cells without a result are measured. A run that was killed
        before it had a directory is started.
    retry
        When resuming, measure the cells that failed once more.
    root
        Where runs are kept; `data/runs` of the current directory by default.
    quiet
        Without the progress bar on stderr.
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
    start_run(path, grid, resume, machine)
    with _alone(path), _bar(grid, path, quiet, title) as bar:
        _tidy(path)
        if retry:
            _forget_failures(path)
        with contextlib.closing(executor(_announced(tasks_to_do(path, grid), bar), path)) as done:
            for _ in done:
                bar.update()
    return path


def _announced(tasks: Iterable[CellTask], bar: Any) -> Iterator[CellTask]:
    """Yield the cells, and show the name of the one that was taken last."""
    for task in tasks:
        bar.set_postfix_str(task.name)
        yield task


def tasks_to_do(path: Path, grid: Grid) -> list[CellTask]:
    """Return the cells of a run that have no result yet, in the order of measuring."""
    host_id = records.read_json(path / "machine.json").get("host_id", "")
    return [
        CellTask(case, grid.threads, grid.protocol, path.name, host_id, grid.limit_s)
        for case in in_random_order(grid)
        if not is_done(case, path)
    ]


def in_random_order(grid: Grid) -> list[Case]:
    """Return the cells in the order of measuring: shuffled by the seed, so that no size is always last."""
    order = np.random.default_rng(grid.seed).permutation(len(grid.cases))
    return [grid.cases[k] for k in order]


def start_run(path: Path, grid: Grid, resume: bool = False, machine: Mapping[str, Any] | None = None) -> None:
    """Make the directory of a run, or see that the one to resume is of the same grid and machine."""
    text = yaml.safe_dump(grid.as_dict(), sort_keys=False, allow_unicode=True)
    if not path.exists():
        _make(path, text, {**(machine or describe_machine()), "seed": grid.seed})
        return
    if not resume:
        raise ValueError(f"run {path.name} exists in {path.parent}; use --resume, or another --run")
    if not (path / "grid.yaml").exists():
        raise ValueError(f"{path} is not a run: it has no grid.yaml; use another --run")
    if (path / "grid.yaml").read_text(encoding="utf-8") != text:
        raise ValueError(f"run {path.name} was made with another grid; give the same one, or another --run")
    _note_resumption(path, machine or machine_facts())


def _note_resumption(path: Path, now: Mapping[str, Any]) -> None:
    """Keep in `machine.json` when the run went on, with what may have changed since it was started."""
    before = records.read_json(path / "machine.json")
    if before.get("host_id") != now.get("host_id"):
        raise ValueError(
            f"run {path.name} was made on another machine ({before.get('host_name')}); use another --run"
        )
    facts = {key: now[key] for key in RESUMPTION_FACTS if key in now}
    write_json(path / "machine.json", before | {"resumed": [*before.get("resumed", []), facts]})


def describe_machine() -> dict[str, Any]:
    """Return the facts of this machine and what the doctor finds."""
    facts = machine_facts()
    return facts | {"doctor": doctor.to_json(doctor.diagnose(facts=facts))["findings"]}


def _make(path: Path, grid_text: str, machine: Mapping[str, Any]) -> None:
    """Make the directory of a run; it is there with all it needs, or not at all."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a start that was killed
        shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        for folder in FOLDERS:
            (partial / folder).mkdir(parents=True)
        write_json(partial / "machine.json", dict(machine))
        records.write_datapackage(partial, path.name)
        (partial / "grid.yaml").write_text(grid_text, encoding="utf-8")
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tidy(path: Path) -> None:
    """Remove what a sweep that was killed had begun to write."""
    for folder in FOLDERS:
        for partial in (path / folder).glob(".*"):
            partial.unlink(missing_ok=True)  # its writer may be about to die, and to remove it itself


def _forget_failures(path: Path) -> None:
    """Remove what says that a cell failed, so that it is measured again; not what cannot be measured here."""
    for file in (path / "skipped").glob("*.json"):
        if records.read_json(file).get("failed"):
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


@contextlib.contextmanager
def _bar(grid: Grid, path: Path, quiet: bool, title: str) -> Iterator[Any]:
    from tqdm import tqdm  # noqa: PLC0415

    done = sum(is_done(case, path) for case in grid.cases)
    form = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} cells, {elapsed}, {remaining} left{postfix}"
    look = {"desc": title, "file": sys.stderr, "bar_format": form, "disable": quiet}
    with tqdm(total=len(grid.cases), initial=done, **look) as bar:
        yield bar


def summary(path: Path) -> str:
    """Return in one line how many cells of a run were measured, and why others were not."""
    reasons = [records.read_json(file) for file in sorted((path / "skipped").glob("*.json"))]
    failed = [one for one in reasons if one.get("failed")]
    n_measured = len(list((path / "records").glob("*.parquet")))
    parts = [f"{n_measured} cells measured", f"{len(reasons) - len(failed)} skipped", f"{len(failed)} failed"]
    first = f" (first: {failed[0]['cell_id']}: {failed[0]['reason']})" if failed else ""
    return ", ".join(part for part in parts if not part.startswith("0 ")) + first


def find_run(name: str, root: Path | None = None) -> Path:
    """Return the directory of a run, given as a directory or by name; ValueError lists what there is.

    The run that comes with the suite is called "sample", where no other is.
    """
    shipped = [SAMPLE] if name == SAMPLE.name else []
    for path in (Path(name), (root or runs_folder()) / name, *shipped):
        if (path / "machine.json").is_file():
            return path
    known = sorted(p.parent.name for p in (root or runs_folder()).glob("*/machine.json"))
    have = f"there are {', '.join(known[-5:])}" if known else "there is none yet; `ktask sweep` makes one"
    raise ValueError(f"run {name!r} does not exist; {have}")
