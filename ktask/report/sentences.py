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
from ktask.report.tables import CASE, PATH, as_estimate
from ktask.workloads import Method, registry

Row: TypeAlias = "pd.Series | dict[str, Any]"

KIND_LABELS = {"4KiB": "4 KiB", "2MiB": "2 MiB", "1GiB": "1 GiB"}
WORKLOAD_LABELS = {"page_walk": "Page walk"}
LONGEST_LABEL = 40


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
    return f"{row['workload'].replace('_', ' ')} {path_label(row)}"


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
    return (
        f"{short(row['workload'].replace('_', ' '))} {path_label(row)}, {units.fmt_size(row['size_bytes'])}"
    )


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
    return text if rows["threads"].nunique() == 1 else f"{text}, each path at its best"


# --- captions and alternative texts --------------------------------------------------------------------


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
