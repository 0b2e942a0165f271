"""The figures: each a pair of a tidy table and its drawing, with caption and alternative text."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from ktask.common import units
from ktask.lab.measure.stats import NoiseFloor
from ktask.report import sentences as words
from ktask.report.bottlenecks import Roof, memory_roof
from ktask.report.charts import (
    FAINT,
    FULL_WIDTH_IN,
    INK,
    WARN,
    Figure,
    build,
    columns_of,
    curve,
    leftmost,
    legend,
    mark_borders,
    noise_band,
    panel_size,
    panels,
    series_style,
    set_title,
    size_axis,
    thread_axis,
)
from ktask.report.tables import PATH, Run, aa_table, at_best, repetitions, sort_cases

STRIPS = 3  # panels of repetitions beside each other: their labels are wide
FAR_OUT = 3  # repetitions this many times slower than the median need a logarithmic axis


def _at_largest_size(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the largest size of each path that was measured with several threads, if any was."""
    usable = scaling[scaling["n"] > 0]
    several = usable[usable["threads"] > 1]
    largest = (several if len(several) else usable).groupby(PATH)["size_bytes"].max().rename("largest")
    joined = usable.join(largest, on=PATH)
    return joined[joined["size_bytes"] == joined["largest"]].drop(columns="largest")


def _columns_of(scaling: pd.DataFrame, *names: str) -> pd.DataFrame:
    kept = [*PATH, "size_bytes", "threads", "baseline", "n"]
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return scaling[[*kept, *ends]].reset_index(drop=True)


def speedup_data(last: pd.DataFrame) -> pd.DataFrame:
    """Return speedup by thread count, of a scaling table with one size per path."""
    has_both = last.groupby(PATH)["threads"].transform("nunique") > 1
    shown = last[has_both & last["speedup"].notna()]
    # The chunked call on one thread is a point of its own in the tables; the curve starts at the serial call.
    return _columns_of(shown[shown["baseline"] | (shown["threads"] > 1)], "speedup")


ROOF_IN_SIGHT = 1.05  # of the ideal speedup: a roof above that stands outside the panel


def roof_speedups(last: pd.DataFrame, roof: Roof | None) -> pd.Series:
    """Return, by path, the speedup at which a path would reach the roof; empty without a roof."""
    serial = last[last["baseline"]].set_index(PATH)["bandwidth"]
    return roof.bytes_per_s / serial if roof else serial.iloc[:0]


def speedup_figure(
    scaling: pd.DataFrame, workload: str, key: str, floor: float, borders: dict[int, str] | None = None
) -> Figure | None:
    """Draw speedup against threads with the ideal line; None if no count above one was measured.

    `borders` names thread counts at which something is used up, such as the cores of a socket.
    """
    last = _at_largest_size(scaling[scaling["workload"] == workload])
    data = speedup_data(last)
    if data.empty:
        return None
    groups = list(data.groupby(["backend", "method"], sort=False))
    roof = memory_roof(scaling) if workload == "zeroing" else None
    allowed = roof_speedups(last, roof)
    kinds = ["page_kind", "options", "policy"]
    curves = list(dict.fromkeys(map(tuple, data[kinds].to_numpy())))

    def paint(drawing: Drawing) -> None:
        axes = panels(drawing, len(groups), sharex=True, sharey=True)
        for axis, ((backend, method), part) in zip(axes, groups, strict=True):
            counts = np.array(sorted(set(data["threads"])))
            noise_band(axis, floor)
            axis.plot(counts, counts, color=INK, linewidth=0.8, linestyle=":", label="ideal")
            for one, rows in part.groupby(kinds, sort=False):
                label = ", ".join(filter(None, [words.kind_label(one[0]), *one[1:]]))
                curve(axis, rows, "threads", "speedup", i=curves.index(one), label=label)
            lowest = allowed.loc[(slice(None), backend, method)].min() if len(allowed) else np.inf
            if lowest <= ROOF_IN_SIGHT * counts[-1]:
                axis.axhline(lowest, color=INK, linewidth=0.8, linestyle="-.", label="memory roof")
            set_title(axis, words.short(f"{method} ({backend})"))
            thread_axis(axis, counts)
            mark_borders(axis, borders or {}, counts[-1])
        for axis in leftmost(axes):
            axis.set_ylabel("speedup")
        if axes[0].get_yscale() == "linear":
            axes[0].set_ylim(bottom=0)
        legend(drawing, axes)

    return build(
        key,
        panel_size(len(groups)),
        paint,
        data=data,
        caption=words.speedup_caption(data, at_best(last)) + words.roof_note(allowed, roof),
        alt=words.speedup_alt(data, workload),
    )


