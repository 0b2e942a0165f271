"""Why not n times as fast: where the thread time of a path goes.

By the evidence that this run has on a path; without, by trace, CPU time and roof.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.evidence.stack import UNEXPLAINED
from ktask.lab.measure import states, stats
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.markup import Cell
from ktask.report.paths import evidence as causes
from ktask.report.paths.evidence import WORTH_SAYING, Found
from ktask.report.tables import CASE, PATH, as_estimate, at_largest_size, parallel, quotient, sort_cases

# A path is above or below these only if its whole interval is.
GOOD_EFFICIENCY = 0.9  # this much of the ideal speedup counts as "scales"
LARGE, LARGE_BYTES = 1 / 8, 4 << 30  # of the largest size, or so much: a rate counts as that of the memory
NEAR_ROOF = 0.85  # this share of the highest user-space rate leaves nothing to gain
LOSSES = ("start", "gaps", "end", "slower", "chunking")
TRACED = ("chunks", "traced_imbalance", "traced_s", "typical")
ALONE = ("alone", "alone_low", "alone_high")
BEYOND = ("beyond", "beyond_low", "beyond_high")
ONE_THREAD = ("chunking", "alone_cpu", *ALONE, *BEYOND)


@dataclass(frozen=True)
class Roof:
    """The highest user-space zeroing rate of a run: what the memory takes with the kernel out of the way."""

    bytes_per_s: float
    label: str


def memory_roof(scaling: pd.DataFrame) -> Roof | None:
    """Return the bandwidth roof measured in this run at large sizes, None without such a measurement.

    Memory in a place of its own (near, spread over nodes) may have been measured at a smaller size than the
    rest; sizes that may fit into caches do not count.
    """
    user = scaling[(scaling["workload"] == "zeroing") & (scaling["backend"] == "user") & (scaling["n"] > 0)]
    if user.empty:
        return None
    own = at_largest_size(user)
    large = own[own["size_bytes"] >= min(LARGE * own["size_bytes"].max(), LARGE_BYTES)]
    best = large.sort_values("bandwidth").iloc[-1]
    parts = [best["method"], best["options"], words.count(int(best["threads"]), "thread")]
    return Roof(float(best["bandwidth"]), ", ".join(filter(None, parts)))


def trace_losses(trace: pd.DataFrame) -> dict[str, float]:
    """Return where the thread time of one traced repetition went, as shares of threads times wall time.

    `start`: before the first chunk of each thread, all of it for a thread that got none; `gaps`: between
    chunks; `end`: after the last one; `chunks`: inside chunks. They add up to 1. `traced_imbalance` is the
    share of the wall time between the first and the last thread to end.
    """
    threads, wall_s = int(trace["threads"].iloc[0]), float(trace["wall_s"].iloc[0])
    found = trace.groupby("helper").agg(first=("t0_s", "min"), last=("t1_s", "max"))
    spent = (trace["t1_s"] - trace["t0_s"]).groupby(trace["helper"]).sum()
    total_s, idle = threads * wall_s, threads - len(found)
    start, end = found["first"].sum() + idle * wall_s, (wall_s - found["last"]).clip(lower=0).sum()
    gaps = ((found["last"] - found["first"]) - spent).sum()
    parts = {"start": start, "gaps": gaps, "end": end, "chunks": spent.sum()}
    shares = {name: float(part / total_s) for name, part in parts.items()}
    return shares | {"traced_imbalance": float(np.ptp(found["last"]) / wall_s)}


def bottleneck_table(
    scaling: pd.DataFrame,
    traces: pd.DataFrame | None = None,
    rows: pd.DataFrame | None = None,
    found: Found | None = None,
) -> pd.DataFrame:
    """Return, per path at the largest size and the most threads, the evidence on why it is not n times.

    `seen` is what was seen of the path while it was looked at (`evidence.Seen`, of those `found`), or None.
    Chunking overhead is taken out before threads are blamed: `alone` is the time of one thread in the same
    chunks over that of the serial call, `chunking` what that costs of the thread time (0 if its interval
    holds 1), and `beyond` the speedup over one thread in the same chunks. With a trace of the cell, there are
    the columns of `trace_losses`, and `slower`: how much of the thread time inside chunks is more than one
    thread took for the same chunks. Losses are NaN unless the trace is `typical` of the cell's repetitions,
    which are `rows` (`tables.repetitions`). `roof_share` is the share of `memory_roof`, for zeroing only.
    `bottleneck` is one of `LABELS`, or where that was seen, the part of the stack that most was lost to.
    """
    several = parallel(scaling[scaling["n"] > 0])
    columns = ["roof_share", *LOSSES, *TRACED, *ALONE, *BEYOND]
    if several.empty:
        return several.assign(bottleneck=[], seen=[], **{name: [] for name in columns})
    last = several.sort_values(["size_bytes", "threads"]).groupby(PATH, as_index=False).tail(1).copy()
    roof = memory_roof(scaling)
    share = last["bandwidth"] / roof.bytes_per_s if roof else np.nan
    last["roof_share"] = np.where(last["workload"] == "zeroing", share, np.nan)
    last["roof_share_low"] = last["roof_share"] * last["bandwidth_low"] / last["bandwidth"]
    last = last.join(pd.DataFrame([_alone(row, scaling) for _, row in last.iterrows()], index=last.index))
    lost = pd.DataFrame([_losses(row, traces, rows) for _, row in last.iterrows()], index=last.index)
    last = last.join(lost.reindex(columns=[*LOSSES[:-1], *TRACED]))
    last["typical"] = last["typical"] == True  # noqa: E712 - without a trace it is not known, so no evidence
    seen = [causes.of_case(row, found or {}) for _, row in last.iterrows()]
    last["seen"] = pd.Series(seen, index=last.index, dtype=object)
    last["bottleneck"] = [_bottleneck(row) for _, row in last.iterrows()]
    return sort_cases(last)


def _losses(row: pd.Series, traces: pd.DataFrame | None, rows: pd.DataFrame | None) -> dict[str, float]:
    mine = None if traces is None else traces[traces["cell_id"] == row["cell_id"]]
    if mine is None or mine.empty or int(mine["threads"].iloc[0]) != row["threads"]:
        return {}
    found, wall_s = trace_losses(mine), float(mine["wall_s"].iloc[0])
    serial = row["base_wall"] / (row["threads"] * wall_s)
    found |= {"slower": found["chunks"] - serial * (1 + _overhead(row))}
    typical = states.is_typical(wall_s, _walls(row, rows))
    kept = found if typical else dict.fromkeys(found, np.nan)
    return kept | {"traced_imbalance": found["traced_imbalance"], "traced_s": wall_s, "typical": typical}


def _walls(row: pd.Series, rows: pd.DataFrame | None) -> pd.Series | list[float]:
    """Return the times of a case and thread count that enter its rate."""
    if rows is None:
        return []
    same = (rows["cell_id"] == row["cell_id"]) & (rows["threads"] == row["threads"])
    return rows.loc[same & ~rows["baseline"].astype(bool) & rows["in_rates"], "wall_s"]


def _alone(row: pd.Series, scaling: pd.DataFrame) -> dict[str, float]:
    """Return what one thread took for the same chunks, over the serial call; NaN if that was not measured."""
    alone = ~scaling["baseline"].astype(bool) & (scaling["threads"] == 1) & (scaling["n"] > 0)
    chunked = scaling[alone & (scaling[CASE] == row[CASE]).all(axis=1)]
    if chunked.empty:
        return dict.fromkeys(ONE_THREAD, np.nan)
    one = chunked.iloc[0]
    inverse = ("speedup", "speedup_high", "speedup_low")
    found = {name: 1 / one[end] for name, end in zip(ALONE, inverse, strict=True)}
    beyond = quotient(as_estimate(one, "wall"), row)
    found |= dict(zip(BEYOND, (beyond.median, beyond.low, beyond.high), strict=True))
    overhead = _overhead(found) * row["base_wall"] / (row["threads"] * row["wall"])
    return found | {"alone_cpu": one["cpu_cost"], "chunking": overhead}


def _overhead(row: pd.Series | dict[str, float]) -> float:
    """Return how much longer one thread takes in chunks than in one call; 0 if that is not decided."""
    return row["alone"] - 1 if row["alone_low"] > 1 else 0.0


LABELS = {
    "scales": "scales",
    "near": "about 90 %",
    "start": "late start",
    "gaps": "between chunks",
    "end": "imbalance",
    "roof": "memory roof",
    "chunking": "chunking overhead",
    "busy": "busy, slower",
    "waiting": "waiting",
    "both": "busy or waiting",
    "unknown": "undecided",
}
REASONS = {
    "start": "the largest loss is before a helper has its first chunk: start-up, for this little work",
    "gaps": "the largest loss is between chunks: taking the next one, or being interrupted",
    "end": "the largest loss is after a thread's last chunk: imbalance, which smaller chunks may help",
    "roof": "the rate is that of plain user-space stores: the memory takes no more",
    "chunking": "one thread already takes longer in chunks than in one call: a system call for each chunk, "
    "and what it ends with; the threads are not to blame for that",
    "busy": "CPU time grew: a lock they spin on, the fault path, or memory and caches that they share",
    "waiting": "the threads were off the CPU part of the time: a lock they sleep on, or scheduling",
    "both": "CPU time grew, and the threads were off the CPU part of the time; which of them costs more is "
    "undecided",
    "unknown": "the evidence does not decide it",
}


def _bottleneck(row: pd.Series) -> str:
    if np.isnan(row["efficiency"]) or row["n"] < stats.ENOUGH:
        return "unknown"
    if row["efficiency_high"] >= GOOD_EFFICIENCY:
        return "scales" if row["efficiency_low"] >= GOOD_EFFICIENCY else "near"
    if row["seen"] is not None:
        return next(iter(row["seen"].lost), UNEXPLAINED)
    losses = {name: row[name] for name in LOSSES if np.isfinite(row[name])}
    losses.setdefault("slower", 1 - row["efficiency"] - losses.get("chunking", 0.0))  # without a trace: all
    largest = max(losses, key=lambda name: losses[name])
    if largest in ("chunking", "slower") and row["roof_share_low"] >= NEAR_ROOF:
        return "roof"
    return largest if largest != "slower" else _inside_chunks(row)


def _inside_chunks(row: pd.Series) -> str:
    """Return why the threads are slower inside chunks than one thread in the same chunks."""
    if np.isnan(row["busy"]) or np.isnan(row["cpu_cost"]):
        return "unknown"
    if _more_cpu(row, "_low") >= 1 - row["busy_low"]:
        return "busy"
    return "waiting" if _more_cpu(row, "_high") < 1 - row["busy_high"] else "both"


def _more_cpu(row: pd.Series, end: str) -> float:
    """Return how much of the thread time is more CPU time than one thread took for the same chunks."""
    alone = row["alone_cpu"] if row["alone_cpu"] > 1 and _overhead(row) else 1.0
    return row[f"busy{end}"] * (1 - alone / row[f"cpu_cost{end}"])


def finding(evidence: pd.DataFrame) -> Markup:
    """Return why the speedup is not the number of threads: what scales, and a line per path that does not."""
    evidence = evidence[evidence["efficiency"].notna()]
    kernel = evidence[evidence["backend"] == "kernel"]
    evidence = kernel if len(kernel) else evidence
    if evidence.empty:
        return Markup("")
    few = evidence["n"] < stats.ENOUGH
    good, near = (evidence[~few & (evidence["bottleneck"] == name)] for name in ("scales", "near"))
    names = words.listed(words.each(evidence[few], words.path_label))
    sentences = [
        Markup("<b>Why not {}?</b>").format(_times(sorted(set(evidence["threads"])))),
        _scaling(good, len(good) == len(evidence)),
        _undecided(near),
        _chunking(evidence),
        f"Too few repetitions: {names}." if names else "",
    ]
    explained = evidence[~few & _is_explained(evidence)]
    unseen = explained[explained["seen"].isna()]
    lines = words.each(explained.drop(unseen.index), lambda row: causes.sentence(row, row["seen"]))
    lines += [_reason(rows) for _, rows in unseen.groupby("bottleneck", sort=False)]
    return markup.join([markup.paragraph(*sentences), markup.items(lines)])


def _is_explained(evidence: pd.DataFrame) -> pd.Series:
    """Return which paths have a line: those that do not scale, or may not and something was seen."""
    below = evidence["seen"].notna() & (evidence["efficiency"] < GOOD_EFFICIENCY)
    return ~evidence["bottleneck"].isin(["scales", "near"]) | ((evidence["bottleneck"] == "near") & below)


def _times(counts: list[int]) -> str:
    if len(counts) > 1:
        return "as many times as threads"
    return "double" if counts[0] == 2 else f"{counts[0]} times"


def _scaling(rows: pd.DataFrame, is_all: bool) -> str:
    """Return which paths need no explanation, with their share of the ideal."""
    names = words.listed(words.each(rows, words.path_label))
    reach = "reaches" if len(rows) == 1 else "both reach" if is_all and len(rows) == 2 else "reach"
    return f"{names} {reach} {words.percent(GOOD_EFFICIENCY)} of the ideal or more." if names else ""


def _undecided(rows: pd.DataFrame) -> str:
    """Return which paths have the limit of what counts as scaling in their interval."""
    names = words.listed(words.each(rows, words.path_label))
    holds = "whose interval holds" if len(rows) == 1 else "whose intervals hold"
    return f"Undecided: {names}, {holds} {words.percent(GOOD_EFFICIENCY)}." if names else ""


def _share_of_ideal(row: pd.Series) -> str:
    return words.value(row, "efficiency", units.PERCENT)


def _chunking(rows: pd.DataFrame) -> str:
    """Return which path costs one thread most in the same chunks, empty if that is not worth a word."""
    known = rows[(rows["alone_low"] > 1) & (rows["alone"] > 1 + WORTH_SAYING)].sort_values("alone")
    if known.empty:
        return ""
    row = known.iloc[-1]
    times = f"{words.value(row, 'alone')} times the serial time ({words.path_label(row)})"
    return f"Chunking overhead: one thread in the same chunks takes {times}."


def _reason(rows: pd.DataFrame) -> Markup:
    """Return what paths with one bottleneck lost by traces and CPU time, and what their source says."""
    first = rows.iloc[0]
    shares = words.each(rows, lambda row: words.percent(row["efficiency"]))
    names = [
        Markup("<b>{}</b>, {} of the ideal").format(name, share)
        for name, share in zip(words.each(rows, words.path_label), shares, strict=True)
    ]
    numbers = _evidence(first) if len(rows) == 1 else _range(rows)
    sources = dict.fromkeys(words.each(rows, causes.by_source))
    head = Markup("{}: {}{}.").format(markup.join(names, "; "), REASONS[first["bottleneck"]], numbers)
    return markup.join([head, *sources], " ")


def _range(rows: pd.DataFrame) -> str:
    """Return the numbers behind the verdict on several paths, from the lowest to the highest."""
    cost, roof = rows["cpu_cost"].dropna(), rows["roof_share"].dropna()
    parts = []
    if len(cost):
        parts.append(f"CPU time {words.reach(cost)} times that of the serial call")
    if len(roof):
        parts.append(f"{words.reach(roof, words.percent)} of the highest user-space rate")
    return f" ({', '.join(parts)})" if parts else ""


def _evidence(row: pd.Series) -> str:
    """Return the numbers behind a verdict: the share lost there, the CPU time, the share of the roof."""
    bottleneck, parts = row["bottleneck"], []
    if bottleneck in ("start", "gaps", "end"):
        parts.append(f"{words.percent(row[bottleneck])} of the thread time in the traced repetition")
    elif bottleneck in ("busy", "waiting", "both"):
        if row["slower"] > 0:
            parts.append(f"{words.percent(row['slower'])} of the thread time inside chunks")
        parts.append(f"CPU time {words.value(row, 'cpu_cost')} times that of the serial call")
        parts += [f"in the same chunks, one thread takes {words.value(row, 'alone')}"] * bool(_overhead(row))
        parts.append(f"on the CPU {words.value(row, 'busy', units.PERCENT)} of the time")
    elif bottleneck == "chunking":
        alone = words.value(row, "alone")
        parts.append(f"one thread in the same chunks takes {alone} times as long as in one piece")
        parts.append(f"{row['threads']} threads are {words.value(row, 'beyond')} times as fast as that")
    if np.isfinite(row["roof_share"]):
        parts.append(f"{words.percent(row['roof_share'])} of the highest user-space rate")
    return f" ({', '.join(parts)})" if parts else ""


def slower_by_chunks(scaling: pd.DataFrame) -> Markup:
    """Return which cases are slower with threads though threads win against one thread in the same chunks."""
    slower = parallel(scaling[scaling["verdict"] == "slower"])
    alone = [_alone(row, scaling) for _, row in slower.iterrows()]
    found = slower.join(pd.DataFrame(alone, slower.index, columns=ONE_THREAD))
    lines = words.each(found[(found["alone_low"] > 1) & (found["beyond_low"] > 1)], _by_chunks)
    head = markup.paragraph("Slower for the chunking overhead, not for the threads:") if lines else ""
    return markup.join([head, markup.items(lines)])


def _by_chunks(row: pd.Series) -> str:
    return (
        f"{words.case_label(row)}: one thread in the same chunks takes {words.value(row, 'alone')} times the "
        f"serial time; {words.count(row['threads'], 'thread')} are {words.value(row, 'beyond')} times "
        "as fast as that."
    )


def chunks_alone(row: pd.Series, scaling: pd.DataFrame) -> str:
    """Return what one thread takes in the same chunks, empty where that is not more than the serial time."""
    found = {**row, **_alone(row, scaling)}
    alone = words.value(found, "alone") if _overhead(found) else ""
    return f", one thread in the same chunks {alone} times the serial time" if alone else ""


WORTH_SHOWING = 0.005  # a loss below this on every path rounds to 0 %
COLUMNS = {
    "start": "Before first chunk",
    "gaps": "Between chunks",
    "end": "After last chunk",
    "slower": "Slower with threads",
    "chunking": "Chunking",
    "roof_share": "Of user-space rate",
}


def table(evidence: pd.DataFrame, key: str) -> Markup:
    """Return the evidence per path; a size or thread count that all rows share is in the caption."""
    if evidence.empty:
        return Markup("")
    columns = _columns(evidence)
    losses = {title: columns.pop(title) for title in COLUMNS.values() if title in columns}
    found = markup.table(columns, evidence, caption=_caption(evidence, columns), key=key, text=["Bottleneck"])
    rest = evidence[evidence["seen"].isna()]
    if not losses or rest.empty:
        return found
    shown = {"Path": words.path_label} | losses
    return found + markup.table(shown, rest, caption=CAPTION_OF_LOSSES, key=f"{key}-losses")


def label(bottleneck: str) -> str:
    """Return the bottleneck as a label: a part of the stack, or a function, has its own name."""
    return LABELS.get(bottleneck, words.short(bottleneck))


def _columns(evidence: pd.DataFrame) -> dict[str, Cell]:
    """Return the columns with something to show."""

    def percent_of(name: str) -> Cell:
        return lambda row: words.percent(row[name])

    empty = {
        "Size": evidence["size_bytes"].nunique() == 1,
        "Threads": evidence["threads"].nunique() == 1,
        "Imbalance": evidence["imbalance"].isna().all(),
        "Chunks, 1 thread": evidence["alone"].isna().all(),
        "Speedup over that": not (evidence["bottleneck"] == "chunking").any(),
        **{title: not (evidence[name].abs() >= WORTH_SHOWING).any() for name, title in COLUMNS.items()},
    }
    columns: dict[str, Cell] = {
        "Path": words.path_label,
        "Size": words.size_label,
        "Threads": "threads",
        "Bottleneck": lambda row: label(row["bottleneck"]),
        "Share of ideal": _share_of_ideal,
        "CPU time ratio": lambda row: words.value(row, "cpu_cost"),
        "On CPU": percent_of("busy"),
        "Imbalance": percent_of("imbalance"),
        "Chunks, 1 thread": lambda row: words.value(row, "alone"),
        "Speedup over that": lambda row: words.value(row, "beyond"),
        **{title: percent_of(name) for name, title in COLUMNS.items()},
    }
    return {title: cell for title, cell in columns.items() if not empty.get(title)}


CAPTION_OF_LOSSES = (
    "Losses, as shares of thread time in one traced repetition of typical time; 0 % is left out."
)
CAPTIONS = {
    "CPU time ratio": "of all threads over that of the serial call.",
    "Imbalance": "the time from the first thread that is done to the last, over the wall time.",
    "Chunks, 1 thread": "the time of one thread in the same chunks over that of the serial call.",
    "Speedup over that": "of the threads over one thread in the same chunks.",
}


def _caption(evidence: pd.DataFrame, columns: Collection[str]) -> str:
    threads = words.count(int(evidence["threads"].iloc[0]), "thread")
    same = [threads] * ("Threads" not in columns) + [words.sizes_of(evidence)] * ("Size" not in columns)
    head = ", ".join(["Evidence on what keeps the speedup below the number of threads", *same])
    notes = [f"{name}: {text}" for name, text in CAPTIONS.items() if name in columns]
    if len(odd := evidence[evidence["traced_s"].notna() & ~evidence["typical"]]):
        notes.append(
            "No trace took a typical time, so no loss is given: "
            f"{words.listed(words.each(odd, words.path_label))}."
        )
    return f"{head}; median [95 % interval]. {' '.join(notes)}"
