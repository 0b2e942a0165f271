"""The report as plain text for a mail: at most 75 columns, as results are posted to kernel lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pandas as pd

from ktask.common import units
from ktask.report import first_screen, sections, tables
from ktask.report import sentences as words
from ktask.report.contents import Report
from ktask.report.study import Study

WIDTH = 75
PATH_WIDTH = 19
MARKS = {"faster": "+", "slower": "-", "same": "=", "undecided": "?"}
METHOD = (
    "Times: median over passes, each cell in a fresh process per pass. CPU: CPU time over that of the serial "
    "call. + faster, - slower, = same (0.95 to 1.05), ? undecided."
)


def mail(report: Report) -> str:
    """Return the claims, and a table per workload, of each machine."""
    lines = (line for study in report.studies for line in _study(report, study))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def columns(report: Report) -> pd.DataFrame:
    """Return what was measured as one table: a row per case and number of threads, times in seconds."""
    parts = [study.scaling.assign(run=study.run.name) for study in report.studies]
    table = pd.concat(parts, ignore_index=True)
    names = [*tables.CASE, "threads", "baseline", "chunk_size", "verdict", "processes", "n"]
    estimates = ("wall", "rate", "speedup", "cpu_cost")
    names += [f"{name}{end}" for name in estimates for end in ("", "_low", "_high")]
    return table[["run", *names]].rename(
        columns={f"wall{end}": f"wall{end}_s" for end in ("", "_low", "_high")}
    )


def _study(report: Report, study: Study) -> Iterator[str]:
    run = sections.identity(study.run)
    yield from _wrapped(f"ktask: Linux {run['kernel']}, {run['processor']}")
    yield from _wrapped(f"run {run['name']} of {run['date']}: grid {run['grid']}, passes: {run['passes']}")
    yield ""
    yield from _wrapped(first_screen.answer(study))
    claims = [f"{claim.text} ({claim.scope})." for claim in first_screen.claims(study)]
    for text in [*claims, first_screen.caveat(study)]:
        yield from _wrapped(text, "  ", "* ")
    for (workload, backend), rows in study.scaling.groupby(["workload", "backend"], sort=False):
        user = ", in user space" * (backend == "user")
        yield from ("", words.workload_label(workload) + user)
        yield _line("path", "size", "serial", "thr", "time", "speedup", "CPU")
        yield from _rows(rows)
    yield from ("", *_wrapped(f"{METHOD} In brackets: {words.interval_kind(study.scaling)}."), "")


def _rows(rows: pd.DataFrame) -> Iterator[str]:
    """Yield a line per case, at the number of threads that is best there; the name of a path stands once."""
    for path, part in tables.parallel(rows[rows["n"] > 0]).groupby(tables.PATH, sort=False):
        label = words.path_label(dict(zip(tables.PATH, path, strict=True)))
        if len(label) > PATH_WIDTH:
            yield from _wrapped(label)
            label = ""
        for _, sizes in part.groupby("size_bytes"):
            yield _case(label, tables.pick_threads(sizes))
            label = ""


def _case(label: str, row: pd.Series) -> str:
    speedup = words.value(row, "speedup")
    cost = units.fmt_number(row["cpu_cost"], 2) if row["cpu_cost"] > 0 else "-"
    serial, time = (units.fmt_time(row[name]).replace("µ", "u") for name in ("base_wall", "wall"))
    mark = MARKS.get(str(row["verdict"]), "")
    return _line(label, words.size_label(row), serial, str(row["threads"]), time, f"{speedup} {mark}", cost)


def _line(path: str, size: str, serial: str, threads: str, time: str, speedup: str, cost: str) -> str:
    return f"{path:<{PATH_WIDTH}}{size:>8} {serial:>7} {threads:>3} {time:>7} {speedup:>22} {cost:>4}"


def _wrapped(text: str, indent: str = "", first: str = "") -> list[str]:
    """Return the lines of a text, without signs that a mail may not carry."""
    plain = text.replace("µ", "u").replace("\u00a0", " ").replace("–", "-")
    return textwrap.wrap(plain, WIDTH, initial_indent=first, subsequent_indent=indent) or [""]
