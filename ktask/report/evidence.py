"""Why not more, from what this run saw: the evidence on a path in a sentence, in tables and by the source."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.evidence import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.functions import function_of, part_of
from ktask.lab.evidence.locks import SPINNING as SPINS_FOR_SEMAPHORE
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.stack import IDEAL, SPINNING, UNEXPLAINED, WAITING
from ktask.report import flame, markup
from ktask.report import sentences as words
from ktask.report.markup import Cell, join, paragraph, table, with_code
from ktask.report.sentences import Row

Found = Mapping[tuple, Evidence]  # by `ktask.lab.evidence.store.CaseKey`
KEY = ("workload", "backend", "method", "page_kind", "size_bytes", "options", "threads")
WORTH_SAYING = 0.03  # of the thread time
MOST_PARTS, MOST_FUNCTIONS, MOST_COUNTERS = 3, 8, 16
LONGEST_REASON = 400
NOT_RECORDED = (
    "this run has no evidence; `ktask sweep GRID --evidence auto` as root, or with "
    "`sudo sysctl kernel.perf_event_paranoid=1 kernel.kptr_restrict=0`, records it"
)
NO_LOCKS = (
    "Which locks threads waited for could not be seen: that needs Linux 5.19 and a tracefs that the user may "
    "read; root may."
)


def of_case(row: Row, found: Found) -> Evidence | None:
    """Return the evidence on the case and thread count of a row; None if nothing was seen."""
    known = found.get(tuple(row[name] for name in KEY))
    return known if known and known.stack else None


def parts_lost(seen: Evidence) -> dict[str, float]:
    """Return shares of the thread time that were lost and are worth saying, the largest first."""
    lost = {name: share for name, share in seen.stack.items() if name != IDEAL and share >= WORTH_SAYING}
    return dict(sorted(lost.items(), key=lambda one: -one[1]))


def largest(seen: Evidence) -> str:
    """Return the part that most of the thread time was lost to."""
    return next(iter(parts_lost(seen)), UNEXPLAINED)


# --- sentences -----------------------------------------------------------------------------------------


def sentence(row: Row, seen: Evidence) -> Markup:
    """Return what a path lost and to what: the largest parts, with the lock or the function by name."""
    parts = [
        Markup("{} {}{}").format(_named(part), words.percent(share), _inside(part, seen))
        for part, share in [*parts_lost(seen).items()][:MOST_PARTS]
    ]
    lost = join(parts, ", ") or "no single part of the thread time"
    return Markup("<b>{}</b>, {} of the ideal: {} of the thread time.{}").format(
        words.path_label(row), words.percent(row["efficiency"]), lost, _watched(row, seen)
    )


def _named(part: str) -> str | Markup:
    return part if part in FIXED_PARTS else Markup("<code>{}</code>").format(words.short(part))


def _watched(row: Row, seen: Evidence) -> str:
    """Return how fast the path was while it was looked at, if not as in the timed repetitions."""
    ideal = seen.stack[IDEAL]
    if row["efficiency_low"] - WATCHED <= ideal <= row["efficiency_high"] + WATCHED:
        return ""
    return f" While it was looked at, it reached {words.percent(ideal)} of the ideal."


WATCHED = 0.1  # of the ideal: a path that differs by more under perf is said to


def _inside(part: str, seen: Evidence) -> str | Markup:
    """Return what stands behind a part: the lock waited for longest, or the function that grew most."""
    if part in (WAITING, SPINNING):
        return _longest_wait(part == SPINNING, seen)
    grown = [one for one in growth(seen, seen.alone or seen.serial) if one["part"] == part]
    if not grown or grown[0]["grew_s"] < WORTH_SAYING * thread_time(seen) / 2:
        return ""
    share = words.percent(grown[0]["grew_s"] / thread_time(seen))
    return Markup(" (<code>{}</code> {})").format(words.short(grown[0]["function"]), share)


def _longest_wait(spins: bool, seen: Evidence) -> str | Markup:
    mine = [one for one in waits(seen) if on_cpu(one) == spins]
    if mine and (share := mine[0].wait_s / thread_time(seen)) >= WORTH_SAYING / 2:
        lock, site = words.short(mine[0].lock), words.short(mine[0].site)
        return Markup(" ({} in <code>{}</code> {})").format(lock, site, words.percent(share))
    return " (no lock that was seen)" if seen.sees_locks else " (locks could not be seen)"


def by_source(row: Row, seen: Evidence | None = None) -> Markup:
    """Return what follows from the source for a path, marked as that, and whether this run saw it."""
    method = words.method_of(row["workload"], row["method"])
    if not method or not method.by_source:
        return Markup("")
    here = _waited_for(method.locks, seen) if seen and seen.sees_locks and method.locks else ""
    return Markup("<i>{}</i>{}{}").format(method.origin, with_code(method.by_source), here)


def _waited_for(locks: Sequence[str], seen: Evidence) -> str:
    """Return for how long threads waited for these locks, or that they were not seen to."""
    shares = dict.fromkeys(locks, 0.0)
    for one in waits(seen):
        if one.lock in shares:
            shares[one.lock] += one.wait_s / thread_time(seen)
    held = [f"{words.percent(share)} for {lock}" for lock, share in shares.items() if share >= LEAST_WAIT]
    if not held:
        return f" Not seen in this run: no thread waited for {' or '.join(locks)}."
    return f" In this run, threads waited {words.listed(held)}, of the thread time."


LEAST_WAIT = 0.005  # of the thread time; what rounds to 0 % is not seen


def not_looked_at(rows: pd.DataFrame, found: Found, findings: Iterable[Mapping[str, Any]]) -> Markup:
    """Return which of these paths could not be looked at and how to allow it, and whether locks were seen."""
    missing, blind = defaultdict(list), False
    for _, row in rows.iterrows():
        known = found.get(tuple(row[name] for name in KEY))
        blind |= bool(known and known.stack and not known.sees_locks)
        if not known or not known.stack:
            missing[_reason(known, findings)].append(words.name_of(row))
    lines = [
        Markup("{}: {}.").format(_which(names, len(rows)), with_code(reason.rstrip(".")))
        for reason, names in missing.items()
    ]
    head = "What this report could not look at: where time goes inside the kernel, and which locks are waited for."
    return join([paragraph(head, *lines) if lines else "", paragraph(NO_LOCKS) if blind else ""])


def _which(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return "On all paths" if total > 1 else "On the one path"
    return f"On {words.listed(names)}" if len(names) <= 3 else f"On {len(names)} of {total} paths"


def _reason(known: Evidence | None, findings: Iterable[Mapping[str, Any]]) -> str:
    """Return why nothing was seen, and what would allow it: as perf said, or else as the machine check did."""
    if known and known.skipped:
        text = known.skipped
        return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"
    said = next((one for one in findings if one.get("name") == "evidence" and one.get("level") != "ok"), None)
    return f"{said.get('value')}; {said.get('remedy')}" if said else NOT_RECORDED


# --- tables --------------------------------------------------------------------------------------------


def thread_time(seen: Evidence) -> float:
    """Return threads times wall time of one repetition with several threads."""
    return seen.many.threads * seen.many.wall_s if seen.many else 0.0


def waits(seen: Evidence) -> list[Wait]:
    """Return the waits for locks, the longest first."""
    return [Wait(**one) for one in seen.locks]


def on_cpu(wait: Wait) -> bool:
    """Return whether a thread that waits so stays on its CPU."""
    return wait.spins or wait.kind == SPINS_FOR_SEMAPHORE


def growth(seen: Evidence, base: Look | None) -> list[dict[str, Any]]:
    """Return CPU seconds by function in `base` and with several threads, what grew most first."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i, look in enumerate((base, seen.many)):
        for frames, spent in look.stacks.items() if look else ():
            function = function_of(frames)
            seconds[function, part_of(frames) or function][i] += spent
    rows = [
        {"function": function, "part": part, "before_s": before, "after_s": after, "grew_s": after - before}
        for (function, part), (before, after) in seconds.items()
    ]
    return sorted(rows, key=lambda row: -row["grew_s"])


