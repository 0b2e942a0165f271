"""Templates, and tables that screen readers can follow. Everything that is not `Markup` is escaped."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
    return render("table.html.j2", columns=titles, rows=cells, caption=caption, key=key, numeric=numeric)


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
