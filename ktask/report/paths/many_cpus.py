"""How much of each thread is used on machines with many CPUs: efficiency over threads and sizes."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.paths.numa import parted
from ktask.report.tables import PATH, case_of, parallel

EFFICIENCY_KEY = "efficiency"
LEAST_COUNTS, LEAST_SIZES = 4, 3  # with less, the curves say it all
COLUMNS = 3  # maps beside each other
ROW_IN, HEAD_IN = 0.2, 0.75  # of a map: a size, and title and labels


def efficiency_data(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return speedup over threads of the kernel's paths with enough thread counts and sizes.

    Work whose memory was put elsewhere on purpose is left out: its figure is that of near and far memory.
    """
    rows = parallel(scaling[(scaling["n"] > 0) & (scaling["backend"] == "kernel")])
    rows = rows[rows["options"].map(lambda options: parted(options)[1] == "").astype(bool)]
    paths = rows.groupby(PATH)
    counts = paths["threads"].transform("nunique") + 1  # and the serial call
    kept = rows[(counts >= LEAST_COUNTS) & (paths["size_bytes"].transform("nunique") >= LEAST_SIZES)]
    names = [
        *PATH,
        "size_bytes",
        "threads",
        "efficiency",
        "efficiency_low",
        "efficiency_high",
        "processes",
        "n",
    ]
    return kept[names].reset_index(drop=True)


@draw.theme()
def efficiency_figure(scaling: pd.DataFrame, key: str, borders: Mapping[int, str]) -> Figure | None:
    """Draw a map of threads by size for each path; None where there are too few of either."""
    data = efficiency_data(scaling)
    if data.empty:
        return None
    groups = list(data.groupby(PATH, sort=False))
    counts = sorted(set(data["threads"]))
    most = max(part["size_bytes"].nunique() for _, part in groups)
    height = HEAD_IN + ROW_IN * most
    drawing, axes = draw.panels(len(groups), height, COLUMNS, width_in=draw.FULL_WIDTH_IN)
    for axis, (path, part) in zip(axes, groups, strict=True):
        _map(axis, part, counts)
        _mark(axis, counts, borders)
        case = case_of(path)
        axis.set_title(f"{words.workload_label(case['workload'])}\n{words.path_label(case)}", fontsize=8)
    return Figure(key, drawing, data, _caption(data, counts, borders), _alt(data))


def _map(axis: Axes, part: pd.DataFrame, counts: list[int]) -> None:
    sizes = sorted(set(part["size_bytes"]), reverse=True)
    table = part.pivot(index="size_bytes", columns="threads", values="efficiency").reindex(
        sizes, columns=counts
    )
    texts = table.map(lambda share: "" if np.isnan(share) else f"{100 * share:.0f}")
    look = {"cmap": "mako", "vmin": 0.0, "vmax": 1.0, "cbar": False, "linewidths": 0.5}
    sns.heatmap(table, ax=axis, annot=texts, fmt="", annot_kws={"fontsize": 6.5}, **look)
    axis.set(xlabel="threads", ylabel="")
    axis.set_xticks(np.arange(len(counts)) + 0.5, list(map(str, counts)), fontsize=7, rotation=0)
    axis.set_yticks(np.arange(len(sizes)) + 0.5, list(map(units.fmt_size, sizes)), fontsize=7, rotation=0)
    axis.tick_params(length=0)
    axis.grid(visible=False)


def _mark(axis: Axes, counts: list[int], borders: Mapping[int, str]) -> None:
    """Draw a line behind the last thread count within each border."""
    for border in borders:
        inside = sum(n <= border for n in counts)
        if 0 < inside < len(counts):
            axis.axvline(inside, color=draw.WARN, linewidth=1.2)


def _caption(data: pd.DataFrame, counts: list[int], borders: Mapping[int, str]) -> Markup:
    worst = data[data["threads"] == counts[-1]].sort_values("efficiency")
    best = worst.iloc[-1]
    names = words.listed([f"{what} ({n})" for n, what in sorted(borders.items()) if n < counts[-1]])
    lines = f" Red lines: the last count within {names}." if names else ""
    return Markup(
        "Of {} threads, {} uses most: {}. Each field is speedup over threads in %, light where threads are "
        "well used; empty fields were not granted so many threads.{}"
    ).format(counts[-1], words.case_label(best), words.percent(best["efficiency"]), lines)


def _alt(data: pd.DataFrame) -> str:
    most = data[data["threads"] == data.groupby(PATH)["threads"].transform("max")]
    largest = most.sort_values("size_bytes").groupby(PATH, sort=False).tail(1)
    ends = words.each(
        largest,
        lambda row: f"{words.case_label(row)}, {row['threads']} threads: {words.percent(row['efficiency'])}",
    )
    return f"Maps of efficiency, speedup over threads, by threads and size. {'; '.join(ends)}."
