"""How every figure looks: one palette and theme, axes of sizes, threads and times, intervals, and saving.

A figure comes in a pair: a function that makes a tidy table, and one that draws it with seaborn and what is
here. The intervals are those of the table, as they were measured; seaborn estimates nothing. Drawings do
not pass through pyplot, so nothing global changes and nothing has to be closed.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ktask.common import hover
from ktask.common.files import atomic_write
from ktask.common.units import fmt_size, fmt_time

_COLOURS = sns.color_palette("colorblind").as_hex()
PALETTE = tuple(_COLOURS[i] for i in (0, 1, 2, 3, 4, 5, 9, 7, 6, 8))  # its two pale ones last
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("", (4, 1.5), (1, 1), (3, 1.25, 1.5, 1.25), (5, 1, 1, 1), (6, 2), (2, 1))
INK, FAINT, WARN, PAPER = "#010203", "#c0c1c2", "#b00021", "#fefffd"
SHADES = (PALETTE[0], PALETTE[6])  # of neighbouring chunks
THEME = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", font_scale=0.95),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.formatter.useoffset"), False),
    "axes.titlelocation": "left",
    "figure.titlesize": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ktask",  # the same drawing gives the same bytes
    "text.parse_math": False,
}
WIDTHS_IN = {1: 3.8, 2: 5.6}  # by number of panels beside each other
FULL_WIDTH_IN = 7.2
MOST_COLUMNS = 4
LONGEST_TITLE = 20  # above this, the part in parentheses goes to a line of its own
LABEL_IN = 0.52  # width of the longest label on an axis of sizes
ENTRY_IN, HANDLE_IN, LETTER_IN = 1.15, 0.6, 0.064  # of a legend: a usual entry, its line and gaps, a letter
MANY_THREADS = 16  # above this, thread counts are drawn on a logarithmic axis
MOST_COUNTS = 8  # above this, only the powers of two among thread counts are labelled, and the last one
RIGHT_HALF = 0.55  # of a panel: from there on, the name of a border stands to the left of its line
BORDER_LINE = 0.08  # of the height of a panel: from the name of one border down to the next
GAP_PT = 4  # between a mark and the text beside it
BARS = 0.8  # of the room of a row: what its bars take
DIGIT_IN, GAP_IN = 0.08, 0.05  # of the label of a thread count, and between two labels
MARGIN_IN = 0.45  # beside a panel
DOTTED: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": ":"}


@contextmanager
def theme() -> Iterator[None]:
    """Set the context in which drawings are made and saved; also a decorator."""
    with mpl.rc_context(THEME):
        yield


class Drawing(Figure):
    """A figure that a notebook shows where it is the value of a cell."""

    def _repr_png_(self) -> bytes:
        with theme():
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


# --- panels ---------------------------------------------------------------------------------------------


def columns_of(count: int, most: int = MOST_COLUMNS) -> int:
    """Return how many panels to put beside each other so that few places stay empty."""
    return math.ceil(count / math.ceil(count / most))


def single(width_in: float = 6.4, height_in: float = 3.2) -> tuple[Drawing, Axes]:
    """Return a drawing with one panel."""
    drawing = Drawing(figsize=(width_in, height_in), layout="constrained")
    axis = drawing.add_subplot()
    axis.set_axisbelow(True)
    return drawing, axis


def panels(
    count: int, height_in: float = 2.15, most: int = MOST_COLUMNS, width_in: float | None = None, **shared
) -> tuple[Drawing, list[Axes]]:
    """Return a drawing with `count` panels of one height beside and below each other, `most` in a row."""
    columns = columns_of(count, most)
    rows = math.ceil(count / columns)
    width = WIDTHS_IN.get(columns, FULL_WIDTH_IN) if width_in is None else width_in
    drawing = Drawing(figsize=(width, rows * height_in + 0.35), layout="constrained")
    axes = list(drawing.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        axis.grid(axis="y")
        axis.set_axisbelow(True)
        axis.tick_params(labelbottom=True, labelleft=True)
    return drawing, axes[:count]


def rows(
    heights_in: Sequence[float],
    width_in: float,
    *,
    left_in: float,
    right_in: float = 0.1,
    top_in: float = 0.0,
    bottom_in: float = 0.0,
    between_in: float = 0.0,
) -> tuple[Drawing, list[Axes]]:
    """Return a drawing with a panel of each height, one below the other: every place is given in inches."""
    height_in = top_in + sum(heights_in) + between_in * len(heights_in) + bottom_in
    drawing = Drawing(figsize=(width_in, height_in))
    axes, top = [], height_in - top_in
    for height in heights_in:
        top -= between_in + height
        place = (left_in, top, width_in - left_in - right_in, height)
        size = (width_in, height_in, width_in, height_in)
        axes.append(drawing.add_axes([part / whole for part, whole in zip(place, size, strict=True)]))
        axes[-1].set_axisbelow(True)
    return drawing, axes


def beside(drawing: Drawing, axes: Sequence[Axes], left_in: float) -> Axes:
    """Return a panel to the right of all `axes`; its heights are inches from the top of the drawing."""
    width_in, height_in = drawing.get_size_inches()
    low = min(axis.get_position().y0 for axis in axes)
    axis = drawing.add_axes([left_in / width_in, low, 1 - (left_in + 0.05) / width_in, 1 - low])
    axis.set_ylim((1 - low) * height_in, 0)
    axis.set_axisbelow(True)
    return axis


def label_left(axes: Sequence[Axes], text: str, most: int = MOST_COLUMNS) -> None:
    """Name the vertical axis, of the first panel of each row only."""
    first = columns_of(len(axes), most)
    for i, axis in enumerate(axes):
        axis.set_ylabel("" if i % first else text)


def set_title(axis: Axes, text: str) -> None:
    """Set the title of a panel, a long one in two lines."""
    axis.set_title(text.replace(" (", "\n(", 1) if len(text) > LONGEST_TITLE else text)


def legend_entries(axes: Sequence[Axes], order: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a legend of all panels has, each label once, `order` first; their own legends go."""
    entries: dict[str, Any] = {}
    for axis in axes:
        if axis.legend_:
            axis.legend_.remove()
        handles, labels = axis.get_legend_handles_labels()
        for label, handle in zip(labels, handles, strict=True):
            entries.setdefault(label, handle)
    first = {label: entries[label] for label in order if label in entries}
    return first | entries


