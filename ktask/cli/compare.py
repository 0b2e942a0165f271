"""`ktask compare`: two runs side by side, or several by kernel, with ratios, intervals and verdicts."""

from __future__ import annotations

import math
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, OK, UNJUDGED, AsJson, Base, emit
from ktask.common.units import fmt_estimate, fmt_number, fmt_size, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part
    from ktask.lab.compare import Comparison, Difference, Kernels, Row, Step
    from ktask.lab.measure.stats import Estimate

HEAD = ("workload, method, pages, size, threads", "old", "new", "new / old", "95 % interval", "verdict")
FORMATS = ("text", "mail", "csv", "json")
MOST_DIFFERENCES = 20
STEP = ">"  # before the ratio of a kernel at which a case steps


EXAMPLES = (
    "ktask compare before after",
    "ktask compare before after --threshold 10% --only 'free munmap'",
    "ktask compare before after --format mail",
    "ktask compare --by kernel v6.12 v6.18 v6.19",
)


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Names or directories of the old and the new run.")
    ],
    threshold: Annotated[
        str, typer.Option(help="Exit 1 if something got slower by more than this: 5% or 0.05.")
    ] = "5%",
    by: Annotated[
        str, typer.Option(metavar="kernel", help="Take runs together by kernel; the first is the base.")
    ] = "",
    only: Annotated[str, typer.Option(help="Compare only the rows whose name has this text.")] = "",
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "text",
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: times, their ratios with intervals, and a verdict for each.

    Rows are judged by how much the processes of both runs differ. Exit 0 if nothing got slower by more than
    the threshold, 1 if something did, 125 if that cannot be judged: with one pass, or too much noise.
    """
    from ktask.common.resources import runs_folder  # noqa: PLC0415
    from ktask.lab import compare as lab  # noqa: PLC0415
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.lab.runs import find_run  # noqa: PLC0415

    share, form = _share(threshold), _form(form, as_json)
    _check_count(runs, by)
    loaded = [load_run(find_run(name, runs_folder(base))) for name in runs]
    if by:
        kernels = lab.compare_kernels(loaded, share, only)
        _write(kernels, form, lab.kernels_to_json, lab.kernels_to_table, render_kernels)
        raise typer.Exit(_code(kernels))
    found = lab.compare(loaded[0], loaded[1], share, only)
    _write(found, form, lab.to_json, lab.to_table, render)
    raise typer.Exit(_code(found))


def _share(text: str) -> float:
    """Return 0.05 for "5%" and for "0.05"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:  # not a number fails here, too
        raise ValueError(f"threshold {text!r} is not allowed; use a share such as 5% or 0.05")
    return value


def _form(text: str, as_json: bool) -> str:
    if text not in FORMATS:
        raise ValueError(f"format {text!r} is not allowed; use {', '.join(FORMATS)}")
    return "json" if as_json else text


def _check_count(runs: Sequence[str], by: str) -> None:
    if by not in ("", "kernel"):
        raise ValueError(f"--by {by!r} is not allowed; use kernel")
    if len(runs) < 2 or (len(runs) > 2 and not by):
        count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
        raise ValueError(f"{count} cannot be compared; give two, or more with --by kernel")


def _code(found: Comparison | Kernels) -> int:
    return FOUND if found.slower else OK if found.judged else UNJUDGED


