"""The headline: every kernel path at its best number of threads, with what it costs, and the figure of that.

The table comes first; the figure draws it and works nothing out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.costs import neighbours
from ktask.report.figure import Figure
from ktask.report.tables import PATH, at_best, at_largest_size

if TYPE_CHECKING:
    from ktask.report.study import Study

KEY = "headline"
MOST_ROWS = 24  # of the figure; of more paths, the top and the bottom are drawn
LEAST_COST = 1.25  # times the CPU time of the serial call: from here on a path counts as paid with CPU time
ENDS = ("", "_low", "_high")
KEPT = (
    *(*PATH, "size_bytes", "threads", "verdict", "above_threads", "processes", "n"),
    *(f"{name}{end}" for name in ("speedup", "base_wall", "cpu_cost", "vs_best") for end in ENDS),
)
PRICE = ("neighbour", "longer", "price_size_bytes", *(f"p99_ratio{end}" for end in ENDS))
LOOKS = {  # of each verdict: colour and mark
    "faster": (draw.PALETTE[2], "^"),
    "same": (draw.PALETTE[7], "s"),
    "undecided": (draw.PALETTE[7], "X"),
    "slower": (draw.PALETTE[3], "v"),
}

# --- table ----------------------------------------------------------------------------------------------


def headline_table(study: Study) -> pd.DataFrame:
    """Return one row per kernel path at its best number of threads and largest size, the fastest first.

    `ideal` is the number of threads. `neighbour` is the probe whose slowest hundredth grows most, by the
    lower end of its interval: of those known to wait longer, else of the undecided, else of all. `p99_ratio`
    (with ends) is by how many times, `longer` the verdict on that, and `price_size_bytes` the size beside
    which it probed. They are empty where no neighbour probed the path.
    """
    best = study.best
    kernel = best[(best["backend"] == "kernel") & best["speedup"].notna()]
    names = [*PATH[:-1], "threads"]
    table = kernel[[*KEPT]].assign(ideal=kernel["threads"].astype(float))
    table = table.merge(_prices(study.bystanders), on=names, how="left")
    # Neighbours probe one policy of a path, and do not say which.
    table.loc[table.duplicated(names, keep=False), [*PRICE]] = np.nan
    return table.sort_values("speedup", ascending=False, kind="stable", ignore_index=True)


def _prices(found: pd.DataFrame) -> pd.DataFrame:
    """Return the neighbour of each path and number of threads that waits longest, at the largest size."""
    names = [*PATH[:-1], "threads"]
    if found.empty:
        return pd.DataFrame(columns=[*names, *PRICE])
    rows = neighbours.at_helpers(found)
    rows = at_largest_size(rows[rows["p99_ratio"].notna()])
    rank = rows["longer"].map({"longer": 2, "undecided": 1}).fillna(0)
    rows = rows.assign(
        price_size_bytes=rows["size_bytes"], rank=rank, least=rows["p99_ratio_low"].fillna(0.0)
    )
    return rows.sort_values(["rank", "least"]).drop_duplicates(names, keep="last")[[*names, *PRICE]]


def user_reference(scaling: pd.DataFrame) -> pd.Series | None:
    """Return the fastest user-space stores at their best number of threads: what memory allows here."""
    best = at_best(scaling)
    user = best[(best["backend"] == "user") & best["speedup"].notna()]
    return None if user.empty else user.sort_values("bandwidth").iloc[-1]


SMALLER = "‡"  # at a neighbour's p99: beside less work than that of the row


def _price(row: words.Row) -> str:
    """Return a neighbour's p99 ratio, in parentheses if undecided, marked if beside less work."""
    if not np.isfinite(row["p99_ratio"]):
        return ""
    text = units.fmt_number(row["p99_ratio"], 2) + SMALLER * bool(row["price_size_bytes"] < row["size_bytes"])
    return f"({text})" if row["longer"] == "undecided" else text


