"""`ktask vectors`: policies and engine against worked cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ktask.cli.base import FOUND, OK, AsJson, emit

EXAMPLES = (
    "ktask vectors tests/data/ktask-vectors.csv",
    "ktask vectors mine.csv --json",
)


def vectors(
    file: Annotated[Path, typer.Argument(help="A file in the format of tests/data/ktask-vectors.csv.")],
    as_json: AsJson = False,
) -> None:
    """Check policies and engine against a vector file; exit 1 if anything differs."""
    from ktask.engine.conformance.check import check_file  # noqa: PLC0415

    result = check_file(file)
    emit(result, as_json, render)
    raise typer.Exit(FOUND if result["mismatches"] else OK)


def render(result: dict[str, Any]) -> Iterator[str]:
    """Yield a line per mismatch, and how many rows hold."""
    for m in result["mismatches"]:
        yield f"case {m['case_id']}, {m['column']}: expected {m['expected']}, got {m['got']}"
    yield f"{result['passed']} of {result['rows']} rows hold"
