"""The figures: each a pair of a tidy table and its drawing, with caption, alternative text and the data.

Drawings are SVG with text as text. Colours become CSS variables and the colour of the text around them, so
that one drawing serves light, dark and print. Nothing here depends on global state of matplotlib.
"""

import base64
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ktask.lab import units
from ktask.lab.stats import NoiseFloor
from ktask.report import markup, words
from ktask.report.tables import PATH, Run, aa_table, at_best, memory_roof, repetitions, sort_cases

# The colour-blind safe palette of Okabe and Ito, without black and yellow; the page lightens it in the dark.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2)))
INK, FAINT, WARN = "#010203", "#c0c1c2", "#b00021"
VARIABLES = {
    INK: "currentColor",
    FAINT: f"var(--rule, {FAINT})",
    WARN: f"var(--bad, {WARN})",
    **{colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(SERIES, start=1)},
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ktask",
    "text.parse_math": False,
    "font.size": 8.5,
    "font.family": "sans-serif",
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}
WIDTHS_IN = {1: 3.8, 2: 5.6}  # by number of panels beside each other
FULL_WIDTH_IN = 7.2
COLUMNS = 3
MANY_THREADS = 16  # above this, thread counts are drawn on a logarithmic axis
FAR_OUT = 3  # repetitions this many times slower than the median need a logarithmic axis


@dataclass(frozen=True)
class Figure:
    """A drawing with all that belongs to it.

    Attributes
    ----------
    key : str
        Name, unique in a report; also the anchor on the page.
    svg : str
        The drawing; its identifiers start with `key`.
    caption : Markup
        States the finding, the kind of interval and n.
    alt : str
        What the drawing shows, in words.
    data : DataFrame
        The numbers drawn.
    number : int
        Its place in the report.
    """

    key: str
    svg: str
    caption: Markup
    alt: str
    data: pd.DataFrame
    number: int = 0

    @property
    def link(self) -> Markup:
        """A reference to the figure, for use in a sentence."""
        return Markup('<a href="#{}">Figure {}</a>').format(self.key, self.number)

    @property
    def csv_uri(self) -> str:
        """The data as a CSV file in a data: address."""
        text = self.data.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        return "data:text/csv;base64," + base64.b64encode(text.encode()).decode()

    def _repr_html_(self) -> str:
        return markup.render("figure.html.j2", figure=self, svg=Markup(self.svg))  # noqa: S704 - made by us


def _to_svg(drawing: Drawing, key: str, alt: str) -> str:
    """Return the drawing as an inline SVG element: no metadata, own identifiers, colours as CSS."""
    buffer = StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{key}-", text).replace("xlink:href", "href")
    text = re.sub("|".join(VARIABLES), lambda match: VARIABLES[match[0]], text)
    width_in, height_in = drawing.get_size_inches()
    head = (
        f'<svg class="plot" role="img" aria-label="{Markup.escape(alt)}" style="--natural: {width_in:g}in" '
        f'viewBox="0 0 {72 * width_in:g} {72 * height_in:g}">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: head, text)


def _build(key: str, size: tuple[float, float], paint: Callable[[Drawing], None], **parts: object) -> Figure:
    alt = str(parts["alt"])
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=size, layout="constrained")
        paint(drawing)
        svg = _to_svg(drawing, key, alt)
    return Figure(key, svg, Markup(parts["caption"]), alt, parts["data"])  # type: ignore[arg-type]  # noqa: S704


