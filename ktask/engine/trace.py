"""Traces: where and when each chunk ran, as a figure and as a file for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ktask.common.files import write_text
from ktask.engine.task import Result

US = 1e6


def _traced(result: Result) -> Result:
    if result.trace_rows is None:
        raise ValueError("this result has no trace; run the task with trace=True")
    return result


def chrome_events(result: Result) -> list[dict[str, Any]]:
    """Return the chunks as complete events of the Trace Event format, times in microseconds."""
    names = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": w, "args": {"name": _name(w)}}
        for w in range(result.threads)
    ]
    chunks = [
        {
            "name": f"{start} to {end}",
            "cat": "chunk",
            "ph": "X",
            "pid": 0,
            "tid": helper,
            "ts": t0 * US,
            "dur": (t1 - t0) * US,
            "args": {"start": start, "end": end, "part": part, "cpu": cpu},
        }
        for part, helper, cpu, start, end, t0, t1 in _traced(result).trace_rows or ()
    ]
    return names + chunks


def _name(worker: int) -> str:
    return "caller" if worker == 0 else f"helper {worker}"


def write_chrome(result: Result, path: Path | str) -> None:
    """Write the trace as a JSON file that Perfetto and chrome://tracing open; whole or not at all."""
    write_text(path, json.dumps({"traceEvents": chrome_events(result), "displayTimeUnit": "ms"}))


def write_csv(result: Result, path: Path | str) -> None:
    """Write the trace as a table, one row per chunk; whole or not at all."""
    write_text(path, _traced(result).trace.to_csv(index=False))


def write_figure(result: Result, path: Path | str) -> None:
    """Write the timeline as a figure; whole or not at all."""
    from ktask.common import figures  # noqa: PLC0415  (seaborn takes a second to import)

    figures.save(plot(result), path)


def plot(result: Result, title: str = "") -> Any:
    """Return a figure with one line per thread and a bar per chunk, neighbours in two shades.

    The dotted line marks the end of the task, so idle time at the end of a thread is what lies between.
    """
    table = _traced(result).trace
    from ktask.common import figures  # noqa: PLC0415

    with figures.theme():
        drawing, axis = figures.single(8, 0.6 + 0.4 * result.threads)
        figures.chunk_lanes(axis, table, result.wall_s, result.threads)
        axis.set(xlabel="time since the release (ms)", title=title)
    return drawing
