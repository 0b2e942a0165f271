"""A comparison as plain text for a mail: at most 75 columns, as results are posted to kernel lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from ktask.cli.compare import conclusion, kernel_cell, measured_differently
from ktask.common.units import GIB, NO_VALUE, fmt_number, fmt_size, fmt_time
from ktask.lab.compare import Comparison, Kernels, Row, Step, passes
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run
from ktask.report.machine import scope

WIDTH = 75
CASE_WIDTH = 17
KERNELS_PER_BLOCK = 3  # beside each other
LARGE = 3.0  # a ratio from here on is no percentage


def mail(found: Comparison | Kernels) -> str:
    """Return a comparison as lines of at most 75 columns."""
    lines = _kernels(found) if isinstance(found, Kernels) else _comparison(found)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _comparison(found: Comparison) -> Iterator[str]:
    for side, run in (("old", found.old), ("new", found.new)):
        yield from _about(side, run)
    yield from _wrapped(
        "Median time over passes, +- standard deviation between them; change in time with 95 % interval."
    )
    yield ""
    yield _line("", "old", "new", "change", "")
    for title, rows in groupby(sorted(found.rows, key=_title), _title):
        yield from _wrapped(title)
        yield from map(_row, sorted(rows, key=_place))
    yield ""
    for text in (*measured_differently(found.differences), *conclusion(found)):
        yield from _wrapped(text)


def _about(side: str, run: Run) -> Iterator[str]:
    """Yield who measured: kernel, machine, passes."""
    kernel = " ".join(
        filter(None, (str(run.machine.get(k, "")) for k in ("kernel_release", "kernel_version")))
    )
    yield from _wrapped(f"{side}: Linux {kernel or '(unknown kernel)'}", "     ")
    yield from _wrapped(f"     {_machine(run)}", "     ")
    boots = run.records["boot_id"].nunique()
    counted = f"{passes(run)} pass{'es' if passes(run) > 1 else ''} in {boots} boot{'s' if boots > 1 else ''}"
    yield from _wrapped(f"     run {run.name}: {counted}", "     ")
    yield ""


def _machine(run: Run) -> str:
    memory = run.machine.get("memory_total_bytes")
    return scope(run.machine) + (f", {memory / GIB:.0f} GiB" if isinstance(memory, int | float) else "")


def _title(row: Row) -> str:
    what = (row.host_id, row.workload, row.method, row.page_kind, row.options, row.policy)
    return f"{' '.join(filter(None, what))}, chunks from {fmt_size(row.min_chunk_size)}"


def _row(row: Row) -> str:
    return _line(_case(row), _time(row.old), _time(row.new), _change(row.ratio), row.verdict)


def _case(row: Row) -> str:
    threads = "serial" if row.baseline else f"{row.threads} thr"
    return f" {fmt_size(row.size_bytes)} {threads}"


def _line(case: str, old: str, new: str, change: str, verdict: str) -> str:
    return f"{case:<{CASE_WIDTH}} {old:>13} {new:>13} {change:>18} {verdict:<9}"


def _time(one: Estimate) -> str:
    percent = f"{100 * one.spread:.0f}" if one.spread < 0.995 else ">99"
    spread = f" +-{percent}%" if one.processes > 1 else ""
    return f"{fmt_time(one.median).replace(' ', '').replace('µ', 'u')}{spread}"


def _change(ratio: Estimate) -> str:
    """Return "+12% [ +8, +16]"; a large one as a factor: "x3.1 [2.8, 3.4]"."""
    ends = ratio[:3] if ratio.processes > 1 else ratio[:1]
    large = max(ends) >= LARGE
    middle, *interval = (_factor(end) if large else _percent(end) for end in ends)
    change = f"x{middle}" if large else f"{middle}%"
    return f"{change} [{', '.join(interval)}]" if interval else f"{change} (one pass)"


def _factor(ratio: float) -> str:
    return ">999" if ratio >= 999.5 else "<.01" if ratio < 0.01 else fmt_number(ratio, 2)


def _percent(ratio: float) -> str:
    return f"{round(100 * (ratio - 1)):+d}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a text; long names, which have no blanks, are broken."""
    return textwrap.wrap(text.replace("µ", "u"), WIDTH, subsequent_indent=indent, drop_whitespace=True) or [
        ""
    ]


def _kernels(found: Kernels) -> Iterator[str]:
    yield from _about("base", found.to_base[0].old)
    for pair in found.to_base:
        yield from _about("with", pair.new)
    yield from _wrapped(
        f"Time over that of {found.names[0]}, below 1 is better; > changed from the kernel before it."
    )
    cases = found.cases()
    for first in range(1, len(found.names), KERNELS_PER_BLOCK):
        yield ""
        yield from _block(cases.values(), found.names[first : first + KERNELS_PER_BLOCK])
    for name, pair in zip(found.names[1:], found.to_base, strict=True):
        yield ""
        for text in (*measured_differently(pair.differences), *conclusion(pair)):
            yield from _wrapped(f"{name}: {text}")


def _block(cases: Iterable[Sequence[Step]], names: Sequence[str]) -> Iterator[str]:
    def line(case: str, cells: Sequence[str]) -> str:
        return " ".join([f"{case:<{CASE_WIDTH}}", *(f"{cell:>18}" for cell in cells)])

    def title(steps: Sequence[Step]) -> str:
        return _title(steps[0].row)

    yield line("", [name[:18] for name in names])
    for heading, group in groupby(sorted(cases, key=title), title):
        yield from _wrapped(heading)
        for steps in sorted(group, key=lambda steps: _place(steps[0].row)):
            cells: dict[str, Any] = {one.kernel: kernel_cell(one) for one in steps}
            yield line(_case(steps[0].row), [cells.get(name, NO_VALUE) for name in names])


def _place(row: Row) -> tuple[int, int, bool]:
    return row.size_bytes, row.threads, not row.baseline
