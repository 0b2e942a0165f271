"""What to do on this machine: threads and minimum chunk per path, from which size on, or why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.sentences import Row
from ktask.report.tables import (
    PATH,
    VERDICTS,
    at_largest_size,
    crossover_table,
    in_varied_chunks,
    parallel,
    pick_threads,
    sort_cases,
)

if TYPE_CHECKING:
    from ktask.report.study import Study


def recommendation_table(
    scaling: pd.DataFrame, skipped: pd.DataFrame, chunks: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per path: how many threads, from which size on, in which chunks, and what to expect.

    Advice follows from decided cells only: the fewest threads within noise of the fastest of those that are
    faster at the largest size. `outcome` is "threads", or why not: "slower", "same", "mixed" (faster at some
    sizes, but not at the largest), "undecided", "single" (no count above one was measured), "cold" (nothing
    warm was measured) or "skipped". The estimate columns belong to the largest size.

    `min_chunk` is the smallest chunk, in bytes, whose time is within noise of that of the best, from `chunks`
    (`chunk_table`); NaN if that is undecided. `least_chunk` is the smallest that was measured; NaN if chunk
    sizes were not varied.
    """
    crossover = crossover_table(scaling)
    rows = []
    for key, part in scaling.groupby(PATH):
        path = dict(zip(PATH, key, strict=True))
        mine = crossover[(crossover[PATH] == list(key)).all(axis=1)] if len(crossover) else crossover
        found = _advice(part, mine)
        if found["outcome"] == "threads" and chunks is not None:
            found |= _smallest_chunk(_chunks_of(path, chunks), found["threads"])
        rows.append(path | found)
    rows += [path | {"outcome": "skipped"} for path in _only_skipped(scaling, skipped)]
    columns = [*PATH, "outcome", "threads", "from_size_bytes", "size_bytes", "min_chunk", "least_chunk"]
    table = pd.DataFrame(rows)
    return sort_cases(table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)]))


def _advice(part: pd.DataFrame, crossover: pd.DataFrame) -> dict[str, Any]:
    """Return the advice on one path, from its rows and its crossovers."""
    if not (part["n"] > 0).any():
        return {"outcome": "cold"}
    several = parallel(part)
    if several.empty:
        return {"outcome": "single"}
    if crossover.empty:  # no speedup is known
        return {"outcome": "cold"}
    chosen = pick_threads(at_largest_size(several[several["speedup"].notna()]))
    mine = crossover[crossover["threads"] == chosen["threads"]].iloc[0]
    sizes = mine[["from_size_bytes", *(f"{verdict}_sizes" for verdict in VERDICTS)]].to_dict()
    return chosen.drop(PATH).to_dict() | sizes | {"outcome": _outcome(chosen, crossover)}


def _outcome(chosen: pd.Series, crossover: pd.DataFrame) -> str:
    if chosen["verdict"] == "faster":
        return "threads"
    won = crossover["faster_sizes"].map(bool).any()
    return "mixed" if won and chosen["verdict"] != "undecided" else str(chosen["verdict"])


def _chunks_of(path: dict[str, str], chunks: pd.DataFrame) -> pd.DataFrame:
    """Return the chunk sizes of a path: those under its policy, else those under another."""
    names = PATH[:-1]
    varied = in_varied_chunks(chunks)
    mine = varied[(varied[names] == [path[name] for name in names]).all(axis=1)]
    same = mine[mine["policy"] == path["policy"]]
    return same if len(same) else mine


def _smallest_chunk(chunks: pd.DataFrame, threads: int) -> dict[str, float]:
    """Return the smallest chunk that is within noise of the best, at the largest size, of decided ones."""
    rows = at_largest_size(chunks[chunks["threads"] == threads])
    if rows.empty:
        return {}
    best = rows.sort_values("wall").iloc[0]
    good = rows[(rows["verdict"] == "faster") & (rows["wall_low"] <= best["wall_high"])]
    smallest = good["chunk_size"].min() if best["verdict"] == "faster" else np.nan
    return {"min_chunk": smallest, "least_chunk": rows["chunk_size"].min()}


def _only_skipped(scaling: pd.DataFrame, skipped: pd.DataFrame) -> list[dict[str, str]]:
    """Return the paths of which no case was measured."""
    names = PATH[:-1]
    measured = set(map(tuple, scaling[names].to_numpy())) if len(scaling) else set()
    missing = dict.fromkeys(map(tuple, skipped[names].to_numpy())) if len(skipped) else {}
    return [dict(zip(PATH, (*key, ""), strict=True)) for key in missing if key not in measured]


