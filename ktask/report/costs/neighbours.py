"""What neighbours wait for beside a task, and what is left of their caches, beside its speedup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.bystanders.collect import IDLE, SERIAL, THREADS
from ktask.lab.bystanders.neighbours import SAME
from ktask.lab.bystanders.summary import over_processes, ratios_to_idle
from ktask.lab.measure import levels
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.sentences import Row
from ktask.report.tables import PATH, as_estimate, parallel, sort_cases

if TYPE_CHECKING:
    from ktask.report.study import Study

BYSTANDERS_KEY = "bystanders"
CACHE = "cache"
# What stands on the page of each probe, in this order: on the CPU of a helper.
PROBES = {
    ("page fault", "same"): "page fault, same process",
    ("mmap and munmap", "same"): "mmap and munmap, same process",
    ("page fault", "another"): "page fault, another process",
    ("wake-up", "another"): "wake-up, another process",
}
MARKS = {"faster": "longer", "slower": "shorter", "same": "the same", "undecided": "undecided"}
NOBODY = "No neighbour probed in this run; `ktask sweep` without `--bystanders off` has them probe."

# --- neighbours ----------------------------------------------------------------------------------------


def bystander_table(scaling: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each probe found beside each case, with the speedup and the CPU time ratio of the case.

    The columns are those of `over_processes`; `speedup`, `cpu_cost` (with ends) and `verdict` are NaN or
    empty
    where the case has no such row; `neighbour` names the probe, `longer` is the verdict on its p99.
    """
    found = over_processes(rows)
    several = parallel(scaling)
    names = [*PATH[:-1], "size_bytes", "threads"]
    kept = [f"{name}{end}" for name in ("speedup", "cpu_cost") for end in ("", "_low", "_high")]
    known = several.drop_duplicates(names)[[*names, *kept, "above_threads", "verdict"]]
    found = (
        found.assign(n=found["n_threads"])
        .drop(columns="policy")
        .merge(known, on=names, how="left")
        .assign(policy="")
    )
    verdicts = [MARKS[levels.verdict(as_estimate(row, "p99_ratio"))] for row in found.to_dict("records")]
    labels = [PROBES.get((row.probe, row.process), CACHE) for row in found.itertuples()]
    return sort_cases(found.assign(neighbour=labels, longer=verdicts))


