"""A busy machine: what a task and the load beside it take from each other, by how its helpers are run.

Beside it stands the only such table that was published: 8 CPUs, 2018-11-07.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.measure import levels
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run
from ktask.models import published
from ktask.models.simulation import busy as simulated
from ktask.models.simulation.calibrate import calibrate
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.costs import conditioned
from ktask.report.costs.conditioned import WORK, columns, is_known, over
from ktask.report.figure import Figure
from ktask.workloads.conditions import NO_LOAD, NO_QUOTA

BUSY_KEY, TABLE_KEY = "busy", "busy-machine"
LOADS = {NO_LOAD: "idle", "spin:half": "half loaded", "spin:all": "fully loaded"}
ALONE, HANDED, KEPT, EQUAL = "one thread", "nice 19, handed over", "nice 19, kept", "the caller's priority"
WAYS = {"19": HANDED, "19:no-hand-over": KEPT, "0": EQUAL}
HELPERS = {  # in a sentence
    HANDED: "that get the caller's priority once it waits for them",
    KEPT: "that keep nice 19",
    EQUAL: "at the caller's priority",
}
PUBLISHED = "8 CPUs, 2018-11-07"
HERE = "this machine"
NEAR = 0.05  # of the time of one idle thread: a difference in the loss of the load that is none
GOOD = 0.15  # of the measured time, that the simulator may be off


@conditioned.once_per_run
def busy_table(run: Run) -> pd.DataFrame:
    """Return one row per case, way to run helpers, load and thread count, of work measured beside load.

    `way` is one of `WAYS`, or `ALONE` for the serial call. Beside the columns of `condition_table`:

    * `relative`: the time over that of the serial call on the idle machine;
    * `taken`: what the load lost, in the same unit: share of its rate times `relative`.
    """
    found = conditioned.condition_table(run)
    found = found[(found["quota"] == NO_QUOTA) & found["nice"].isin(WAYS) & found["load"].isin(LOADS)]
    parts = []
    for _, part in found.groupby([*WORK, "nice"], sort=False):
        idle = part[part["baseline"] & (part["load"] == NO_LOAD)]
        if part["load"].nunique() > 1 and len(idle):
            parts += [_relative(row, idle.iloc[0]) for _, row in part.iterrows()]
    names = [*found.columns, "way", *columns("relative", _ONE), *columns("taken", _ONE)]
    return pd.DataFrame(parts, columns=names).reset_index(drop=True)


_ONE = levels.NOTHING


def _relative(row: pd.Series, idle: pd.Series) -> pd.Series:
    """Return a row with its time, and what the load lost, over the time of the idle serial call."""
    relative = over(row, idle)
    lost = Estimate(row["lost"], row["lost_low"], row["lost_high"], np.nan, int(row["n"]))
    taken = columns("taken", _product(lost, relative))
    way = ALONE if row["baseline"] else WAYS[row["nice"]]
    return pd.concat([row, pd.Series({"way": way, **columns("relative", relative), **taken})])


def _product(one: Estimate, other: Estimate) -> Estimate:
    """Return the product of two estimates: their relative distances to an end add up as squares."""
    middle = one.median * other.median

    def end(name: str) -> float:
        parts = (
            (getattr(one, name) - one.median) * other.median,
            (getattr(other, name) - other.median) * one.median,
        )
        return float(np.hypot(*parts))

    return one._replace(median=middle, low=middle - end("low"), high=middle + end("high"))


def with_simulated(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Return the table with `simulated_s`, from the cells of the run without a condition, and `error`.

    Both are NaN where the simulator could not be calibrated or does not know the work.
    """
    try:
        machine = calibrate(run)
        found = [simulated.wall_s(machine, _way(row)) for _, row in table.iterrows()]
    except ValueError:
        found = [np.nan] * len(table)
    return table.assign(simulated_s=found, error=np.array(found, float) / table["wall"].to_numpy(float) - 1)


def _way(row: pd.Series) -> simulated.Busy:
    work = "-".join(filter(None, (row[name] for name in ("workload", "method", "page_kind", "options"))))
    sizes = int(row["size_bytes"]), int(row["min_chunk_size"])
    return simulated.Busy(work, *sizes, row["policy"], int(row["threads"]), row["load"], row["nice"])


def published_table() -> pd.DataFrame:
    """Return the published table in these columns: load, way, threads, relative, taken; no intervals."""
    rows = published.read_file("ktask_priority_contention")
    rows = rows[rows["source_date"] == "2018-11-07"].assign(
        time=lambda table: pd.to_numeric(table["time_s"]),
        threads=lambda table: pd.to_numeric(table["kernel_threads"]),
        load=lambda table: table["competitor_threads"].map(dict(zip("048", LOADS, strict=True))),
    )
    is_load = rows["workload_measured"].str.startswith("usemem")
    alone = rows[is_load & rows["threads"].isna()].set_index("load")["time"]
    task, beside = rows[~is_load], rows[is_load & rows["threads"].notna()]
    keys = ["load", "threads", "renice"]
    found = task.merge(beside[[*keys, "time"]].rename(columns={"time": "load_s"}), on=keys, how="left")
    way = {"n/a": ALONE, "yes": HANDED, "no": KEPT}
    unit_s = float(found.loc[(found["threads"] == 1) & (found["load"] == NO_LOAD), "time"].iloc[0])
    return pd.DataFrame(
        {
            **{
                "load": found["load"],
                "way": found["renice"].map(way),
                "threads": found["threads"].astype(int),
            },
            "relative": found["time"] / unit_s,
            "taken": (found["load_s"] - found["load"].map(alone)) / unit_s,
        }
    )


