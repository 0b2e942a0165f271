"""The 17 questions that reviewers asked of ktask and padata: who asked, and what this run answers.

An answer is from the rows of this run, or it says where one was published, or why there is none here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.evidence.mean import over_processes
from ktask.lab.studies.total_cost import energy_table
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours, quota
from ktask.report.costs import section as costs
from ktask.report.costs.conditioned import WORK
from ktask.report.paths import advice
from ktask.report.tables import at_largest_size

if TYPE_CHECKING:
    from ktask.lab.evidence import Evidence
    from ktask.report.study import Study

HERE, ELSEWHERE, NOT_HERE = "measured here", "published elsewhere", "not measurable here"
NOT_IN_RUN = "not in this run"
MOST_NAMED = 3  # paths in one answer
LEAST_WAIT = 0.005  # of the thread time
GRID = "questions"  # which measures all that can be measured


class Answer(NamedTuple):
    """What is known of a question: of which kind, in words, and the anchor that shows it."""

    kind: str
    text: str | Markup
    anchor: str = ""


class Question(NamedTuple):
    """A question, who asked it and when, and what answers it from a study."""

    title: str
    asked: str
    answer: Callable[[Study], Answer]


def _missing(study: Study, what: str) -> Answer:
    """Return what a run lacks, and what measures it; a run of the grid that does says where to look."""
    is_of_grid = study.run.grid.get("name") == GRID
    way = (
        "Appendix B lists what was skipped, and why." if is_of_grid else f"`ktask sweep {GRID}` measures it."
    )
    return Answer(NOT_IN_RUN, markup.with_code(f"{what} {way}"))


def _best(study: Study, **wanted: str) -> pd.DataFrame:
    """Return the advised thread counts of the kernel paths with these columns, at their largest size."""
    rows = study.best[study.best["backend"] == "kernel"]
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows[rows["speedup"].notna()]


def _speedup_of(row: pd.Series) -> str:
    threads = words.count(int(row["threads"]), "thread")
    return f"{words.path_label(row)}, {words.size_label(row)}: {words.speedup(row)} with {threads}"


def _each_speedup(rows: pd.DataFrame) -> str:
    """Return the speedups of a few rows, of more the smallest and the largest."""
    if len(rows) <= MOST_NAMED:
        return "; ".join(words.each(rows, _speedup_of))
    ordered = rows.sort_values("speedup")
    least, most = (_speedup_of(ordered.iloc[k]) for k in (0, -1))
    return f"{len(rows)} paths, from {least}, to {most}"


def _results(study: Study, rows: pd.DataFrame) -> str:
    """Return the anchor of the results of the first of these rows."""
    return study.key(words.figure_key("results", rows["workload"].iloc[0]))


# --- the answers ---------------------------------------------------------------------------------------


def how_many(study: Study) -> Answer:
    """Return the fewest threads within noise of the fastest, and how near the rules come to them."""
    rows = _best(study)
    if rows.empty:
        return _missing(study, "No kernel path was measured with several threads.")
    faster = rows[rows["verdict"] == "faster"]
    rules = study.rules[study.rules["published"].notna() & study.rules["here"].notna()]
    best, worst = (rules.sort_values("published").iloc[k] for k in (0, -1))
    plain = rows[~rows["above_threads"].astype(bool)]
    top = (plain if len(plain) else rows).sort_values("speedup").iloc[-1]
    how_few = f"; fewest within noise of the fastest: {words.span(faster['threads'])}" if len(faster) else ""
    text = (
        f"Threads are faster on {len(faster)} of {words.count(len(rows), 'kernel path')}{how_few}. "
        f"Most gained: {_speedup_of(top)}. Rules, time over the fastest on published tables: {best['rule']} "
        f"{units.fmt_number(best['published'])}, {worst['rule']} {units.fmt_number(worst['published'])}."
    )
    return Answer(HERE, text, study.key("how-many"))


def _fully_loaded(study: Study) -> dict[str, pd.Series]:
    """Return the rows of the fully loaded machine by the way to run helpers, with the most threads."""
    table = busy.busy_table(study.all_cells)
    if table.empty:
        return {}
    first = max((part for _, part in table.groupby(WORK, sort=False)), key=len)
    most = first[first["baseline"] | (first["threads"] == first["threads"].max())]
    loaded = most[most["load"] == "spin:all"].drop_duplicates("way")
    return {str(row["way"]): row for _, row in loaded.iterrows()}


def current_load(study: Study) -> Answer:
    """Return what a load loses to one thread and to several, where limits do not look at it."""
    rows = _fully_loaded(study)
    if not {busy.ALONE, busy.HANDED} <= rows.keys():
        return _missing(study, "No load was measured.")
    one, several = rows[busy.ALONE], rows[busy.HANDED]
    text = (
        f"Beside spinning load on all CPUs, {words.count(int(several['threads']), 'thread')} with helpers at "
        f"nice 19 take {words.value(several, 'taken')} from the load, one thread "
        f"{words.value(one, 'taken')}: its lost work, as time over that of one thread on the idle machine. "
        "The kernel has no call that "
        "refuses when CPUs are busy."
    )
    return Answer(HERE, text, study.key("busy-machine"))


def when_busy(study: Study) -> Answer:
    """Return the times on the idle and the fully loaded machine, and how many properties were published."""
    found = busy.answers(study.all_cells)
    text = f"{found[0]} {found[1].partition('. ')[0]}." if len(found) > 1 else " ".join(found)
    return Answer(HERE, text, study.key("busy-machine")) if text else _missing(study, "No load was measured.")


def hand_over(study: Study) -> Answer:
    """Return the time with and without handing priority over, on the fully loaded machine."""
    rows = _fully_loaded(study)
    if not {busy.HANDED, busy.KEPT} <= rows.keys():
        return _missing(study, "No priority was varied.")
    handed, kept = (words.value(rows[way], "relative") for way in (busy.HANDED, busy.KEPT))
    text = (
        f"On the fully loaded machine, with handing over {handed}, without {kept} times as long as one "
        "thread on the idle machine."
    )
    return Answer(HERE, text, study.key("busy-machine"))


def control_groups(study: Study) -> Answer:
    """Return how far a quota stops helpers, and whether it should cap them."""
    table = quota.quota_table(study.all_cells)
    several = table[~table["baseline"] & table["throttled"].notna()]
    if several.empty:
        return _missing(study, "No quota was measured.")
    most = several.loc[several["throttled"].idxmax()]
    refused = several[several["capped"]].sort_values("speedup")
    cap = (
        f" A cap on threads at the whole CPUs of the quota would refuse {_under_quota(refused.iloc[-1])}; "
        f"the least gained: {_under_quota(refused.iloc[0])}."
    ) * bool(len(refused))
    text = (
        "Helpers here are threads of the process, so the quota stops all of it: most at "
        f"{most['quota']}, by {words.value(most, 'throttled')} CPUs on average.{cap}"
    )
    return Answer(HERE, text, study.key("quota"))


def _under_quota(row: pd.Series) -> str:
    threads = words.count(int(row["threads"]), "thread")
    return f"{threads} at {row['quota']}, {words.size_label(row)}, speedup {words.value(row, 'speedup')}"


def total_cpu(study: Study) -> Answer:
    """Return what a saved second is paid with."""
    found = study.total_costs
    text = costs.total_finding(at_largest_size(found)) if len(found) else ""
    return Answer(HERE, text, study.key("total-cost")) if text else _missing(study, "CPU time is not known.")


def real_effect(study: Study) -> Answer:
    """Return what an application sees: the end and the start of a large process."""
    parts = [_best(study, workload="free", method="exit"), _best(study, workload="start")]
    rows = pd.concat([part for part in parts if len(part)] or [parts[0]])
    if rows.empty:
        return _missing(study, "No start or end of a process was measured.")
    return Answer(
        HERE, f"From start to end of what a user waits for: {_each_speedup(rows)}.", _results(study, rows)
    )


def affinity(study: Study) -> Answer:
    """Return whether helpers stayed on the CPUs that the caller may use."""
    rows = study.repetitions
    texts = rows["cpus"].dropna().unique() if "cpus" in rows else ()
    used = {int(cpu) for text in texts for cpu in str(text).split(",") if cpu}
    allowed = study.run.machine.get("affinity")
    if not used or not isinstance(allowed, list):
        return Answer(ELSEWHERE, "padata's RFC of 2022 keeps helpers to the caller's CPUs.")
    outside = len(used - set(allowed))
    text = (
        f"Helpers used {words.count(len(used), 'CPU')}, {outside} of them outside the {len(allowed)} that "
        "the caller may use. They are threads of the caller's process, so their time is its own. For kernel "
        "threads that was declined in 2022."
    )
    return Answer(HERE, text, "machine")


def power(study: Study) -> Answer:
    """Return the joules where they can be read; else by how much CPU time grows, which is not the same."""
    rows = _best(study)
    rows = rows[rows["cpu_cost"].notna()].sort_values("cpu_cost")
    found = energy_table(study.run.evidence)
    if len(found):
        found = found.sort_values("ratio")
        least, most = (words.value(found.iloc[k], "ratio") for k in (0, -1))
        text = f"Energy of the package with threads over the serial call: {least} to {most} times."
        return Answer(HERE, text, study.key("energy"))
    if rows.empty:
        return Answer(NOT_HERE, "No energy counter can be read on this machine.")
    top = rows.iloc[-1]
    text = (
        f"No energy counter can be read. CPUs are busy for up to {words.value(top, 'cpu_cost')} times the "
        f"time of the serial call ({words.name_of(top)}): so much less idle time. Joules stay open."
    )
    return Answer(HERE, text, study.key("total-cost"))


def chunks(study: Study) -> Answer:
    """Return the smallest chunks within noise of the best."""
    found = study.advice
    known = found[found["min_chunk"].notna()] if len(found) else found
    if known.empty:
        if len(study.chunks):
            return Answer(
                NOT_IN_RUN, "Chunk sizes were varied; which of them is best, more passes may decide."
            )
        return _missing(study, "Chunk sizes were not varied.")
    texts = words.each(known, lambda row: f"{words.name_of(row)} {advice.minimum_chunk(row)}")
    text = (
        f"Smallest chunk within noise of the best: {'; '.join(texts)}. An error undoes finished chunks in "
        "the engine here, as in v4."
    )
    return Answer(HERE, text, study.key("chunks"))


def user_space(study: Study) -> Answer:
    """Return what a program gains that enters the paths in parallel itself."""
    parts = [_best(study, workload=name) for name in ("start", "pin")]
    parts.append(_best(study, workload="zeroing", method="populate"))
    rows = pd.concat([part for part in parts if len(part)] or [parts[0]])
    if rows.empty:
        return _missing(study, "Neither populating nor pinning was measured with several threads.")
    text = (
        f"Here a program calls the paths from its own threads: {_each_speedup(rows)}. IOMMU mappings are not "
        "in it."
    )
    return Answer(HERE, text, _results(study, rows))


def locks(study: Study) -> Answer:
    """Return the lock that threads waited for longest, on each path where they waited."""
    rows = study.bottlenecks[study.bottlenecks["backend"] == "kernel"]
    seen = [(row, one) for row, one in zip(rows.to_dict("records"), rows["seen"], strict=True) if one]
    seen = [(row, one.evidence) for row, one in seen if one.many.sees_locks]
    if not seen:
        return Answer(NOT_HERE, "Locks could not be seen in this run.")
    longest = sorted(((*_longest_wait(one), row, one) for row, one in seen), key=lambda each: -each[0])
    waits = [each for each in longest if each[0] >= LEAST_WAIT]
    texts = [f"{words.name_of(row)}: {lock} {_share(one, lock)}" for _, lock, row, one in waits[:MOST_NAMED]]
    said = f"Longest waits, of the thread time: {'; '.join(texts)}." if texts else "No path waits for a lock."
    some = f"On {len(waits)} of {words.count(len(seen), 'path')} a lock takes half a percent or more."
    n = words.span(len(one.processes) for _, one in seen)
    return Answer(HERE, f"{said} {some} Processes that were looked at, of each path: {n}.", "results")


def _longest_wait(seen: Evidence) -> tuple[float, str]:
    """Return the lock that threads waited for longest, after its share of the thread time."""
    return max(((share, lock) for lock, share in seen.lock_shares.items()), default=(0.0, ""))


def _share(seen: Evidence, lock: str) -> str:
    return units.fmt_estimate(over_processes(seen, lambda one: one.lock_shares[lock]), units.PERCENT)


def walks(study: Study) -> Answer:
    """Return how walks and the unmapping of pages scale."""
    rows = pd.concat([_best(study, workload="page_walk"), _best(study, workload="free")])
    rows = rows[rows["method"] != "exit"]
    if rows.empty:
        return _missing(study, "Neither walking nor freeing was measured with several threads.")
    return Answer(HERE, f"{_each_speedup(rows)}.", _results(study, rows))


def caches(study: Study) -> Answer:
    """Return what clearing does to the cache of a neighbour."""
    if study.caches.empty:
        return _missing(study, "No neighbour read from its cache beside clearing.")
    return Answer(HERE, neighbours.cache_finding(study.caches), study.key("caches"))


def _published(text: str) -> Callable[[Study], Answer]:
    return lambda _: Answer(ELSEWHERE, text)


def _cannot(text: str) -> Callable[[Study], Answer]:
    return lambda _: Answer(NOT_HERE, text)


NO_DATE = "not dated"
QUESTIONS = (
    Question("How many threads?", f"Alexander Duyck, on padata ({NO_DATE})", how_many),
    Question(
        "Limits by current load, not by counters?",
        "Michal Hocko, 2017",
        current_load,
    ),
    Question(
        "One thread against many on idle, half busy and full machines?",
        "Michal Hocko, 2018-11-06",
        when_busy,
    ),
    Question("What is the total CPU time?", "Tejun Heo, 2018-11-30", total_cpu),
    Question("How much do real workloads gain?", "Andrew Morton, 2017 and 2020", real_effect),
    Question(
        "Do helpers escape CPU limits of a control group?",
        "Michal Hocko, 2018; Tejun Heo, 2019-06-11",
        control_groups,
    ),
    Question(
        "Do helpers stay on the caller's CPUs, and is their time its own?",
        f"Pavel Machek ({NO_DATE})",
        affinity,
    ),
    Question("What about power?", f"Peter Zijlstra, on ktask v4 ({NO_DATE})", power),
    Question(
        "Is handing over priority worth it?",
        f"Peter Zijlstra, on ktask v4 ({NO_DATE})",
        hand_over,
    ),
    Question(
        "Why a new framework?",
        f"Peter Zijlstra, Jonathan Corbet ({NO_DATE})",
        _published("Nothing to measure: ktask became a part of padata in 2020."),
    ),
    Question(
        "Does lockdep see helpers under the caller's locks?",
        "Jason Gunthorpe, 2022",
        _cannot("Helpers here are threads that take the locks themselves. A recipe was agreed in 2022."),
    ),
    Question("Are failed chunks undone, and how large are chunks?", "Alex Williamson, 2018-11-05", chunks),
    Question("Why not in user space?", "Jason Gunthorpe, 2022", user_space),
    Question("Which locks stop it from scaling?", "authors and reviewers, 2017 to 2022", locks),
    Question("Would page-table walks and unmapping gain?", f"Vlastimil Babka ({NO_DATE})", walks),
    Question(
        "What does it do to caches?", "Ankur Arora measured one thread; of several nobody asked", caches
    ),
    Question(
        "Is parallel IOMMU mapping safe on every backend?",
        "to-do of ktask v4, 2018-11-05",
        _cannot("This needs a device behind an IOMMU, and the kernel's own mapping code."),
    ),
)


def answers(study: Study) -> list[tuple[int, Question, Answer]]:
    """Return the questions with their numbers and answers."""
    return [(number, one, one.answer(study)) for number, one in enumerate(QUESTIONS, 1)]


def section(study: Study) -> Markup:
    """Return the table of all questions."""
    found = answers(study)
    columns: dict[str, markup.Cell] = {
        "Question": lambda row: f"{row[0]}. {row[1].title}",
        "Asked by": lambda row: row[1].asked,
        "Answer": lambda row: row[2].text,
        "From": _where,
    }
    here = sum(answer.kind == HERE for _, _, answer in found)
    caption = Markup(
        "{}The questions of reviewers, 2017 to 2025: {} of {} have an answer from this run. In brackets are "
        "95 % intervals over processes. {}"
    ).format(study.title, here, len(found), words.above_note(study.scaling) if len(study.scaling) else "")
    return markup.table(columns, found, caption=caption, key=study.key("questions"), text=columns)


def _where(row: tuple[int, Question, Answer]) -> str | Markup:
    answer = row[2]
    if not answer.anchor:
        return answer.kind
    return Markup('<a href="#{}">{}</a>').format(answer.anchor, answer.kind)
