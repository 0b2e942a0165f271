"""The figure that carries a workload: a row per path, its rates, and beside them where its time goes."""

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.paths import gains, stack
from ktask.report.paths.bottlenecks import Roof, memory_roof
from ktask.report.tables import PATH, at_best, case_of, compared

LEFT_IN, RATES_IN, STACKS_IN = 0.66, 2.95, 3.35
TITLE_IN, SIZE_IN, LEAST_IN, CURVES_IN, TICKS_IN = 0.25, 0.27, 0.4, 1.25, 0.24
PANELS_BESIDE, PANEL_IN = 3, 2.1  # of curves without stacks
ROOM = 1.36  # of the longest bar: for the speedup beside it
OWN_AXES_FROM = 6.0  # the largest rate over the smallest: above, each path has an axis of its own
ROOF_IN_SIGHT = 1.05  # of what is drawn: a roof above that stands outside
SERIAL = "1 thread, serial call"
VERDICTS = {"slower": " slower", "same": " same", "undecided": " undecided"}
RATE, SPEEDUP = (["rate", "rate_low", "rate_high"], ["speedup", "speedup_low", "speedup_high"])


def gains_data(scaling: pd.DataFrame, workload: str) -> pd.DataFrame:
    """Return rate and speedup by path, size and threads; `unit` is what the rate counts.

    Operations are counted where they mean the same for every path of the workload, bytes otherwise. `ideal`
    is the rate of the serial call times the threads.
    """
    part = compared(scaling[(scaling["workload"] == workload) & (scaling["n"] > 0)])
    alike = len(set(zip(part["unit"], (part["operations"] / part["size_bytes"]).round(9), strict=True))) == 1
    if not alike:
        part = part.assign(
            unit="byte", **{name: part[name.replace("rate", "bandwidth")].to_numpy() for name in RATE}
        )
    kept = [*PATH, "size_bytes", "threads", "baseline", "processes", "n", "unit", *RATE, *SPEEDUP]
    ideal = part["rate"] / part["speedup"] * part["threads"]
    return part[[*kept, "above_threads", "verdict"]].assign(ideal=ideal).reset_index(drop=True)


@draw.theme()
def gains_figure(
    scaling: pd.DataFrame,
    evidence: pd.DataFrame,
    workload: str,
    key: str,
    borders: Mapping[int, str] | None = None,
) -> Figure | None:
    """Draw what threads make of each path, and where their time goes; None where nothing is warm.

    Rates are bars where at most two thread counts were measured, else curves against the threads. `borders`
    names thread counts at which something is used up, such as the cores of a socket.
    """
    data, parts = gains_data(scaling, workload), stack.stack_data(evidence, workload)
    if data.empty:
        return None
    scale = units.rate_scale(data["rate"].max(), data["unit"].iloc[0])
    drawn = data.assign(**data[[*RATE, "ideal"]] / scale.factor)
    roof = memory_roof(scaling) if workload == "zeroing" and data["unit"].iloc[0] == "byte" else None
    line = roof.bytes_per_s / scale.factor if roof else None
    is_bars = data["threads"].nunique() <= 2
    groups = list(drawn.groupby(PATH, sort=False))
    own_axes = has_own_axes(data)
    has_rows = is_bars or len(parts) > 0  # of one path each, which has its stack beside it
    if has_rows:
        drawing, axes = _rows(groups, is_bars, own_axes, stack.legend_lines(parts))
    else:
        drawing, axes = draw.panels(len(groups), PANEL_IN, PANELS_BESIDE)
    if is_bars:
        _draw_bars(axes, groups, own_axes, line, scale.suffix)
        axes[-1].set_xlabel(scale.suffix)
    else:
        _draw_curves(axes, groups, own_axes, borders or {}, line, scale.suffix)
    _name(drawing, axes, groups, has_rows, "" if is_bars else scale.suffix)
    if len(parts):
        _draw_stacks(drawing, axes, groups, parts)
    both = pd.concat([data.assign(panel="rate"), parts.assign(panel="stack")], ignore_index=True)
    caption = _caption(data, parts, roof, is_bars)
    return Figure(key, drawing, both, caption, _alt(data, parts, workload))


