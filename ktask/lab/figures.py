"""The figures of the workload notebooks; each draws one table of `measure` or of a study."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common.units import NO_VALUE, fmt_size


@draw.theme()
def measured(cell) -> draw.Drawing:
    """Draw a measurement: the speedup by threads with its interval, and every repetition."""
    drawing, (left, right) = draw.panels(2, 2.7, width_in=8.5)
    table = cell.table.reset_index().query("variant != 'serial'")
    calls = table["variant"].where(table["variant"].str.contains("A/A"), "in chunks")
    counts = sorted(set(table["threads"]))
    draw.ideal(left, counts)
    draw.curves(left, table.assign(call=calls), "threads", "speedup", "call", ends=("low", "high"))
    draw.thread_axis([left], counts)
    left.set_ylabel("speedup over the serial call")
    if left.get_yscale() == "linear":
        left.set_ylim(0, None)
    _repetitions(right, cell.records.query("not warmup"), counts)
    draw.legend(drawing, [left, right])
    case = cell.case
    left.set_title(f"{case.workload} {case.method}, {fmt_size(case.size_bytes)} of {case.page_kind} pages")
    return drawing


def _repetitions(axis: Axes, table: pd.DataFrame, counts: list[int]) -> None:
    """Draw every repetition, by thread count; cold ones are crosses."""
    cold = ["cold memory" if "cold_memory" in flags else "repetition" for flags in table["flags"]]
    places = table["threads"].map({count: place for place, count in enumerate(counts)})
    spread = 0.4 * ((table["round"] % 7) / 6 - 0.5)
    points = pd.DataFrame({"ms": table["wall_s"] * 1e3, "height": places + spread, "memory": cold})
    look: dict[str, Any] = {"markers": {"repetition": "o", "cold memory": "X"}, "alpha": 0.6, "linewidth": 0}
    look["palette"] = dict(zip(look["markers"], draw.PALETTE, strict=False))
    sns.scatterplot(points, x="ms", y="height", hue="memory", style="memory", ax=axis, **look)
    axis.set_yticks(range(len(counts)), [str(count) for count in counts])
    axis.set(xlabel="wall time (ms)", ylabel="threads", xlim=(0, None))


@draw.theme()
def ways(table: pd.DataFrame, title: str = "") -> draw.Drawing:
    """Draw a table of `ways`: the speedup of each with its interval, and how busy the threads were."""
    rows = table.rename_axis("way").reset_index().assign(percent=100 * table["busy"].to_numpy())
    drawing, (left, right) = draw.panels(2, 0.55 + 0.3 * len(rows), width_in=8, sharey=True)
    draw.intervals(left, rows, "speedup", "way", ends=("low", "high"))
    left.axvline(1, **draw.DOTTED)
    left.set(xlabel="speedup over one thread", xlim=(0, None))
    sns.barplot(rows.fillna({"percent": 0}), x="percent", y="way", color=draw.PALETTE[2], width=0.5, ax=right)
    right.bar_label(
        right.containers[0],
        [NO_VALUE if pd.isna(one) else f"{one:.0f} %" for one in rows["percent"]],
        padding=3,
    )
    right.set(xlabel="CPU time in % of the threads' time", ylabel="", xlim=(0, 125))
    drawing.suptitle(title)
    return drawing


def _speedups(axis: Axes, title: str) -> None:
    axis.axhline(1, **draw.DOTTED)
    axis.set(ylabel="speedup over one thread", ylim=(0, None), title=title)


@draw.theme()
def chunks(table: pd.DataFrame, title: str = "") -> draw.Drawing:
    """Draw a table of `chunk_sizes`: the speedup by the size of a chunk."""
    drawing, axis = draw.single()
    draw.curves(axis, table.reset_index(), table.index.name, "speedup", ends=("low", "high"))
    draw.size_axis([axis], table.index, label="chunk")
    _speedups(axis, title)
    return drawing


@draw.theme()
def zone_lock(table: pd.DataFrame, title: str = "") -> draw.Drawing:
    """Draw a table of `zone_lock`: the speedup by batch, one line for each other setting."""
    names = zip(table["zones"], table["lock"], table["merge"], strict=True)
    rows = table.assign(
        batch=table["batch"].astype(int),
        model=["zones {}, a lock per {}, merging {}".format(*one) for one in names],
    )
    drawing, axis = draw.single(height_in=3.6)
    draw.curves(axis, rows, "batch", "speedup", "model", ends=("low", "high"))
    draw.log_axis(axis, "x", rows["batch"])
    axis.set_xlabel("batch (pages per taking of the lock)")
    _speedups(axis, title)
    axis.legend()
    return drawing


@draw.theme()
def walk_rates(table: pd.DataFrame) -> draw.Drawing:
    """Draw a table of `walk_rates`: entries per second by method and layout, one mark per thread count."""
    columns = ["entries_per_s", "low_per_s", "high_per_s"]
    rows = table.assign(**table[columns] / 1e6)
    methods = list(dict.fromkeys(rows["method"]))
    drawing, axes = draw.panels(len(methods), 0.9 + 0.3 * rows["layout"].nunique(), width_in=8.5, sharey=True)
    for axis, method in zip(axes, methods, strict=True):
        part = rows[rows["method"] == method]
        draw.intervals(axis, part, "entries_per_s", "layout", "threads", ends=("low_per_s", "high_per_s"))
        axis.set(title=method, xlabel="million entries/s", xlim=(0, None))
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    draw.legend(drawing, axes, title="threads")
    return drawing


@draw.theme()
def stores(table: pd.DataFrame, title: str = "") -> draw.Drawing:
    """Draw a table of `stores`: the rate by size, a panel for each number of threads."""
    counts, kinds = sorted(set(table["threads"])), list(dict.fromkeys(table["stores"]))
    drawing, axes = draw.panels(len(counts), 3.2, width_in=4.2 * len(counts), sharex=True, sharey=True)
    for axis, count in zip(axes, counts, strict=True):
        rows = table[table["threads"] == count]
        sns.lineplot(
            rows, x="size_bytes", y="gib_s", hue="stores", style="stores", ax=axis, **draw.looks(kinds)
        )
        threads = f"{count} thread{'s' * (count > 1)}"
        axis.set(ylabel="", title=f"{title}, {threads}" if title else threads)
    axes[0].set(ylabel="zeroed (GiB/s)", ylim=(0, None))  # of both, once all is drawn
    draw.size_axis(axes, table["size_bytes"])
    draw.legend(drawing, axes)
    return drawing


@draw.theme()
def mutex_pairs(table: pd.DataFrame, title: str = "") -> draw.Drawing:
    """Draw a table of `fault_mutexes.pairs`: the time of each pair by the number of its second page."""
    names = ["at once", "in turn"]
    rows = table.reset_index().assign(faults=[names[int(slow)] for slow in table["takes_turns"]])
    drawing, axis = draw.single()
    marks = {
        "hue_order": names,
        "style_order": names,
        "palette": draw.PALETTE[:2],
        "markers": ["o", "D"],
        "linewidth": 0,
    }
    sns.scatterplot(rows, x="page", y="wall_us", hue="faults", style="faults", ax=axis, **marks)
    axis.set(xlabel="number of the other page", ylabel="both pages (µs)", ylim=(0, None), title=title)
    axis.legend(loc="lower right", ncols=2)
    return drawing
