"""`ktask report`: one HTML file from one or several runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ktask.cli.base import FOUND, AsJson, Base, emit, fail


def _progress(text: str) -> None:
    sys.stderr.write(f"report: {text} ...\n")


EXAMPLES = (
    "ktask report data/sample",
    "ktask report 20261123-054255-quick --out mine.html",
)


def report(
    runs: Annotated[list[str], typer.Argument(help="Names of runs, or their directories.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; reports/<run>.html by default.")] = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML file from one or several runs; print its path."""
    from ktask.common.resources import reports_folder, runs_folder  # noqa: PLC0415
    from ktask.lab.sweep.notebooks import NotebookError  # noqa: PLC0415
    from ktask.lab.sweep.sweep import find_run  # noqa: PLC0415
    from ktask.report import write_report  # noqa: PLC0415

    paths = [find_run(name, runs_folder(base)) for name in runs]
    if out is None:
        out = reports_folder(base) / f"{'+'.join(path.resolve().name for path in paths)}.html"
    try:
        written = write_report(paths, out, progress=_progress)
    except NotebookError as error:
        fail(f"no report, its notebook did not end: {error}", FOUND)
    emit({"report": str(written)}, as_json, lambda value: [value["report"]])