def _write(
    found: Any,
    form: str,
    to_json: Callable[[Any], Any],
    to_table: Callable[[Any], Any],
    to_text: Callable[[Any], Iterable[Part]],
) -> None:
    if form == "csv":
        sys.stdout.write(to_table(found).to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    elif form == "mail":
        from ktask.cli.compare_mail import mail  # noqa: PLC0415

        sys.stdout.write(mail(found))
    else:
        emit(to_json(found) if form == "json" else found, form == "json", to_text)


def render(found: Comparison) -> Iterator[Part]:
    """Yield a comparison as text: a table of all rows, then what differs and the conclusion."""
    from ktask.cli.tables import table  # noqa: PLC0415
    from ktask.lab.records import synthetic_note  # noqa: PLC0415

    yield f"{found.new.name} against {found.old.name}; ratios of times, below 1 is better\n"
    notes = ((run.name, synthetic_note(run.machine)) for run in (found.old, found.new))
    yield from (f"{name}: {note}\n" for name, note in notes if note)
    yield table(HEAD, map(_row, found.rows), left=(0, 5))
    yield from _beside(found)
    yield from ("", *conclusion(found))


def _beside(found: Comparison) -> Iterator[str]:
    """Yield what only one run has, and what differs beside the times."""
    for run, names in ((found.old, found.only_old), (found.new, found.only_new)):
        if names:
            yield f"\nonly in {run.name}: {len(names)} rows, such as {names[0]}"
    yield from _differences(found.differences)


def _row(row: Row) -> tuple[str, ...]:
    times = fmt_time(row.old.median), fmt_time(row.new.median)
    return row_name(row), *times, fmt_number(row.ratio.median), _interval(row.ratio), row.verdict


def row_name(row: Row) -> str:
    """Return what a row is about, with the machine if there are several."""
    what = (row.host_id, row.workload, row.method, row.page_kind, fmt_size(row.size_bytes), row.options)
    return " ".join(filter(None, (*what, row.variant)))


def _interval(ratio: Estimate) -> str:
    if ratio.processes < 2:
        return "one pass"
    return f"{fmt_number(ratio.low)} – {fmt_number(ratio.high)}"


def _differences(found: Sequence[Difference]) -> Iterator[str]:
    """Yield what differs: first how the runs measured, then the machines and their software."""
    yield from (f"\n{line}" for line in measured_differently(found))
    others = [one for one in found if not one.of_protocol]
    if others:
        hosts = any(one.fact == "host_id" for one in others)
        yield "\nthe machines differ:" if hosts else "\nmachine or software differ:"
    yield from (f"  {_difference(one)}" for one in others[:MOST_DIFFERENCES])
    if (more := len(others) - MOST_DIFFERENCES) > 0:
        yield f"  and {more} more; --json has them all"


def measured_differently(found: Sequence[Difference]) -> list[str]:
    """Return a line that says in what the protocols of the runs differ, if they do."""
    texts = [_difference(one) for one in found if one.of_protocol]
    return [f"the runs were measured in different ways: {', '.join(texts)}"] if texts else []


def _difference(one: Difference) -> str:
    return f"{one.fact}: {_short(one.old)} -> {_short(one.new)}"


def _short(value: Any) -> str:
    return "(unknown)" if value is None else textwrap.shorten(str(value), 60, placeholder="...")


def conclusion(found: Comparison) -> Iterator[str]:
    """Yield what the table comes to, in a line or two."""
    counts = Counter(row.verdict for row in found.rows)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in ("better", "worse", "same", "undecided"))
    yield f"{verdicts} of {len(found.rows)} rows{_all_rows(found)}"
    if found.slower:
        beyond = len(found.regressions)
        what = f"{beyond} {'row' if beyond == 1 else 'rows'}" if beyond else "all rows together"
        yield f"{what} got slower by more than {100 * found.threshold:.3g}%"
    else:
        yield found.reason or f"no row got slower by more than {100 * found.threshold:.3g}%{_noisy(found)}"


def _noisy(found: Comparison) -> str:
    count = len(found.blind)
    return f"; of {count} too noisy {'row' if count == 1 else 'rows'} that is not known" if count else ""


def _all_rows(found: Comparison) -> str:
    if not math.isfinite(found.overall.median):
        return ""
    return f"; all rows together {fmt_estimate(found.overall)}, {found.overall_verdict}"


def render_kernels(found: Kernels) -> Iterator[Part]:
    """Yield a comparison of kernels as text: a column of ratios per kernel, steps marked."""
    from ktask.cli.tables import table  # noqa: PLC0415

    yield f"times over those of {found.names[0]}, below 1 is better; {STEP} changed from the kernel before\n"
    head = (HEAD[0], found.names[0], *found.names[1:])
    yield table(head, (_kernel_row(steps, found.names[1:]) for steps in found.cases().values()))
    for name, pair in zip(found.names[1:], found.to_base, strict=True):
        yield f"\n{name}"
        yield from (*_beside(pair), "", *conclusion(pair))


def _kernel_row(steps: Sequence[Step], kernels: Sequence[str]) -> tuple[str, ...]:
    cells = {one.kernel: kernel_cell(one) for one in steps}
    row = steps[0].row
    return row_name(row), fmt_time(row.old.median), *(cells.get(name, "–") for name in kernels)


def kernel_cell(step: Step) -> str:
    """Return ratio and verdict of a case on a kernel; one that differs from the kernel before is marked."""
    mark = f"{STEP} " if step.step else ""
    return f"{mark}{fmt_number(step.row.ratio.median)} {step.row.verdict}"
