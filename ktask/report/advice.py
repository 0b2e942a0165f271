"""What to do on this machine: threads and minimum chunk per path, from which size on, or why not."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.sentences import Row
from ktask.report.study import Study
from ktask.report.tables import PATH, crossover_table, pick_threads, sort_cases


def recommendation_table(scaling: pd.DataFrame, skipped: pd.DataFrame) -> pd.DataFrame:
    """Return one row per path: how many threads, from which size on, and what to expect.

    Among the thread counts that win up to the largest size, the fewest whose speedup there reaches the
    interval of the best one. `outcome` is "threads", or why not: "slower", "noise" (no change beyond it),
    "mixed" (wins, but not at the largest sizes), "single" (no count above one was measured), "few" (too few
    repetitions for a verdict), "cold" (nothing warm was measured) or "skipped". The estimate columns
    belong to the largest size.
    """
    crossover = crossover_table(scaling)
    rows = []
    for key, part in scaling.groupby(PATH):
        path = dict(zip(PATH, key, strict=True))
        mine = crossover[(crossover[PATH] == list(key)).all(axis=1)] if len(crossover) else crossover
        rows.append(path | _advice(part, mine))
    rows += [path | {"outcome": "skipped"} for path in _only_skipped(scaling, skipped)]
    columns = [*PATH, "outcome", "threads", "from_size_bytes", "largest_bytes"]
    table = pd.DataFrame(rows)
    return sort_cases(table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)]))


def _advice(part: pd.DataFrame, crossover: pd.DataFrame) -> dict[str, Any]:
    if not (part["n"] > 0).any():
        return {"outcome": "cold"}
    if crossover.empty:
        return {"outcome": "single"}
    winners = crossover[crossover["from_size_bytes"].notna()]
    chosen = pick_threads(winners if len(winners) else crossover)
    expected = _expectation(part, chosen)
    outcome = "threads" if len(winners) else _why_not(crossover, expected["verdict"])
    return {"outcome": outcome, "smallest_bytes": int(part["size_bytes"].min())} | expected


def _why_not(crossover: pd.DataFrame, at_largest: str) -> str:
    if crossover["faster_sizes"].map(bool).any():
        return "mixed"
    if not (crossover["sizes"] > 0).any():
        return "few" if (crossover["n"] > 0).any() else "cold"
    return "slower" if at_largest == "slower" else "noise"


def _expectation(part: pd.DataFrame, chosen: pd.Series) -> dict[str, Any]:
    """Return what the chosen thread count did at the largest size that has a verdict."""
    names = ["threads", "size_bytes", "baseline"]
    wanted = [chosen["threads"], chosen["largest_bytes"], False]
    row = part[(part[names] == wanted).all(axis=1)].iloc[0].drop(PATH)
    return row.to_dict() | chosen[["from_size_bytes", "largest_bytes", "slower_sizes"]].to_dict()


def _only_skipped(scaling: pd.DataFrame, skipped: pd.DataFrame) -> list[dict[str, str]]:
    """Return the paths of which no case was measured."""
    names = PATH[:-1]
    measured = set(map(tuple, scaling[names].to_numpy())) if len(scaling) else set()
    missing = dict.fromkeys(map(tuple, skipped[names].to_numpy())) if len(skipped) else {}
    return [dict(zip(PATH, (*key, ""), strict=True)) for key in missing if key not in measured]


def reason(row: Row, skipped: pd.DataFrame) -> str:
    """Return what to expect of the advised threads, or why none are advised."""
    outcome = row["outcome"]
    if outcome == "threads":
        return f"yes: {words.value(row, 'speedup')} times as fast at {units.fmt_size(row['largest_bytes'])}"
    if outcome == "skipped":
        mine = skipped[(skipped[PATH[:-1]] == [row[name] for name in PATH[:-1]]).all(axis=1)]
        return f"unknown: not measured, {'; '.join(dict.fromkeys(mine['reason'].astype(str)))}"
    if outcome in ("single", "cold"):
        return WHY_NOT[outcome]
    where = f"{words.count(int(row['threads']), 'thread')}, {units.fmt_size(row['largest_bytes'])}"
    slower = words.listed([units.fmt_size(size) for size in row["slower_sizes"]])
    tail = f", slower at {slower}" if outcome == "noise" and slower else ""
    return f"{WHY_NOT[outcome]} ({words.value(row, 'speedup')} with {where}){tail}"


WHY_NOT = {
    "slower": "no: slower than the serial call",
    "noise": "no: no change beyond the noise floor",
    "mixed": "no: faster at some sizes, but not up to the largest",
    "single": "unknown: no thread count above one was measured",
    "few": "unknown: too few repetitions for a verdict",
    "cold": "unknown: no warm repetition",
}


def recommendations(study: Study) -> Markup:
    """Return the advice per path, as a patch author would use it."""
    found = recommendation_table(study.scaling, study.run.skipped)
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
    return markup.table(columns, found, caption=caption, key=study.key("advice"), text=["Does it pay?"])


def _threads(row: Row) -> str:
    if row["outcome"] == "threads":
        return str(int(row["threads"]))
    return "1" if row["outcome"] in WITH_VERDICT else units.NO_VALUE


def headline(found: pd.DataFrame) -> str:
    """Return on how many paths threads pay, in one sentence."""
    pays, known = int((found["outcome"] == "threads").sum()), int(found["outcome"].isin(WITH_VERDICT).sum())
    if not known:
        return "No path has a verdict, so there is no advice."
    if known == 1:
        return f"Threads {'pay' if pays else 'do not pay'} on the one path with a verdict."
    return f"Threads pay on {pays if pays < known else 'all'} of the {known} paths with a verdict."


WITH_VERDICT = ("threads", "slower", "noise", "mixed")
MOST_NAMED = 3


def in_short(found: pd.DataFrame) -> str:
    """Return the advice on all paths in a sentence or two, for the head of the page."""
    known = found[found["outcome"].isin(WITH_VERDICT)]
    pays, rest = known[known["outcome"] == "threads"], known[known["outcome"] != "threads"]
    if known.empty:
        return "None: no path has a verdict."
    if pays.empty:
        paths = "the one measured path" if len(known) == 1 else f"any of {len(known)} measured paths"
        return f"One thread everywhere: more do not pay on {paths}."
    threads = words.thread_range(pays["threads"].astype(int))
    share = f"{len(pays)} of {words.count(len(known), 'path')}" if len(rest) else "every measured path"
    return f"{threads} on {share}, from the size and with the minimum chunk listed for each.{_leave(rest)}"


def _leave(rows: pd.DataFrame) -> str:
    names = words.each(rows, words.name_of)
    if len(names) > MOST_NAMED:
        return f" One thread on the other {len(names)}."
    return f" One thread for {words.listed(names)}." if names else ""


def minimum_chunk(row: Row) -> str:
    """Return the share of one thread at the smallest size that pays, which is what one more helper is worth.

    Helpers are started for every minimum chunk there is work for, so with this one the advised threads start
    from the advised size on. Where that is the smallest size measured, the truth may be less.
    """
    share = units.fmt_size(int(row["from_size_bytes"]) // int(row["threads"]))
    return f"≤ {share}" if row["from_size_bytes"] <= row["smallest_bytes"] else share