def reason(row: Row, skipped: pd.DataFrame) -> str:
    """Return what to expect of the advised threads, or why none are advised."""
    outcome = row["outcome"]
    if outcome == "skipped":
        mine = skipped[(skipped[PATH[:-1]] == [row[name] for name in PATH[:-1]]).all(axis=1)]
        return f"not measured: {'; '.join(dict.fromkeys(mine['reason'].astype(str)))}"
    if outcome in ("single", "cold"):
        return REASONS[outcome]
    size = units.fmt_size(row["size_bytes"])
    if outcome == "threads":
        return f"yes: {words.speedup(row)} at {size}{_elsewhere(row)}"
    where = f"{words.count(int(row['threads']), 'thread')}, {size}"
    return f"{REASONS[outcome]} ({words.speedup(row)} with {where}){_elsewhere(row)}"


def _elsewhere(row: Row) -> str:
    """Return at which other sizes the verdict is another one; what is advised is faster from its size on."""
    parts = []
    for verdict in VERDICTS:
        sizes = [units.fmt_size(size) for size in row[f"{verdict}_sizes"] if size != row["size_bytes"]]
        if sizes and verdict != row["verdict"]:
            parts.append(f"{verdict} at {words.listed(sizes)}")
    return f"; {', '.join(parts)}" if parts else ""


REASONS = {
    "slower": "no: slower than the serial call",
    "same": "no: as fast as the serial call",
    "mixed": "no: faster at some sizes, but not at the largest",
    "undecided": "undecided",
    "single": "undecided: no thread count above one was measured",
    "cold": "undecided: no warm repetition",
}


def recommendations(study: Study) -> Markup:
    """Return the advice per path, as a patch author would use it."""
    found = study.advice
    if found.empty:
        return markup.paragraph(
            study.title, "Nothing was measured and nothing was skipped, so there is no advice."
        )

    def if_threads(cell: Callable[[Row], str]) -> markup.Cell:
        return lambda row: cell(row) if row["outcome"] == "threads" else units.NO_VALUE

    columns: dict[str, markup.Cell] = {
        "Path": words.full_label,
        "Threads": _threads,
        "Minimum chunk": if_threads(minimum_chunk),
        "From size": if_threads(lambda row: units.fmt_size(row["from_size_bytes"])),
        "CPU time ratio": if_threads(lambda row: words.value(row, "cpu_cost")),
        "Does it pay?": lambda row: reason(row, study.run.skipped),
    }
    caption = Markup("{}{}").format(study.title, headline(found))
    return markup.table(
        columns, found, caption=caption, key=study.key("advice"), text=["Minimum chunk", "Does it pay?"]
    )


def _threads(row: Row) -> str:
    if row["outcome"] == "threads":
        return str(int(row["threads"]))
    return (
        "1" if row["outcome"] in DECIDED else "undecided" if row["outcome"] == "undecided" else units.NO_VALUE
    )


DECIDED = ("threads", "slower", "same", "mixed")


def headline(found: pd.DataFrame) -> str:
    """Return on how many paths threads pay, in one sentence or two."""
    pays, known = int((found["outcome"] == "threads").sum()), int(found["outcome"].isin(DECIDED).sum())
    undecided = int((found["outcome"] == "undecided").sum())
    tail = f" {words.count(undecided, 'path')} {'is' if undecided == 1 else 'are'} undecided: no advice."
    if not known:
        return f"No path is decided, so there is no advice.{tail * bool(undecided)}"
    if known == 1:
        head = f"Threads {'pay' if pays else 'do not pay'} on the one decided path."
    else:
        head = f"Threads pay on {pays if pays < known else 'all'} of the {known} decided paths."
    return f"{head}{tail * bool(undecided)}"


def in_short(found: pd.DataFrame) -> str:
    """Return the advice on all paths in a sentence, for the head of the page."""
    known = found[found["outcome"].isin(DECIDED)]
    pays, rest = known[known["outcome"] == "threads"], known[known["outcome"] != "threads"]
    if known.empty:
        return "No advice: no path is decided."
    if pays.empty:
        return f"One thread: more do not pay on {_share(known, known)}."
    threads = words.thread_range(pays["threads"].astype(int))
    alone = f", one on {words.listed(words.each(rest, words.name_of))}" if 0 < len(rest) <= MOST_NAMES else ""
    return f"{threads} on {_share(pays, known)}{alone or ', one on the rest' * (len(rest) > 0)}."


MOST_NAMES = 3  # of more paths, none is named


def _share(some: pd.DataFrame, known: pd.DataFrame) -> str:
    if len(known) == 1:
        return "the one decided path"
    if len(some) == len(known):
        return f"all {len(known)} decided paths"
    return f"{len(some)} of {len(known)} decided paths"


def minimum_chunk(row: Row) -> str:
    """Return the smallest chunk within noise of the best, where chunk sizes were varied."""
    if pd.isna(row["least_chunk"]):
        return "not varied"
    if pd.isna(row["min_chunk"]):
        return "undecided"
    size = units.fmt_size(row["min_chunk"])
    return f"≤ {size}" if row["min_chunk"] <= row["least_chunk"] else size
