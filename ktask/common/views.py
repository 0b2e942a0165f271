"""How cases, plans and results look in a notebook: small tables, made when one is displayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from html import escape
from typing import Any

from ktask.common.units import fmt_number, fmt_rate, fmt_size, fmt_time

MOST_CHUNKS = 6


def fact_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Return names and values as an HTML table, escaped."""
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{body}</tbody></table>"


def formatted(table: Any, **forms: Callable[[Any], str]) -> Any:
    """Return a table as people read it, a DataFrame of text.

    Numbers have three significant digits; `_bytes` are sizes, `_s` times, and `_per_s` entries per second,
    unless `forms` says otherwise for a column.
    """

    def form(column: Any) -> Callable[[Any], Any]:
        name, kind = str(column.name), column.dtype.kind
        if name in forms:
            return forms[name]
        rate = partial(fmt_rate, unit="entry")
        endings: dict[str, Callable[[Any], str]] = {"_bytes": fmt_size, "_per_s": rate, "_s": fmt_time}
        fitting = (to_text for ending, to_text in endings.items() if name.endswith(ending))
        return next(fitting, fmt_number if kind == "f" else str) if kind in "iuf" else str

    made = table.apply(lambda column: column.map(form(column)))
    return made.rename(fmt_size) if str(table.index.name).endswith("_bytes") else made


def _listed(values: Iterable[object], most: int = MOST_CHUNKS) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def case_html(case: Any) -> str:
    """Return a case as an HTML table."""
    options = ", ".join(f"{name}={value}" for name, value in case.options)
    rows = [
        ("pages", case.page_kind),
        ("size", fmt_size(case.size_bytes)),
        ("minimum chunk", fmt_size(case.min_chunk_bytes)),
        ("policy", case.policy),
        *([("options", options)] if options else []),
    ]
    return fact_table(f"{case.workload} {case.method}", rows)


def _imbalance(result: Any) -> str:
    return f", imbalance {fmt_time(result.apart_s)}" if result.apart_s > 0 else ""


def result_html(result: Any) -> str:
    """Return what came of a task as an HTML table."""
    cpu_s = result.cpu_user_s + result.cpu_system_s
    busy = cpu_s / (result.wall_s * result.threads) if result.threads and result.wall_s > 0 else float("nan")
    rows = [
        (
            "outcome",
            "done" if not result.error else f"error {result.error}, {len(result.failed)} failed extents",
        ),
        ("wall time", fmt_time(result.wall_s) + _imbalance(result)),
        ("CPU time", fmt_time(cpu_s) + (f", {busy:.0%} of the threads' time" if busy == busy else "")),  # noqa: PLR0124
        ("threads", result.threads),
        ("chunks", f"{result.n_chunks} of up to {result.chunk_size} units"),
        ("chunks per thread", _listed(result.chunks_per_thread, 16)),
        ("CPU of each thread", _listed(result.cpu_of_thread, 16)),
        (
            "priority of helpers",
            "the caller's" if result.helper_nice is None else f"nice {result.helper_nice}",
        ),
    ]
    if result.undone:
        rows.append(("undone", _listed(result.undone)))
    rows.append(
        ("trace", "not asked for" if result.trace_rows is None else f"{len(result.trace_rows)} chunks")
    )
    return fact_table(f"Result of a task, policy {result.policy}", rows)


def plan_html(plan: Any) -> str:
    """Return a plan as an HTML table, with its first chunks."""
    first = (
        [plan.chunk_bounds(0, i) for i in range(min(plan.part_chunks(0), MOST_CHUNKS))] if plan.parts else []
    )
    more = plan.n_chunks - len(first)
    chunks = ", ".join(f"{start} to {end}" for start, end in first) + (
        f" and {more} more" if more > 0 else ""
    )
    rows = [
        ("units", sum(part.size for part in plan.parts)),
        ("threads", f"{plan.threads} of {plan.want} wanted"),
        (
            "chunks",
            f"{plan.n_chunks} of {'shrinking size' if plan.shrinking else f'up to {plan.chunk_size} units'}",
        ),
        ("first chunks", chunks or "none"),
        ("minimum chunk", plan.min_chunk),
    ]
    return fact_table(f"Plan of a task, policy {plan.policy}", rows)