def throughput_data(scaling: pd.DataFrame, workload: str) -> pd.DataFrame:
    """Return rate by size and threads; `quantity` is "rate" (operations) or "bandwidth" (bytes covered).

    Operations are used where they mean the same for every path of the workload, bytes otherwise.
    """
    part = scaling[(scaling["workload"] == workload) & (scaling["n"] > 0)]
    part = part[part["baseline"] | (part["threads"] > 1)]
    alike = len(set(zip(part["unit"], (part["operations"] / part["size_bytes"]).round(9), strict=True))) == 1
    name = "rate" if alike else "bandwidth"
    table = _columns_of(part, name).rename(columns=lambda column: column.replace(name, "throughput"))
    return table.assign(quantity=name, unit=part["unit"].iloc[0] if alike and len(part) else "byte")


def throughput_figure(scaling: pd.DataFrame, workload: str, key: str) -> Figure | None:
    """Draw throughput against size, one panel per path, one curve per thread count."""
    data = throughput_data(scaling, workload)
    if data.empty:
        return None
    scale = units.rate_scale(data["throughput"].max(), data["unit"].iloc[0])
    groups = list(data.groupby(PATH, sort=False))
    threads = sorted(set(data["threads"]))
    roof = memory_roof(scaling) if workload == "zeroing" else None
    size = panel_size(len(groups))

    def paint(drawing: Drawing) -> None:
        axes = panels(drawing, len(groups), sharex=True, sharey=True)
        for axis, (path, part) in zip(axes, groups, strict=True):
            for count, rows in part.sort_values("size_bytes").groupby("threads"):
                label, i = words.count(count, "thread"), threads.index(count)
                curve(axis, rows, "size_bytes", "throughput", i=i, label=label, unit=scale.factor)
            if roof:
                line = {"color": INK, "linewidth": 0.8, "linestyle": ":", "label": "highest user-space rate"}
                axis.axhline(roof.bytes_per_s / scale.factor, **line)
            set_title(axis, words.path_label(dict(zip(PATH, path, strict=True))))
            size_axis(axis, data["size_bytes"], size[0] / columns_of(len(groups)) - 0.35)
        for axis in leftmost(axes):
            axis.set_ylabel(scale.suffix)
        if words.needs_log(data["throughput"]):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes[0].yaxis.set_minor_formatter(NullFormatter())  # its own speaks TeX, which nobody reads here
        else:
            axes[0].set_ylim(bottom=0)  # of all panels, once everything is drawn
        legend(drawing, axes)

    return build(
        key,
        size,
        paint,
        data=data,
        caption=words.throughput_caption(data, (roof.bytes_per_s, roof.label) if roof else None),
        alt=words.throughput_alt(data, workload),
    )


def distribution_data(run: Run, workload: str) -> pd.DataFrame:
    """Return every repetition of the largest size of each path, cold ones marked; warm-ups are left out."""
    table = repetitions(run)
    table = table[(table["workload"] == workload) & (table["wall_s"] > 0)]
    table = table[table["baseline"] | (table["threads"] > 1)]
    if table.empty:
        return table
    several = table[table["threads"] > 1]
    # The policy is no part of the path here: the serial call has none.
    path = PATH[:-1]
    largest = (several if len(several) else table).groupby(path)["size_bytes"].max().rename("largest")
    table = table.join(largest, on=path)
    table = sort_cases(table[table["size_bytes"] == table["largest"]])
    names = [*path, "size_bytes", "threads", "baseline", "aa", "cold", "flagged", "round", "order", "wall_s"]
    return table[names]


def distribution_figure(run: Run, workload: str, key: str) -> Figure | None:
    """Draw every repetition as a point, in the order of the rounds; cold ones are crossed."""
    data = distribution_data(run, workload)
    if data.empty:
        return None
    groups = list(data.groupby(PATH[:-1], sort=False))
    threads = sorted(set(data["threads"]))

    def paint(drawing: Drawing) -> None:
        axes = panels(drawing, len(groups), STRIPS)
        for axis, (path, part) in zip(axes, groups, strict=True):
            _strip(axis, part, threads)
            set_title(axis, words.path_label(dict(zip(PATH, (*path, ""), strict=True))))
        legend(drawing, axes)

    height = 0.95 + 0.36 * len(threads)
    return build(
        key,
        panel_size(len(groups), height, STRIPS),
        paint,
        data=data,
        caption=words.distribution_caption(data),
        alt=words.distribution_alt(data, workload),
    )