def legend(
    drawing: Figure, axes: Sequence[Axes], title: str | None = None, order: Sequence[str] = ()
) -> None:
    """Put one legend for all panels above them, the labels of `order` first."""
    entries = legend_entries(axes, order)
    columns = _legend_columns(list(entries), drawing.get_figwidth())
    look: dict[str, Any] = {
        "loc": "outside upper left",
        "ncols": columns,
        "handlelength": 2.6,
        "title": title,
    }
    drawing.legend(entries.values(), entries.keys(), alignment="left", **look)


def _legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Return how many columns of a legend fit; matplotlib fills one column after the other."""
    for columns in range(int(width_in / ENTRY_IN), 1, -1):
        longest = (max(map(len, part)) for part in split_evenly(labels, columns))
        if sum(HANDLE_IN + LETTER_IN * letters for letters in longest) <= width_in:
            return columns
    return 1


def split_evenly(items: Sequence, count: int) -> list[Sequence]:
    """Return `items` in at most `count` parts of equal length, the first ones longer by one if need be."""
    size, more = divmod(len(items), count)
    ends = [part * size + min(part, more) for part in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(ends) if end > start]


# --- marks ----------------------------------------------------------------------------------------------


def looks(order: Sequence, present: Iterable = ()) -> dict[str, Any]:
    """Return seaborn's arguments that give each value of `order` a colour, marker and dash of its own.

    Those `present` in a panel are drawn there; all by default.
    """
    dashes = {one: DASHES[i % len(DASHES)] for i, one in enumerate(order)}
    markers = {one: MARKERS[i % len(MARKERS)] for i, one in enumerate(order)}
    colours = {one: PALETTE[i % len(PALETTE)] for i, one in enumerate(order)}
    look = {"palette": colours, "markers": markers, "dashes": dashes, "markeredgewidth": 0}
    kept = set(present) or set(order)
    return {"hue_order": [one for one in order if one in kept], **look}


def _with_ends(
    table: pd.DataFrame, value: str, ends: tuple[str, str] | None, kept: list[str]
) -> pd.DataFrame:
    """Return each row three times, as low end, middle and high end: seaborn finds the interval in them."""
    low, high = ends or (f"{value}_low", f"{value}_high")
    return pd.concat(
        [table[kept].assign(**{value: table[name]}) for name in (low, value, high)], ignore_index=True
    )


def _said(
    table: pd.DataFrame, value: str, name: str | None, ends: tuple[str, str] | None, unit: str
) -> list[str]:
    """Return what each row says when it is pointed at; `name` is the column that tells rows apart."""
    between = ends or (f"{value}_low", f"{value}_high")
    rows = table.to_dict("records")
    return [hover.text_of(row, value, between, row[name] if name else None, unit) for row in rows]


MEASURED = {"estimator": "median", "errorbar": ("pi", 100)}  # of the three rows of `_with_ends`


def curves(
    axis: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    *,
    order: Sequence = (),
    ends: tuple[str, str] | None = None,
    band: bool = False,
    unit: str = "",
    **look,
) -> None:
    """Draw a line per value of `hue`, with the intervals that the table has.

    Parameters
    ----------
    axis
        Where to draw.
    table
        One row per point.
    x, y
        Columns.
    hue
        Column that tells lines apart; none for a single line.
    order
        The values of `hue` in all panels, so that they look the same in each.
    ends
        Columns with the ends of the interval; by default `y` with `_low` and `_high`.
    band
        Draw the interval as a band without marks, not as bars.
    unit
        Of the values, for what a point says when it is pointed at.
    **look
        For `seaborn.lineplot`.
    """
    long = _with_ends(table, y, ends, [x, hue] if hue else [x])
    if hue:
        style = {"hue": hue, "style": hue, **looks(order or list(dict.fromkeys(table[hue])), table[hue])}
    else:
        style = {"color": PALETTE[0], "marker": "o", "markeredgewidth": 0}
    if band:
        style |= {"markers": False} if hue else {"marker": ""}
    else:
        style |= {"err_style": "bars", "err_kws": {"capsize": 2, "elinewidth": 0.9}}
    axis.set(xlabel=x, ylabel=y)  # as seaborn would, which makes all ticks to see whether they are in sight
    sns.lineplot(long, x=x, y=y, ax=axis, **MEASURED, **(style | look))
    hover.points(axis, table, x, y, _said(table, y, hue, ends, unit))


def intervals(
    axis: Axes,
    table: pd.DataFrame,
    value: str,
    row: str,
    hue: str | None = None,
    *,
    ends: tuple[str, str] | None = None,
    unit: str = "",
    said: str = "",
    **look,
) -> None:
    """Draw a point with its interval for each row of the table, at the height of its text in column `row`.

    `said` is the column with what a point is called when it is pointed at; by default `row`.
    """
    long = _with_ends(table, value, ends, [row, hue] if hue else [row])
    style: dict[str, Any] = {"color": PALETTE[0]}
    if hue:
        known = looks(list(dict.fromkeys(table[hue])))
        style = {"hue": hue, "palette": known["palette"], "markers": [*known["markers"].values()]}
    style |= {
        "dodge": 0.4 if hue and table[hue].nunique() > 1 else False,
        "markersize": 4.5,
        "markeredgewidth": 0,
        "linestyle": "none",
        "capsize": 0,
        "err_kws": {"linewidth": 0.9},
    }
    style |= look
    axis.set(xlabel=value, ylabel=row)
    sns.pointplot(long, x=value, y=row, orient="h", ax=axis, **MEASURED, **style)
    heights = axis.yaxis.convert_units(table[row].astype(str).to_list())
    if style["dodge"]:
        levels = list(style.get("hue_order") or dict.fromkeys(table[hue]))
        steps = table[hue].map(levels.index) / (len(levels) - 1) - 0.5
        heights = heights + style["dodge"] * steps.to_numpy()
    places = list(zip(table[value].to_list(), heights, strict=True))
    hover.marks(axis, places, _said(table, value, said or row, ends, unit))
    axis.set_ylabel("")


def bars(
    axis: Axes,
    table: pd.DataFrame,
    value: str,
    row: str,
    hue: str,
    colours: dict[str, str],
    unit: str = "",
) -> None:
    """Draw a bar with its interval for each row of the table, those of one `row` below each other."""
    long = _with_ends(table, value, None, [row, hue])
    style: dict[str, Any] = {"hue": hue, "hue_order": list(colours), "palette": colours, "saturation": 1}
    style |= {"edgecolor": INK, "linewidth": 0.4, "capsize": 0.3, "err_kws": {"linewidth": 0.9, "color": INK}}
    axis.set(xlabel=value, ylabel=row)
    sns.barplot(long, x=value, y=row, orient="h", ax=axis, **MEASURED, **style)
    steps = (table[hue].map(list(colours).index) + 0.5) / len(colours) - 0.5
    heights = axis.yaxis.convert_units(table[row].to_list()) + BARS * steps.to_numpy()
    hover.marks(axis, list(zip(table[value], heights, strict=True)), _said(table, value, row, None, unit))
    axis.set(xlabel="", ylabel="")


def ideal(axis: Axes, counts: Iterable[int]) -> None:
    """Draw the line on which a speedup is the number of threads."""
    ends = sorted(set(counts))
    axis.plot(ends, ends, label="ideal", **DOTTED)


def mark_borders(axis: Axes, borders: Mapping[int, str], most: int, *, named: bool = True) -> None:
    """Draw an upright line where threads begin to share a core or leave a socket, below `most`.

    The names of the lines stand before other lines and behind what was measured.
    """
    for height, (count, what) in enumerate(sorted((n, text) for n, text in borders.items() if n < most)):
        axis.axvline(count, zorder=1, **DOTTED)
        if not named:
            continue
        at = axis.transAxes.inverted().transform(axis.transData.transform((count, 1)))[0]
        y = 1.0 - BORDER_LINE * height
        look: dict[str, Any] = {"xycoords": axis.get_xaxis_transform(), "va": "top", "fontsize": 6.5}
        look["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
        text_beside(axis, count, y, what, at < RIGHT_HALF, zorder=1.5, **look)


def text_beside(axis: Axes, x: float, y: float, text: str, is_right: bool = True, **look) -> None:
    """Write text right or left of a place, with a gap: a page drops blanks at the ends of a text."""
    style: dict[str, Any] = {"va": "center", "fontsize": 7.5, "textcoords": "offset points"}
    gap, side = (GAP_PT, "left") if is_right else (-GAP_PT, "right")
    axis.annotate(text, (x, y), (gap, 0), ha=side, annotation_clip=False, **style | look)


def chunk_lanes(axis: Axes, chunks: pd.DataFrame, wall_s: float, threads: int) -> None:
    """Draw a lane per thread with a bar per chunk, neighbours in two shades, and the end of the task.

    `chunks` has a row per chunk: `helper` (0 is the caller), `t0_s` and `t1_s` since the release.
    """
    for helper, part in chunks[chunks["helper"] < threads].sort_values("t0_s").groupby("helper"):
        spans = [(1e3 * t0, 1e3 * (t1 - t0)) for t0, t1 in zip(part["t0_s"], part["t1_s"], strict=True)]
        shades = SHADES * (len(part) // 2 + 1)
        edge: dict[str, Any] = {"facecolors": shades[: len(part)], "edgecolors": INK, "linewidth": 0.3}
        axis.broken_barh(spans, (helper - 0.38, 0.76), **edge)
    axis.axvline(wall_s * 1e3, **DOTTED)
    axis.set_yticks(range(threads), ["caller", *(f"helper {i}" for i in range(1, threads))])
    axis.set_ylim(threads - 0.45, -0.55)
    axis.set_xlim(0, wall_s * 1e3 * 1.02)
    axis.tick_params(axis="y", length=0)


# --- axes -----------------------------------------------------------------------------------------------


def plain(value: float) -> str:
    """Return a number as an axis shows it."""
    return f"{value:g}"


def log_axis(
    axis: Axes,
    which: str,
    ticks: Iterable[float] | None = None,
    text: Callable[[float], str] = plain,
    base: int = 2,
) -> None:
    """Make the axis `which` logarithmic, with labels at `ticks`, or at powers of `base`."""
    getattr(axis, f"set_{which}scale")("log", base=base)
    one = getattr(axis, f"{which}axis")
    if ticks is not None:
        one.set_major_locator(FixedLocator(sorted(set(ticks))))
    else:
        one.set_major_locator(LogLocator(base, subs=(1, 2, 5) if base == 10 else (1,), numticks=9))
    one.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    one.set_minor_locator(NullLocator())


def time_axis(axis: Axes, which: str = "y") -> None:
    """Make the axis `which` logarithmic, in seconds."""
    log_axis(axis, which, text=fmt_time, base=10)


def _apart(counts: Sequence[int], width_in: float) -> list[int]:
    """Return the counts that labels of a logarithmic axis have room for, the last one in any case."""
    per_octave = width_in / max(math.log2(counts[-1] / counts[0]), 1)
    shown = [*counts[-1:]]
    for count in counts[-2::-1]:
        letters = (len(str(count)) + len(str(shown[-1]))) / 2
        if math.log2(shown[-1] / count) * per_octave >= DIGIT_IN * letters + GAP_IN:
            shown.append(count)
    return shown


def thread_axis(
    axes: Sequence[Axes],
    threads: Iterable[int],
    *,
    log: bool | None = None,
    slope: bool = True,
    width_in: float | None = None,
) -> None:
    """Mark the measured thread counts on panels that share their axes, of this width each.

    Both axes become logarithmic for many threads (or as `log` says): a speedup is a slope of one then, too.
    Without `slope` only that of the threads does.
    """
    counts = sorted({int(n) for n in threads})
    shown = counts
    if len(counts) > MOST_COUNTS:
        shown = [n for n in counts if n & (n - 1) == 0 or n == counts[-1]]
    if log or (log is None and counts[-1] > MANY_THREADS):
        width_in = width_in or axes[0].figure.bbox_inches.width / columns_of(len(axes)) - MARGIN_IN
        log_axis(axes[0], "x", _apart(shown, width_in))
        if slope:
            log_axis(axes[0], "y")
    else:
        axes[0].set_xticks(shown)
    for axis in axes:
        axis.set_xlabel("threads")


def size_axis(
    axes: Sequence[Axes], sizes: Iterable[int], width_in: float | None = None, label: str = "size"
) -> None:
    """Mark as many of the sizes (bytes) as have room, on logarithmic axes that the panels share."""
    wanted = sorted(set(sizes), reverse=True)
    width_in = width_in or axes[0].figure.bbox_inches.width / columns_of(len(axes)) - 0.35
    per_inch = max(math.log2(wanted[0] / wanted[-1]), 1) / (0.9 * width_in)
    shown = wanted[:1]
    for size in wanted[1:]:
        if math.log2(shown[-1] / size) > LABEL_IN * per_inch:
            shown.append(size)
    log_axis(axes[0], "x", shown, lambda value: fmt_size(round(value)))
    if len(wanted) == 1:
        axes[0].set_xlim(wanted[0] / 2, wanted[0] * 2)
    for axis in axes:
        axis.set_xlabel(label)


# --- saving ---------------------------------------------------------------------------------------------

# The page sets these variables for light, dark and print; without them a drawing has its own colours.
VARIABLES = {
    INK: "currentColor",
    FAINT: f"var(--rule, {FAINT})",
    WARN: f"var(--bad, {WARN})",
    PAPER: f"var(--paper, {PAPER})",
    **{colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(PALETTE, start=1)},
}
ElementTree.register_namespace("", hover.XML[1:-1])


def save(drawing: Figure, path: Path | str) -> None:
    """Write a drawing as the kind of picture that the name of the file ends in; whole or not at all."""
    kind = Path(path).suffix[1:]
    with theme(), atomic_write(path) as partial:
        drawing.savefig(partial, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
        if kind == "svg":
            tree = ElementTree.parse(partial)  # noqa: S314 - written by matplotlib a moment ago
            hover.titles(tree.getroot())
            tree.write(partial, encoding="utf-8", xml_declaration=True)


def to_svg(drawing: Figure, key: str, alt: str) -> str:
    """Return a drawing as an inline SVG element: text as text, colours of the page, `alt` for its readers.

    `key` makes its identifiers differ from those of other drawings on the page.
    """
    for patch in (drawing.patch, *(axis.patch for axis in drawing.axes)):
        patch.set_visible(False)
    buffer = StringIO()
    with theme(), mpl.rc_context({"svg.hashsalt": key}):
        # As `savefig`, which draws everything twice, the first time for nothing.
        if engine := drawing.get_layout_engine():
            engine.execute(drawing)
        drawing.set_layout_engine("none")
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(drawing).print_svg(buffer, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib a moment ago
    hover.titles(root)
    for element in root.iter():
        if element.tag == f"{hover.XML}g":
            element.attrib.pop("id", None)  # counted, so the same in all drawings, and not referred to
        if hover.HREF in element.attrib:
            element.set("href", element.attrib.pop(hover.HREF))
    width, height = drawing.get_size_inches() * 72
    root.attrib = {"class": "plot", "role": "img", "aria-label": alt, "style": f"--natural: {width / 72:g}in"}
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text
