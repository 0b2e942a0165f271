"""One process of a sweep: what it measures, running it, and why it has no records."""

from __future__ import annotations

import errno
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktask import workloads
from ktask.common.files import write_json
from ktask.engine import slots as limits
from ktask.host import kernel_files, topology
from ktask.lab import records
from ktask.lab.bystanders import Bystanders
from ktask.lab.bystanders import store as bystander_files
from ktask.lab.evidence import Evidence, store
from ktask.lab.measure.measurement import Protocol
from ktask.lab.sweep import notebooks
from ktask.lab.sweep.grid import cell_id
from ktask.memory import region as memory
from ktask.workloads import Case

if TYPE_CHECKING:
    from ktask.lab.sweep.kernels import Kernels

FOLDERS = ("records", "cells", "skipped", "traces", "evidence", bystander_files.FOLDER)
LOOK_S = 0.05  # of each way to run a case: 200 samples per thread


# A full disk, or a quota: what the process of a cell says about it ends up in the reason of its failure.
_FULL = re.compile(rf"\[Errno ({errno.ENOSPC}|{errno.EDQUOT})\]", re.IGNORECASE)


@dataclass(frozen=True)
class CellTask:
    """All that a process, here or on another machine, needs to measure one cell once.

    Attributes
    ----------
    case, threads, protocol
        What to measure.
    run_id, host_id
        Labels of the records.
    limit_s
        Longest time that one notebook cell may take.
    pass_number
        Which process of its cell this is, from 1.
    cpus
        The CPUs to use; None for all that the process may use.
    evidence
        Whether to look afterwards why it is not more.
    bystanders
        For how many seconds neighbours probe afterwards.
    """

    case: Case
    threads: tuple[int, ...]
    protocol: Protocol
    run_id: str
    host_id: str
    limit_s: float
    pass_number: int = 1
    cpus: str | None = None
    evidence: bool = False
    bystanders: float = 0.0

    @property
    def name(self) -> str:
        """What names the files of the process."""
        return process_name(self.case, self.pass_number)

    @property
    def labels(self) -> dict[str, Any]:
        """The columns of the records that say what they belong to."""
        names = {"run_id": self.run_id, "host_id": self.host_id, "cell_id": cell_id(self.case)}
        return names | {"pass": self.pass_number}


def process_name(case: Case, pass_number: int) -> str:
    """Return the name of the files of one process of a cell."""
    return records.process_name(cell_id(case), pass_number)


def run_cell(task: CellTask, folder: Path, kernels: Kernels | None = None) -> None:
    """Measure one cell once, in a fresh process; its files appear in `folder`, each whole or not at all.

    Waits while another process measures a cell on this machine.

    Parameters
    ----------
    task
        What to measure.
    folder
        A directory with the subdirectories `FOLDERS`: that of the run, or a private one whose files are then
        carried to the run.
    kernels
        Where the process comes from; give the same one to all cells of a sweep.

    Raises
    ------
    OSError
        If the disk is full: nothing is kept of this cell, and there is no point in trying the next.
    """
    with limits.turn(), topology.narrowed_to(task.cpus):
        if reason := why_not(task.case):
            keep_reason(task, folder, reason, failed=False)
        else:
            _run_notebook(task, folder, kernels)


def _run_notebook(task: CellTask, folder: Path, kernels: Kernels | None) -> None:
    book = folder / "cells" / f"{task.name}.ipynb"
    measured = _unpublished(task, folder)
    measured.unlink(missing_ok=True)
    kills = oom_kills()
    try:
        notebooks.execute(notebooks.find("cell"), book, _parameters(task, folder), task.limit_s, kernels)
    except notebooks.NotebookError as error:
        reason = str(error)
        if full := _FULL.search(reason):
            book.unlink(missing_ok=True)
            raise OSError(int(full[1]), "the disk is full", str(folder)) from None
        if oom_kills() > kills:
            reason += "; memory ran out meanwhile, and the kernel killed a process"
        if not ((task.evidence or task.bystanders) and measured.exists()):
            keep_reason(task, folder, reason, failed=True)
            return
        _keep_what_failed(task, folder, reason, measured)
    # Last: a cell counts as done once its records have their name, so a kill before loses all of it.
    measured.replace(folder / "records" / f"{task.name}.parquet")


def _keep_what_failed(task: CellTask, folder: Path, reason: str, measured: Path) -> None:
    """Keep why there is nothing beside the records of a process, which ended after they were written."""
    took_s = max(0.0, time.time() - measured.stat().st_mtime)
    rows = records.read_records(measured).to_dict("records")
    if task.evidence and not (folder / "evidence" / f"{task.name}.parquet").exists():
        seen = Evidence(skipped=f"looking failed: {reason}", took_s=took_s)
        store.save(folder / "evidence", store.key_of(rows), seen, task.labels)
    if task.bystanders:
        found = Bystanders(skipped=f"probing failed: {reason}", took_s=took_s)
        path = folder / bystander_files.FOLDER / f"{task.name}.parquet"
        bystander_files.save(path, found, bystander_files.key_of(rows), task.labels)


def _unpublished(task: CellTask, folder: Path) -> Path:
    """Return where the process of a cell leaves its records; what a kill leaves there goes with a resume."""
    return folder / "records" / f".{task.name}.parquet.tmp"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since boot; 0 if unknown."""
    found = re.search(
        r"^oom_kill (\d+)$", kernel_files.read_text(kernel_files.ROOT / "proc/vmstat") or "", re.MULTILINE
    )
    return int(found[1]) if found else 0


def is_done(case: Case, pass_number: int, folder: Path) -> bool:
    """Return whether `folder` holds what came of this cell in this pass.

    A cell that failed, or that the machine cannot measure, is given up for the passes that follow.
    """
    names = [process_name(case, number) for number in range(1, pass_number + 1)]
    if any((folder / f"skipped/{name}.json").exists() for name in names):
        return True
    return (folder / f"records/{names[-1]}.parquet").exists()


def why_not(case: Case) -> str | None:
    """Return why this machine cannot measure `case` now, or None."""
    try:
        workloads.require_memory(case)
    except memory.BudgetError as error:
        return str(error)
    return workloads.why_not(case)


def _parameters(task: CellTask, folder: Path) -> dict[str, Any]:
    case = task.case
    return {
        **{name: getattr(case, name) for name in ("workload", "method", "page_kind", "policy")},
        "size": case.size_bytes,
        "min_chunk": case.min_chunk_bytes,
        "options": dict(case.options),
        "threads": list(task.threads),
        "cpus": task.cpus,
        "protocol": asdict(task.protocol),
        "evidence": LOOK_S if task.evidence else 0,
        "bystanders": task.bystanders,
        "save_as": str(_unpublished(task, folder).resolve()),
        "labels": task.labels,
    }


def keep_reason(task: CellTask, folder: Path, reason: str, failed: bool) -> None:
    """Keep why there are no records of a cell, and whether there should be."""
    case = task.case
    about = {name: getattr(case, name) for name in ("workload", "method", "page_kind", "size_bytes")}
    backend = workloads.get(case.workload).method(case.method).backend
    write_json(
        folder / "skipped" / f"{task.name}.json",
        {"cell_id": cell_id(case), "pass": task.pass_number, **about, "backend": backend}
        | {"options": case.options_text, "reason": reason, "failed": failed},
    )
