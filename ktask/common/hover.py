"""What a point or a bar of a figure says when it is pointed at: its value with interval, size and threads.

The text travels as the link of an invisible mark, since matplotlib keeps a link for each mark of a
collection, and becomes the `<title>` of that mark in the SVG. Pictures of other kinds do not have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import IdentityTransform

from ktask.common.units import NO_VALUE, fmt_number, fmt_size, fmt_time

SAYS, POINT_SAYS = "says:", "point-says:"
XML = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
AREA_PT2 = 80.0  # of the invisible mark of a point: a finger finds it
ON_TOP = 20  # above all that is drawn, as only what lies on top is pointed at
CASE = ("page_kind", "size_bytes", "threads")  # what of a row is said with its value


def points(axis: Axes, table: pd.DataFrame, x: str, y: str, texts: Iterable[str]) -> None:
    """Let each point of a table say its text; points without a value say nothing."""
    columns = (axis.xaxis.convert_units(table[x].to_list()), axis.yaxis.convert_units(table[y].to_list()))
    marks(axis, list(zip(*columns, strict=True)), texts)


def marks(axis: Axes, places: Sequence[tuple[float, float]], texts: Iterable[str]) -> None:
    """Let each place, in the units of the axes, say its text."""
    known = [
        (place, text) for place, text in zip(places, texts, strict=True) if all(map(math.isfinite, place))
    ]
    if not known:
        return
    square = MarkerStyle("s")
    shape = square.get_path().transformed(square.get_transform())
    look: dict[str, Any] = {"facecolors": [(0, 0, 0, 0)], "edgecolors": "none", "zorder": ON_TOP}
    look |= {"offsets": [place for place, _ in known], "offset_transform": axis.transData}
    found = PathCollection([shape], [AREA_PT2], **look)
    found.set_transform(IdentityTransform())
    found.set_urls([POINT_SAYS + text for _, text in known])
    found.set_in_layout(False)
    axis.add_collection(found, autolim=False)


def says(artist: Artist, text: str) -> None:
    """Let a bar or another artist of one piece say its text."""
    artist.set_url(SAYS + text)


def text_of(
    row: Mapping[str, Any], value: str, ends: tuple[str, str], hue: Any = None, unit: str = ""
) -> str:
    """Return what a row says: "THP, 1 GiB, 2 threads: speedup 1.56 [1.45, 1.71]".

    Parameters
    ----------
    row
        Of the table that is drawn.
    value, ends
        The columns of the value and of the ends of its interval.
    hue
        The value that tells its curve from others.
    unit
        Of the value; by default that of the name of the column.
    """
    where = [str(hue)] if hue is not None else []
    facts = (_fact(name, row[name]) for name in CASE if name in row and not pd.isna(row[name]))
    where += [fact for fact in facts if _bare(fact) not in map(_bare, str(hue).split(", "))]
    form = fmt_time if value.endswith("_s") else fmt_number
    numbers = [form(float(row[name])) for name in (value, *ends)]
    interval = f" [{numbers[1]}, {numbers[2]}]" if NO_VALUE not in numbers else ""
    name = value.removesuffix("_s").replace("_", " ")
    said = f"{name} {numbers[0]}{interval}{f' {unit}' if unit else ''}"
    return f"{', '.join(where)}: {said}" if where else said


def _fact(name: str, value: Any) -> str:
    if name == "threads":
        return f"{int(value)} thread{'s' * (value != 1)}"
    return fmt_size(value) if name == "size_bytes" else f"{value} pages"


def _bare(text: str) -> str:
    """Return a fact as it compares with that of a curve: "4 KiB pages" is "4KiB"."""
    return text.removesuffix(" pages").replace(" ", "")


def titles(root: ElementTree.Element) -> None:
    """Make what marks of an SVG say its titles, where links are now."""
    for link in root.iter(f"{XML}a"):
        kind, _, text = link.attrib.get(HREF, "").partition(":")
        if f"{kind}:" not in (SAYS, POINT_SAYS):
            continue
        link.tag, link.attrib = f"{XML}g", {"class": "value"}
        title = ElementTree.Element(f"{XML}title")
        title.text = text
        link.insert(0, title)
        if f"{kind}:" == POINT_SAYS:
            _hide(link)


def _hide(mark: ElementTree.Element) -> None:
    """Let a mark be pointed at, and not seen."""
    for part in mark.iter():
        if part.tag in (f"{XML}use", f"{XML}path"):
            part.attrib.pop("style", None)
            part.set("fill-opacity", "0")