def details(row: Row, seen: Evidence, key: str) -> Markup:
    """Return all that was seen of one path, folded: functions, locks, counters and a flame graph."""
    label = words.path_label(row)
    about = f"{words.size_label(row)}, {words.count(int(row['threads']), 'thread')}"
    pieces = [
        paragraph(by_source(row, seen)),
        _functions(seen, label, f"{key}-functions"),
        _locks(seen, label, f"{key}-locks"),
        flame.graph(seen, label, f"{key}-flame"),
        _counters(seen, label, f"{key}-counters"),
    ]
    return Markup("<details><summary>{}, {}: functions, locks, flame graph, counters</summary>{}</details>").format(
        label, about, join(pieces)
    )


def _functions(seen: Evidence, label: str, key: str) -> Markup:
    """Return the functions that grew, with their shares of the CPU time and the time of one repetition."""
    before_s, after_s = (look.cpu_s if look else 0.0 for look in (seen.serial, seen.many))
    rows = [one for one in growth(seen, seen.serial) if one["grew_s"] > 0][:MOST_FUNCTIONS]
    if not rows:
        return paragraph("No function took more CPU time with several threads.")
    many = f"{seen.many.threads if seen.many else 0} threads"

    def share(name: str, total_s: float) -> Cell:
        return lambda one: words.percent(one[name] / total_s) if total_s else units.NO_VALUE

    columns: dict[str, Cell] = {
        "Function": lambda one: words.short(one["function"]),
        "Counts as": lambda one: words.short(one["part"]) if one["part"] != one["function"] else "by name",
        "Share, serial": share("before_s", before_s),
        f"Share, {many}": share("after_s", after_s),
        "Time, serial": lambda one: units.fmt_time(one["before_s"]) if one["before_s"] else "0",
        f"Time, {many}": lambda one: units.fmt_time(one["after_s"]),
        "More": lambda one: units.fmt_time(one["grew_s"]),
    }
    caption = (
        f"{label}: the functions whose CPU time grew most. Shares of the CPU time; times of all threads in one "
        "repetition."
    )
    return table(columns, rows, caption=caption, key=key, text=["Counts as"])