# --- what the published table shows, and whether it is so here -------------------------------------------


class Point(NamedTuple):
    """A property of the published table, and whether this machine has it; None where that is undecided."""

    text: str
    holds: bool | None


def shape(part: pd.DataFrame) -> list[Point]:
    """Return the properties of the published table for one piece of work; those not measured are left out."""
    part = part[part["baseline"] | (part["threads"] == part["threads"].max())]
    at = {(row["load"], row["way"]): row for _, row in part.drop_duplicates(["load", "way"]).iterrows()}
    found = []
    for load, words_of_load in LOADS.items():
        name = f"on the {words_of_load} machine"
        pair = at.get((load, ALONE)), at.get((load, HANDED))
        found.append((f"helpers at nice 19 make the task faster {name}", _faster(*pair)))
        if load != NO_LOAD:
            found.append((f"{name}, they take no more from the load than one thread", _no_more(*pair)))
    full = [at.get(("spin:all", way)) for way in (KEPT, HANDED)]
    found.append(("on the fully loaded machine, handing the priority over makes it faster", _faster(*full)))
    measured = [(text, known) for text, known in found if known != "not measured"]
    return [Point(text, {"yes": True, "no": False}.get(known)) for text, known in measured]


def _faster(base: pd.Series | None, new: pd.Series | None) -> str:
    if base is None or new is None:
        return "not measured"
    return {"faster": "yes", "slower": "no", "same": "no"}.get(levels.verdict(over(base, new)), "undecided")


def _no_more(alone: pd.Series | None, several: pd.Series | None) -> str:
    if alone is None or several is None or not is_known(alone["taken"], several["taken"]):
        return "not measured"
    if min(alone["processes"], several["processes"]) < 2:
        return "undecided"
    if several["taken_high"] < alone["taken_low"] + NEAR or several["taken_high"] < alone["taken"]:
        return "yes"
    return "no" if several["taken_low"] > alone["taken_high"] else "undecided"


def shape_sentence(part: pd.DataFrame) -> str:
    """Return which properties of the published table this machine shows; empty without any measured."""
    points = shape(part)
    if not points:
        return ""
    groups = {name: [one.text for one in points if one.holds is known] for name, known in _HOLDS.items()}
    shown = f"Of {len(points)} properties of the table of 2018-11-07, this machine shows {len(groups['yes'])}"
    said = [f"{name}: {'; '.join(texts)}" for name, texts in groups.items() if texts and name != "yes"]
    return f"{shown}. {' '.join(f'{one}.' for one in said)}".strip()


_HOLDS = {"yes": True, "Not so here": False, "Undecided": None}


# --- on the page -----------------------------------------------------------------------------------------


def finding(part: pd.DataFrame) -> str:
    """Return what helpers are worth on the idle and on the fully loaded machine, for one piece of work."""
    most = int(part["threads"].max())
    rows = part[part["baseline"] | (part["threads"] == most)].drop_duplicates(["load", "way"])
    idle = rows[(rows["load"] == NO_LOAD) & ~rows["baseline"]].head(1)
    full = rows[rows["load"] == "spin:all"]
    said = [f"On the idle machine, {_takes(row)} of the time of one." for _, row in idle.iterrows()]
    busy = [_takes(row) for _, row in full.sort_values("baseline", ascending=False, kind="stable").iterrows()]
    busy[:1] = [f"With load on every CPU, {one}" for one in busy[:1]]
    return " ".join([*said, *(f"{one}." for one in busy)])


def _takes(row: pd.Series) -> str:
    if row["baseline"]:
        return f"one thread takes {words.value(row, 'relative')}"
    how = "" if row["load"] == NO_LOAD else f" with helpers {HELPERS[row['way']]}"
    return f"{words.count(int(row['threads']), 'thread')} take {words.value(row, 'relative')}{how}"


def simulated_sentence(table: pd.DataFrame) -> str:
    """Return how far the simulator is off, calibrated without load; empty where it says nothing."""
    known = table[table["error"].notna()] if "error" in table else table.head(0)
    if known.empty:
        return ""
    good, worst = int((known["error"].abs() <= GOOD).sum()), known.loc[known["error"].abs().idxmax()]
    share = f"{good} of {len(known)} rows"
    head = f"The simulator, calibrated without load, is within {words.percent(GOOD)} in {share}"
    if good == len(known):
        return f"{head}."
    where = f"{worst['way']}, {LOADS[worst['load']]}"
    return f"{head}; farthest off, by {words.percent(worst['error'])}, is {where} ({worst['policy']})."


