"""Near and far memory: the same work with its memory elsewhere, and what the distance costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.measure.stats import Estimate
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.tables import PATH, as_estimate, compared, quotient, sort_cases

if TYPE_CHECKING:
    from ktask.report.study import Study

NUMA_KEY, TABLE_KEY = "numa", "numa-costs"
NODE, PLACEMENT = "node", "placement"  # options that say where memory and threads are
PLACES = {"local": "near", "spread": "interleaved", "split": "a part per node", "remote": "far"}
WORK = [*PATH, "size_bytes", "threads", "baseline"]  # of one piece of work; its memory may lie here or there
CELL = ["cell_id", "threads", "baseline"]

Facts = dict[str, Any]


def parted(options: str) -> tuple[str, str]:
    """Return an options text without what says where memory and threads are, and that in words.

    Examples
    --------
    >>> parted("node=remote,placement=spread,sharing=shared")
    ('sharing=shared', 'far, threads spread')
    """
    known = dict(one.partition("=")[::2] for one in options.split(",") if one)
    node, placement = known.pop(NODE, ""), known.pop(PLACEMENT, "")
    rest = ",".join(f"{name}={value}" for name, value in known.items())
    if not node:
        return options, ""
    place = PLACES.get(node, f"on node {node}")
    return rest, f"{place}, threads {placement}" if placement else place


# --- how much of the memory is far ---------------------------------------------------------------------


def memory_nodes(word: str, home: int, machine: Facts) -> tuple[int, ...]:
    """Return on which nodes the memory of a case lay whose caller ran on node `home`."""
    nodes = {int(node["nid"]): node for node in machine.get("nodes", ())}
    have = [nid for nid, node in nodes.items() if node.get("memory_bytes")]
    if word.isdecimal():
        return (int(word),)
    if word in ("spread", "split"):
        return tuple(have)
    distances = dict(zip(nodes, nodes.get(home, {}).get("distances", ()), strict=False))
    farthest = max(have, key=lambda nid: (distances.get(nid, nid != home), -nid), default=home)
    return {"local": (home,), "remote": (farthest,)}.get(word, ())


def remote_share(threads: Sequence[int], word: str, machine: Facts) -> float:
    """Return the share of the memory that threads reach on another node, the mean over them; NaN if unknown.

    Parameters
    ----------
    threads
        The node of each thread, the caller's first. Every thread is taken to do as much.
    word
        What the option `node` says.
    machine
        The facts, with `nodes`.
    """
    memory = memory_nodes(word, threads[0], machine) if threads else ()
    if not memory or min(threads) < 0:
        return np.nan
    parts = 1 if word == "split" else len(memory)  # of split memory, a thread begins with that of its node
    return float(np.mean([1 - (nid in memory) / parts for nid in threads]))


def shares(rows: pd.DataFrame, machine: Facts) -> pd.Series:
    """Return the remote share by cell, threads and whether it is the serial call: a mean of repetitions."""
    known = rows[rows["options"].str.contains(f"{NODE}=")]
    texts = known.get("nodes", pd.Series("", known.index)).fillna("")
    found = [
        remote_share([int(nid) for nid in text.split(",") if text], _node_of(options), machine)
        for text, options in zip(texts, known["options"], strict=True)
    ]
    return pd.Series(found, known.index, dtype=float).groupby([known[name] for name in CELL]).mean()


def _node_of(options: str) -> str:
    return dict(one.partition("=")[::2] for one in options.split(",")).get(NODE, "")


# --- what it costs -------------------------------------------------------------------------------------


def numa_table(scaling: pd.DataFrame, rows: pd.DataFrame, machine: Facts) -> pd.DataFrame:
    """Return one row per case, place of the memory and thread count, of work measured in several places.

    `options` is without the place, which is `place` in words. `share` is the remote share, and `cost` the
    time over that of the nearest place, at as many threads, with its interval.

    Parameters
    ----------
    scaling, rows
        From `tables.scaling_table` and `tables.repetitions`.
    machine
        The facts of `machine.json`.
    """
    found = compared(scaling[scaling["n"] > 0])
    places = [parted(text) for text in found["options"]]
    found = found.assign(options=[rest for rest, _ in places], place=[place for _, place in places])
    found = found[found["place"] != ""].join(shares(rows, machine).rename("share"), on=CELL)
    works = [_costs(part) for _, part in found.groupby(WORK, sort=False) if part["place"].nunique() > 1]
    columns = [*found.columns, "cost", "cost_low", "cost_high"]
    return sort_cases(pd.concat(works) if works else pd.DataFrame(columns=columns))


def _costs(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one piece of work, the nearest memory first, with their times over its time."""
    order = {place: k / 3 for k, place in enumerate(PLACES.values())}
    rank = part["place"].str.split(",").str[0].map(order).fillna(part["share"])  # of a node by its number
    ordered = part.assign(rank=rank).sort_values(["rank", "share", "place"]).drop(columns="rank")
    near = ordered.iloc[0]
    costs = [quotient(as_estimate(row, "wall"), near) for _, row in ordered.iterrows()]
    costs[0] = Estimate(1.0, 1.0, 1.0, 1.0, int(near["n"]), int(near["processes"]))
    ends = {"cost": "median", "cost_low": "low", "cost_high": "high"}
    return ordered.assign(**{name: [getattr(one, end) for one in costs] for name, end in ends.items()})


