"""`ktask import`: results of another suite as a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ktask.cli.base import OK, AsJson, Base, emit

NAME = "import"  # no name for a module
EXAMPLES = (
    "ktask import will-it-scale results/",
    "ktask import will-it-scale monday/ tuesday/ wednesday/ --run before",
    "ktask import vm-scalability logs/",
    "ktask import perf-bench-mmap logs/",
)


def import_results(
    suite: Annotated[str, typer.Argument(help="will-it-scale, vm-scalability or perf-bench-mmap.")],
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of results; each counts as a pass.")
    ],
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run that is made.")] = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of the results of another suite, for `ktask report` and `ktask compare`.

    Which machine they are of is not known, and nothing of them was verified here.
    """
    from ktask.common.resources import runs_folder  # noqa: PLC0415
    from ktask.lab.imports import import_results as lab_import  # noqa: PLC0415
    from ktask.lab.records import load_run  # noqa: PLC0415

    path = lab_import(suite, folders, run, runs_folder(base))
    records = load_run(path).records
    found = {
        "run": path.name,
        "path": str(path),
        "measurements": len(records),
        "methods": sorted(set(records["method"])),
        "passes": len(folders),
    }
    emit(found, as_json, render)
    raise typer.Exit(OK)


def render(found: dict[str, Any]) -> Iterator[str]:
    """Yield how much was read, and the directory of the run."""
    count, methods = found["measurements"], len(found["methods"])
    yield f"{count} measurements of {methods} methods in {found['passes']} passes"
    yield found["path"]
