"""The speedup stack: a bar per path from 0 to N threads, what was reached and then what was lost."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ktask.common import figures as draw
from ktask.common import hover
from ktask.lab.evidence.stack import IDEAL, UNEXPLAINED
from ktask.report import sentences as words
from ktask.report.paths.evidence import KNOWN_PARTS, WORTH_SAYING, behind
from ktask.report.tables import CASE, PATH, case_of

FUNCTIONS = "other functions"
ORDER = (*KNOWN_PARTS, FUNCTIONS, UNEXPLAINED)
COLOURS = {
    IDEAL: draw.FAINT,
    **{part: draw.PALETTE[i % len(draw.PALETTE)] for i, part in enumerate(ORDER[1:-1])},
    UNEXPLAINED: "none",
}
BAR_IN, TEXT_IN, LINE_IN, LEAST_SHOWN = 0.19, 0.18, 0.145, 0.002
NAMED = 2  # losses that are written below a bar
LONGEST = 62  # letters of them
COLUMNS = 3  # of the legend


def stack_data(evidence: pd.DataFrame, workload: str) -> pd.DataFrame:
    """Return a row per part of each path that was looked at: its share of the thread time, and in threads.

    `behind` is the lock or the function that took most of it.
    """
    columns = [*CASE, "threads", "kind", "part", "behind", "share", "in_threads"]
    rows = []
    for _, row in evidence[(evidence["workload"] == workload) & evidence["seen"].notna()].iterrows():
        case = row[[*CASE, "threads"]].to_dict()
        for part, share in row["seen"].stack.items():
            kind = part if part in ORDER else FUNCTIONS
            rows.append(
                case
                | {"kind": kind, "part": part, "behind": behind(part, row["seen"])}
                | {"share": share, "in_threads": share * row["threads"]}
            )
    return pd.DataFrame(rows, columns=columns)


def draw_stacks(axis: Axes, data: pd.DataFrame, places_in: Mapping[tuple[str, ...], float]) -> None:
    """Draw the stack of each path at its place: inches from the top of the axis."""
    most = data["threads"].max()
    for path, rows in data.groupby(PATH, sort=False):
        place = places_in[path]
        _bar(axis, rows, place)
        ends = [place - BAR_IN * 0.7, place + BAR_IN * 0.7]
        axis.plot([rows["threads"].iloc[0]] * 2, ends, **draw.DOTTED | {"linewidth": 1.4})
        axis.plot([0, 0], ends, color=draw.INK, linewidth=0.6)
        axis.text(0, place + TEXT_IN, in_words(rows), fontsize=6.6, va="center")
    left = min(0.0, float(data["in_threads"].min()))
    above = data["in_threads"].clip(lower=0).groupby([data[name] for name in PATH]).sum().max()
    axis.set_xlim(left - 0.01 * most, max(1.04 * most, 1.01 * above))
    axis.set(xlabel="threads: what one takes, then what is lost", yticks=[])
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_position(("outward", 7))
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _bar(axis: Axes, rows: pd.DataFrame, place: float) -> None:
    """Draw the parts of one path after each other; one below 0 to the left of 0."""
    shares = rows.groupby("kind")["in_threads"].sum()
    right = 0.0
    for kind in ORDER:
        width = float(shares.get(kind, 0.0))
        if abs(width) < LEAST_SHOWN * rows["threads"].iloc[0]:
            continue
        look: dict[str, Any] = {"facecolor": COLOURS[kind], "edgecolor": draw.INK, "linewidth": 0.4}
        start = right if width > 0 else 0.0
        (bar,) = axis.barh(place, width, BAR_IN, start, label=kind, **look)
        hover.says(bar, f"{kind}: {words.percent(width / rows['threads'].iloc[0])} of the thread time")
        right += max(width, 0.0)


def legend_lines(data: pd.DataFrame) -> int:
    """Return how many lines the legend has at most; 0 without stacks."""
    return math.ceil(data["kind"].nunique() / COLUMNS)


def legend(drawing: draw.Drawing, axis: Axes, left: float) -> None:
    """Put the legend above, from `left` on, in the order of the parts."""
    handles, labels = axis.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    entries = {kind: known[kind] for kind in ORDER if kind in known}
    look: dict[str, Any] = {"ncols": COLUMNS, "alignment": "left", "handlelength": 1.0, "columnspacing": 1.2}
    look |= {"fontsize": 6.6, "labelspacing": 0.2, "borderaxespad": 0.0}
    drawing.legend(entries.values(), entries.keys(), loc="upper left", bbox_to_anchor=(left, 1), **look)


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the parts of one path that were lost and are worth a word, the largest first.

    A loss that is not larger than what the parts are above the whole is none that was seen.
    """
    least = max(0.005, too_much(rows))
    return rows[(rows["kind"] != IDEAL) & (rows["share"] >= least)].sort_values("share", ascending=False)


def too_much(rows: pd.DataFrame) -> float:
    """Return by which share the parts of one path add up to more than its thread time."""
    return max(0.0, -float(rows.loc[rows["kind"] == UNEXPLAINED, "share"].sum()))


def in_words(rows: pd.DataFrame) -> str:
    """Return the largest losses of one path: "waiting 33 % (mmap_lock in do_mlock), imbalance 8 %"."""
    found = words.each(losses(rows).head(NAMED), _loss)
    text = ", ".join(found)
    if not found:
        over = too_much(rows)
        return f"parts add up to {words.percent(1 + over)}" if over >= WORTH_SAYING else "nothing lost"
    return text if len(text) <= LONGEST else found[0][:LONGEST]


def _loss(row: pd.Series) -> str:
    inside = f" ({row['behind']})" * bool(row["behind"])
    return f"{words.short(row['part'])} {words.percent(row['share'])}{inside}"


def caption(data: pd.DataFrame) -> str:
    """Return which part is the largest loss of all paths."""
    lost = [(losses(rows), case_of(path)) for path, rows in data.groupby(PATH, sort=False)]
    worst = max((one for one in lost if len(one[0])), key=lambda one: one[0]["share"].iloc[0], default=None)
    if not worst:
        return "No path lost thread time."
    first = worst[0].iloc[0]
    part, share = words.short(first["part"]), words.percent(first["share"])
    return f"The largest loss: {part}, {share} of the thread time of {words.path_label(worst[1])}."


def alt(data: pd.DataFrame) -> str:
    """Return every part of every path in words."""
    parts = []
    for path, rows in data.groupby(PATH, sort=False):
        shares = rows[rows["share"].abs() >= LEAST_SHOWN]
        listed = ", ".join(words.each(shares, _loss))
        parts.append(f"{words.path_label(case_of(path))}: {listed}")
    return f"Where the thread time goes. {'; '.join(parts)}."
