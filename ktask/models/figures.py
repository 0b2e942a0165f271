"""Tables and figures of published curves, predictions and the simulator; a figure draws one table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common.units import fmt_time
from ktask.models.scaling.predict import Predicted
from ktask.models.scaling.table import Curve
from ktask.models.simulation.what_if import HELPERS, LAYOUTS

COLUMNS = 3
PANEL_IN = 2.9


def label_of(group: dict[str, object], names: Iterable[str]) -> str:
    """Return what tells a curve from others, in short."""
    texts = [
        f"{group[name]} GiB" if name == "size_gib" else f"{group[name]}" for name in names if group.get(name)
    ]
    return ", ".join(_short(text) for text in texts)


def _short(text: str, most: int = 40) -> str:
    """Return a name without what every name of its kind has, cut to a length."""
    for everywhere in ("Intel(R) Xeon(R) ", "CPU "):
        text = text.replace(everywhere, "")
    text = text.split(" @")[0].split(" (")[0]
    return text if len(text) <= most else text[: most - 1].rstrip(" ,(") + "…"


def _panels(count: int, height_in: float = 2.3, **shared) -> tuple[draw.Drawing, list[Axes]]:
    return draw.panels(count, height_in, COLUMNS, PANEL_IN * min(count, COLUMNS), **shared)


def _title(axis: Axes, text: str) -> None:
    axis.set_title("\n".join(textwrap.wrap(text, 40)[:2]), fontsize=7.5)


# --- published curves ------------------------------------------------------------------------------------


def speedup_table(curves: Iterable[Curve], names: Iterable[str] = ("machine", "size_gib")) -> pd.DataFrame:
    """Return the speedup of each curve against its fewest threads times their number: `curve`, `threads`."""
    names = tuple(names)
    parts = [
        pd.DataFrame(
            {
                "workload": curve.group.get("workload", ""),
                "curve": label_of(dict(curve.group), names),
                "threads": curve.threads,
                "time_s": curve.time_s,
                "speedup": curve.threads[0] * curve.time_s[0] / curve.time_s,
            }
        )
        for curve in curves
        if len(curve.threads) > 1
    ]
    return pd.concat(parts, ignore_index=True)


@draw.theme()
def speedups(table: pd.DataFrame) -> draw.Drawing:
    """Draw one panel per workload, one line per curve, and the ideal."""
    groups = list(table.groupby("workload", sort=False))
    drawing, axes = _panels(len(groups), 3.2)
    for axis, (workload, rows) in zip(axes, groups, strict=True):
        draw.ideal(axis, rows["threads"])
        look = draw.looks(list(dict.fromkeys(rows["curve"]))) | {"markersize": 3, "linewidth": 1}
        sns.lineplot(
            rows, x="threads", y="speedup", hue="curve", style="curve", estimator=None, ax=axis, **look
        )
        draw.thread_axis([axis], rows["threads"], log=True)
        _title(axis, workload)
        axis.legend(fontsize=5.5, loc="upper center", bbox_to_anchor=(0.45, -0.22))
    draw.label_left(axes, "speedup", COLUMNS)
    return drawing


# --- predictions --------------------------------------------------------------------------------------------


def prediction_table(predicted: Iterable[Predicted], names: Iterable[str]) -> pd.DataFrame:
    """Return measured and predicted times, one row per curve and thread count.

    `use` is "fit" for times that were fitted on, "test" for those that were predicted; `covered` says
    whether a measured time lies in its interval; `beyond`, whether it is more than twice the measured range.
    """
    names = tuple(names)
    rows = []
    for one in predicted:
        if one.reason is not None:
            continue
        curve, label = one.curve, label_of(dict(one.curve.group), names)
        largest = max(one.fit_threads, default=0)
        known = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
        rows += [(label, n, "fit", known[n], np.nan, np.nan, np.nan, True, False) for n in one.fit_threads]
        rows += [
            (label, p.threads, "test", known.get(p.threads, np.nan), p.time_s, p.low_s, p.high_s, p.covered,
             bool(largest) and p.threads > 2 * largest)
            for p in one.predictions
        ]  # fmt: skip
    columns = ["curve", "threads", "use", "measured_s", "time_s", "low_s", "high_s", "covered", "beyond"]
    return pd.DataFrame(rows, columns=columns)


@draw.theme()
def predictions(table: pd.DataFrame) -> draw.Drawing:
    """Draw one panel per curve: times that were fitted on, those tested, the prediction with its interval.

    A hatched ground begins where the prediction is beyond twice the measured range.
    """
    groups = list(
        table.assign(use=table["use"].map({"fit": "fitted on", "test": "test"})).groupby("curve", sort=False)
    )
    drawing, axes = _panels(len(groups))
    colours, marks = {"fitted on": draw.INK, "test": draw.PALETTE[1]}, {"fitted on": "o", "test": "s"}
    for axis, (curve, rows) in zip(axes, groups, strict=True):
        tested, known = rows[rows["use"] == "test"], rows[rows["measured_s"].notna()]
        draw.curves(
            axis, tested, "threads", "time_s", ends=("low_s", "high_s"), band=True, label="predicted, 90 %"
        )
        look = {"palette": colours, "markers": marks, "s": 18, "linewidth": 0, "zorder": 3}
        sns.scatterplot(known, x="threads", y="measured_s", hue="use", style="use", ax=axis, **look)
        if rows["beyond"].any():
            start = rows.loc[rows["beyond"], "threads"].min() / math.sqrt(2)
            end = rows["threads"].max() * 1.1
            axis.axvspan(start, end, facecolor="none", edgecolor=draw.FAINT, hatch="///", zorder=0)
        draw.thread_axis([axis], rows["threads"], log=True)
        draw.log_axis(axis, "y", text=fmt_time)
        _title(axis, curve)
    draw.label_left(axes, "time", COLUMNS)
    draw.legend(drawing, axes)
    return drawing


def forecasts(table: pd.DataFrame, names: Iterable[str]) -> draw.Drawing:
    """Draw a table of `forecast.forecast`: per case the measured points, the law and its interval."""
    names = tuple(names)
    drawn = table.assign(curve=[label_of(row, names) for row in table.to_dict("records")])
    measured = drawn[drawn["measured_s"].notna()]
    return predictions(pd.concat([drawn.assign(use="test", measured_s=np.nan), measured.assign(use="fit")]))


@draw.theme()
def residuals(table: pd.DataFrame) -> draw.Drawing:
    """Draw a table of `explain.residuals`: the error of each law per thread count, fitted and left out."""
    names = {"residual_pct": "fitted", "held_out_pct": "left out"}
    rows = table.rename(columns=names).melt(["law", "threads"], [*names.values()], "kind", "percent")
    groups = list(rows.groupby("law", sort=False))
    drawing, axes = _panels(len(groups), sharey=True)
    for axis, (law, part) in zip(axes, groups, strict=True):
        axis.axhline(0, **draw.DOTTED)
        look = draw.looks([*names.values()]) | {"errorbar": None}
        sns.lineplot(part, x="threads", y="percent", hue="kind", style="kind", ax=axis, **look)
        draw.log_axis(axis, "x", part["threads"])
        axis.set(xlabel="threads", title=law)
    draw.label_left(axes, "law against time, %", COLUMNS)
    draw.legend(drawing, axes)
    return drawing


@draw.theme()
def errors(table: pd.DataFrame) -> draw.Drawing:
    """Draw a table of `prediction_table`: every tested time over its prediction, with the 90 % interval."""
    rows = table[(table["use"] == "test") & table["measured_s"].notna()]
    ratios = {"ratio": "measured_s", "low": "low_s", "high": "high_s"}
    rows = rows.assign(**{name: rows[column] / rows["time_s"] for name, column in ratios.items()})
    rows = rows.sort_values("ratio", ignore_index=True)
    drawing, axis = draw.single(height_in=2.6)
    axis.vlines(rows.index, rows["low"], rows["high"], color=draw.FAINT, linewidth=2.2, label="90 % interval")
    where = rows["covered"].map({True: "inside", False: "outside"})
    look = {
        "hue_order": ["inside", "outside"],
        "palette": draw.PALETTE[:2],
        "s": 12,
        "linewidth": 0,
        "zorder": 3,
    }
    sns.scatterplot(x=rows.index, y=rows["ratio"], hue=where, ax=axis, **look)
    axis.axhline(1, **draw.DOTTED)
    draw.log_axis(axis, "y")
    axis.set(xlabel=f"{len(rows)} times that were not fitted on, sorted", ylabel="measured / predicted")
    axis.legend()
    return drawing


# --- simulator ----------------------------------------------------------------------------------------------


@draw.theme()
def balance(table: pd.DataFrame) -> draw.Drawing:
    """Draw what each chunk size costs over the best, and how long workers wait for the last one."""
    best, rows = table["wall_s"].min(), table[table["policy"] == "dynamic"]
    rows = rows.assign(**{name: 100 * (rows[f"{name}_s"] / best - 1) for name in ("low", "high")})
    chosen = table[table["policy"] == "ktask-v4"]
    drawing, axis = draw.single(5.2, 2.9)
    draw.curves(
        axis, rows, "chunk_size", "loss_pct", ends=("low", "high"), band=True, label="time over the best"
    )
    waiting = {"color": draw.PALETTE[1], "linestyle": "--", "label": "waiting for the last chunk"}
    sns.lineplot(rows, x="chunk_size", y="idle_pct", errorbar=None, ax=axis, **waiting)
    taken = {"color": draw.INK, "marker": "D", "label": "what ktask-v4 takes", "zorder": 3}
    sns.scatterplot(chosen, x="chunk_size", y="loss_pct", ax=axis, **taken)
    draw.size_axis([axis], rows["chunk_size"], label="chunk size")
    axis.set_ylabel("%")
    axis.legend()
    return drawing


def neighbours(tables: dict[str, pd.DataFrame]) -> draw.Drawing:
    """Draw, for ways of running helpers, time of the task and loss of the neighbours over the cap."""
    rows = pd.concat([rows.assign(helpers=name) for name, rows in tables.items()])
    return _time_and_loss(rows, "threads", "threads of the task", log=True)


def under_load(table: pd.DataFrame) -> draw.Drawing:
    """Draw time of the task and loss of the load over the threads of load, for each way of helping."""
    return _time_and_loss(table[table["helpers"].isin(HELPERS)], "load_threads", "threads of other load")


@draw.theme()
def _time_and_loss(rows: pd.DataFrame, x: str, label: str, log: bool = False) -> draw.Drawing:
    """Draw time of the task and loss of the load over column `x`, one line per way of helping."""
    drawing, axes = draw.panels(2, 2.9, width_in=8.4)
    look = draw.looks(list(dict.fromkeys(rows["helpers"]))) | {"errorbar": None}
    for axis, y in zip(axes, ("wall_s", "load_loss_pct"), strict=True):
        sns.lineplot(rows, x=x, y=y, hue="helpers", style="helpers", ax=axis, **look)
        if log:
            draw.log_axis(axis, "x", rows[x])
        else:
            axis.set_xticks(sorted(set(rows[x])))
        axis.set_xlabel(label)
    draw.time_axis(axes[0])
    axes[0].set_ylabel("time of the task")
    axes[1].set_ylabel("other threads lose, %")
    draw.legend(drawing, axes)
    return drawing


@draw.theme()
def memory_layouts(table: pd.DataFrame) -> draw.Drawing:
    """Draw the curve for each layout of the memory."""
    rows = table.assign(layout=[f"{name}: {LAYOUTS[name]}" for name in table["memory"]])
    drawing, axis = draw.single(5.2, 3.2)
    look = draw.looks(list(dict.fromkeys(rows["layout"]))) | {"errorbar": None}
    sns.lineplot(rows, x="threads", y="wall_s", hue="layout", style="layout", ax=axis, **look)
    draw.thread_axis([axis], rows["threads"], log=True)
    draw.time_axis(axis)
    axis.set_ylabel("time of the task")
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2))
    return drawing


@draw.theme()
def validation(table: pd.DataFrame) -> draw.Drawing:
    """Draw simulated over measured time of every trial, with the interval of the measured one."""
    ends = {"ratio": "wall_s", "low": "high_s", "high": "low_s"}
    rows = table.assign(
        **{name: table["simulated_s"] / table[column] for name, column in ends.items()},
        trial=[f"{way}, {n} thr." for way, n in zip(table["trial"], table["threads"], strict=True)],
        kind=table["fit"].map({True: "calibrated on", False: "simulated"}),
    )
    groups = list(rows.groupby("case", sort=False))
    drawing, axes = draw.panels(len(groups), 2.9, width_in=3.4 * min(len(groups), 4))
    for axis, (case, part) in zip(axes, groups, strict=True):
        axis.axvspan(0.95, 1.05, color=draw.FAINT, alpha=0.5, linewidth=0)
        draw.intervals(axis, part, "ratio", "trial", "kind", ends=("low", "high"), dodge=False)
        axis.set(xlabel="simulated / measured", title=case)
    draw.legend(drawing, axes)
    return drawing


@draw.theme()
def contention(table: pd.DataFrame) -> draw.Drawing:
    """Draw simulated against published times, and which rows were calibrated on."""
    ends = np.array([table["published_s"].min() / 1.2, table["published_s"].max() * 1.2])
    drawing, axis = draw.single(4.4, 3.2)
    axis.fill_between(
        ends, ends * 0.85, ends * 1.15, color=draw.FAINT, alpha=0.5, linewidth=0, label="within 15 %"
    )
    rows = table.assign(use=table["calibrated_on"].map({True: "calibrated on", False: "tested"}))
    look = {"palette": draw.PALETTE[: rows["kind"].nunique()], "s": 18, "linewidth": 0}
    sns.scatterplot(rows, x="published_s", y="simulated_s", hue="kind", style="use", ax=axis, **look)
    draw.time_axis(axis, "x")
    draw.time_axis(axis)
    axis.set(xlabel="published", ylabel="simulated")
    axis.legend(fontsize=6.5)
    return drawing
