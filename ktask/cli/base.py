"""What every verb needs: exit codes, the output of a result, refusals in one line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from ktask.cli.tables import Part

LONGEST_LINE = 1500  # characters of a message, which may quote what a file holds
OK, FOUND, BAD_INPUT, UNJUDGED, INTERRUPTED = 0, 1, 2, 125, 130

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Base = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Where `data/runs` and `reports` are; the current directory by default."
    ),
]


def whole_number(text: str | int) -> int:
    """Return a whole number; typer's own message would not name the value."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not allowed; use a whole number") from None


def thread_counts(text: str, least: int = 1) -> tuple[int, ...]:
    """Return thread counts, ascending; at least `least` of them."""
    counts = sorted({int(part) if part.strip().isdecimal() else 0 for part in text.split(",")})
    if len(counts) < least or counts[0] < 1 or counts[-1] > 1 << 20:
        more = "at least two thread counts" if least > 1 else "thread counts"
        raise ValueError(f"threads {text!r} are not allowed; use {more} by commas, such as 1,2,4")
    return tuple(counts)


def emit(value: Any, as_json: bool, render: Callable[[Any], Iterable[Part]]) -> None:
    """Print a result on stdout: as JSON, or as the lines and tables that `render` makes of it."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from ktask.cli.tables import show  # noqa: PLC0415

    show(render(value))


def printable(text: str) -> str:
    """Return a text for the terminal: what would steer it is spelled out, as it may come from any file."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def fail(message: str, code: int) -> NoReturn:
    """End the program with one line on stderr, which is cut if it is very long."""
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."
    sys.stderr.write(f"ktask: {printable(line)}\n")
    sys.exit(code)
