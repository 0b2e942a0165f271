"""Traces: where and when each chunk ran, as a figure and as a file for Perfetto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ktask.common.files import atomic_write, write_text
from ktask.engine.task import Result

US = 1e6


def chrome_events(result: Result) -> list[dict[str, Any]]:
    """Return the chunks as complete events of the Trace Event format, times in microseconds."""
    if result.trace_rows is None:
        raise ValueError("this result has no trace; run the task with trace=True")
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
        for part, helper, cpu, start, end, t0, t1 in result.trace_rows
    ]
    return names + chunks


def _name(worker: int) -> str:
    return "caller" if worker == 0 else f"helper {worker}"


def write_chrome(result: Result, path: Path | str) -> None:
    """Write the trace as a JSON file that Perfetto and chrome://tracing open; whole or not at all."""
    write_text(path, json.dumps({"traceEvents": chrome_events(result), "displayTimeUnit": "ms"}))


def write_csv(result: Result, path: Path | str) -> None:
    """Write the trace as a table, one row per chunk; whole or not at all."""
    if result.trace is None:
        raise ValueError("this result has no trace; run the task with trace=True")
    write_text(path, result.trace.to_csv(index=False))


def write_figure(result: Result, path: Path | str) -> None:
    """Write the timeline as a figure; whole or not at all."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    axes = plot(result)
    with atomic_write(path) as partial:
        axes.figure.savefig(partial, dpi=150, format=Path(path).suffix[1:])
    plt.close(axes.figure)


def plot(result: Result, axes: Any = None) -> Any:
    """Draw one line per thread with a bar per chunk, neighbours in two shades; return the axes.

    The dashed line marks the end of the task, so idle time at the end of a thread is what lies between.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415

    table = result.trace
    if table is None:
        raise ValueError("this result has no trace; run the task with trace=True")
    if axes is None:
        _, axes = plt.subplots(figsize=(8, 0.6 + 0.4 * result.threads), layout="constrained")
    for helper, part in table.groupby("helper"):
        spans = [(t0 * 1e3, (t1 - t0) * 1e3) for t0, t1 in zip(part["t0_s"], part["t1_s"], strict=True)]
        shades = ["#0173b2", "#56b4e9"] * (len(spans) // 2 + 1)
        axes.broken_barh(spans, (helper - 0.35, 0.7), facecolors=shades[: len(spans)])
    axes.axvline(result.wall_s * 1e3, color="0.4", linestyle="--", linewidth=1)
    axes.set_yticks(range(result.threads), [_name(w) for w in range(result.threads)])
    axes.invert_yaxis()
    axes.set_xlabel("time since the release (ms)")
    axes.set_xlim(0, None)
    return axes