def _panels(drawing: Drawing, count: int, **shared: object) -> list[Axes]:
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    grid = drawing.subplots(rows, columns, squeeze=False, **shared)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        axis.grid(axis="y", color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.tick_params(labelbottom=True, labelleft=True, width=0.6)
    return axes[:count]


def _panel_size(count: int, height_in: float = 2.15) -> tuple[float, float]:
    rows = math.ceil(count / COLUMNS)
    return WIDTHS_IN.get(count, FULL_WIDTH_IN), rows * height_in + 0.35


def _style(i: int) -> dict[str, object]:
    i %= len(SERIES)
    return {"color": SERIES[i], "marker": MARKERS[i], "linestyle": LINES[i]}


def _curve(axis: Axes, rows: pd.DataFrame, x: str, y: str, *, i: int, label: str, unit: float = 1) -> None:
    """Draw column `y` with its interval against column `x` in the style of series `i`."""
    middle = rows[y] / unit
    reach = np.vstack([middle - rows[f"{y}_low"] / unit, rows[f"{y}_high"] / unit - middle])
    reach = np.nan_to_num(reach).clip(min=0)
    axis.errorbar(rows[x], middle, yerr=reach, label=label, capsize=2, elinewidth=0.9, **_style(i))


def _thread_axis(axis: Axes, threads: Iterable[int]) -> None:
    counts = sorted(set(threads))
    if counts[-1] > MANY_THREADS:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("threads")


def _size_axis(axis: Axes, sizes: Iterable[int]) -> None:
    wanted = sorted(set(sizes))
    step = math.ceil(len(wanted) / 5)
    shown = wanted[::-1][::step][::-1]
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.fmt_size(round(value))))
    axis.tick_params(axis="x", labelrotation=30)
    axis.set_xlabel("size")
    if len(wanted) == 1:
        axis.set_xlim(wanted[0] / 2, wanted[0] * 2)


def _legend(drawing: Drawing, axes: list[Axes]) -> None:
    found = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    entries = {label: handle for handle, label in found}
    columns = int(drawing.get_figwidth() / 1.25)
    drawing.legend(
        entries.values(), entries.keys(), loc="outside upper left", ncols=columns, handlelength=2.6
    )


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


def speedup_figure(scaling: pd.DataFrame, workload: str, key: str, floor: float) -> Figure | None:
    """Draw speedup against threads with the ideal line; None if no count above one was measured."""
    last = _at_largest_size(scaling[scaling["workload"] == workload])
    data = speedup_data(last)
    if data.empty:
        return None
    groups = list(data.groupby(["backend", "method"], sort=False))
    kinds = ["page_kind", "options", "policy"]
    curves = list(dict.fromkeys(map(tuple, data[kinds].to_numpy())))

    def paint(drawing: Drawing) -> None:
        axes = _panels(drawing, len(groups), sharex=True, sharey=True)
        for axis, ((backend, method), part) in zip(axes, groups, strict=True):
            counts = np.array(sorted(set(data["threads"])))
            _noise_band(axis, floor)
            axis.plot(counts, counts, color=INK, linewidth=0.8, linestyle=":", label="ideal")
            for curve, rows in part.groupby(kinds, sort=False):
                label = ", ".join(filter(None, [words.kind_label(curve[0]), *curve[1:]]))
                _curve(axis, rows, "threads", "speedup", i=curves.index(curve), label=label)
            axis.set_title(words.short(f"{method} ({backend})"))
            _thread_axis(axis, counts)
        for axis in axes[::COLUMNS]:
            axis.set_ylabel("speedup")
        if axes[0].get_yscale() == "linear":
            axes[0].set_ylim(bottom=0)
        _legend(drawing, axes)

    return _build(
        key,
        _panel_size(len(groups)),
        paint,
        data=data,
        caption=words.speedup_caption(data, at_best(last)),
        alt=words.speedup_alt(data, workload),
    )


