"""One case on the spot: what `ktask run` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ktask import workloads
from ktask.common.units import parse_size
from ktask.engine import policy
from ktask.engine.trace import write_chrome, write_csv, write_figure
from ktask.host import topology
from ktask.lab.measure import stats
from ktask.lab.measure.cell import Cell, Protocol, Variant, measure
from ktask.lab.measure.rounds import prepared, repeat
from ktask.memory import region as memory
from ktask.workloads import Case, Method

DEFAULT_PAGE_KINDS = ("THP", "4KiB")


def choose(
    workload: str,
    backend: str | None,
    method: str | None,
    page_kind: str | None,
    size: str | int,
    min_chunk: str | int,
    policy_name: str,
    settings: Sequence[str] = (),
) -> Case:
    """Return the case that the options describe, the rest filled in sensibly.

    Raises
    ------
    ValueError
        If one names nothing that exists; the message says what does.
    """
    found = workloads.get(workload)
    policy.policy_named(policy_name)
    chosen = found.method(method) if method else _first_method(found, backend)
    if backend and chosen.backend != backend:
        raise ValueError(f"method {chosen.name} of {workload} has backend {chosen.backend}, not {backend!r}")
    if page_kind is None:
        page_kind = next((k for k in DEFAULT_PAGE_KINDS if k in chosen.page_kinds), chosen.page_kinds[0])
    if page_kind not in memory.PAGE_KINDS:
        raise ValueError(f"page size {page_kind!r} is unknown; use one of {', '.join(memory.PAGE_KINDS)}")
    options = chosen.parse_options(dict(map(_setting, settings)))
    return Case(
        workload, chosen.name, page_kind, parse_size(size), parse_size(min_chunk), policy_name, options
    )


def _setting(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not is_there:
        raise ValueError(f"setting {text!r} is not understood; use name=value, such as layout=sparse")
    return name.strip(), value.strip()


def _first_method(workload: workloads.Workload, backend: str | None) -> Method:
    for method in workload.methods:
        if backend in (None, method.backend):
            return method
    known = ", ".join(sorted({m.backend for m in workload.methods}))
    raise ValueError(f"backend {backend!r} of {workload.name} is unknown; use one of {known}")


def run_one(case: Case, threads: int | None, repetitions: int, trace: Path | None = None) -> dict[str, Any]:
    """Measure `case` with `threads` threads against one; return the result as plain values.

    Returns
    -------
    dict
        Case and plan, and `wall_s`, `baseline_wall_s`, `rate` and `speedup` as {median, low, high, best, n};
        or {skipped: reason} if this machine cannot do it.

    Raises
    ------
    ValueError
        On numbers that are not allowed, and if the case needs more memory than there is.
    """
    most = topology.cpu_count()
    threads = most if threads is None else threads
    if not 1 <= threads <= most:
        raise ValueError(f"threads={threads} is not allowed; use 1 to {most}, the CPUs of this process")
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} is not allowed; use 1 or more")
    workloads.require_memory(case)
    if reason := workloads.why_not(case):
        return {"skipped": reason}
    if trace is not None and not trace.parent.is_dir():
        raise ValueError(f"trace file {trace} cannot be written: {trace.parent} is not a directory")
    try:
        cell = measure(case, [threads], Protocol(least=repetitions, most=repetitions), chunked=False)
    except memory.UnavailableError as error:  # found out only when mapping: limits on address space, say
        return {"skipped": str(error)}
    if trace is not None:
        write_trace(case, threads, trace)
    return _result(cell, threads)


def _result(cell: Cell, threads: int) -> dict[str, Any]:
    serial, chosen = Variant("serial", 1, baseline=True), Variant(f"{threads} threads", threads)
    if threads == 1:
        chosen = Variant("aa", 1, baseline=True)
    base, walls = cell.walls(serial), cell.walls(chosen)
    row = next(r for r in reversed(cell.rows) if r["threads_requested"] == threads)
    rate = stats.estimate(row["operations"] / walls, better="high")
    return {
        "workload": row["workload"],
        "backend": row["backend"],
        "method": row["method"],
        "page_size": row["page_kind"],
        **{key: row[key] for key in ("size_bytes", "policy", "threads", "chunk_size", "n_chunks", "unit")},
        "wall_s": _plain(stats.estimate(walls)),
        "baseline_wall_s": _plain(stats.estimate(base)),
        "rate": _plain(rate),
        "speedup": _plain(stats.ratio(base, walls)),
        "verified": all(r["verified"] for r in cell.rows),
        "flags": dict(Counter(f for r in cell.rows if not r["warmup"] for f in r["flags"] if f != "aa")),
        "options": dict(cell.case.options),
    }


def _plain(estimate: stats.Estimate) -> dict[str, float | int | None]:
    """Return an estimate as JSON can hold it: an interval that does not exist is null."""
    return {k: v if v == v else None for k, v in estimate._asdict().items()}  # noqa: PLR0124


WRITERS = {".json": write_chrome, ".svg": write_figure, ".png": write_figure}  # all else is CSV


def write_trace(case: Case, threads: int, path: Path) -> None:
    """Run the case once more with a trace; the ending of `path` tells what to write (`WRITERS`)."""
    with prepared(case) as state:
        result = repeat(state, threads, case.policy, trace=True).result
    WRITERS.get(path.suffix, write_csv)(result, path)
