"""Templates, and tables that screen readers can follow. Everything that is not `Markup` is escaped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Html:
    """A piece of the page that a notebook displays."""

    body: Markup

    def _repr_html_(self) -> str:
        return str(self.body)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ktask.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **context: Any) -> Markup:
    """Return the template `name` filled with `context`."""
    return Markup(_environment().get_template(name).render(**context))  # noqa: S704 - templates escape


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str | Markup,
    key: str,
    numeric: Sequence[str] = (),
) -> Markup:
    """Return a table with caption and header cells; the first cell of each row is its header.

    Parameters
    ----------
    columns
        Titles of the columns.
    rows
        Cells, as many per row as there are columns.
    caption
        What the table says.
    key
        Its anchor on the page.
    numeric
        Titles of the columns to align to the right.
    """
    return render(
        "table.html.j2", columns=columns, rows=list(rows), caption=caption, key=key, numeric=set(numeric)
    )


def join(parts: Iterable[str | Markup], separator: str = "\n") -> Markup:
    """Return the parts, escaped where they need it, one after the other."""
    return Markup(separator).join(part for part in parts if part)  # noqa: S704 - ours


def paragraph(*sentences: str | Markup) -> Markup:
    """Return a paragraph of the sentences that are not empty; nothing if all are."""
    body = join(sentences, " ")
    return Markup("<p>{}</p>").format(body) if body else Markup("")


def with_code(text: str) -> Markup:
    """Return text, escaped, with what stands between backticks as code."""
    code = Markup("<code>{}</code>")
    return join((code.format(part) if i % 2 else part for i, part in enumerate(text.split("`"))), "")
