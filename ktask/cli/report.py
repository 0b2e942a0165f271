"""`ktask report`: one HTML file from one or several runs, or slides, or a text for a mail, or a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ktask.cli.base import FOUND, AsJson, Base, emit, fail, printable


def _progress(text: str) -> None:
    sys.stderr.write(f"report: {text} ...\n")


EXAMPLES = (
    "ktask report data/sample",
    "ktask report 20261123-054255-quick --out mine.html",
    "ktask report monday --format mail",
    "ktask report monday --format slides",
    "ktask report monday --format csv --out monday.csv",
)


FORMATS = ("html", "slides", "mail", "csv")
TO_STDOUT = ("mail", "csv")
LEAST_BYTES = 300 << 20  # of memory; the smallest run takes 320 MiB in all


def report(
    runs: Annotated[list[str], typer.Argument(help="Names of runs, or their directories.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file; else reports/<run>.html or <run>-slides.html; mail and csv go to stdout."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "html",
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML file from one or several runs; print its path.

    As slides: at most ten for a talk of 20 minutes, in one HTML file; keys or clicks move. As a mail: answer,
    claims and a table per workload, in 75 columns. As csv: a row per case and thread count.
    """
    from ktask.common.resources import reports_folder, runs_folder  # noqa: PLC0415
    from ktask.lab.runs import find_run  # noqa: PLC0415

    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not allowed; use {', '.join(FORMATS)}")
    paths = [find_run(name, runs_folder(base)) for name in runs]
    if form in TO_STDOUT and not out:
        if as_json:
            raise ValueError(f"--json prints the path of a file; give one: --format {form} --out FILE")
        sys.stdout.write(_text(paths, form))
        return
    ending = "-slides.html" if form == "slides" else ".html"
    out = out or reports_folder(base) / f"{'+'.join(path.resolve().name for path in paths)}{ending}"
    written = _page(paths, out) if form == "html" else _file(paths, form, out)
    emit({"report": str(written)}, as_json, lambda value: [value["report"]])


def _page(paths: Sequence[Path], out: Path) -> Path:
    from ktask.common.units import fmt_size  # noqa: PLC0415
    from ktask.host.available_memory import memory_room_bytes  # noqa: PLC0415
    from ktask.lab.sweep.notebooks import NotebookError  # noqa: PLC0415
    from ktask.report import write_report  # noqa: PLC0415

    room_bytes = min(memory_room_bytes(), default=LEAST_BYTES)
    if room_bytes < LEAST_BYTES:  # the kernel would end it in the middle, without a word
        need, have = fmt_size(LEAST_BYTES), fmt_size(max(0, room_bytes) >> 20 << 20)
        raise ValueError(
            f"a report takes {need} of memory more, and {have} are left; --format mail takes less"
        )
    try:
        return write_report(paths, out, progress=_progress)
    except NotebookError as error:
        fail(f"no report, its notebook did not end: {error}", FOUND)


def _file(paths: Sequence[Path], form: str, out: Path) -> Path:
    from ktask.common.files import write_text  # noqa: PLC0415

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _text(paths, form))
    return out


def _text(paths: Sequence[Path], form: str) -> str:
    """Return a report as text; what would steer a terminal is spelled out, as it may come from any run."""
    from ktask.report import Report  # noqa: PLC0415
    from ktask.report.forms import mail, slides  # noqa: PLC0415

    report = Report.open(paths)
    if form == "slides":
        return slides.slides(report)
    if form == "mail":
        return printable(mail.mail(report))
    return printable(mail.columns(report).to_csv(index=False, float_format="%.9g", lineterminator="\n"))