def smaller_note(table: pd.DataFrame) -> str:
    """Return what the mark of a smaller size means, empty if no row has it."""
    smaller = table["price_size_bytes"] < table["size_bytes"]
    sizes = units.fmt_size(int(table.loc[smaller, "price_size_bytes"].max())) if smaller.any() else ""
    return f" {SMALLER} probed beside less work, at most {sizes}." if sizes else ""


MARKS = {"faster": "▲", "same": "■", "undecided": "✕", "slower": "▼"}
AS_TABLE: dict[str, markup.Cell] = {
    "Path": words.full_label,
    "Speedup": lambda row: f"{MARKS[row['verdict']]} {words.speedup(row)}",
    "CPU": lambda row: units.fmt_number(row["cpu_cost"]),
    "p99": lambda row: _price(row) or units.NO_VALUE,
}


def as_table(table: pd.DataFrame, key: str) -> Markup:
    """Return the rows of the figure as a table, for screens on which the figure would be too small."""
    if table.empty:
        return Markup("")
    known = {
        name: cell for name, cell in AS_TABLE.items() if name != "p99" or table["p99_ratio"].notna().any()
    }
    caption = (
        "▲ faster, ▼ slower, ■ as fast, ✕ undecided; in brackets 95 % intervals. CPU time and a neighbour's "
        f"p99: over that of the serial call.{smaller_note(table)}"
    )
    return markup.table(known, _top_and_bottom(table), caption=caption, key=key)


COLUMNS_SHARE, USUAL_NAME = 1.5, 31  # of the columns beside the figure, for names of so many characters


# --- figure ---------------------------------------------------------------------------------------------


@draw.theme()
def headline_figure(study: Study, key: str) -> Figure | None:
    """Draw the headline table as rows: speedup with interval and ideal, CPU time and a neighbour's p99."""
    table = study.headline
    if table.empty:
        return None
    drawn = _top_and_bottom(table)
    drawn = drawn.assign(row=_labels(drawn))
    drawing = draw.Drawing(figsize=(draw.FULL_WIDTH_IN, 1.05 + 0.185 * len(drawn)), layout="constrained")
    share = COLUMNS_SHARE * max(1.0, drawn["row"].str.len().max() / USUAL_NAME)  # longer names leave less
    axis, beside = drawing.subplots(1, 2, width_ratios=(4, share), sharey=True)
    _points(axis, drawn)
    reference = user_reference(study.scaling)
    if reference is not None:
        label = f"{reference['method']} in user space"
        axis.axvline(reference["speedup"], label=label, **draw.DOTTED | {"linestyle": "-."})
    _write_columns(beside, drawn)
    draw.legend(drawing, [axis])
    return Figure(key, drawing, table, _caption(table, len(drawn), reference), _alt(table))


def _top_and_bottom(table: pd.DataFrame) -> pd.DataFrame:
    half = MOST_ROWS // 2
    return table if len(table) <= MOST_ROWS else pd.concat([table.head(half), table.tail(half)])


def _labels(rows: pd.DataFrame) -> list[str]:
    """Return the name of each row, with its threads where they differ."""
    alike = rows["threads"].nunique() == 1
    names = words.each(rows, lambda row: f"{words.workload_label(row['workload'])}: {words.path_label(row)}")
    return names if alike else [f"{name} ×{n}" for name, n in zip(names, rows["threads"], strict=True)]


