"""What the hardware counts while threads of this process run: `perf stat`, where there is a PMU.

Virtual machines mostly have none. There, and wherever perf does not count, there are no figures, and nothing
else changes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ktask.host.kernel_files import ROOT, read_text
from ktask.host.perf_process import Perf, UnavailableError

# Which events every perf knows by name, and what a reader of memory paths asks first.
EVENTS = ("instructions", "cycles", "LLC-load-misses", "dTLB-load-misses", "node-load-misses")
DEVICES = "sys/bus/event_source/devices"
_PMU = re.compile(r"cpu|cpu_(core|atom)|armv\w+")  # x86, its hybrids, Arm
RUNNING = "counters_running_pct"
_OF_HYBRID = re.compile(r"\w+/([\w-]+)/(?:[a-z]+)?|([\w-]+)(?::[a-z]+)?")


def has_pmu(root: Path = ROOT) -> bool:
    """Return whether the machine counts instructions and the like."""
    with contextlib.suppress(OSError):
        return any(_PMU.fullmatch(one.name) for one in (root / DEVICES).iterdir())
    return False


class Counting(Perf):
    """`perf stat` on some threads of this process, off until `on` is called; `counts` has what it counted."""

    def __init__(self, tids: Sequence[int], events: Sequence[str] = EVENTS):
        self.counts: dict[str, float] = {}
        which = ["-e", ",".join(events), "-t", ",".join(map(str, tids))]
        super().__init__(["stat", "-x", ",", "-o", "{folder}/counts", *which])

    def finish(self) -> None:
        """Read the counts."""
        self.counts = parse(read_text(self.folder / "counts") or "")


class Nothing:
    """Stands for `Counting` where nothing is counted."""

    counts: dict[str, float] = {}  # noqa: RUF012 - nobody writes it

    def on(self) -> None:
        """Do nothing."""

    off = on


@contextlib.contextmanager
def counting(tids: Sequence[int], root: Path = ROOT) -> Iterator[Counting | Nothing]:
    """Count in the block, from each `on` to the next `off`; what perf cannot do is no failure here."""
    found: Counting | Nothing = Nothing()
    with contextlib.ExitStack() as at_end:
        if has_pmu(root):
            with contextlib.suppress(UnavailableError):
                found = Counting(tids)
        if isinstance(found, Counting):
            at_end.enter_context(contextlib.suppress(UnavailableError))
            at_end.enter_context(found)
        yield found


def parse(text: str) -> dict[str, float]:
    """Return counts by event of what `perf stat -x ,` writes.

    Perf counts in turns if there are more events than counters, and scales what it has counted up to the
    whole time. `counters_running_pct` is the smallest share of the time that an event was counted in: far
    below 100, the counts are estimates. What was not counted is left out.
    """
    found: dict[str, float] = {}
    shares = []
    for line in text.splitlines():
        fields = line.split(",")
        number = _number(fields[0])
        if len(fields) < 5 or number is None or not (name := _event(fields[2])):
            continue
        found[name] = found.get(name, 0.0) + number  # of both kinds of cores
        shares.append(_number(fields[4]) or 0.0)
    return found | ({RUNNING: min(shares)} if shares else {})


def mean(counts: Mapping[str, float], n: int) -> dict[str, float]:
    """Return the counts of one of `n` repetitions; shares stay what they are."""
    return {name: count if name == RUNNING else count / n for name, count in counts.items()}


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,20}(\.\d{1,9})?", text.strip()) else None


def _event(text: str) -> str | None:
    match = _OF_HYBRID.fullmatch(text.strip())
    return (match[1] or match[2]) if match else None
