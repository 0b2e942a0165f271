"""Sentences made from the tables: labels, captions, findings, claims and reasons.

Every number comes with its interval, n and size. Names from outside are escaped where they enter HTML.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.stats import spearmanr

from ktask.common import units
from ktask.lab.measure import stats
from ktask.lab.measure.stats import NoiseFloor
from ktask.report import markup
from ktask.report.tables import CASE, PATH, as_estimate, at_best, at_largest_size, bimodal, case_of
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


def n_range(data: pd.DataFrame) -> str:
    """Return "n = 7" or "n = 5 to 7"."""
    low, high = int(data["n"].min()), int(data["n"].max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def interval_note(data: pd.DataFrame, kind: str = stats.INTERVAL_KIND) -> str:
    """Return what points and bars are: kind of interval, n, and the level of repetition."""
    few = data["n"].min() < stats.ENOUGH
    tail = f" Below n = {stats.ENOUGH} they are ranges, and there is no verdict." if few else ""
    noun = "repetition" if data["n"].max() == 1 else "repetitions"
    return f"Bars: {kind}, {n_range(data)} {noun} per point, all inside the process of their case.{tail}"


def duration(seconds: float) -> str:
    """Return a time that people wait for: "12 s", "4 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# --- sentences on a set of paths -----------------------------------------------------------------------


VERDICT_WORDS = {
    "faster": "faster than {}",
    "slower": "slower than {}",
    "no change": "undecided against {}",
    "unknown": "without a verdict for lack of repetitions",
}