def _name(drawing: draw.Drawing, axes: list[Axes], groups: list[tuple], has_rows: bool, unit: str) -> None:
    """Write the name of each path above it, the unit on the left, and the legend."""
    set_title = Axes.set_title if has_rows else draw.set_title
    for axis, (path, _) in zip(axes, groups, strict=True):
        set_title(axis, _title(case_of(path), has_rows))
    if has_rows:
        drawing.supylabel(unit, x=0.004, fontsize="medium")
        _legend(drawing, axes)
    else:
        draw.label_left(axes, unit, PANELS_BESIDE)
        draw.legend(drawing, axes, order=_size_names(groups))


def has_own_axes(data: pd.DataFrame) -> bool:
    """Return whether the rates of paths are too far apart for one axis."""
    most = data.groupby(PATH)["rate"].max()
    return bool(most.max() > OWN_AXES_FROM * most.min())


def _title(path: Mapping[str, str], has_room: bool) -> str:
    user = ", in user space" if has_room else ", user"
    return words.path_label(path) + user * (path["backend"] == "user")


def _rows(
    groups: list[tuple], is_bars: bool, own_axes: bool, legend_lines: int
) -> tuple[draw.Drawing, list[Axes]]:
    sizes = [rows["size_bytes"].nunique() for _, rows in groups]
    heights = [max(LEAST_IN, SIZE_IN * n) if is_bars else CURVES_IN for n in sizes]
    width = draw.FULL_WIDTH_IN if legend_lines else LEFT_IN + RATES_IN + 1.2
    right = draw.FULL_WIDTH_IN - LEFT_IN - RATES_IN if legend_lines else 0.1
    top = stack.LINE_IN * max(legend_lines, 2) + 0.04
    places = {"left_in": LEFT_IN, "right_in": right, "top_in": top, "bottom_in": 0.56}
    between = TITLE_IN + (TICKS_IN if own_axes or not is_bars else 0.0)
    return draw.rows(heights, width, between_in=between, **places)


def _draw_bars(axes: list[Axes], groups: list[tuple], own_axes: bool, roof: float | None, unit: str) -> None:
    ends = [float(rows[["rate_high", "ideal"]].max().max()) for _, rows in groups]
    for axis, (_, rows), end in zip(axes, groups, ends, strict=True):
        most = end if own_axes else max(ends)
        _bars(axis, rows, unit)
        axis.set_xlim(0, ROOM * most)
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        if not own_axes and axis is not axes[-1]:
            axis.tick_params(axis="x", length=0, labelbottom=False)
        if roof and roof <= ROOF_IN_SIGHT * most:
            axis.axvline(roof, label="memory roof", **draw.DOTTED | {"linestyle": "-."})


def _bars(axis: Axes, rows: pd.DataFrame, unit: str) -> None:
    """Draw two bars for each size of a path, and beside them the speedup."""
    named = rows.assign(size=words.each(rows, words.size_label), count=words.each(rows, _count))
    several = sorted(set(rows["threads"]) - {1})
    colours = {SERIAL: draw.FAINT} | {words.count(n, "thread"): draw.PALETTE[0] for n in several}
    draw.bars(axis, named, "rate", "size", "count", colours, unit)
    for place, (_, same) in enumerate(rows.groupby("size_bytes", sort=False)):
        for _, row in same[(same["threads"] > 1) & same["speedup"].notna()].iterrows():
            ends = [place - 0.42, place + 0.42]
            axis.plot([row["ideal"]] * 2, ends, label="ideal", **draw.DOTTED | {"linewidth": 1.4})
            text = f"{units.fmt_number(row['speedup'])}×{VERDICTS.get(row['verdict'], '')}"
            colour = draw.WARN if row["verdict"] == "slower" else draw.INK
            draw.text_beside(axis, max(row["ideal"], row["rate_high"]), place, text, color=colour)


def _count(row: pd.Series) -> str:
    return SERIAL if row["baseline"] else words.count(row["threads"], "thread")


