"""Tables for the terminal, by rich: plain text of a width that depends on nothing where stdout is a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ktask.cli.base import printable

Part = str | Table | Padding
LEAST_COLUMNS = 100  # of a terminal: numbers go on in its next line rather than be cut
MOST_COLUMNS = 10_000  # no table is wider, so that nothing is folded in a pipe


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,), indent: int = 0
) -> Padding:
    """Return a table; the columns at `left` are flush left, all others flush right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for k, name in enumerate(head):
        made.add_column(printable(name), justify="left" if k in left else "right", no_wrap=k not in left)
    for row in rows:
        made.add_row(*map(printable, row))
    return Padding(made, (0, 0, 0, indent), expand=False)


def show(parts: Iterable[Part]) -> None:
    """Print lines and tables on stdout; styled and fitted to the terminal if it is one."""
    if sys.stdout.isatty():
        _print(Console(width=max(Console().width, LEAST_COLUMNS)), parts)
    else:
        sys.stdout.write(as_text(parts))


def as_text(parts: Iterable[Part]) -> str:
    """Return lines and tables as plain text without blanks at the ends of lines."""
    file = io.StringIO()
    _print(Console(file=file, width=MOST_COLUMNS, force_terminal=False, color_system=None), parts)
    return "".join(line.rstrip() + "\n" for line in file.getvalue().split("\n")[:-1])


def _print(console: Console, parts: Iterable[Part]) -> None:
    for part in parts:
        is_text = isinstance(part, str)
        safe = printable(part) if isinstance(part, str) else part
        console.print(safe, markup=False, highlight=False, emoji=False, soft_wrap=is_text)