def _points(axis: Axes, drawn: pd.DataFrame) -> None:
    """Draw each row's speedup with its interval, verdict by colour and mark, and its ideal."""
    present = [verdict for verdict in LOOKS if (drawn["verdict"] == verdict).any()]
    look: dict[str, Any] = {
        "palette": {verdict: LOOKS[verdict][0] for verdict in present},
        "markers": [LOOKS[verdict][1] for verdict in present],
        "hue_order": present,
        "order": drawn["row"].tolist(),
        "dodge": False,
        "markersize": 5.5,
    }
    places = range(len(drawn))
    axis.plot(drawn["ideal"], places, "|", color=draw.INK, markersize=9, label="ideal", zorder=3)
    filled = drawn.assign(
        **{f"speedup{end}": drawn[f"speedup{end}"].fillna(drawn["speedup"]) for end in ENDS}
    )
    draw.intervals(axis, filled, "speedup", "row", "verdict", **look)
    axis.axvline(1, **draw.DOTTED)
    axis.set(xlabel="speedup over the serial call", ylim=(len(drawn) - 0.4, -0.6))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    if drawn["threads"].max() > draw.MANY_THREADS:
        draw.log_axis(axis, "x")
    else:
        axis.set_xlim(left=0)


def _columns(drawn: pd.DataFrame) -> list[tuple[float, str, list[tuple[str, bool]]]]:
    """Return what stands beside the rows: place, title, and for each row its text and whether it is much."""
    speedups = [(units.fmt_number(one), False) for one in drawn["speedup"]]
    first = [(0.22, "speedup", speedups), (0.48, "CPU\ntime", _costs(drawn))]
    if drawn["p99_ratio"].isna().all():
        return first
    return [*first, (1.0, "neighbour's\np99", _waits(drawn))]


def _write_columns(axis: Axes, drawn: pd.DataFrame) -> None:
    """Write speedup, CPU-time ratio and a neighbour's p99 at the height of the rows."""
    axis.set_axis_off()
    look: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "right"}
    for x, title, texts in _columns(drawn):
        axis.text(x, -0.7, title, va="bottom", fontsize=7, **look)
        for place, (text, is_much) in enumerate(texts):
            colour = LOOKS["slower"][0] if is_much else draw.INK
            axis.text(x, place, text, va="center", color=colour, fontsize=7.5, **look)


def _costs(rows: pd.DataFrame) -> list[tuple[str, bool]]:
    """Return the CPU-time ratio of each row as text, and whether it is much; blank where it is not known."""
    return [
        (units.fmt_number(cost), low > LEAST_COST) if np.isfinite(cost) else ("", False)
        for cost, low in zip(rows["cpu_cost"], rows["cpu_cost_low"], strict=True)
    ]


def _waits(rows: pd.DataFrame) -> list[tuple[str, bool]]:
    """Return a neighbour's p99 ratio as text, in parentheses if undecided, and whether it is longer."""
    return [(_price(row), row["longer"] == "longer") for _, row in rows.iterrows()]


def _caption(table: pd.DataFrame, shown: int, reference: pd.Series | None) -> Markup:
    """Return the finding and how to read the rows."""
    half = shown // 2
    rest = f" The {half} fastest and the {half} slowest; the others are in appendix B." * (shown < len(table))
    stores = f" Dash-dotted: {reference['method']}, which is no kernel path." if reference is not None else ""
    return Markup("{}{} Each path at its best number of threads and largest size ({}).{} {}").format(
        *(finding(table), rest, words.sizes_of(table), stores), words.interval_note(table)
    ) + _columns_note(table)


def _columns_note(table: pd.DataFrame) -> str:
    """Return what the columns beside the figure are."""
    columns = "CPU time and a neighbour's p99" if table["p99_ratio"].notna().any() else "CPU time"
    open_ = "; in parentheses: undecided" if (table["longer"] == "undecided").any() else ""
    return f" {columns}: over that of the serial call{open_}; blank: not measured.{smaller_note(table)}"


def finding(table: pd.DataFrame) -> str:
    """Return how many kernel paths are faster, slower, the same and undecided."""
    text = words.tally(table, "kernel ")
    return f"With {words.thread_range(table['threads'])}, {text}."


def _alt(table: pd.DataFrame) -> str:
    parts = words.each(table, lambda row: f"{words.name_of(row)} {words.speedup(row)}, {row['verdict']}")
    return f"Speedup of every kernel path at its best number of threads. {'; '.join(parts)}."