def _strip(axis: Axes, part: pd.DataFrame, threads: list[int]) -> None:
    """Draw the repetitions of one path, each over the median of the warm ones with as many threads."""
    labels = {}
    for count, rows in part.sort_values(["round", "order"]).groupby("threads"):
        level = threads.index(count)
        middle = rows.loc[~rows["cold"], "wall_s"].median()
        labels[level] = f"{words.count(count, 'thread')}\n{units.fmt_time(middle)}"
        relative = rows["wall_s"] / (rows["wall_s"].median() if np.isnan(middle) else middle)
        height = level + pd.Series(np.linspace(-0.3, 0.3, len(rows)), index=rows.index)
        warm, cold = rows.index[~rows["cold"]], rows.index[rows["cold"]]
        dots = {"linestyle": "none", "markersize": 3.4, "alpha": 0.75, "markeredgewidth": 0}
        axis.plot(relative[warm], height[warm], label="repetition", **series_style(0) | dots)
        if len(cold):
            marks = {"color": WARN, "marker": "x", "linestyle": "none", "label": "cold memory"}
            axis.plot(relative[cold], height[cold], **marks)
    axis.axvline(1, color=INK, linewidth=0.8, linestyle=":", label="median")
    axis.grid(visible=False)
    axis.set_yticks(list(labels), list(labels.values()))
    axis.set_ylim(-0.6, len(threads) - 0.4)
    axis.set_xlabel("time over its median")
    low, high = axis.get_xlim()
    if high > FAR_OUT:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_locator(FixedLocator([one for one in (0.5, 1, 2, 5, 10, 20, 50) if one < high]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_xlim(min(low, 0.95), max(high, 1.05))


def aa_figure(run: Run, floors: dict[str, NoiseFloor], key: str) -> Figure | None:
    """Draw the ratio of the two equal measurements of each A/A cell; None if there are none."""
    data = aa_table(run)
    data = data[data["n"] > 0].reset_index(drop=True)
    if data.empty:
        return None

    groups = list(data.groupby("workload", sort=False))

    def paint(drawing: Drawing) -> None:
        axes = panels(drawing, len(groups), sharex=True)
        for axis, (workload, rows) in zip(axes, groups, strict=True):
            axis.grid(visible=False)
            axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
            band = 1 + floors[str(workload)].floor
            axis.axvspan(1 / band, band, color=FAINT, alpha=0.6, linewidth=0)
            _caterpillar(axis, rows.sort_values("ratio"))
            axis.set_title(words.workload_label(workload))
            axis.set_xlabel("first call over second")
            axis.set_ylim(-1, max(len(rows) for _, rows in groups))
        axes[0].set_ylabel("cells, by ratio")

    return build(
        key,
        panel_size(len(groups), 1.9),
        paint,
        data=data,
        caption=words.aa_caption(data, floors),
        alt=words.aa_alt(data),
    )


def _caterpillar(axis: Axes, rows: pd.DataFrame) -> None:
    reach = np.vstack([rows["ratio"] - rows["ratio_low"], rows["ratio_high"] - rows["ratio"]])
    reach = np.nan_to_num(reach).clip(min=0)
    style = series_style(0) | {"linestyle": "none"}
    axis.errorbar(rows["ratio"], range(len(rows)), xerr=reach, capsize=0, elinewidth=0.9, **style)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def crossover_data(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return speedup by size at the most threads measured, for all paths, with the verdict."""
    several = scaling[
        ~scaling["baseline"].astype(bool) & (scaling["threads"] > 1) & scaling["speedup"].notna()
    ]
    if several.empty:
        return several
    most = several.groupby(PATH)["threads"].transform("max")
    kept = several[several["threads"] == most]
    return _columns_of(kept, "speedup").assign(
        verdict=kept["verdict"].to_numpy(), noise_floor=kept["noise_floor"].to_numpy()
    )


def crossover_figure(scaling: pd.DataFrame, key: str) -> Figure | None:
    """Draw speedup against size, one panel per workload; below the band threads make it worse."""
    data = crossover_data(scaling)
    if data.empty:
        return None
    groups = list(data.groupby("workload", sort=False))
    counts = sorted(set(data["threads"]))
    alike = len(counts) == 1

    def paint(drawing: Drawing) -> None:
        axes = [drawing.add_subplot(len(groups), 1, i + 1) for i in range(len(groups))]
        for axis, (workload, part) in zip(axes, groups, strict=True):
            axis.grid(axis="y", color=FAINT, linewidth=0.5)
            noise_band(axis, part["noise_floor"].iloc[0])
            for i, (path, rows) in enumerate(part.groupby(PATH, sort=False)):
                label = words.path_label(dict(zip(PATH, path, strict=True)))
                threads = words.count(int(rows["threads"].iloc[0]), "thread")
                label = label if alike else f"{label}, {threads}"
                curve(axis, rows, "size_bytes", "speedup", i=i, label=label)
            axis.set_title(words.workload_label(workload))
            axis.set_ylim(bottom=0)
            axis.set_ylabel(f"speedup, {words.count(counts[0], 'thread')}" if alike else "speedup")
            size_axis(axis, part["size_bytes"], 0.6 * FULL_WIDTH_IN)
            axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.6)

    return build(
        key,
        (FULL_WIDTH_IN, 1.8 * len(groups) + 0.2),
        paint,
        data=data,
        caption=words.crossover_caption(data),
        alt=words.crossover_alt(data),
    )
