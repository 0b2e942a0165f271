"""`ktask doctor`: what this machine can do and what would disturb a measurement."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from ktask.cli.base import AsJson, emit

if TYPE_CHECKING:
    from ktask.cli.tables import Part
    from ktask.host.doctor import Finding

WIDTHS = (7, 14, 22, 51)  # of level, name, value and meaning
WIDTH = sum(WIDTHS) + 2 * (len(WIDTHS) - 1)


EXAMPLES = (
    "ktask doctor",
    "ktask doctor --json",
)


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can do and what would disturb a measurement; change nothing.

    Each finding comes with its remedy. Exit 1 only if something makes measuring impossible.
    """
    from ktask.host import doctor as checks  # noqa: PLC0415
    from ktask.memory.address_space import no_scan  # noqa: PLC0415

    findings = checks.diagnose(pagemap_scan=lambda: no_scan() is None)
    emit(checks.to_json(findings), as_json, lambda _: render(findings))
    raise typer.Exit(checks.exit_code(findings))


def render(findings: Sequence[Finding]) -> Iterator[Part]:
    """Yield the findings, the gravest first, each with its remedy below it."""
    from rich.table import Table  # noqa: PLC0415

    from ktask.host.doctor import LEVELS  # noqa: PLC0415
    from ktask.host.facts import clean_text  # noqa: PLC0415

    for finding in sorted(findings, key=lambda finding: -LEVELS.index(finding.level)):
        row = Table.grid(padding=(0, 2, 0, 0))
        for width in WIDTHS:
            row.add_column(width=width)
        level = finding.level.upper() if finding.level in {"warning", "blocker"} else finding.level
        row.add_row(level, *map(clean_text, (finding.name, finding.value, finding.means)))
        yield row
        yield from _remedy(clean_text(finding.remedy))
    counts = Counter(finding.level for finding in findings)
    words = {level: level if counts[level] == 1 or level == "ok" else f"{level}s" for level in LEVELS}
    yield "\n" + ", ".join(f"{counts[level]} {words[level]}" for level in reversed(LEVELS))


def _remedy(text: str) -> list[str]:
    """Return the lines of a remedy; commands stay in one line, so that they can be copied."""
    # A null byte, not a blank, inside backticks keeps a command in one piece while the text is wrapped.
    glued = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\0"), text)
    wrapper = textwrap.TextWrapper(WIDTH, " " * 9 + "-> ", " " * 12)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    lines = wrapper.wrap(glued)
    return [line.replace("\0", " ") for line in lines]
