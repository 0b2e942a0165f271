"""All that was seen of one path, folded: functions, locks, a flame graph, counters."""

from collections.abc import Callable, Mapping

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import sentences as words
from ktask.report.markup import Cell, details, join, paragraph, table
from ktask.report.paths import evidence, flame
from ktask.report.paths.evidence import Growth, Seen
from ktask.report.sentences import Row

MOST_FUNCTIONS, MOST_COUNTERS = 8, 16
# Of the thread time; what rounds to 0 % is left out.
LEAST_GROWTH, LEAST_WAIT = 0.005, 0.0005


def folded(rows: pd.DataFrame, key: Callable[[str], str]) -> list[Markup]:
    """Return all that was seen of each path that does not scale."""
    found = rows[rows["seen"].notna() & (rows["bottleneck"] != "scales")]
    return [
        of_path(row, row["seen"], key(words.figure_key("seen", f"{row['workload']}-{i}")))
        for i, row in found.iterrows()
    ]


def of_path(row: Row, seen: Seen, key: str) -> Markup:
    """Return all that was seen of one path, folded."""
    label = words.path_label(row)
    title = f"{label}, {words.size_label(row)}, {words.count(int(row['threads']), 'thread')}"
    pieces = [
        paragraph(evidence.by_source(row, seen)),
        _functions(seen, label, f"{key}-functions"),
        _locks(seen, label, f"{key}-locks"),
        flame.graph(seen.serial, seen.many, label, f"{key}-flame"),
        _counters(seen, label, f"{key}-counters"),
    ]
    return details(f"{title}: functions, locks, flame graph, counters", join(pieces), "evidence")


def _functions(seen: Seen, label: str, key: str) -> Markup:
    """Return the functions that grew, with their shares of the CPU time and the time of one repetition."""
    rows = [one for one in seen.from_serial if seen.share(one.more_s) >= LEAST_GROWTH][:MOST_FUNCTIONS]
    if not rows:
        return paragraph("No function took more CPU time with several threads.")
    many = words.count(seen.many.threads, "thread")
    columns: dict[str, Cell] = {
        "Function": lambda one: words.short(one.function),
        "Counts as": _counts_as,
        "Share, serial": lambda one: _share(one.before_s, seen.serial.cpu_s),
        f"Share, {many}": lambda one: _share(one.after_s, seen.many.cpu_s),
        "Time, serial": lambda one: units.fmt_time(one.before_s),
        f"Time, {many}": lambda one: units.fmt_time(one.after_s),
        "More": lambda one: units.fmt_time(one.more_s),
    }
    caption = (
        f"{label}: the functions whose CPU time grew most. Shares of the CPU time; times of one "
        "repetition, of all threads together."
    )
    return table(columns, rows, caption=caption, key=key, text=["Counts as"])


def _counts_as(one: Growth) -> str:
    return words.short(one.part) if one.part != one.function else "itself"


def _share(part_s: float, total_s: float) -> str:
    return words.percent(part_s / total_s) if total_s else units.NO_VALUE


def _locks(seen: Seen, label: str, key: str) -> Markup:
    """Return the locks that threads waited for, by name and place in the kernel."""
    rows = [one for one in seen.waits if seen.share(one.wait_s) >= LEAST_WAIT]
    if not rows:
        return paragraph("No thread was seen to wait for a lock." if seen.many.sees_locks else "")
    columns: dict[str, Cell] = {
        "Lock": lambda one: words.short(one.lock),
        "Kind": lambda one: words.short(one.kind),
        "Taken in": lambda one: words.short(one.site),
        "Waited": lambda one: units.fmt_time(one.wait_s),
        "Of thread time": lambda one: f"{100 * seen.share(one.wait_s):.1f} %",
        "Times": lambda one: (
            units.fmt_number(one.count / seen.many.repetitions) if one.count else "not counted"
        ),
        "Seen by": lambda one: words.short(one.source),
    }
    caption = f"{label}: locks that threads waited for, the longest first; of all threads in one repetition."
    return table(columns, rows, caption=caption, key=key, text=["Kind", "Taken in", "Seen by"])


def _counters(seen: Seen, label: str, key: str) -> Markup:
    """Return what grew in one repetition, the largest differences of those that the run has."""
    before, after = seen.serial.counters, seen.many.counters
    moved = {name: abs(after.get(name, 0.0) - before.get(name, 0.0)) for name in {*before, *after}}
    shown = sorted((name for name in moved if moved[name]), key=lambda name: (-moved[name], name))[
        :MOST_COUNTERS
    ]
    if not shown:
        return Markup("")
    columns: dict[str, Cell] = {
        "Counter": words.short,
        "Serial": lambda name: _counted(name, before),
        "Threads": lambda name: _counted(name, after),
    }
    caption = (
        f"{label}: by how much counters grew in one repetition; those of the kernel count the whole machine."
    )
    return table(columns, sorted(shown), caption=caption, key=key)


def _counted(name: str, counters: Mapping[str, float]) -> str:
    value = counters.get(name, 0.0)
    return units.fmt_time(value) if name.endswith("_s") else units.fmt_number(value)
