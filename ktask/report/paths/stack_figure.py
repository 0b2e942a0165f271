"""The speedup stack: a bar per path from 0 to N threads, what was reached and then what was lost."""

from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.lab.evidence.stack import IDEAL, UNEXPLAINED
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.paths.evidence import KNOWN_PARTS
from ktask.report.tables import CASE, PATH, case_of

FUNCTIONS = "other functions"
ORDER = (*KNOWN_PARTS, FUNCTIONS, UNEXPLAINED)
COLOURS = {
    IDEAL: draw.FAINT,
    **{part: draw.PALETTE[i % len(draw.PALETTE)] for i, part in enumerate(ORDER[1:-1])},
    UNEXPLAINED: "none",
}
BAR_IN, LEAST_SHOWN = 0.3, 0.002
ROOM = 1.3  # of the longest bar: for the name of its largest loss


def stack_data(evidence: pd.DataFrame, workload: str) -> pd.DataFrame:
    """Return a row per part of each path that was looked at: its share of the thread time, and in threads."""
    rows = []
    for _, row in evidence[(evidence["workload"] == workload) & evidence["seen"].notna()].iterrows():
        case = row[[*CASE, "threads"]].to_dict()
        for part, share in row["seen"].stack.items():
            kind = part if part in ORDER else FUNCTIONS
            rows.append(
                case | {"kind": kind, "part": part, "share": share, "in_threads": share * row["threads"]}
            )
    return pd.DataFrame(rows, columns=[*CASE, "threads", "kind", "part", "share", "in_threads"])


@draw.theme()
def stack_figure(evidence: pd.DataFrame, workload: str, key: str) -> Figure | None:
    """Draw the speedup stack of each path of a workload; None if none was looked at."""
    data = stack_data(evidence, workload)
    if data.empty:
        return None
    groups = list(data.groupby(PATH, sort=False))
    drawing, axis = draw.single(draw.FULL_WIDTH_IN, BAR_IN * len(groups) + 1.15)
    for place, (_, part) in enumerate(groups):
        _bar(axis, part, place)
        axis.plot(
            [part["threads"].iloc[0]] * 2, [place - 0.45, place + 0.45], **draw.DOTTED | {"linewidth": 1.4}
        )
    labels = [words.path_label(case_of(path)) for path, _ in groups]
    axis.set_yticks(range(len(groups)), labels)
    axis.tick_params(axis="y", length=0)
    axis.axvline(0, color=draw.INK, linewidth=0.6)
    axis.set(xlabel="threads: first what the serial call takes, then what is lost")
    axis.set_xlim(right=ROOM * axis.get_xlim()[1])
    axis.set_ylim(len(groups) - 0.45, -0.55)
    _legend(drawing, axis)
    return Figure(key, drawing, data, _caption(data), _alt(data, workload))


def _bar(axis: Axes, rows: pd.DataFrame, place: int) -> None:
    """Draw the parts of one path after each other; one below 0 to the left of 0."""
    shares = rows.groupby("kind")["in_threads"].sum()
    right = 0.0
    for kind in ORDER:
        width = float(shares.get(kind, 0.0))
        if abs(width) < LEAST_SHOWN * rows["threads"].iloc[0]:
            continue
        look: dict[str, Any] = {"facecolor": COLOURS[kind], "edgecolor": draw.INK, "linewidth": 0.4}
        start = right if width > 0 else 0.0
        axis.barh(place, width, 0.66, start, label=kind, **look)
        right += max(width, 0.0)
    lost = _lost(rows)
    if len(lost):
        text = f"{words.short(lost.index[0])} {words.percent(lost.iloc[0])}"
        axis.annotate(text, (right, place), (5, 0), textcoords="offset points", va="center", fontsize=7)


def _legend(drawing: draw.Drawing, axis: Axes) -> None:
    """Put one legend above, in the order of the parts."""
    handles, labels = axis.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    entries = {kind: known[kind] for kind in ORDER if kind in known}
    drawing.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper left",
        ncols=4,
        alignment="left",
        handlelength=1.4,
    )


def _lost(rows: pd.DataFrame) -> pd.Series:
    """Return the shares of thread time that were lost, the largest first."""
    lost = rows[(rows["kind"] != IDEAL) & (rows["share"] > 0)]
    return lost.set_index("part")["share"].sort_values(ascending=False)


def _caption(data: pd.DataFrame) -> Markup:
    """Return which part is the largest loss, and how to read the bars."""
    lost = [(_lost(rows), case_of(path)) for path, rows in data.groupby(PATH, sort=False)]
    worst = max((one for one in lost if len(one[0])), key=lambda one: one[0].iloc[0], default=None)
    finding = "No path lost thread time."
    if worst:
        part, share = words.short(worst[0].index[0]), words.percent(worst[0].iloc[0])
        finding = f"The largest loss: {part}, {share} of the thread time of {words.path_label(worst[1])}."
    return Markup(
        "{} A bar is the thread time of one repetition, in threads: first what the serial call takes, then "
        "what is lost; the largest loss stands beside it. Dotted: the number of threads, where the bar ends "
        "unless a part is below 0. Size: {}. From repetitions that were looked at, and not timed."
    ).format(finding, words.sizes_of(data))


def _alt(data: pd.DataFrame, workload: str) -> str:
    """Return every part of every path in words."""
    parts = []
    for path, rows in data.groupby(PATH, sort=False):
        shares = rows[rows["share"].abs() >= LEAST_SHOWN]
        listed = ", ".join(
            words.each(shares, lambda row: f"{words.short(row['part'])} {words.percent(row['share'])}")
        )
        parts.append(f"{words.path_label(case_of(path))}: {listed}")
    return f"Where the thread time goes for {words.workload_label(workload)}. {'; '.join(parts)}."