# --- on the page ---------------------------------------------------------------------------------------


def _work_label(row: Any) -> str:
    return f"{words.full_label(row)}, {words.size_label(row)}"


COLUMNS: dict[str, markup.Cell] = {
    "Path": words.full_label,
    "Size": words.size_label,
    "Threads": words.threads_label,
    "Memory": "place",
    "Remote share": lambda row: words.percent(row["share"]),
    "Wall": words.wall,
    "Time over near": lambda row: words.value(row, "cost"),
}


def section(study: Study) -> Markup:
    """Return the table of what far memory costs, nothing where it was not measured."""
    found = study.numa
    if found.empty:
        return Markup("")
    caption = Markup(
        "{}Near and far memory. Remote share: of its memory that a thread reaches on another node. Time over "
        "near: over that of the nearest place, with as many threads [95 % interval]."
    ).format(study.title)
    listing = markup.table(COLUMNS, found, caption=caption, key=study.key(TABLE_KEY), text=["Memory"])
    return markup.details("All times by place of the memory", listing)


def finding(found: pd.DataFrame) -> str:
    """Return what far memory costs one thread and several, at worst over all work."""
    parts = []
    for name, rows in (("one thread", found[found["baseline"]]), ("", found[found["threads"] > 1])):
        if rows.empty or not (rows["cost"] != 1).any():
            continue
        worst = rows.loc[rows["cost"].idxmax()]
        far = f", {words.percent(worst['share'])} of it remote," if np.isfinite(worst["share"]) else ""
        who = name or words.count(int(worst["threads"]), "thread")
        parts.append(
            f"up to {words.value(worst, 'cost')} times as long with {who} "
            f"({_work_label(worst)}, memory {worst['place']}{far} {words.wall(worst)})"
        )
    return f"The same work takes {'; '.join(parts)}." if parts else "No distance costs time."


@draw.theme()
def numa_figure(found: pd.DataFrame, key: str) -> Figure | None:
    """Draw the time over that of near memory, one panel per piece of work, one curve per place."""
    if found.empty:
        return None
    names = [f"{name}{end}" for name in ("cost", "wall", "bandwidth") for end in ("", "_low", "_high")]
    data = found[[*WORK, "place", "share", "processes", "n", *names]].reset_index(drop=True)
    order = list(dict.fromkeys(data.sort_values("share", na_position="last")["place"]))
    groups = list(data.groupby([*PATH, "size_bytes"], sort=False))
    drawing, axes = draw.panels(len(groups), sharex=True, sharey=True)
    for axis, (_, part) in zip(axes, groups, strict=True):
        draw.curves(axis, part, "threads", "cost", "place", order=order)
        draw.set_title(axis, f"{words.path_label(part.iloc[0])}, {words.size_label(part.iloc[0])}")
    draw.label_left(axes, "time over near")
    draw.thread_axis(axes, data["threads"], slope=False)
    axes[0].set_ylim(bottom=0)
    draw.legend(drawing, axes, "memory")
    caption = Markup(
        "{} Each curve is a place of the memory, seen from the threads; its time is over that of the nearest "
        "place with as many threads. {}"
    ).format(finding(found), words.interval_note(data))
    return Figure(key, drawing, data, caption, _alt(data))


def _alt(data: pd.DataFrame) -> str:
    parts = [
        f"{_work_label(row)}, {words.threads_label(row)}, memory {row['place']}: "
        f"{units.fmt_number(row['cost'])} ({units.fmt_rate(row['bandwidth'], 'byte')})"
        for _, row in data.iterrows()
    ]
    return f"Time over that of near memory, against threads. {'; '.join(parts)}."
