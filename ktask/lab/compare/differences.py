"""What differs between two runs beside their times: machine, software, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ktask.lab.records import Run

VOLATILE = frozenset(
    (
        *("collected_at", "load_average", "memory_available_bytes", "swap_used_bytes", "doctor"),
        *("schema_version", "boot_id", "resumed"),
        "protocol.seed",  # stands in `seed`
    )
)
PROTOCOL = "protocol"


@dataclass(frozen=True)
class Difference:
    """A fact of machine, software or protocol in which the runs differ; None where a run does not tell."""

    fact: str
    old: Any
    new: Any

    @property
    def of_protocol(self) -> bool:
        """Whether it is about how the runs measured, not where."""
        return self.fact.split(".")[0] == PROTOCOL


def differences(old: Run, new: Run) -> Iterator[Difference]:
    """Yield the facts of both runs that differ, and the parts of their protocols."""
    sides = [dict(_facts(run)) for run in (old, new)]
    for fact in sorted((set(sides[0]) | set(sides[1])) - VOLATILE):
        before, after = (side.get(fact) for side in sides)
        if before != after:
            yield Difference(fact, before, after)


def _facts(run: Run) -> Iterator[tuple[str, Any]]:
    parts = {PROTOCOL: run.grid.get("protocol", {}), "threads_asked": run.grid.get("threads")}
    for name, value in {**run.machine, **parts}.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{part}", inner) for part, inner in value.items())
        else:
            yield name, value
