"""How figures are drawn: palette, axes, curves with intervals, and a drawing with all that belongs to it.

Drawings are SVG with text as text. Colours become CSS variables and the colour of the text around them, so
that one drawing serves light, dark and print. Nothing here depends on global state of matplotlib.
"""

import base64
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import StringIO

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ktask.common import units
from ktask.report import markup

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
MOST_COLUMNS = 4
LONGEST_TITLE = 20  # above this, the part in parentheses goes to a line of its own
LABEL_IN = 0.52  # width of the longest label on an axis of sizes
MANY_THREADS = 16  # above this, thread counts are drawn on a logarithmic axis


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

    def of(self, run: str) -> "Figure":
        """Return the figure with the name of its run before caption and alternative text."""
        alt = f"{run}: {self.alt}"
        svg = self.svg.replace(str(Markup.escape(self.alt)), str(Markup.escape(alt)), 1)
        return replace(self, svg=svg, alt=alt, caption=Markup("{}: {}").format(run, self.caption))

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
    # As `savefig`, which draws everything twice, the first time for nothing: 4.0 s instead of 4.7 s for 21.
    layout = drawing.get_layout_engine()
    if layout:
        layout.execute(drawing)
    drawing.set_layout_engine("none")
    FigureCanvasSVG(drawing).print_svg(buffer, metadata={"Date": None})
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


def build(key: str, size: tuple[float, float], paint: Callable[[Drawing], None], **parts: object) -> Figure:
    """Return a drawing of `size` inches, painted by `paint`, with `data`, `caption` and `alt`."""
    alt = str(parts["alt"])
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=size, layout="constrained")
        paint(drawing)
        svg = _to_svg(drawing, key, alt)
    return Figure(key, svg, Markup(parts["caption"]), alt, parts["data"])  # type: ignore[arg-type]  # noqa: S704


def columns_of(count: int, most: int = MOST_COLUMNS) -> int:
    """Return how many panels to put beside each other so that few places stay empty."""
    return math.ceil(count / math.ceil(count / most))


def panels(drawing: Drawing, count: int, most: int = MOST_COLUMNS, **shared: object) -> list[Axes]:
    """Return `count` axes beside and below each other, at most `most` in a row."""
    columns = columns_of(count, most)
    grid = drawing.subplots(math.ceil(count / columns), columns, squeeze=False, **shared)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        axis.grid(axis="y", color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.tick_params(labelbottom=True, labelleft=True, width=0.6)
    return axes[:count]


def panel_size(count: int, height_in: float = 2.15, most: int = MOST_COLUMNS) -> tuple[float, float]:
    """Return width and height in inches for `count` panels."""
    columns = columns_of(count, most)
    return WIDTHS_IN.get(columns, FULL_WIDTH_IN), math.ceil(count / columns) * height_in + 0.35


def leftmost(axes: list[Axes], most: int = MOST_COLUMNS) -> list[Axes]:
    """Return the first axes of each row of `panels`."""
    return axes[:: columns_of(len(axes), most)]


def set_title(axis: Axes, text: str) -> None:
    """Set the title of a panel, a long one in two lines."""
    axis.set_title(text.replace(" (", "\n(", 1) if len(text) > LONGEST_TITLE else text)


def series_style(i: int) -> dict[str, object]:
    """Return colour, marker and line of series `i`."""
    i %= len(SERIES)
    return {"color": SERIES[i], "marker": MARKERS[i], "linestyle": LINES[i]}


def curve(axis: Axes, rows: pd.DataFrame, x: str, y: str, *, i: int, label: str, unit: float = 1) -> None:
    """Draw column `y` with its interval against column `x` in the style of series `i`."""
    middle = rows[y] / unit
    reach = np.vstack([middle - rows[f"{y}_low"] / unit, rows[f"{y}_high"] / unit - middle])
    reach = np.nan_to_num(reach).clip(min=0)
    axis.errorbar(rows[x], middle, yerr=reach, label=label, capsize=2, elinewidth=0.9, **series_style(i))


def thread_axis(axis: Axes, threads: Iterable[int]) -> None:
    """Mark the measured thread counts; many of them on a logarithmic axis."""
    counts = sorted(set(threads))
    if counts[-1] > MANY_THREADS:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("threads")


def mark_borders(axis: Axes, borders: dict[int, str], most: int) -> None:
    """Draw an upright line where threads begin to share a core or leave a socket, below `most`."""
    for count, what in borders.items():
        if count < most:
            axis.axvline(count, color=INK, linewidth=0.6, linestyle=(0, (1, 3)))
            place = axis.get_xaxis_transform()
            axis.text(count, 1.0, f" {what}", transform=place, fontsize=6.5, va="top", ha="left")


def size_axis(axis: Axes, sizes: Iterable[int], width_in: float) -> None:
    """Mark on a logarithmic axis, `width_in` wide, as many of the sizes (bytes) as have room for a label."""
    wanted = sorted(set(sizes), reverse=True)
    per_inch = max(math.log2(wanted[0] / wanted[-1]), 1) / (0.9 * width_in)
    shown = wanted[:1]
    for size in wanted[1:]:
        if math.log2(shown[-1] / size) > LABEL_IN * per_inch:
            shown.append(size)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.fmt_size(round(value))))
    axis.set_xlabel("size")
    if len(wanted) == 1:
        axis.set_xlim(wanted[0] / 2, wanted[0] * 2)


def legend(drawing: Drawing, axes: list[Axes]) -> None:
    """Put one legend above all panels."""
    found = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    entries = {label: handle for handle, label in found}
    columns = int(drawing.get_figwidth() / 1.15)
    drawing.legend(
        entries.values(), entries.keys(), loc="outside upper left", ncols=columns, handlelength=2.6
    )


def noise_band(axis: Axes, floor: float) -> None:
    """Shade the ratios that the noise floor reaches."""
    if np.isfinite(floor):
        axis.axhspan(1 / (1 + floor), 1 + floor, color=FAINT, alpha=0.6, linewidth=0, label="noise floor")
