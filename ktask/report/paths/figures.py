"""The figures: each a pair of a tidy table and its drawing, with caption and alternative text."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.records import Run
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.tables import (
    CASE,
    PATH,
    at_largest_size,
    case_of,
    compared,
    in_varied_chunks,
    is_of_path,
    parallel,
    repetitions,
    sort_cases,
)

STRIPS = 3  # panels of repetitions beside each other: their labels are wide
LOG_FROM_RATIO = 3  # repetitions this many times slower than the median need a logarithmic axis


def _with_several(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the largest size of each path that several threads measured, if any did."""
    several = rows[rows["threads"] > 1]
    return at_largest_size(rows, several if len(several) else None)


def _columns_of(scaling: pd.DataFrame, *names: str) -> pd.DataFrame:
    kept = [*PATH, "size_bytes", "threads", "baseline", "processes", "n"]
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return scaling[[*kept, *ends]].reset_index(drop=True)


def _from_zero(axis: Axes) -> None:
    """Let a linear vertical axis begin at zero; the panels share it, and everything is drawn."""
    if axis.get_yscale() == "linear":
        axis.set_ylim(bottom=0)


def distribution_data(run: Run, workload: str) -> pd.DataFrame:
    """Return every repetition of the largest size of each path, cold ones marked; warm-ups are left out."""
    table = repetitions(run)
    table = table[is_of_path(table)]
    table = compared(table[(table["workload"] == workload) & (table["wall_s"] > 0)])
    # The policy is no part of the path here: the serial call has none.
    names = [*PATH[:-1], "size_bytes", "threads", "baseline", "aa", "cold", "flagged"]
    rows = table[[*names, "boot_id", "pass", "round", "order", "wall_s"]]
    return sort_cases(_with_several(rows)) if len(rows) else rows


@draw.theme()
def distribution_figure(run: Run, workload: str, key: str) -> Figure | None:
    """Draw every repetition as a point, in the order of passes and rounds; cold ones are crossed."""
    data = distribution_data(run, workload)
    if data.empty:
        return None
    groups = list(data.groupby(PATH[:-1], sort=False))
    threads = sorted(set(data["threads"]))
    drawing, axes = draw.panels(len(groups), 0.95 + 0.36 * len(threads), STRIPS)
    for axis, (path, part) in zip(axes, groups, strict=True):
        _strip(axis, part, threads)
        draw.set_title(axis, words.path_label(case_of(path)))
    draw.legend(drawing, axes)
    caption, alt = words.distribution_caption(data), words.distribution_alt(data, workload)
    return Figure(key, drawing, data, caption, alt)


def _strip(axis: Axes, part: pd.DataFrame, threads: list[int]) -> None:
    """Draw the repetitions of one path, each over the median of the warm ones with as many threads."""
    middles = part["wall_s"].where(~part["cold"]).groupby(part["threads"]).median()
    middles = middles.fillna(part.groupby("threads")["wall_s"].median())
    rows = part.sort_values(["pass", "round", "order"])
    rank, size = (getattr(rows.groupby("threads")["wall_s"], name) for name in ("cumcount", "transform"))
    points = pd.DataFrame(
        {
            "time": rows["wall_s"] / rows["threads"].map(middles),
            "place": rows["threads"].map(threads.index) + 0.6 * (rank() / (size("size") - 1).clip(1) - 0.5),
            "memory": rows["cold"].map({False: "repetition", True: "cold memory"}),
        }
    )
    look: dict[str, Any] = {
        # Points as marks of a line: each point of a scatter plot is a path of its own in the SVG.
        **{"estimator": None, "sort": False, "linestyle": "none", "dashes": False},
        **{"hue": "memory", "style": "memory", "markersize": 3.4, "markeredgewidth": 0, "alpha": 0.75},
        "palette": {"repetition": draw.PALETTE[0], "cold memory": draw.WARN},
        "markers": {"repetition": "o", "cold memory": "X"},
    }
    axis.set(xlabel="time over its median", ylabel=" ")
    sns.lineplot(points, x="time", y="place", ax=axis, **look)
    axis.axvline(1, label="median", **draw.DOTTED)
    axis.grid(visible=False)
    labels = [f"{words.count(n, 'thread')}\n{units.fmt_time(middle)}" for n, middle in middles.items()]
    axis.set_yticks([threads.index(n) for n in middles.index], labels)
    axis.set(ylabel="", ylim=(-0.6, len(threads) - 0.4))
    low, high = axis.get_xlim()
    if high > LOG_FROM_RATIO:
        draw.log_axis(axis, "x", [one for one in (0.5, 1, 2, 5, 10, 20, 50) if one < high], base=10)
    else:
        axis.set_xlim(min(low, 0.95), max(high, 1.05))


