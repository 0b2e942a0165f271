"""What a workload gains from threads, in sentences: the finding, smaller sizes, and what it is worth."""

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.tables import CASE, PATH, at_best, parallel

MOST_NAMES = 3
VERDICTS = ("faster", "slower", "same", "undecided")


def finding(rows: pd.DataFrame) -> Markup:
    """Return what threads do to each path of a workload, and what that is worth; a paragraph."""
    usable = rows[rows["n"] > 0]
    if usable.empty:
        return markup.paragraph(
            "Every repetition was cold, so there is no rate to report; the evidence below shows the times."
        )
    best = at_best(usable)
    if best.empty:
        return markup.paragraph("Only one thread was measured, so nothing is said about more.")
    if best["speedup"].isna().all():
        return markup.paragraph("The serial call has no warm repetition, so no speedup is known.")
    every, best = best, judged(best)
    opening = [_only(best.iloc[0])] if len(best) == 1 else [tally(best), *_extremes(best)]
    return markup.paragraph(
        *opening,
        _smaller_sizes(usable, best),
        _past_the_best(usable, best),
        _against_best(every),
        _who_filled(usable),
        _price(best),
    )


def judged(best: pd.DataFrame) -> pd.DataFrame:
    """Return the paths that a workload is judged by: those of the kernel, where it has any."""
    kernel = best[best["backend"] == "kernel"]
    return kernel if len(kernel) else best


def tally(best: pd.DataFrame) -> str:
    """Return how many paths are faster, slower, the same or undecided; the verdict counts, not the median."""
    head = f"With {words.threads_of(best)}"
    total, counts = len(best), best["verdict"].value_counts()
    found = [name for name in VERDICTS if name in counts]
    kind = "kernel " if (best["backend"] == "kernel").all() else ""
    if total == 1:
        return f"{head}, {words.path_label(best.iloc[0])} {ONE[found[0]]}."
    if len(found) == 1:
        return f"{head}, {'both' if total == 2 else f'all {total}'} {kind}paths {MANY[found[0]]}."
    parts = [f"{counts[name]} {(ONE if counts[name] == 1 else MANY)[name]}" for name in found]
    return f"{head}, of {total} {kind}paths {words.listed(parts)}."


ONE = {"faster": "is faster", "slower": "is slower", "same": "takes as long", "undecided": "is undecided"}
MANY = {"faster": "are faster", "slower": "are slower", "same": "take as long", "undecided": "are undecided"}


def _only(row: pd.Series) -> str:
    """Return what threads do to the only path: "With 2 threads, mlock (4 KiB) is slower: 0.9 [0.8, 0.95]"."""
    times = f", {_times(row)}" if row["verdict"] in ("faster", "slower") else ""
    return f"With {words.count(row['threads'], 'thread')}, {_path(row, ONE[row['verdict']])}{times}."


def _extremes(best: pd.DataFrame) -> list[str]:
    """Return the largest and the least gain, then each loss, or how far an undecided path may go."""
    known = best[best["speedup"].notna()].sort_values("speedup", ascending=False)
    faster = known[known["verdict"] == "faster"]
    gains = "gains most" if len(faster) > 1 else "gains"
    texts = [f"{_path(row, gains)}, {_times(row)}." for _, row in faster.head(1).iterrows()]
    if len(faster) > 1:
        texts.append(f"{_path(faster.iloc[-1], 'gains least')}.")
    slower = known[known["verdict"] == "slower"].head(MOST_NAMES)
    texts += [f"{_path(row, 'is slower')}, {_times(row)}." for _, row in slower.iterrows()]
    rest = known[known["verdict"].isin(["same", "undecided"])].head(MOST_NAMES)
    return texts + [f"{_path(row, ONE[row['verdict']])}." for _, row in rest.iterrows()]


def _path(row: pd.Series, does: str) -> str:
    """Return what a path does, with its speedup: "munmap (4 KiB) is slower: 0.764 [0.670, 0.870]"."""
    return f"{words.path_label(row)} {does}: {words.speedup(row)}"


def _times(row: pd.Series) -> str:
    wall, base = (units.fmt_time(row[name]) for name in ("wall", "base_wall"))
    return f"{wall} instead of {base} for {words.size_label(row)}"


def _smaller_sizes(rows: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return at which other sizes a path that is faster at its largest one is not."""
    parts = []
    for _, chosen in best[best["verdict"] == "faster"].iterrows():
        same = parallel(rows[(rows[PATH] == chosen[PATH]).all(axis=1)])
        other = same[(same["threads"] == chosen["threads"]) & (same["verdict"] != "faster")]
        for verdict, there in other.groupby("verdict", sort=False):
            sizes = words.listed([units.fmt_size(size) for size in sorted(set(there["size_bytes"]))])
            parts.append(f"at {sizes}, {words.path_label(chosen)} {ONE[str(verdict)]}")
    text = words.listed(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _past_the_best(rows: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return which paths get worse again with the most threads, empty if none does."""
    parts = []
    for _, chosen in best.iterrows():
        same = rows[(rows[CASE] == chosen[CASE]).all(axis=1)]
        more = same[(same["threads"] > chosen["threads"]) & (same["speedup_high"] < chosen["speedup_low"])]
        if len(more):
            last = more.sort_values("threads").iloc[-1]
            parts.append(f"{words.path_label(last)} to {words.speedup(last)} with {last['threads']}")
    return f"More threads make it worse again: {words.listed(parts)}." if parts else ""


def _against_best(best: pd.DataFrame) -> str:
    """Return which methods lose with threads against the best serial method, if any does."""
    losers = best[(best["vs_best_high"] < 1) & (best["verdict"] == "faster")]
    parts = words.each(losers, lambda row: f"{words.value(row, 'vs_best')} with {words.path_label(row)}")
    if not parts:
        return ""
    return f"Another method is faster on one thread: against it, threads reach {words.listed(parts)}."


def _who_filled(rows: pd.DataFrame) -> str:
    """Return what it changes who filled the memory, where it was measured both ways; else empty."""
    several = rows[(rows["threads"] > 1) & rows["speedup"].notna()]
    parts = []
    for _, other in several[several["options"].str.contains("fill=")].iterrows():
        options = [one for one in other["options"].split(",") if not one.startswith("fill=")]
        wanted = other[[*CASE, "threads"]].to_dict() | {"options": ",".join(options)}
        for _, usual in several[(several[list(wanted)] == list(wanted.values())).all(axis=1)].iterrows():
            parts.append(
                f"{words.with_threads(other)} at {words.size_label(other)}: {words.speedup(other)} over "
                f"{words.wall(other, 'base_wall')} serial; filled by one, {words.speedup(usual)} over "
                f"{words.wall(usual, 'base_wall')}"
            )
    return f"Who filled the memory: {'. '.join(parts)}." if parts else ""


def _price(best: pd.DataFrame) -> str:
    """Return what a gain costs in CPU time, the dearest path of those that gain."""
    known = best[(best["verdict"] == "faster") & best["cpu_cost"].notna()].sort_values("cpu_cost")
    if known.empty:
        return ""
    row = known.iloc[-1]
    upto = "" if len(known) == 1 else " up to"
    return (
        f"The gain costs{upto} {words.value(row, 'cpu_cost')} times the CPU time ({words.path_label(row)})."
    )