def _locks(seen: Evidence, label: str, key: str) -> Markup:
    """Return the locks that threads waited for, by name and place in the kernel."""
    rows = waits(seen)
    if not rows:
        return paragraph("No thread was seen to wait for a lock.") if seen.sees_locks else Markup("")
    total_s, repetitions = thread_time(seen), seen.many.repetitions if seen.many else 1
    columns: dict[str, Cell] = {
        "Lock": lambda one: words.short(one.lock),
        "Kind": lambda one: words.short(one.kind),
        "Taken in": lambda one: words.short(one.site),
        "Waited": lambda one: units.fmt_time(one.wait_s),
        "Of thread time": lambda one: f"{100 * one.wait_s / total_s:.1f} %",
        "Times": lambda one: units.fmt_number(one.count / repetitions) if one.count else units.NO_VALUE,
        "Seen by": lambda one: words.short(one.source),
    }
    caption = f"{label}: the locks that threads waited for, the longest first; of all threads in one repetition."
    return table(columns, rows, caption=caption, key=key, text=["Kind", "Taken in", "Seen by"])


def _counters(seen: Evidence, label: str, key: str) -> Markup:
    """Return what the kernel and the CPU counted in one repetition, where it was not 0."""
    before, after = (look.counters if look else {} for look in (seen.serial, seen.many))
    names = sorted({*before, *after}, key=lambda name: -abs(after.get(name, 0.0) - before.get(name, 0.0)))
    shown = [name for name in names if before.get(name) or after.get(name)][:MOST_COUNTERS]
    if not shown:
        return Markup("")
    columns: dict[str, Cell] = {
        "Counter": words.short,
        "Serial": lambda name: units.fmt_number(before.get(name, 0.0)),
        "Threads": lambda name: units.fmt_number(after.get(name, 0.0)),
    }
    caption = f"{label}: counters, by how much they grew in one repetition; those of the kernel are of the machine."
    return table(columns, sorted(shown), caption=caption, key=key)
