"""From one run to another: in which facts they differ, which times changed, and what grew where they did."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from ktask.common import units
from ktask.lab.compare import Comparison, Difference, Row, compare
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.proxy import IN_THE_QUEUE, UNNAMED
from ktask.lab.evidence.stack import IMBALANCE, NO_CPU, STEAL, by_function
from ktask.lab.measure import levels
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.paths.evidence import KEY, WORTH_SAYING, on_cpu

MOST_DIFFERENCES = 6
MAIN = ("cpu_model", "threads", "cores", "sockets", "kernel_release", "kernel_version", "git_commit")
UNTOLD = (list, dict, type(None))  # facts that a sentence has no room for
MOST_CHANGES = 10  # rows that are not folded
MOST_GROWN = 3  # of a row
SEVERAL = 2  # processes, from which on there is an interval
VERSIONS = ("kernel_release", "kernel_version", "git_commit")
MACHINE = ("host_id", "cpu_model", "threads", *VERSIONS)


def section(old: Run, new: Run, key: str, *, only_two: bool) -> Markup:
    """Return what differs between two runs, what changed and what grew, and all times, folded."""
    try:
        found = compare(old, new)
    except ValueError as error:  # no case in common
        return markup.paragraph(Markup("{} against {}: {}").format(new.name, old.name, str(error)))
    every = markup.details(f"All times of {new.name} against {old.name}", change_table(found, key))
    before = is_before_and_after(old, new, only_two=only_two)
    names = "They differ" if only_two else f"{new.name} differs from {old.name}"
    return markup.join(
        [
            differences(found.differences, names),
            before_and_after(found, f"{key}-grown") if before else "",
            every,
        ]
    )


def differences(found: Sequence[Difference], head: str = "They differ") -> Markup:
    """Return in which facts the machines or the ways of measuring differ, in a sentence, the main ones first.

    Lists, and what one run does not know, are only counted.
    """
    if not found:
        return markup.paragraph("Machine, software and protocol are the same.")
    rank = {name: place for place, name in enumerate(MAIN)}
    known = [one for one in found if not any(isinstance(end, UNTOLD) for end in (one.old, one.new))]
    known.sort(key=lambda one: rank.get(one.fact, len(rank)))
    shown = known[:MOST_DIFFERENCES]
    texts = [f"{one.fact} ({words.short(str(one.old))}, then {words.short(str(one.new))})" for one in shown]
    more = len(found) - len(shown)
    rest = [words.count(more, "other fact" if shown else "fact")] if more > 0 else []
    return markup.paragraph(f"{head} in {words.listed([*texts, *rest])}.")


def change_table(found: Comparison, key: str) -> Markup:
    """Return each time against that of the older run, the largest effect first within a workload."""
    counts = Counter(row.verdict for row in found.rows)
    verdicts = [f"{counts[name]} {name}" for name in ("better", "worse", "same", "undecided")]
    caption = (
        f"{found.new.name} against {found.old.name}: of {words.count(len(found.rows), 'time')}, "
        f"{words.listed(verdicts)}. Ratio [95 % interval] by the spread between the processes of both runs, "
        "below 1 is better; a run of one pass has no interval."
    )
    return markup.table(_columns(found), found.rows, caption=caption, key=key, text=["Verdict"])


def _columns(found: Comparison) -> dict[str, markup.Cell]:
    path: dict[str, markup.Cell] = {
        "Path": _path,
        "Size": lambda row: units.fmt_size(row.size_bytes),
        "Threads": lambda row: words.threads_label({"baseline": row.baseline, "threads": row.threads}),
    }
    alike = Counter((_path(row), row.size_bytes, row.threads, row.baseline) for row in found.rows)
    if max(alike.values(), default=0) > 1:
        path["Minimum chunk"] = lambda row: units.fmt_size(row.min_chunk_size)
    if len({row.policy for row in found.rows}) > 1:
        path["Policy"] = lambda row: row.policy
    return path | {
        found.old.name: lambda row: units.fmt_time(row.old.median),
        found.new.name: lambda row: units.fmt_time(row.new.median),
        "New over old": lambda row: units.fmt_estimate(row.ratio),
        "Verdict": lambda row: row.verdict,
    }


def _path(row: Row) -> str:
    inner = ", ".join(filter(None, [words.kind_label(row.page_kind), row.options]))
    return f"{words.workload_label(row.workload)}: {words.short(f'{row.method} ({inner})')}"


# --- before and after -----------------------------------------------------------------------------------


def is_before_and_after(old: Run, new: Run, *, only_two: bool) -> bool:
    """Return whether two runs are of one machine; where they do not say, whether they are the only two.

    A virtual machine that was made anew has another host_id: the same processor with another kernel or commit
    counts as the same machine.
    """
    if any(run.records["host_id"].nunique() > 1 for run in (old, new)):
        return False  # evidence does not say of which of them it is
    both = [name for name in MACHINE if old.machine.get(name) and new.machine.get(name)]
    same = {name: bool(old.machine[name] == new.machine[name]) for name in both}
    if same.get("host_id"):
        return True
    if "cpu_model" in same:
        changed = not all(same.get(name, True) for name in VERSIONS)
        return same["cpu_model"] and same.get("threads", True) and changed
    return only_two and "host_id" not in same


def before_and_after(found: Comparison, key: str) -> Markup:
    """Return the times that changed, the largest change first, and beside each what grew or shrank."""
    names = f"{found.old.name} to {found.new.name}"
    heading = Markup('<h3 id="{}-heading">Before and after: {}</h3>').format(key, names)
    changed = [row for row in found.rows if row.verdict in ("better", "worse")]
    changed.sort(key=lambda row: -abs(np.log(row.ratio.median)))
    if not changed:
        number = words.count(len(found.rows), "time")
        return heading + markup.paragraph(f"Of {number}, none is known to have changed.")
    better = sum(row.verdict == "better" for row in changed)
    caption = (
        f"From {names}, {better} of {words.count(len(found.rows), 'time')} got better and "
        f"{len(changed) - better} worse. The last column has what changed most inside: seconds of all "
        "threads in one repetition, from the evidence of both runs, with the 95 % interval of the difference "
        "where several processes of both looked."
    )
    largest = _grown_table(found, changed[:MOST_CHANGES], caption, key)
    smaller = changed[MOST_CHANGES:]
    if not smaller:
        return markup.join([heading, largest])
    title = words.count(len(smaller), "smaller change")
    rest = _grown_table(found, smaller, f"{title}, as above.", f"{key}-smaller")
    return markup.join([heading, largest, markup.details(title, rest)])


def _grown_table(found: Comparison, rows: Sequence[Row], caption: str, key: str) -> Markup:
    inside: dict[str, markup.Cell] = {"Grew or shrank inside": lambda row: grown(found.old, found.new, row)}
    text = ["Verdict", *inside]
    return markup.table(_columns(found) | inside, rows, caption=caption, key=key, text=text)


class Grown(NamedTuple):
    """Seconds of one repetition before and after: of a function, of a wait, or of another part."""

    what: str  # empty for CPU time
    function: str
    before_s: float
    after_s: float
    reach_s: float = math.nan  # of the interval of the difference, to both sides; NaN if there is none

    @property
    def more_s(self) -> float:
        """By how much they grew."""
        return self.after_s - self.before_s

    @property
    def may_be_chance(self) -> bool:
        """Whether the interval of the difference has zero in it."""
        return abs(self.more_s) <= self.reach_s

    @property
    def text(self) -> Markup:
        """What grew or shrank, by how much if there is an interval, from how long to how long."""
        function = Markup("<code>{}</code>").format(words.short(self.function)) if self.function else ""
        name = markup.join([self.what, function], " ")
        ends = f"{units.fmt_time(self.before_s)} to {units.fmt_time(self.after_s)}"
        return Markup("{} {}{} ({})").format(name, "grew" if self.more_s > 0 else "shrank", self._by, ends)

    @property
    def _by(self) -> str:
        if math.isnan(self.reach_s):
            return ""
        by_s = abs(self.more_s)
        known = Estimate(by_s, by_s - self.reach_s, by_s + self.reach_s, by_s, 2)
        return f" by {units.fmt_estimate(known, units.time_scale(by_s))}"


def grown(old: Run, new: Run, row: Row) -> str | Markup:
    """Return what of a row grew or shrank most, or in which run nothing was seen of it."""
    before, after = (looks_at(run, row) for run in (old, new))
    missing = [run.name for run, looks in ((old, before), (new, after)) if not looks]
    if missing:
        return f"no evidence in {words.listed(missing)}"
    least_s = WORTH_SAYING * before[0].threads * before[0].wall_s
    large = [one for one in differences_of(before, after) if abs(one.more_s) >= least_s]
    found = [one.text for one in large if not one.may_be_chance][:MOST_GROWN]
    if not found:
        least = f"{words.percent(WORTH_SAYING)} of the time"
        return f"no change of {least} is beyond chance" if large else f"nothing by {least}"
    single = [run.name for run, looks in ((old, before), (new, after)) if len(looks) <= SEVERAL]
    of_one = f"no interval: one process looked in {words.listed(single)}" if single else ""
    return markup.join([*found, of_one], "; ")


def looks_at(run: Run, row: Row) -> list[Look]:
    """Return what was seen of the serial call, of one thread in chunks, or of the threads of a row.

    The mean comes first, then what each process saw.
    """
    case = tuple(getattr(row, name) for name in KEY[:-1])
    found = {key[-1]: one for key, one in run.evidence.items() if key[:-1] == case}
    place = "serial" if row.baseline else "alone" if row.threads == 1 else "many"
    known = found.values() if row.threads == 1 or row.baseline else filter(None, [found.get(row.threads)])
    mean = next((one for one in known if getattr(one, place)), None)
    each = (mean, *mean.processes) if mean else ()
    return [look for one in each if (look := getattr(one, place))]


def differences_of(before: Sequence[Look], after: Sequence[Look]) -> list[Grown]:
    """Return the seconds of the looks of two runs by function, by lock and by part, what changed most first.

    The first look of each run is its mean. Where one of both could not see locks, the time asleep stands for
    them.
    """
    sees_locks = before[0].sees_locks and after[0].sees_locks
    old, new = ([_seconds(look, sees_locks=sees_locks) for look in looks] for looks in (before, after))
    whole_s = before[0].threads * before[0].wall_s
    found = []
    for name in {**old[0], **new[0]}:
        olds, news = ([one.get(name, 0.0) for one in looks] for looks in (old, new))
        reach_s = whole_s * _reach([[s / whole_s for s in each[1:]] for each in (olds, news)])
        found.append(Grown(*name, olds[0], news[0], reach_s))
    return sorted(found, key=lambda one: -abs(one.more_s))


def _reach(shares: Sequence[Sequence[float]]) -> float:
    """Return how far the interval of a difference reaches, from what the processes of two runs say.

    It is NaN unless both have several. The errors of two runs count as independent.
    """
    if min(map(len, shares)) < SEVERAL:
        return math.nan
    known = ([Estimate(one, math.nan, math.nan, one, 1) for one in each] for each in shares)
    found = [levels.across(each, scale="linear", drift=levels.RATIO_DRIFT) for each in known]
    return math.hypot(*(one.high - one.median for one in found))


def _seconds(look: Look, *, sees_locks: bool) -> dict[tuple[str, str], float]:
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for function, spent in by_function(look).items():
        seconds["", function] += spent
    asleep_s = look.asleep_s
    for wait in look.waits if sees_locks else ():
        if wait.kind != IN_THE_QUEUE:
            lock = wait.kind if wait.lock == UNNAMED else wait.lock
            seconds[f"waiting for {words.short(lock)} in", wait.site] += wait.wait_s
            asleep_s -= 0.0 if on_cpu(wait) else wait.wait_s
    other = {IMBALANCE: look.idle_s, NO_CPU: look.queue_s, STEAL: look.steal_s}
    other["waiting for no lock" if sees_locks else "waiting"] = max(0.0, asleep_s)
    return seconds | {(name, ""): spent for name, spent in other.items()}
