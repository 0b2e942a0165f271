"""`ktask compare`: two runs side by side, with ratios, intervals and verdicts."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, OK, AsJson, Base, emit
from ktask.common.units import fmt_number, fmt_size, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part
    from ktask.lab.compare import Comparison, Row

HEAD = ("workload, method, pages, size, threads", "old", "new", "new / old", "95 % interval", "verdict")
MOST_DIFFERENCES = 20


EXAMPLES = (
    "ktask compare before after",
    "ktask compare data/sample 20261123-054255-quick --threshold 10%",
    "ktask compare before after --json",
)


def compare(
    old: Annotated[str, typer.Argument(help="Name or directory of the run to start from.")],
    new: Annotated[str, typer.Argument(help="Name or directory of the run to judge.")],
    threshold: Annotated[
        str, typer.Option(help="Exit 1 if something got slower by more than this: 5% or 0.05.")
    ] = "5%",
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: times, their ratios with intervals, and a verdict for each.

    A row is better or worse only if it differs by more than two processes of the same commit do. Exit 1 on a
    regression beyond the threshold.
    """
    from ktask.common.resources import runs_folder  # noqa: PLC0415
    from ktask.lab import compare as comparing  # noqa: PLC0415
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.lab.sweep.sweep import find_run  # noqa: PLC0415

    share, root = _share(threshold), runs_folder(base)
    before, after = (load_run(find_run(name, root)) for name in (old, new))
    found = comparing.compare(before, after, share)
    emit(comparing.to_json(found), as_json, lambda _: render(found))
    raise typer.Exit(FOUND if found.regressions else OK)


def _share(text: str) -> float:
    """Return 0.05 for "5%" and for "0.05"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:  # not a number fails here, too
        raise ValueError(f"threshold {text!r} is not allowed; use a share such as 5% or 0.05")
    return value


def render(found: Comparison) -> Iterator[Part]:
    """Yield a comparison as text: a table of all rows, then what differs and the conclusion."""
    from ktask.cli.tables import table  # noqa: PLC0415

    yield f"{found.new} against {found.old}; ratios of times, below 1 is better\n"
    yield table(HEAD, map(_row, found.rows), left=(0, 5))
    for run, names in ((found.old, found.only_old), (found.new, found.only_new)):
        if names:
            yield f"\nonly in {run}: {len(names)} rows, such as {names[0]}"
    yield from _differences(found)
    yield f"\n{_conclusion(found)}"


def _row(row: Row) -> tuple[str, ...]:
    what = (row.workload, row.method, row.page_kind, fmt_size(row.size_bytes), row.options, row.variant)
    ratio, interval = "", ""
    if row.ratio is not None:
        ratio = fmt_number(row.ratio.median)
        interval = f"{fmt_number(row.ratio.low)} – {fmt_number(row.ratio.high)}"
    times = fmt_time(row.old.median), fmt_time(row.new.median)
    return " ".join(filter(None, what)), *times, ratio, interval, row.verdict


def _differences(found: Comparison) -> Iterator[str]:
    if not found.differences:
        return
    hosts = any(d.fact == "host_id" for d in found.differences)
    yield "\nthe machines differ:" if hosts else "\nmachine, software or protocol differ:"
    for d in found.differences[:MOST_DIFFERENCES]:
        yield f"  {d.fact}: {_short(d.old)} -> {_short(d.new)}"
    if (more := len(found.differences) - MOST_DIFFERENCES) > 0:
        yield f"  and {more} more; --json has them all"


def _short(value: Any) -> str:
    return "(unknown)" if value is None else textwrap.shorten(str(value), 60, placeholder="...")


def _conclusion(found: Comparison) -> str:
    counts = Counter(row.verdict for row in found.rows)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in ("better", "worse", "within noise"))
    noise = f"two processes of the same commit differ by about {math.expm1(found.spread):.1%}"
    beyond = len(found.regressions)
    end = f"{beyond} got slower by more than {found.threshold:.0%}" if beyond else "no regression"
    return f"{verdicts} of {len(found.rows)}; {noise}; {end}"
