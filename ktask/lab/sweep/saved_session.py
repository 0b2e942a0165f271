"""Results of an interactive session, kept as a run that can be reported on and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ktask.lab import run_files
from ktask.lab.measure.measurement import Measurement
from ktask.lab.sweep import sweep
from ktask.lab.sweep.grid import Grid, cell_id


def save_run(cells: Sequence[Measurement], name: str, root: Path | None = None) -> Path:
    """Keep cells that were measured by hand as the run `name`, and return its directory.

    Parameters
    ----------
    cells
        From `ktask.measure`, each of another case, all with the same protocol.
    name
        Of the run; `ktask report NAME` then makes the page.
    root
        Where runs are kept; `data/runs` of the current directory by default.

    Raises
    ------
    ValueError
        If there is no cell, a case is there twice, protocols differ, or the run exists already.
    """
    if not cells:
        raise ValueError("there is no cell to save; measure one with ktask.measure first")
    names = [cell_id(cell.case) for cell in cells]
    if twice := [one for one in names if names.count(one) > 1]:
        raise ValueError(f"cell {twice[0]} is there twice; a run holds each case once")
    if len({cell.protocol for cell in cells}) > 1:
        raise ValueError("the cells were measured by different protocols; save each as a run of its own")
    path = sweep.run_path(name, root)
    sweep.start_run(path, _grid(cells))
    host_id = run_files.read_machine(path).get("host_id", "")
    for cell, one in zip(cells, names, strict=True):
        labels = {"run_id": path.name, "host_id": host_id, "cell_id": one}
        cell.save_processes(path / "records", labels)
        cell.save_bystanders(path / "bystanders", labels)
    return path


def _grid(cells: Sequence[Measurement]) -> Grid:
    protocol = cells[0].protocol
    threads = sorted({row["threads_requested"] for cell in cells for row in cell.rows})
    about = "measured by hand in a notebook"
    return Grid("by-hand", about, protocol.seed, tuple(threads), protocol, tuple(cell.case for cell in cells))