def _noise_band(axis: Axes, floor: float) -> None:
    if np.isfinite(floor):
        axis.axhspan(1 / (1 + floor), 1 + floor, color=FAINT, alpha=0.6, linewidth=0, label="noise floor")


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

    def paint(drawing: Drawing) -> None:
        axes = _panels(drawing, len(groups), sharex=True, sharey=True)
        for axis, (path, part) in zip(axes, groups, strict=True):
            for count, rows in part.sort_values("size_bytes").groupby("threads"):
                label, i = words.count(count, "thread"), threads.index(count)
                _curve(axis, rows, "size_bytes", "throughput", i=i, label=label, unit=scale.factor)
            if roof:
                line = {"color": INK, "linewidth": 0.8, "linestyle": ":", "label": "highest user-space rate"}
                axis.axhline(roof.bytes_per_s / scale.factor, **line)
            axis.set_title(words.path_label(dict(zip(PATH, path, strict=True))))
            _size_axis(axis, data["size_bytes"])
        for axis in axes[::COLUMNS]:
            axis.set_ylabel(scale.suffix)
        if words.needs_log(data["throughput"]):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes[0].set_ylim(bottom=0)  # of all panels, once everything is drawn
        _legend(drawing, axes)

    return _build(
        key,
        _panel_size(len(groups), 2.3),
        paint,
        data=data,
        caption=words.throughput_caption(data, roof),
        alt=words.throughput_alt(data, workload),
    )


def distribution_data(run: Run, workload: str) -> pd.DataFrame:
    """Return every repetition of the largest size of each path, cold ones marked; warm-ups are left out."""
    table = repetitions(run)
    table = table[(table["workload"] == workload) & (table["wall_s"] > 0)]
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
        axes = _panels(drawing, len(groups))
        for axis, (path, part) in zip(axes, groups, strict=True):
            _strip(axis, part, threads)
            axis.set_title(words.path_label(dict(zip(PATH, (*path, ""), strict=True))))
        _legend(drawing, axes)

    height = 0.95 + 0.36 * len(threads)
    return _build(
        key,
        _panel_size(len(groups), height),
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
        axis.plot(relative[warm], height[warm], label="repetition", **_style(0) | dots)
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
        axes = _panels(drawing, len(groups), sharex=True)
        for axis, (workload, rows) in zip(axes, groups, strict=True):
            axis.grid(visible=False)
            axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
            band = 1 + floors[str(workload)].floor
            axis.axvspan(1 / band, band, color=FAINT, alpha=0.6, linewidth=0)
            _caterpillar(axis, rows.sort_values("ratio"))
            axis.set_title(words.workload_label(workload))
            axis.set_xlabel("first over second")
        axes[0].set_ylabel("cells, by ratio")

    return _build(
        key,
        _panel_size(len(groups), 1.9),
        paint,
        data=data,
        caption=words.aa_caption(data, floors),
        alt=words.aa_alt(data),
    )


def _caterpillar(axis: Axes, rows: pd.DataFrame) -> None:
    reach = np.vstack([rows["ratio"] - rows["ratio_low"], rows["ratio_high"] - rows["ratio"]])
    reach = np.nan_to_num(reach).clip(min=0)
    style = _style(0) | {"linestyle": "none"}
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

    def paint(drawing: Drawing) -> None:
        axes = [drawing.add_subplot(len(groups), 1, i + 1) for i in range(len(groups))]
        for axis, (workload, part) in zip(axes, groups, strict=True):
            axis.grid(axis="y", color=FAINT, linewidth=0.5)
            _noise_band(axis, part["noise_floor"].iloc[0])
            for i, (path, rows) in enumerate(part.groupby(PATH, sort=False)):
                label = words.path_label(dict(zip(PATH, path, strict=True)))
                threads = words.count(int(rows["threads"].iloc[0]), "thread")
                _curve(axis, rows, "size_bytes", "speedup", i=i, label=f"{label}, {threads}")
            axis.set_title(words.workload_label(workload))
            axis.set_ylim(bottom=0)
            axis.set_ylabel("speedup")
            _size_axis(axis, data["size_bytes"])
            axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.6)

    return _build(
        key,
        (FULL_WIDTH_IN, 2.1 * len(groups) + 0.2),
        paint,
        data=data,
        caption=words.crossover_caption(data),
        alt=words.crossover_alt(data),
    )