def _draw_curves(
    axes: list[Axes],
    groups: list[tuple],
    own_axes: bool,
    borders: Mapping[int, str],
    roof: float | None,
    unit: str,
) -> None:
    """Draw rate against threads, a curve per size."""
    order = _size_names(groups)
    ends = [float(rows["rate_high"].max()) for _, rows in groups]
    threads = [n for _, rows in groups for n in rows["threads"]]
    width_in = axes[0].get_position().width * axes[0].figure.bbox_inches.width
    for axis, (_, rows), end in zip(axes, groups, ends, strict=True):
        most = end if own_axes else max(ends)
        named = rows.assign(size=words.each(rows, words.size_label))
        draw.curves(axis, named, "threads", "rate", "size", order=order, unit=unit)
        largest = rows[rows["size_bytes"] == rows["size_bytes"].max()]
        axis.plot(largest["threads"], largest["ideal"], label="ideal, largest size", zorder=1, **draw.DOTTED)
        if roof and roof <= ROOF_IN_SIGHT * most:
            axis.axhline(roof, label="memory roof", zorder=1, **draw.DOTTED | {"linestyle": "-."})
        draw.thread_axis([axis], threads, width_in=width_in)
        draw.mark_borders(axis, borders, max(threads), named=axis is axes[0])
        axis.set(xlabel="", ylabel="", ylim=(0, 1.05 * most) if axis.get_yscale() == "linear" else None)
        axis.grid(axis="y")
    axes[-1].set_xlabel("threads")


def _size_names(groups: list[tuple]) -> list[str]:
    """Return the sizes of all paths, the smallest first."""
    return [
        units.fmt_size(size) for size in sorted({size for _, rows in groups for size in rows["size_bytes"]})
    ]


def _legend(drawing: draw.Drawing, axes: list[Axes]) -> None:
    entries = draw.legend_entries(axes)
    look = {"ncols": 2, "alignment": "left", "handlelength": 1.6, "fontsize": 7, "labelspacing": 0.2}
    drawing.legend(
        entries.values(), entries.keys(), loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0.0, **look
    )


def _draw_stacks(drawing: draw.Drawing, axes: list[Axes], groups: list[tuple], parts: pd.DataFrame) -> None:
    """Draw the stack of each path beside the bars of its largest size."""
    height_in = drawing.get_figheight()
    places = {}
    for axis, (path, rows) in zip(axes, groups, strict=True):
        box = axis.get_position()
        sizes = rows["size_bytes"].nunique()
        places[path] = height_in * (1 - box.y0 - box.height / sizes / 2)
        if axis.get_yscale() == "log" or rows["threads"].nunique() > 2:
            places[path] = height_in * (1 - box.y0 - box.height / 2)
    left_in = draw.FULL_WIDTH_IN - STACKS_IN
    axis = draw.beside(drawing, axes, left_in)
    stack.draw_stacks(axis, parts, places)
    stack.legend(drawing, axis, left_in / draw.FULL_WIDTH_IN)


def _caption(data: pd.DataFrame, parts: pd.DataFrame, roof: Roof | None, is_bars: bool) -> Markup:
    """Return the finding, and how to read both halves."""
    several = data[data["threads"] > 1]
    marks = "Bars" if is_bars else "Curves"
    texts = [
        stack.caption(parts) if len(parts) else _finding(several),
        f"{marks}: {words.interval_kind(data)}; {words.n_range(data)} per point.",
        "Each path has an axis of its own." if has_own_axes(data) else "",
        f"The memory roof, {units.fmt_rate(roof.bytes_per_s, 'byte')}, is the highest rate of user-space "
        f"stores ({roof.label})."
        if roof
        else "",
    ]
    return Markup(" ").join(filter(None, texts))


def _finding(several: pd.DataFrame) -> str:
    """Return the highest rate of a path: what its speedup is, the text says."""
    if several.empty:
        return "Only one thread was measured."
    best = gains.judged(at_best(several))
    row = best.loc[best["rate"].idxmax()]
    return f"The highest rate is {words.rate(row)}: {words.with_threads(row)}, {words.size_label(row)}."


def _alt(data: pd.DataFrame, parts: pd.DataFrame, workload: str) -> str:
    ends = words.each(
        data[data["threads"] > 1],
        lambda row: (
            f"{words.path_label(row)}, {words.size_label(row)}: {words.speedup(row)} with "
            f"{words.count(row['threads'], 'thread')}"
        ),
    )
    found = f" Speedups: {'; '.join(ends)}." if ends else ""
    lost = f" {stack.alt(parts)}" if len(parts) else ""
    return f"Rates of {words.workload_label(workload)} by path, size and threads.{found}{lost}"
