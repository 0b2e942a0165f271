"""Sentences made from the tables: labels, captions, findings, claims and reasons.

Every number comes with its interval, n and size. Names from outside are escaped where they enter HTML.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.measure import levels, stats
from ktask.lab.measure.flags import ABOVE_THREADS
from ktask.lab.measure.states import find
from ktask.report import markup
from ktask.report.tables import CASE, PATH, as_estimate, at_best, at_largest_size, case_of
from ktask.workloads import Method, registry

Row: TypeAlias = "pd.Series | dict[str, Any]"

KIND_LABELS = {"4KiB": "4 KiB", "2MiB": "2 MiB", "1GiB": "1 GiB"}
WORKLOAD_LABELS = {"page_walk": "Page walk"}
LONGEST_LABEL = 40
LOG_FROM_SPAN = 20  # the largest value over the smallest


# --- labels --------------------------------------------------------------------------------------------


def count(number: int, noun: str) -> str:
    """Return "1 thread", "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def short(text: str) -> str:
    """Return `text`, cut to what a label can hold."""
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def listed(parts: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def kind_label(page_kind: str) -> str:
    """Return the page kind as text: "4 KiB", "THP"."""
    return KIND_LABELS.get(page_kind, short(page_kind))


def workload_label(workload: str) -> str:
    """Return the workload as a title: "Page walk"."""
    return short(WORKLOAD_LABELS.get(workload, workload.replace("_", " ").capitalize()))


def path_label(row: Row) -> str:
    """Return method and pages, and the policy if there are several: "populate (2 MiB)"."""
    inner = ", ".join(filter(None, [kind_label(row["page_kind"]), row.get("options"), row.get("policy")]))
    return short(f"{row['method']} ({inner})")


def full_label(row: Row) -> str:
    """Return workload and path as the header of a row: "Zeroing: populate (2 MiB)"."""
    return f"{workload_label(str(row['workload']))}: {path_label(row)}"


def name_of(row: Row) -> str:
    """Return workload and path inside a sentence: "zeroing populate (2 MiB)"."""
    return f"{row['workload']} {path_label(row)}"


def each(rows: pd.DataFrame, text: Callable[[pd.Series], str]) -> list[str]:
    """Return the text of each row."""
    return [text(row) for _, row in rows.iterrows()]


def reach(values: Iterable[float], text: Callable[[float], str] = units.fmt_number) -> str:
    """Return the lowest and the highest value as text; one where they look the same."""
    ordered = sorted(values)
    return " to ".join(dict.fromkeys(map(text, (ordered[0], ordered[-1]))))


def size_label(row: Row) -> str:
    """Return the size of a row."""
    return units.fmt_size(row["size_bytes"])


def with_threads(row: Row) -> str:
    """Return path and threads: "populate (2 MiB) with 2 threads"."""
    return f"{path_label(row)} with {count(int(row['threads']), 'thread')}"


def threads_label(row: Row) -> str:
    """Return the threads of a row, and with one which way: "1 serial", "1 in chunks", "2"."""
    alone = "1 serial" if row["baseline"] else "1 in chunks"
    return alone if row["threads"] == 1 else str(row["threads"])


def case_label(row: Row) -> str:
    """Return path and size with the workload: "zeroing populate (2 MiB), 1 GiB"."""
    return f"{short(row['workload'])} {path_label(row)}, {units.fmt_size(row['size_bytes'])}"


def value(row: Row, name: str, scale: units.Scale = units.RATIO) -> str:
    """Return median and interval of a column."""
    return units.fmt_estimate(as_estimate(row, name), scale)


def wall(row: Row, name: str = "wall") -> str:
    """Return a wall time with its interval."""
    return value(row, name, units.time_scale(row[name]))


def rate(row: Row) -> str:
    """Return a rate with its interval, in the unit of the workload."""
    return value(row, "rate", units.rate_scale(row["rate"], row["unit"]))


ABOVE = "†"


def speedup(row: Row) -> str:
    """Return a speedup with its interval, marked if all of it lies above the number of threads."""
    mark = f" {ABOVE}" if row.get("above_threads") else ""
    return f"{value(row, 'speedup')}{mark}"


def above_note(rows: pd.DataFrame) -> str:
    """Return what the mark means, empty if no row has it."""
    return f"{ABOVE} {ABOVE_THREADS[:1].upper()}{ABOVE_THREADS[1:]}." if rows["above_threads"].any() else ""


def span(values: Iterable[float]) -> str:
    """Return "7" or "5 to 7" of whole numbers."""
    return reach(values, lambda number: str(int(number)))


def n_range(data: pd.DataFrame) -> str:
    """Return the sample behind each point: "5 processes, n = 35 to 40"."""
    noun = "process" if data["processes"].max() == 1 else "processes"
    return f"{span(data['processes'])} {noun}, n = {span(data['n'])}"


def interval_kind(data: pd.DataFrame) -> str:
    """Return what the intervals of these rows know of other processes."""
    if (data["processes"] < 2).all():
        return "95 % interval inside one process, which does not hold for the next"
    if (data["processes"] < 2).any():
        return f"{levels.INTERVAL_KIND}; of one process, inside it, which does not hold for the next"
    return levels.INTERVAL_KIND


def interval_note(data: pd.DataFrame) -> str:
    """Return what points and bars are: kind of interval, processes and repetitions."""
    return f"Bars: {interval_kind(data)}; {n_range(data)} per point."


def duration(seconds: float) -> str:
    """Return a time that people wait for: "12 s", "4 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# --- sentences on a set of paths -----------------------------------------------------------------------


VERDICT_WORDS = {
    "faster": "faster than {}",
    "slower": "slower than {}",
    "same": "as fast as {}",
    "undecided": "undecided",
}


def tally(rows: pd.DataFrame, kind: str = "") -> str:
    """Return how many rows are faster, slower, the same or undecided; the verdict counts, not the median.

    `kind` and a blank may stand before "path".
    """
    counts = rows["verdict"].value_counts()
    found = [name for name in VERDICT_WORDS if name in counts]
    if len(found) == 1:
        total = len(rows)
        known = {1: f"the one measured {kind}path is", 2: f"both {kind}paths are"}
        subject = known.get(total, f"all {total} {kind}paths are")
        return f"{subject} {VERDICT_WORDS[found[0]].format('the serial call')}"
    parts: list[str] = []
    for name in found:
        other = "it" if parts else "the serial call"
        verb = "is" if counts[name] == 1 else "are"
        parts.append(f"{counts[name]} {verb} {VERDICT_WORDS[name].format(other)}")
    return f"of {count(len(rows), f'{kind}path')}, {listed(parts)}"


def verdict_counts(rows: pd.DataFrame) -> str:
    """Return "of 10 points, 7 are faster, 1 is slower and 2 are undecided"."""
    counts = rows["verdict"].value_counts()
    found = [name for name in VERDICT_WORDS if name in counts]
    names = {"same": "the same"}
    if len(found) == 1 and len(rows) > 1:
        return f"all {len(rows)} points are {names.get(found[0], found[0])}"
    parts = [
        f"{counts[name]} {'is' if counts[name] == 1 else 'are'} {names.get(name, name)}" for name in found
    ]
    return f"of {count(len(rows), 'point')}, {listed(parts)}"


def extremes(rows: pd.DataFrame, *, with_serial: bool = False) -> str:
    """Return the highest and, if it differs, the lowest speedup, maybe with the serial time it is over."""
    known = rows[rows["speedup"].notna()].sort_values("speedup")
    parts = []
    for verb, i in (("has a speedup", -1), ("one", 0))[: len(known)]:
        row = known.iloc[i]
        serial = f" over {wall(row, 'base_wall')} serial" if with_serial else ""
        parts.append(f"{path_label(row)} {verb} of {speedup(row)}{serial}")
    return ", ".join(parts)


def sizes_of(data: pd.DataFrame) -> str:
    """Return the size, or the smallest and the largest, as text."""
    return reach(data["size_bytes"], units.fmt_size)


def thread_range(counts: Iterable[int]) -> str:
    """Return "2 threads", "2 to 8 threads"."""
    low, high = min(counts), max(counts)
    return count(low, "thread") if low == high else f"{low} to {high} threads"


def threads_of(rows: pd.DataFrame) -> str:
    """Return the thread count, or the fewest and the most, as text."""
    text = thread_range(rows["threads"])
    return text if rows["threads"].nunique() == 1 else f"{text}, as many as are best for the path"


# --- captions and alternative texts --------------------------------------------------------------------


def speedup_caption(data: pd.DataFrame, best: pd.DataFrame) -> Markup:
    """Return the finding on speedup at the best thread count of each path, and how to read the bars."""
    return Markup("With {}, {}; {}. Size: {}. Dotted: ideal line. {}").format(
        threads_of(best), tally(best), extremes(best), sizes_of(data), interval_note(data)
    )


def roof_note(allowed: pd.Series, roof: Any) -> str:
    """Return at which speedup the first and the last path would reach the memory roof; empty without one."""
    if allowed.empty:
        return ""
    ends = [
        f"{units.fmt_number(allowed[key])} for {path_label(case_of(key))}"
        for key in dict.fromkeys([allowed.idxmin(), allowed.idxmax()])
    ]
    rate_text = units.fmt_rate(roof.bytes_per_s, "byte")
    return f" The memory roof, {rate_text}, stands at a speedup of {' to '.join(ends)}; drawn where in sight."


def speedup_alt(data: pd.DataFrame, workload: str) -> str:
    """Return the curves in words."""
    ends = each(
        data[data["threads"] > 1],
        lambda row: f"{path_label(row)}: {speedup(row)} with {count(row['threads'], 'thread')}",
    )
    return f"Speedup against threads for {workload_label(workload)}, all starting at 1. {'; '.join(ends)}."


def throughput_caption(data: pd.DataFrame, roof: tuple[float, str] | None) -> Markup:
    """Return the range of rates at the largest size, and what the dotted line is."""

    def end_of(row: pd.Series) -> tuple[str, str, str]:
        text = value(row, "throughput", units.rate_scale(row["throughput"], row["unit"]))
        return text, path_label(row), count(int(row["threads"]), "thread")

    last = at_largest_size(data).sort_values("throughput")
    line = Markup("")
    if roof:
        line = Markup(" Dotted: the highest user-space zeroing rate at the largest size, {} ({}).").format(
            units.fmt_rate(roof[0], "byte"), roof[1]
        )
    scale = " Both axes are logarithmic." if needs_log(data["throughput"]) else ""
    ends = Markup("At the largest sizes, rates lie between {} ({}, {}) and {} ({}, {}).")
    if len(last) == 1:
        ends = Markup("At the largest size, the rate is {} ({}, {}).")
    finding = ends.format(*end_of(last.iloc[0]), *end_of(last.iloc[-1]))
    return Markup("{}{}{} {}").format(finding, line, scale, interval_note(data))


def needs_log(values: pd.Series) -> bool:
    """Return whether values span too much for one linear axis."""
    return bool(values.max() > LOG_FROM_SPAN * values.min())


def throughput_alt(data: pd.DataFrame, workload: str) -> str:
    """Return the ends of the curves in words."""
    ends = each(
        at_largest_size(data),
        lambda row: f"{with_threads(row)}: {units.fmt_rate(row['throughput'], row['unit'])}",
    )
    title = f"Throughput against size for {workload_label(workload)}, {sizes_of(data)}"
    return f"{title}. At the largest size: {'; '.join(ends)}."


def _samples(data: pd.DataFrame, *names: str) -> Iterable[pd.DataFrame]:
    """Give the warm repetitions of each path and thread count."""
    groups = data[~data["cold"]].groupby([*PATH[:-1], "threads", *names], sort=False)
    return (rows for _, rows in groups)


def states_of(data: pd.DataFrame) -> list[str]:
    """Return which samples of a distribution have two states, drift or settle."""
    process = data.groupby(levels.PROCESS, dropna=False).ngroup()
    found = [
        (rows.iloc[0], find(rows["wall_s"], rows["round"], process[rows.index]))
        for rows in _samples(data, "baseline")
    ]
    return [f"{with_threads(row)}: {states}" for row, states in found if states]


def distribution_caption(data: pd.DataFrame) -> Markup:
    """Return what the median of the repetitions hides, how many were cold, and how to read the strip."""
    hidden, cold = states_of(data), int(data["cold"].sum())
    shape = f"{'. '.join(hidden)}." if hidden else "No sample has two states or a trend."
    crossed = f"Cold, crossed and in no rate: {cold} of {len(data)}." if cold else "None was cold."
    return Markup(
        "{} {} All repetitions at the largest size of each path, process after process, later ones higher; "
        "times are over the median of the warm ones, given beside them. One thread: the two equal serial "
        "calls together."
    ).format(shape, crossed)


def distribution_alt(data: pd.DataFrame, workload: str) -> str:
    """Return median and range of each strip in words."""
    parts = [
        f"{with_threads(rows.iloc[0])}: median {units.fmt_time(rows['wall_s'].median())}, from "
        f"{units.fmt_time(rows['wall_s'].min())} to {units.fmt_time(rows['wall_s'].max())}"
        for rows in _samples(data)
    ]
    return f"Wall times of single repetitions for {workload_label(workload)}. {'; '.join(parts)}."


def aa_caption(data: pd.DataFrame) -> Markup:
    """Return whether equal measurements give equal times, and which cells do not."""
    unequal = data[data["unequal"]]
    pairs = count(len(data), "interval")
    if data["n"].min() < stats.ENOUGH and unequal.empty:
        finding = "Too few repetitions to tell whether equal measurements differ."
    elif unequal.empty:
        finding = f"Equal measurements give equal times: all {pairs} include 1."
    else:
        verb = "excludes" if len(unequal) == 1 else "exclude"
        names = listed(each(unequal, case_label))
        finding = f"{len(unequal)} of {pairs} {verb} 1 (chance alone: about 1 in 20): {names}."
    return Markup("{} A check of each cell; no verdict rests on it. {}").format(finding, interval_note(data))


def aa_alt(data: pd.DataFrame) -> str:
    """Return the A/A ratios in words."""
    parts = each(data, lambda row: f"{case_label(row)}: {value(row, 'ratio')}")
    return f"Ratio of two equal serial measurements per cell. {'; '.join(parts)}."


def crossover_caption(data: pd.DataFrame) -> Markup:
    """Return how many points are faster, slower, the same or undecided, and where threads make it worse."""
    worse = data[data["verdict"] == "slower"]
    counts = verdict_counts(data)
    finding = f"{counts[:1].upper()}{counts[1:]}."
    if len(worse):
        names = listed(list(dict.fromkeys(each(worse, path_label))))
        finding += f" Slower: {names}, at {sizes_of(worse)}."
    return Markup("{} {}").format(finding, interval_note(data))


def crossover_alt(data: pd.DataFrame) -> str:
    """Return smallest and largest size of each curve in words."""
    parts = []
    for _, rows in data.groupby(PATH, sort=False):
        ends = each(
            rows.iloc[[0, -1]], lambda row: f"{units.fmt_number(row['speedup'])} at {size_label(row)}"
        )
        parts.append(f"{name_of(rows.iloc[0])}: {' to '.join(dict.fromkeys(ends))}")
    return f"Speedup against size at the most threads measured. {'; '.join(parts)}."


def chunks_caption(data: pd.DataFrame) -> Markup:
    """Return at which chunk size each path is fastest with the most threads, and how to read the curves."""
    parts = []
    for _, rows in data.groupby(CASE, sort=False):
        most = rows[rows["threads"] == rows["threads"].max()].sort_values("wall")
        best, worst = most.iloc[0], most.iloc[-1]
        parts.append(
            f"{name_of(best)} takes {wall(best)} in chunks of {units.fmt_size(best['chunk_size'])} and "
            f"{wall(worst)} in chunks of {units.fmt_size(worst['chunk_size'])}"
        )
    return Markup("With the most threads, {}. Dotted: the serial call, in one piece. {}").format(
        "; ".join(parts), interval_note(data)
    )


def chunks_alt(data: pd.DataFrame) -> str:
    """Return every point in words."""
    points = each(
        data,
        lambda row: (
            f"{case_label(row)}, {count(int(row['threads']), 'thread')}, chunks of "
            f"{units.fmt_size(row['chunk_size'])}: {units.fmt_time(row['wall'])}"
        ),
    )
    return f"Wall time against chunk size. {'; '.join(points)}."


# --- findings per workload -----------------------------------------------------------------------------


def about(workload: str) -> str:
    """Return what a workload does, empty if it is not one of ours."""
    known = registry().get(workload)
    return known.about if known else ""


def method_of(workload: str, method: str) -> Method | None:
    """Return the description of a method; None if it is not one of ours."""
    known = registry().get(workload)
    return next((one for one in known.methods if one.name == method), None) if known else None


def workload_finding(rows: pd.DataFrame) -> Markup:
    """Return the paragraph that opens the results of a workload: verdicts and extremes."""
    usable = rows[rows["n"] > 0]
    if usable.empty:
        return markup.paragraph(
            "Every repetition was cold, so there is no rate to report; the figure shows the times."
        )
    best = at_best(usable)
    if best.empty:
        return markup.paragraph("Only one thread was measured, so nothing is said about more.")
    if best["speedup"].isna().all():
        return markup.paragraph("The serial call has no warm repetition, so no speedup is known.")
    head = Markup("At the largest size, with {}, {}: {}.").format(
        threads_of(best), tally(best), extremes(best)
    )
    return markup.paragraph(head, _past_the_best(usable, best), _cost_of_method(best), _who_filled(usable))


def _past_the_best(rows: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return which paths get worse again with the most threads, empty if none does."""
    parts = []
    for _, chosen in best.iterrows():
        same = rows[(rows[CASE] == chosen[CASE]).all(axis=1)]
        more = same[(same["threads"] > chosen["threads"]) & (same["speedup_high"] < chosen["speedup_low"])]
        if len(more):
            last = more.sort_values("threads").iloc[-1]
            parts.append(f"{path_label(last)} to {speedup(last)} with {last['threads']}")
    return f"More threads make it worse again: {listed(parts)}." if parts else ""


def _who_filled(rows: pd.DataFrame) -> str:
    """Return what it changes who filled the memory, where it was measured both ways; else empty."""
    several = rows[(rows["threads"] > 1) & rows["speedup"].notna()]
    parts = []
    for _, other in several[several["options"].str.contains("fill=")].iterrows():
        options = [one for one in other["options"].split(",") if not one.startswith("fill=")]
        wanted = other[[*CASE, "threads"]].to_dict() | {"options": ",".join(options)}
        for _, usual in several[(several[list(wanted)] == list(wanted.values())).all(axis=1)].iterrows():
            parts.append(
                f"{with_threads(other)} at {size_label(other)}: {speedup(other)} over "
                f"{wall(other, 'base_wall')} serial; filled by one, {speedup(usual)} over "
                f"{wall(usual, 'base_wall')}"
            )
    return f"Who filled the memory: {'. '.join(parts)}." if parts else ""


def _cost_of_method(rows: pd.DataFrame) -> str:
    """Return which methods lose with threads against the best serial method, if any does."""
    losers = rows[(rows["vs_best_high"] < 1) & (rows["verdict"] == "faster")]
    parts = each(losers, lambda row: f"{path_label(row)} ({value(row, 'vs_best')})")
    if not parts:
        return ""
    return (
        f"Against the fastest serial method for the same pages, threads do not catch up in {listed(parts)}: "
        "the better method on one thread wins."
    )


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.0f} %".replace("-", "−") if np.isfinite(share) else units.NO_VALUE


# --- anchors ------------------------------------------------------------------------------------------


CROSSOVER_KEY = "crossover"
CHUNKS_KEY = "chunks"
NOISE_KEY = "noise"


def figure_key(kind: str, workload: str) -> str:
    """Return the key of a figure of one workload: letters, digits and hyphens only."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in workload.lower())
    return f"{kind}-{plain}"
