"""Templates, and tables that screen readers can follow. Everything that is not `Markup` is escaped."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ktask.common.units import NO_VALUE, SIZE_SUFFIXES

LEAST_SORTED = 3  # rows: fewer are seen at a glance
UNITS = {
    **{f"{name}{rate}": float(size) for name, size in SIZE_SUFFIXES.items() for rate in ("", "/s")},
    **{"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "min": 60.0, "h": 3600.0},
    **{"k": 1e3, "M": 1e6, "G": 1e9},
}
# A number, perhaps its interval, and its unit or prefix.
LEADING = re.compile(
    r"[<>~+]?\s?(?P<number>-?\d+(?:\.\d+)?)(?:\s?[–[(][^])]*[\])])?"
    rf"(?:\s*(?P<unit>{'|'.join(sorted(UNITS, key=len, reverse=True))})(?!\w))?(?!\w|\.\d)"
)

Cell = str | int | Callable[[Any], Any]  # the name of a value in a row, or what makes a cell of the row


@dataclass(frozen=True)
class Html:
    """A piece of the page that a notebook displays."""

    body: Markup

    def _repr_html_(self) -> str:
        return str(self.body)


@cache
def _environment() -> Environment:
    loader = PackageLoader("ktask.report", "template")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(name: str, **context: Any) -> Markup:
    """Return the template `name` filled with `context`."""
    return Markup(_environment().get_template(name).render(**context))  # noqa: S704 - templates escape


def table(
    columns: Mapping[str, Cell],
    rows: pd.DataFrame | Iterable[Any],
    *,
    caption: str | Markup,
    key: str,
    text: Collection[str] = (),
) -> Markup:
    """Return a table with caption and header cells; the first cell of each row is its header.

    Parameters
    ----------
    columns
        Title and content of each column.
    rows
        What the cells are made from, one object per row.
    caption
        What the table says.
    key
        Its anchor on the page.
    text
        Columns that hold text; all others but the first are aligned to the right.
    """
    if isinstance(rows, pd.DataFrame):
        rows = [row for _, row in rows.iterrows()]
    cells = [[one(row) if callable(one) else row[one] for one in columns.values()] for row in rows]
    titles = list(columns)
    numeric = {title for title in titles[1:] if title not in text}
    keys = sort_keys(cells) if len(cells) >= LEAST_SORTED else None
    return render(
        "table.html.j2", columns=titles, rows=cells, caption=caption, key=key, numeric=numeric, keys=keys
    )


def sort_keys(rows: list[list[Any]]) -> list[list[str | None]]:
    """Return what each cell is sorted by: the number that it begins with, in its unit; else none.

    A column is sorted by numbers if all of its cells that say something begin with one, and by its text
    otherwise. `NaN` comes last.
    """
    columns = ([leading_number(cell) for cell in column] for column in zip(*rows, strict=True))
    keys = [column if _is_numeric(column) else [None] * len(rows) for column in columns]
    return [[None if one is None else f"{one:.6g}" for one in row] for row in zip(*keys, strict=True)]


def _is_numeric(column: Collection[float | None]) -> bool:
    return None not in column and not all(map(math.isnan, filter(None, column)))


def leading_number(cell: Any) -> float | None:
    """Return the number that a cell begins with, times its unit: 1.5 GiB/s; NaN for none, None for text."""
    text = " ".join((cell.striptags() if isinstance(cell, Markup) else str(cell)).split())
    if text in ("", NO_VALUE):
        return math.nan
    found = LEADING.match(text.replace("\u2212", "-"))
    if not found:
        return None
    return float(found["number"]) * UNITS.get(found["unit"] or "", 1.0)


def join(parts: Iterable[str | Markup], separator: str = "\n") -> Markup:
    """Return the parts, escaped where they need it, one after the other."""
    return Markup(separator).join(part for part in parts if part)  # noqa: S704 - ours


def paragraph(*sentences: str | Markup) -> Markup:
    """Return a paragraph of the sentences that are not empty; nothing if all are."""
    body = join(sentences, " ")
    return Markup("<p>{}</p>").format(body) if body else Markup("")


def details(summary: str, body: Markup, kind: str = "") -> Markup:
    """Return a part of the page that is folded; nothing if it is empty."""
    look = Markup(' class="{}"').format(kind) if kind else ""
    text = Markup("<details{}><summary>{}</summary>{}</details>")
    return text.format(look, summary, body) if body else Markup("")


def items(lines: Iterable[str | Markup], tag: str = "ul") -> Markup:
    """Return a list, numbered if `tag` is "ol"; nothing without lines."""
    body = join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup("<{0}>{1}</{0}>").format(tag, body) if body else Markup("")


def with_code(text: str) -> Markup:
    """Return text, escaped, with what stands between backticks as code."""
    code = Markup("<code>{}</code>")
    return join((code.format(part) if i % 2 else part for i, part in enumerate(text.split("`"))), "")
