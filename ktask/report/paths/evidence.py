"""Why not more, from what this run saw of a path: the largest losses, and beside them the source."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.functions import DEPTH, PARTS, function_of, part_of
from ktask.lab.evidence.locks import SPINNING as ON_ITS_OWNER
from ktask.lab.evidence.locks import Wait, name_of
from ktask.lab.evidence.proxy import IN_THE_QUEUE, UNNAMED
from ktask.lab.evidence.stack import (
    CHUNKING,
    IDEAL,
    IMBALANCE,
    NO_CPU,
    SPINNING,
    STEAL,
    UNEXPLAINED,
    WAITING,
)
from ktask.report import sentences as words
from ktask.report.markup import join, paragraph, with_code
from ktask.report.sentences import Row

Found = Mapping[Any, Evidence]  # by `ktask.lab.evidence.store.CaseKey`
KEY = ("workload", "backend", "method", "page_kind", "size_bytes", "options", "threads")
KNOWN_PARTS = (
    IDEAL,
    CHUNKING,
    IMBALANCE,
    WAITING,
    NO_CPU,
    STEAL,
    *PARTS,
)  # all others but the last are functions
OF_SLEEPERS = re.compile("owner|optimistic|osq_lock")  # spinning before a thread goes to sleep
WORTH_SAYING = 0.03  # of the thread time
LEAST_WAIT = 0.005  # of the thread time; what rounds to 0 % is not seen
WATCHED = 0.1  # of the ideal: a path that differs by more while it is looked at is said to
MOST_PARTS = 2
LONGEST_REASON = 400
GOES = " of the thread time goes"
NOT_RECORDED = (
    "this run has no evidence; `ktask sweep GRID --evidence auto` records it, as root or after "
    "`sudo sysctl kernel.perf_event_paranoid=1 kernel.kptr_restrict=0`"
)
NOT_REACHED = "the sweep ended before it; `ktask sweep` with `--resume` looks at what is missing"
NO_LOCKS = (
    "Which locks threads waited for could not be seen: that needs Linux 5.19, and a tracefs that the user "
    "may read, as root may."
)


class Growth(NamedTuple):
    """CPU seconds of one function in one repetition, before and with several threads."""

    function: str
    part: str  # of the stack; the function itself where no part knows it
    before_s: float
    after_s: float

    @property
    def more_s(self) -> float:
        """By how much they grew."""
        return self.after_s - self.before_s


@dataclass(frozen=True)
class Seen:
    """What was seen of one path, at one size and number of threads."""

    evidence: Evidence
    serial: Look
    many: Look

    @cached_property
    def stack(self) -> dict[str, float]:
        """Shares of the thread time by part."""
        return self.evidence.stack

    @cached_property
    def lost(self) -> dict[str, float]:
        """The shares that were lost and are worth saying, the largest first.

        One that is not larger than what the parts are above the whole is none that was seen.
        """
        least = max(WORTH_SAYING, self.too_much)
        parts = {name: one for name, one in self.stack.items() if name != IDEAL and one >= least}
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    @property
    def too_much(self) -> float:
        """By which share the parts add up to more than the thread time."""
        return max(0.0, -self.stack.get(UNEXPLAINED, 0.0))

    @cached_property
    def waits(self) -> list[Wait]:
        """The waits for locks, the longest first."""
        return [Wait(**one) for one in self.evidence.locks]

    @property
    def thread_s(self) -> float:
        """Threads times wall time of one repetition."""
        return self.many.threads * self.many.wall_s

    def share(self, seconds: float) -> float:
        """Return seconds as a share of the thread time."""
        return seconds / self.thread_s

    @cached_property
    def from_serial(self) -> list[Growth]:
        """The functions, those that grew most over the serial call first."""
        return growth(self.serial, self.many)

    @cached_property
    def from_chunks(self) -> list[Growth]:
        """The same over one thread in chunks, as the stack has it; over the serial call without that."""
        return growth(self.evidence.alone, self.many) if self.evidence.alone else self.from_serial

    @cached_property
    def spun(self) -> dict[tuple[str, str], float]:
        """More CPU seconds in spinlocks than without other threads, by lock and the function that takes it.

        From samples: a spinlock that is handed over without its slow path is in no list of waits.
        """
        found: dict[tuple[str, str], float] = defaultdict(float)
        for sign, look in ((1, self.many), (-1, self.evidence.alone or self.serial)):
            for frames, seconds in look.stacks.items():
                if part_of(frames) == SPINNING and not any(map(OF_SLEEPERS.search, frames[:DEPTH])):
                    found[name_of("spinlock", frames)] += sign * seconds
        return dict(found)


def growth(before: Look, after: Look) -> list[Growth]:
    """Return CPU seconds by function, what grew most first."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i, look in enumerate((before, after)):
        for frames, spent in look.stacks.items():
            function = function_of(frames)
            seconds[function, part_of(frames) or function][i] += spent
    found = [Growth(*names, *both) for names, both in seconds.items()]
    return sorted(found, key=lambda one: (-one.more_s, one.function))