@draw.theme()
def aa_figure(data: pd.DataFrame, key: str) -> Figure | None:
    """Draw the ratio of the two equal measurements of each A/A cell; None if there are none."""
    data = data[data["n"] > 0].reset_index(drop=True)
    if data.empty:
        return None
    groups = list(data.groupby("workload", sort=False))
    most = max(len(rows) for _, rows in groups)
    drawing, axes = draw.panels(len(groups), 1.9, sharex=True)
    for axis, (workload, rows) in zip(axes, groups, strict=True):
        axis.axvline(1, **draw.DOTTED)
        ordered = rows.sort_values("ratio", ascending=False, ignore_index=True)
        draw.intervals(axis, ordered.assign(cell=ordered.index.astype(str)), "ratio", "cell")
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
        axis.set(xlabel="first call over second", yticks=[], ylim=(most, -1))
        axis.set_title(words.workload_label(workload))
    draw.label_left(axes, "cells, by ratio")
    return Figure(key, drawing, data, words.aa_caption(data), words.aa_alt(data))


def crossover_data(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return speedup by size at the most threads measured, for all paths, with the verdict."""
    several = parallel(scaling[scaling["speedup"].notna()])
    if several.empty:
        return several
    kept = several[several["threads"] == several.groupby(PATH)["threads"].transform("max")]
    return _columns_of(kept, "speedup").assign(verdict=kept["verdict"].to_numpy())


@draw.theme()
def crossover_figure(scaling: pd.DataFrame, key: str) -> Figure | None:
    """Draw speedup against size, one panel per workload; below 1 threads make it worse."""
    data = crossover_data(scaling)
    if data.empty:
        return None
    alike = data["threads"].nunique() == 1
    labels = words.each(data, words.path_label if alike else words.with_threads)
    groups = list(data.assign(path=labels).groupby("workload", sort=False))
    drawing, axes = draw.panels(len(groups), 1.8, most=1, width_in=draw.FULL_WIDTH_IN)
    for axis, (workload, part) in zip(axes, groups, strict=True):
        axis.axhline(1, **draw.DOTTED)
        draw.curves(axis, part, "size_bytes", "speedup", "path")
        axis.set_title(words.workload_label(workload))
        axis.set_ylabel(f"speedup, {words.thread_range(data['threads'])}" if alike else "speedup")
        draw.size_axis([axis], part["size_bytes"], 0.6 * draw.FULL_WIDTH_IN)
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.6)
        _from_zero(axis)
    return Figure(key, drawing, data, words.crossover_caption(data), words.crossover_alt(data))


def chunks_data(chunks: pd.DataFrame) -> pd.DataFrame:
    """Return wall time by chunk size and thread count, of `chunk_table`; `base_wall` is the serial call."""
    chunked = in_varied_chunks(chunks)
    more = {name: chunked[name].to_numpy() for name in ("chunk_size", "min_chunk_size", "base_wall")}
    return _columns_of(chunked, "wall").assign(**more)


@draw.theme()
def chunks_figure(chunks: pd.DataFrame, key: str) -> Figure | None:
    """Draw time against chunk size, one panel per case; None if no case varied its chunks."""
    data = chunks_data(chunks)
    if data.empty:
        return None
    ends = ["wall", "wall_low", "wall_high"]
    drawn = data.assign(**1e3 * data[ends], count=[words.count(int(n), "thread") for n in data["threads"]])
    order = list(dict.fromkeys(drawn.sort_values("threads")["count"]))
    groups = list(drawn.groupby(CASE, sort=False))
    drawing, axes = draw.panels(len(groups), 2.0, sharex=True)
    for axis, (case, part) in zip(axes, groups, strict=True):
        draw.curves(axis, part, "chunk_size", "wall", "count", order=order, unit="ms")
        axis.axhline(1e3 * part["base_wall"].median(), label="serial call", **draw.DOTTED)
        draw.set_title(axis, f"{words.full_label(case_of(case))}, {words.size_label(case_of(case))}")
        _from_zero(axis)
    draw.label_left(axes, "wall time (ms)")
    draw.size_axis(axes, data["chunk_size"], label="chunk")
    draw.legend(drawing, axes)
    return Figure(key, drawing, data, words.chunks_caption(data), words.chunks_alt(data))