def at_helpers(found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of probes on the CPU of a helper, without those of caches."""
    return found[(found["place"] == "helper") & (found["probe"] != CACHE)]


def _waits(row: Row, way: str) -> str:
    return units.fmt_time(row[f"p99_{way}_s"]) if np.isfinite(row[f"p99_{way}_s"]) else units.NO_VALUE


def ratio_text(row: Row) -> str:
    """Return by how many times the 99th percentile grows over that beside the serial call."""
    return units.fmt_estimate(as_estimate(row, "p99_ratio"), units.RATIO)


def worst(found: pd.DataFrame) -> pd.Series | None:
    """Return the row of a kernel path with threads that are faster where p99 grows most, by its lower end."""
    rows = at_helpers(found)
    rows = rows[(rows["backend"] == "kernel") & (rows["longer"] == "longer") & (rows["verdict"] == "faster")]
    return None if rows.empty else rows.sort_values("p99_ratio_low").iloc[-1]


def finding(found: pd.DataFrame) -> Markup:
    """Return on how many paths each neighbour waits longer, and the worst case beside its speedup."""
    rows = at_helpers(found)
    counts = [
        f"{label} on {int((part['longer'] == 'longer').sum())} of {len(part)}"
        for label in PROBES.values()
        if len(part := rows[rows["neighbour"] == label])
    ]
    tally = (
        f"With threads, the slowest hundredth takes longer than beside the serial call: {'; '.join(counts)}."
    )
    row = worst(found)
    if row is None:
        return markup.paragraph(tally)
    return markup.paragraph(price_of(row), tally)


def price_of(row: Row) -> Markup:
    """Return a speedup and what a neighbour waits for it, as sentences."""
    return Markup(
        "On {}, {} are {} times as fast. Meanwhile, one {} in a hundred ({}) takes {} or longer. Beside "
        "the serial call it is {}, so the wait is {} times as long."
    ).format(
        words.case_label(row),
        words.count(int(row["threads"]), "thread"),
        words.speedup(row),
        row["probe"],
        "same process" if row["process"] == SAME else "another process",
        _waits(row, THREADS),
        _waits(row, SERIAL),
        ratio_text(row),
    )


def _probe_cell(label: str) -> markup.Cell:
    def cell(row: dict[str, Any]) -> str:
        one = row["probes"].get(label)
        return units.NO_VALUE if one is None else f"{_waits(one, SERIAL)} → {_waits(one, THREADS)}"

    return cell


def section(study: Study) -> Markup:
    """Return per path the speedup beside the CPU time ratio and what neighbours wait for."""
    found = study.bystanders
    if found.empty:
        reasons = [one for one in study.probed["skipped"] if one]
        return markup.paragraph(
            study.title, markup.with_code(f"Not measured: {reasons[0]}." if reasons else NOBODY)
        )
    columns: dict[str, markup.Cell] = {
        "Path": lambda row: f"{words.full_label(row['case'])}, {words.size_label(row['case'])}",
        "Threads": lambda row: int(row["case"]["threads"]),
        "Speedup": lambda row: words.speedup(row["case"]),
        "CPU time ratio": lambda row: words.value(row["case"], "cpu_cost"),
    }
    waits: dict[str, markup.Cell] = {
        f"{label[:1].upper()}{label[1:]}": _probe_cell(label) for label in PROBES.values()
    }
    rows = [
        {"case": part.iloc[0], "probes": {row["neighbour"]: row for _, row in part.iterrows()}}
        for _, part in at_helpers(found).groupby([*PATH, "size_bytes"], sort=False)
    ]
    caption = Markup(
        "{}The price beside the speedup. Neighbours: the 99th percentile of their latency beside the serial "
        "call → "
        "beside the threads, on the CPU of the first helper."
    ).format(study.title)
    listing = markup.table(columns | waits, rows, caption=caption, key=study.key("prices"), text=waits)
    prices = markup.details("The price beside the speedup, path by path", listing)
    return markup.join([finding(found), prices, _all_probes(study)])


ALL_PROBES: dict[str, markup.Cell] = {
    "Path": words.full_label,
    "Neighbour": lambda row: row["neighbour"],
    "CPU": lambda row: "helper" if row["place"] == "helper" else "another",
    "Idle": lambda row: _both(row, IDLE),
    "Serial call": lambda row: _both(row, SERIAL),
    "Threads": lambda row: _both(row, THREADS),
    "Longest": lambda row: units.fmt_time(row["max_threads_s"]),
    "p99 against serial": ratio_text,
    "n": lambda row: int(row["n_threads"]),
}


def _both(row: Row, way: str) -> str:
    median = units.fmt_time(row[f"p50_{way}_s"]) if np.isfinite(row[f"p50_{way}_s"]) else units.NO_VALUE
    return f"{median}, {_waits(row, way)}"


def _all_probes(study: Study) -> Markup:
    """Return all that neighbours found, folded."""
    rows = study.bystanders[study.bystanders["probe"] != CACHE]
    caption = Markup(
        "{}All neighbours: median and 99th percentile of their latency; the longest beside threads; p99 "
        "beside threads "
        "over that beside the serial call [95 % interval over processes]; samples beside threads."
    ).format(study.title)
    listing = markup.table(
        ALL_PROBES, rows, caption=caption, key=study.key("neighbours"), text=["Neighbour", "CPU"]
    )
    return Markup("<details><summary>All that neighbours found</summary>{}</details>").format(listing)


@draw.theme()
def bystander_figure(found: pd.DataFrame, key: str) -> Figure | None:
    """Draw how many times as long each neighbour waits as beside the serial call, a row per path."""
    rows = at_helpers(found)
    data = rows[rows["p99_ratio"].notna()].reset_index(drop=True) if len(rows) else rows
    if data.empty:
        return None
    paths = data["method"].nunique() + data.groupby(PATH).ngroups / 3
    drawn = data.assign(path=words.each(data, words.name_of))
    for end in ("_low", "_high"):  # of one process there is none
        drawn[f"p99_ratio{end}"] = drawn[f"p99_ratio{end}"].fillna(drawn["p99_ratio"])
    drawing, axis = draw.single(draw.FULL_WIDTH_IN, 1.3 + 0.28 * max(paths, drawn["path"].nunique()))
    draw.intervals(axis, drawn, "p99_ratio", "path", "neighbour")
    axis.axvline(1, **draw.DOTTED)
    draw.log_axis(axis, "x", base=10)
    axis.set(xlabel="99th percentile beside threads, over that beside the serial call")
    draw.legend(drawing, [axis])
    caption = Markup(
        "{} A point right of 1: the slowest hundredth of that neighbour's calls takes longer than beside "
        "the serial "
        "call. Bars: {}; up to {} processes per point."
    ).format(_headline(found), levels.INTERVAL_KIND, int(data["processes"].max()))
    return Figure(key, drawing, data, caption, _alt(data))


def _headline(found: pd.DataFrame) -> str:
    row = worst(found)
    if row is None:
        return "No neighbour of a faster path is known to wait longer."
    return f"Longest against serial: {row['neighbour']} beside {words.name_of(row)}, {ratio_text(row)} times."


def _alt(data: pd.DataFrame) -> str:
    parts = words.each(data, lambda row: f"{words.name_of(row)}, {row['neighbour']}: {ratio_text(row)}")
    return (
        f"99th percentile of latencies beside threads over that beside the serial call. {'; '.join(parts)}."
    )


# --- caches --------------------------------------------------------------------------------------------


def cache_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by how many times reading a cached array takes longer than beside nothing, over processes.

    The rows of `ratios_to_idle` of work that clears memory.
    """
    found = ratios_to_idle(rows[rows["probe"] == CACHE])
    found = found[found["workload"] == "zeroing"]  # first: an empty table would take the index of a column
    return sort_cases(found.assign(n=found["processes"], policy=""))


def cache_section(study: Study) -> Markup:
    """Return what clearing does to the cache of a neighbour."""
    found = study.caches
    if found.empty:
        return Markup("")
    columns: dict[str, markup.Cell] = {
        "Path": words.full_label,
        "Stores": lambda row: "of the kernel" if row["backend"] == "kernel" else "of the program",
        "Size": words.size_label,
        "Neighbour's CPU": lambda row: "helper" if row["place"] == "helper" else "another",
        "Beside the serial call": lambda row: _times(row, "beside_serial"),
        "in the 2 ms after": lambda row: _times(row, "after_serial"),
        "Beside the threads": lambda row: _times(row, "beside_threads"),
        "in the 2 ms after them": lambda row: _times(row, "after_threads"),
    }
    caption = Markup(
        "{}{} Times are the CPU time of reads of an array in the second-level cache, over that beside "
        "nothing, in the same process [95 % interval over processes]."
    ).format(study.title, cache_finding(found))
    return markup.table(
        columns, found, caption=caption, key=study.key("caches"), text=["Stores", "Neighbour's CPU"]
    )


def _times(row: Row, name: str) -> str:
    return units.fmt_estimate(as_estimate(row, name), units.RATIO)


def cache_finding(found: pd.DataFrame) -> str:
    """Return which clearing costs a cached neighbour most, with threads and serially."""
    row = found.sort_values("beside_threads").iloc[-1]
    return (
        f"Beside {words.name_of(row)} with {words.count(int(row['threads']), 'thread')}, a neighbour with "
        f"its data in "
        f"the cache takes {_times(row, 'beside_threads')} times as long; beside the serial call "
        f"{_times(row, 'beside_serial')}."
    )