def of_case(row: Row, found: Found) -> Seen | None:
    """Return what was seen of the case and thread count of a row; None if nothing was."""
    known = _known(row, found)
    if not known or not known.serial or not known.many:
        return None
    return Seen(known, known.serial, known.many)


def _known(row: Row, found: Found) -> Evidence | None:
    return found.get(tuple(row[name] for name in KEY))


# --- why not N times -----------------------------------------------------------------------------------


def sentence(row: Row, seen: Seen) -> Markup:
    """Return to what a path lost thread time: the largest parts, with the lock or the function by name."""
    parts = [
        Markup("{}{} to {}{}").format(
            words.percent(share), GOES * (not i), part_name(part), _inside(part, seen)
        )
        for i, (part, share) in enumerate([*seen.lost.items()][:MOST_PARTS])
    ]
    lost = join(parts, ", ") if parts else _no_part(seen)
    return Markup("<b>{}</b>, {} of the ideal: {}.{}{}").format(
        words.path_label(row), words.percent(row["efficiency"]), lost, _roof(row, seen), _watched(row, seen)
    )


def _no_part(seen: Seen) -> str:
    """Return why no loss is named."""
    if seen.too_much < WORTH_SAYING:
        return "no part stands out"
    return f"no cause is named, as the parts add up to {words.percent(1 + seen.too_much)} of the thread time"


def _roof(row: Row, seen: Seen) -> str:
    """Return how near a path that lost time to memory is to the highest rate of plain stores."""
    if "memory" not in seen.lost or not np.isfinite(row["roof_share"]):
        return ""
    return f" It reaches {words.percent(row['roof_share'])} of the highest user-space rate."


def part_name(part: str) -> str | Markup:
    """Return the name of a part; that of a function as code."""
    if part in (*KNOWN_PARTS, UNEXPLAINED):
        return part
    return Markup("<code>{}</code>").format(words.short(part))


def _watched(row: Row, seen: Seen) -> str:
    """Return how fast the path was while it was looked at, if not as in the timed repetitions."""
    ideal = seen.stack[IDEAL]
    if row["efficiency_low"] - WATCHED <= ideal <= row["efficiency_high"] + WATCHED:
        return ""
    return f" While it was looked at, it reached {words.percent(ideal)} of the ideal."


def behind(part: str, seen: Seen) -> str:
    """Return the lock and where it is taken, or the function, that took most of a part; empty if unknown."""
    lock, function, seconds = _largest(part, seen)
    if not function or seen.share(seconds) < WORTH_SAYING / 2:
        return ""
    return f"{words.short(lock)} in {words.short(function)}" if lock else words.short(function)


def _largest(part: str, seen: Seen) -> tuple[str, str, float]:
    """Return lock, function and seconds of the longest wait, or of the function that grew most."""
    if part in (WAITING, SPINNING):
        return _longest_wait(part == SPINNING, seen)
    grown = next((one for one in seen.from_chunks if one.part == part != one.function), None)
    return ("", grown.function, grown.more_s) if grown else ("", "", 0.0)


def _inside(part: str, seen: Seen) -> str | Markup:
    """Return what stands behind a part: the lock waited for longest, or the function that grew most."""
    lock, function, seconds = _largest(part, seen)
    if not function or seen.share(seconds) < WORTH_SAYING / 2:
        if part not in (WAITING, SPINNING):
            return ""
        return " (for no lock that was seen)" if seen.many.sees_locks else " (locks could not be seen)"
    name = Markup("{}<code>{}</code>").format(f"{words.short(lock)} in " * bool(lock), words.short(function))
    return Markup(" ({})").format(name)