def _taken(row: pd.Series) -> str:
    return words.value(row, "taken", units.PERCENT) if is_known(row["taken"]) else "–"


def _simulated(row: pd.Series) -> str:
    if not is_known(row.get("simulated_s", np.nan)):
        return "–"
    return f"{units.fmt_time(row['simulated_s'])} ({row['error']:+.0%})"


COLUMNS: dict[str, markup.Cell] = {
    "Work": lambda row: f"{row['workload']} {row['method']} ({words.kind_label(row['page_kind'])})",
    "Policy": "policy",
    "Machine": lambda row: LOADS[row["load"]],
    "Helpers": "way",
    "Threads": words.threads_label,
    "Wall": lambda row: units.fmt_time(row["wall"]),
    "Over one idle thread": lambda row: words.value(row, "relative"),
    "Lost by the load": _taken,
    "Simulated": _simulated,
}


def section(run: Run, key: str = TABLE_KEY) -> Markup:
    """Return findings and table of the busy machine; nothing where none was measured."""
    table = with_simulated(busy_table(run), run)
    if table.empty:
        return Markup("")
    first = _first_work(table)
    caption = (
        "Beside spinning load. Lost by the load: what it did less than alone while the task ran, as time "
        "over that of one thread on the idle machine [95 % interval over processes]."
    )
    said = [finding(first), shape_sentence(first), simulated_sentence(table)]
    text = ["Policy", "Machine", "Helpers"]
    listing = markup.table(COLUMNS, _in_order(table), caption=caption, key=key, text=text)
    folded = markup.details("All that was measured beside load", listing)
    return markup.join([markup.paragraph(*filter(None, said)), folded])


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by work, load and way; serial calls that were measured again with each way, once."""
    rank = {name: k for k, name in enumerate([*LOADS, ALONE, *WAYS.values()])}
    keys = table.assign(a=table["load"].map(rank), b=table["way"].map(rank))
    ordered = keys.sort_values([*WORK, "a", "b", "threads"], kind="stable").drop(columns=["a", "b"])
    return ordered.drop_duplicates([*WORK, "load", "way", "threads"])


def _first_work(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the piece of work that has most of them, the serial calls once."""
    parts = [part for _, part in table.groupby(WORK, sort=False)]
    return _in_order(max(parts, key=len))


@draw.theme()
def busy_figure(run: Run, key: str = BUSY_KEY) -> Figure | None:
    """Draw time of the task and loss of the load by load, here and in the published table."""
    table = busy_table(run)
    if table.empty:
        return None
    here = _first_work(table)
    here = here[here["baseline"] | (here["threads"] == here["threads"].max())].assign(where=HERE)
    names = ["where", "load", "way", "threads", "relative", "taken"]
    ends = [f"{name}{end}" for name in ("relative", "taken") for end in ("_low", "_high")]
    data = pd.concat([here[[*names, *ends, "n", "processes"]], _without_ends(published_table())])
    data = data.assign(machine=data["load"].map(LOADS)).reset_index(drop=True)
    drawing, axes = draw.panels(4, most=2)
    order = [ALONE, *WAYS.values()]
    for k, (name, where) in enumerate((n, w) for n in ("relative", "taken") for w in (HERE, PUBLISHED)):
        part = data[(data["where"] == where) & data[name].notna()]
        if len(part):
            draw.curves(axes[k], part, "machine", name, "way", order=order)
        draw.set_title(axes[k], f"{'task' if name == 'relative' else 'load'}, {where}")
        axes[k].set_ylim(bottom=0)
        axes[k].set_xlabel("")
    draw.label_left(axes, "over one idle thread", most=2)
    draw.legend(drawing, axes, "helpers")
    caption = Markup(
        "A busy machine: above, the time of the task; below, what the load lost meanwhile. Right, the table "
        "of 2018-11-07. {}"
    ).format(words.interval_note(here))
    return Figure(key, drawing, data, caption, _alt(data))


def _without_ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return published rows with intervals of no width: none were given."""
    same = {f"{name}{end}": table[name] for name in ("relative", "taken") for end in ("_low", "_high")}
    return table.assign(where=PUBLISHED, n=1, processes=1, **same)


def _alt(data: pd.DataFrame) -> str:
    parts = [
        f"{row['where']}, {row['machine']}, {row['way']}: {units.fmt_number(row['relative'])}"
        for _, row in data.iterrows()
    ]
    return f"Time of the task over that of one thread on the idle machine. {'; '.join(parts)}."


def answers(run: Run) -> Sequence[str]:
    """Return the sentences that answer the reviewers' questions on busy machines and priorities."""
    table = busy_table(run)
    if table.empty:
        return ()
    first = _first_work(table)
    return tuple(filter(None, (finding(first), shape_sentence(first))))