def tally(rows: pd.DataFrame, kind: str = "") -> str:
    """Return how many rows are faster, slower or neither, in words; the verdict counts, not the median.

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


def extremes(rows: pd.DataFrame, *, with_serial: bool = False) -> str:
    """Return the highest and, if it differs, the lowest speedup, maybe with the serial time it is over."""
    known = rows[rows["speedup"].notna()].sort_values("speedup")
    parts = []
    for verb, i in (("has a speedup", -1), ("one", 0))[: len(known)]:
        row = known.iloc[i]
        serial = f" over {wall(row, 'base_wall')} serial" if with_serial else ""
        parts.append(f"{path_label(row)} {verb} of {value(row, 'speedup')}{serial}")
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
        threads_of(best), tally(best), extremes(best), sizes_of(data), interval_note(data, stats.RATIO_KIND)
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
        lambda row: f"{path_label(row)}: {value(row, 'speedup')} with {count(row['threads'], 'thread')}",
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


BIMODAL = "a gap wider than either group, and than 5 % of the median"
LARGEST_P = 0.001  # of a drift that is reported


def _samples(data: pd.DataFrame, *names: str) -> Iterable[pd.DataFrame]:
    """Give the warm repetitions of each path and thread count."""
    groups = data[~data["cold"]].groupby([*PATH[:-1], "threads", *names], sort=False)
    return (rows for _, rows in groups)


def bimodal_samples(data: pd.DataFrame) -> list[str]:
    """Return the labels of the bimodal samples of a distribution."""
    samples = _samples(data, "baseline")
    return [with_threads(rows.iloc[0]) for rows in samples if bimodal(rows["wall_s"].to_numpy())]


def drifting(data: pd.DataFrame) -> list[str]:
    """Return the labels of the samples of a distribution whose times rise or fall with the rounds."""
    labels = []
    for rows in _samples(data, "baseline", "aa"):
        if len(rows) >= stats.ENOUGH and rows["wall_s"].nunique() > 1:
            found = spearmanr(rows["round"], rows["wall_s"])
            if found.pvalue < LARGEST_P:
                labels.append(
                    f"{with_threads(rows.iloc[0])}, {'slower' if found.statistic > 0 else 'faster'}"
                )
    return list(dict.fromkeys(labels))


def distribution_caption(data: pd.DataFrame) -> Markup:
    """Return whether the repetitions form one group, how many were cold, and how to read the strip."""
    split, drift, cold = bimodal_samples(data), drifting(data), int(data["cold"].sum())
    shape = f"Bimodal: {'; '.join(split)}." if split else f"No bimodal samples ({BIMODAL})."
    shape += f" Drift with the rounds: {'; '.join(drift)}." if drift else ""
    crossed = f"Cold, crossed and in no rate: {cold} of {len(data)}." if cold else "None was cold."
    return Markup(
        "{} {} All repetitions at the largest size of each path, later ones higher; times are over the "
        "median of the warm ones, given beside them. One thread: the two equal serial calls together."
    ).format(shape, crossed)


def distribution_alt(data: pd.DataFrame, workload: str) -> str:
    """Return median and range of each strip in words."""
    parts = [
        f"{with_threads(rows.iloc[0])}: median {units.fmt_time(rows['wall_s'].median())}, from "
        f"{units.fmt_time(rows['wall_s'].min())} to {units.fmt_time(rows['wall_s'].max())}"
        for rows in _samples(data)
    ]
    return f"Wall times of single repetitions for {workload_label(workload)}. {'; '.join(parts)}."


def _noise(workload: str, floor: NoiseFloor) -> str:
    one = stats.Estimate(floor.floor, floor.low, floor.high, floor.floor, floor.cells)
    text = units.fmt_estimate(one, units.PERCENT, digits=2)
    return f"{workload_label(workload)} {text} from {count(floor.cells, 'cell')}"


def aa_caption(data: pd.DataFrame, floors: dict[str, NoiseFloor]) -> Markup:
    """Return how far equal measurements differ, and whether any pair is not equal."""
    unequal = sum(floor.unequal for floor in floors.values())
    pairs = count(len(data), "interval")
    if data["n"].min() < stats.ENOUGH:
        finding = "Too few repetitions for a verdict on equal measurements."
    elif unequal:
        verb = "excludes" if unequal == 1 else "exclude"
        finding = f"{unequal} of {pairs} {verb} 1 (chance alone: about 1 in 20)."
    else:
        finding = f"Equal measurements give equal times: all {pairs} include 1."
    floor_text = "; ".join(_noise(name, floor) for name, floor in floors.items())
    return Markup("{} Noise floor (grey): {}. {}").format(
        finding, floor_text, interval_note(data, stats.RATIO_KIND)
    )


def aa_alt(data: pd.DataFrame) -> str:
    """Return the A/A ratios in words."""
    parts = each(data, lambda row: f"{case_label(row)}: {value(row, 'ratio')}")
    return f"Ratio of two equal serial measurements per cell. {'; '.join(parts)}."


def crossover_caption(data: pd.DataFrame) -> Markup:
    """Return at how many points threads make it worse, and where; points without a verdict do not count."""
    worse = data[data["verdict"] == "slower"]
    judged = int((data["verdict"] != "unknown").sum())
    points = count(judged, "point")
    if not judged:
        finding = "No point has repetitions enough for a verdict."
    elif worse.empty:
        finding = f"At none of {points} do threads make a path slower than the serial call."
    else:
        names = listed(list(dict.fromkeys(each(worse, path_label))))
        finding = f"At {len(worse)} of {points} threads make it slower: {names}, at {sizes_of(worse)}."
    return Markup("{} Grey: noise floor around 1. {}").format(finding, interval_note(data, stats.RATIO_KIND))


def crossover_alt(data: pd.DataFrame) -> str:
    """Return smallest and largest size of each curve in words."""
    parts = []
    for _, rows in data.groupby(PATH, sort=False):
        ends = each(
            rows.iloc[[0, -1]], lambda row: f"{units.fmt_number(row['speedup'])} at {size_label(row)}"
        )
        parts.append(f"{name_of(rows.iloc[0])}: {' to '.join(dict.fromkeys(ends))}")
    return f"Speedup against size at the most threads measured. {'; '.join(parts)}."


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
    where = "At the largest size" + (" with a verdict" if (best["verdict"] != "unknown").any() else "")
    head = Markup("{}, with {}, {}: {}.").format(where, threads_of(best), tally(best), extremes(best))
    return markup.paragraph(head, _past_the_best(usable, best), _cost_of_method(best))


def _past_the_best(rows: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return which paths get worse again with the most threads, empty if none does."""
    parts = []
    for _, chosen in best.iterrows():
        same = rows[(rows[CASE] == chosen[CASE]).all(axis=1)]
        more = same[(same["threads"] > chosen["threads"]) & (same["speedup_high"] < chosen["speedup_low"])]
        if len(more):
            last = more.sort_values("threads").iloc[-1]
            parts.append(f"{path_label(last)} to {value(last, 'speedup')} with {last['threads']}")
    return f"More threads make it worse again: {listed(parts)}." if parts else ""


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
NOISE_KEY = "noise"


def figure_key(kind: str, workload: str) -> str:
    """Return the key of a figure of one workload: letters, digits and hyphens only."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in workload.lower())
    return f"{kind}-{plain}"