def _longest_wait(spins: bool, seen: Seen) -> tuple[str, str, float]:
    found = [
        (one.wait_s, one.kind if one.lock == UNNAMED else one.lock, one.site)
        for one in seen.waits
        if on_cpu(one) == spins and one.kind != IN_THE_QUEUE
    ]
    if spins:
        found += [(seconds, *names) for names, seconds in seen.spun.items()]
        found += _before_sleep(seen)
    seconds, lock, site = max(found, default=(0.0, "", ""))
    return lock, site, seconds


def _before_sleep(seen: Seen) -> list[tuple[float, str, str]]:
    """Return the lock that threads slept for longest, if they spun before; for so many seconds."""
    spun_s = sum(
        one.more_s for one in seen.from_chunks if one.part == SPINNING and OF_SLEEPERS.search(one.function)
    )
    slept = [
        one for one in seen.waits if not on_cpu(one) and one.lock != UNNAMED and one.kind != IN_THE_QUEUE
    ]
    longest = max(slept, key=lambda one: one.wait_s, default=None)
    return [(spun_s, longest.lock, longest.site)] if longest and spun_s > 0 else []


def on_cpu(wait: Wait) -> bool:
    """Return whether a thread that waits so stays on its CPU."""
    return wait.spins or wait.kind == ON_ITS_OWNER


# --- the source ----------------------------------------------------------------------------------------


def by_source(row: Row, seen: Seen | None = None) -> Markup:
    """Return what follows from the source for a path, marked as that, and whether this run saw it."""
    method = words.method_of(row["workload"], row["method"])
    if not method or not method.by_source:
        return Markup("")
    here = _waited_for(method.locks, seen) if seen and seen.many.sees_locks and method.locks else ""
    return Markup("<i>{}</i>{}{}").format(method.origin, with_code(method.by_source), here)


def _waited_for(locks: Sequence[str], seen: Seen) -> str:
    """Return for how long threads waited for these locks, or that they were not seen to."""
    shares = dict.fromkeys(locks, 0.0)
    for one in seen.waits:
        if one.lock in shares:
            shares[one.lock] += seen.share(one.wait_s)
    for (lock, _), seconds in seen.spun.items():
        if lock in shares:
            shares[lock] = max(shares[lock], seen.share(seconds))
    held = [
        f"{words.percent(one)} of the time for {lock}" for lock, one in shares.items() if one >= LEAST_WAIT
    ]
    if not held:
        return f" Not seen in this run: no thread waited for {' or '.join(locks)}."
    return f" In this run, threads waited {words.listed(held)}."


# --- what could not be seen ----------------------------------------------------------------------------


def not_looked_at(rows: pd.DataFrame, found: Found, findings: Iterable[Mapping[str, Any]]) -> Markup:
    """Return which of these paths could not be looked at, and how to allow it; the same for locks."""
    missing: dict[str, list[str]] = defaultdict(list)
    all_seen = [(row, of_case(row, found)) for _, row in rows.iterrows()]
    for row, seen in all_seen:
        if not seen:
            missing[_reason(row, found, findings)].append(words.name_of(row))
    lines = [
        Markup("{}: {}.").format(_which(names, len(rows)), with_code(reason.rstrip(".")))
        for reason, names in missing.items()
    ]
    head = "<b>Not looked at:</b> where time goes inside the kernel, and which locks threads wait for."
    notes = [paragraph(Markup(head), *lines)] if lines else []  # noqa: S704 - a constant
    return join(
        notes + [paragraph(NO_LOCKS)] * any(seen and not seen.many.sees_locks for _, seen in all_seen)
    )


def _which(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return "On all paths" if total > 1 else "On the one path"
    return f"On {words.listed(names)}" if len(names) <= 3 else f"On {len(names)} of {total} paths"


def _reason(row: Row, found: Found, findings: Iterable[Mapping[str, Any]]) -> str:
    """Return why nothing was seen and what would allow it: as perf said, or else the machine check."""
    known = _known(row, found)
    if known and known.skipped:
        return known.skipped if len(known.skipped) <= LONGEST_REASON else known.skipped[:LONGEST_REASON] + "…"
    if found:
        return NOT_REACHED
    said = next((one for one in findings if one.get("name") == "evidence" and one.get("level") != "ok"), None)
    return f"{said.get('value')}; {said.get('remedy')}" if said else NOT_RECORDED
