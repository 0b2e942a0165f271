"""Figures of published curves, predictions and residuals; each draws a tidy table made elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ktask.common.units import fmt_time
from ktask.models.scaling.predict import Predicted
from ktask.models.scaling.table import Curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
COLUMNS = 3
PANEL_IN = (2.9, 2.3)


def _panels(count: int, **shared: object) -> tuple[Figure, list[Axes]]:
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    size = (PANEL_IN[0] * columns, PANEL_IN[1] * rows + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **shared)
    for spare in list(grid.flat)[count:]:
        spare.remove()
    for axis in list(grid.flat)[:count]:
        axis.grid(axis="y", color="0.85", linewidth=0.5)
        axis.tick_params(labelbottom=True, labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)[:count]


def _log_axes(axis: Axes, threads: Iterable[float], y_text: Callable[[float], str]) -> None:
    """Make both axes logarithmic; thread counts are labelled where there is room."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    counts = sorted({int(n) for n in threads})
    shown = [n for n in counts if n & (n - 1) == 0] or counts
    axis.xaxis.set_major_locator(FixedLocator(shown))
    for each, text in ((axis.xaxis, "{:g}".format), (axis.yaxis, y_text)):
        each.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
        each.set_minor_locator(NullLocator())


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


def plot_speedups(table: pd.DataFrame) -> Figure:
    """Draw one panel per workload, one line per curve, and the ideal."""
    groups = list(table.groupby("workload", sort=False))
    figure, axes = _panels(len(groups))
    for axis, (workload, part) in zip(axes, groups, strict=True):
        ends = np.array([part.threads.min(), part.threads.max()])
        axis.plot(ends, ends, color="0.5", linewidth=0.8, linestyle=":", label="ideal")
        for i, (curve, rows) in enumerate(part.groupby("curve", sort=False)):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}
            axis.plot(rows.threads, rows.speedup, marker="o", markersize=3, linewidth=1, label=curve, **style)
        _log_axes(axis, part.threads, "{:g}".format)
        axis.set_title("\n".join(_wrapped(workload)), fontsize=7.5, loc="left")
        axis.set_xlabel("threads", fontsize=7.5)
        axis.legend(fontsize=5.5, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.22))
    axes[0].set_ylabel("speedup", fontsize=7.5)
    return figure


def _wrapped(text: str, width: int = 46) -> list[str]:
    import textwrap  # noqa: PLC0415

    return textwrap.wrap(text, width)[:2] or [""]


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


def plot_predictions(table: pd.DataFrame) -> Figure:
    """Draw one panel per curve: fitted times filled, tested ones hollow, the prediction with its interval.

    A hatched ground begins where the prediction is beyond twice the measured range.
    """
    groups = list(table.groupby("curve", sort=False))
    figure, axes = _panels(len(groups))
    for axis, (curve, part) in zip(axes, groups, strict=True):
        rows = part.sort_values("threads")
        fitted, tested = rows[rows.use == "fit"], rows[rows.use == "test"]
        axis.fill_between(
            tested.threads, tested.low_s, tested.high_s, color=COLOURS[0], alpha=0.2, linewidth=0
        )
        axis.plot(tested.threads, tested.time_s, color=COLOURS[0], linewidth=1.2, label="predicted, 90 %")
        axis.plot(fitted.threads, fitted.measured_s, "o", color="0.2", markersize=4, label="fitted on")
        if tested.measured_s.notna().any():
            hollow = {"mfc": "none", "color": COLOURS[1], "markersize": 5}
            axis.plot(tested.threads, tested.measured_s, "o", label="test", **hollow)
        if rows.beyond.any():
            start = rows[rows.beyond].threads.min() / math.sqrt(2)
            axis.axvspan(
                start, rows.threads.max() * 1.1, facecolor="none", edgecolor="0.85", hatch="///", zorder=0
            )
        _log_axes(axis, rows.threads, fmt_time)
        axis.set_title("\n".join(_wrapped(curve)), fontsize=7.5, loc="left")
        axis.set_xlabel("threads", fontsize=7.5)
    axes[0].set_ylabel("time", fontsize=7.5)
    axes[0].legend(fontsize=6, frameon=False)
    return figure


def plot_forecast(table: pd.DataFrame, names: Iterable[str]) -> Figure:
    """Draw a table of `forecast.forecast`: per case the measured points, the law and its interval."""
    names = tuple(names)
    labels = [label_of(dict(row), names) for row in table.to_dict("records")]
    drawn = pd.DataFrame(
        {
            "curve": labels,
            "threads": table.threads,
            "use": "test",
            "measured_s": table.measured_s,
            "time_s": table.time_s,
            "low_s": table.low_s,
            "high_s": table.high_s,
            "beyond": table.beyond,
        }
    )
    measured = drawn[drawn.measured_s.notna()].assign(use="fit")
    return plot_predictions(pd.concat([drawn.assign(measured_s=np.nan), measured]))


# --- residuals and errors -----------------------------------------------------------------------------------


def plot_residuals(table: pd.DataFrame) -> Figure:
    """Draw a table of `explain.residuals`: the error of each law per thread count, fitted and left out."""
    groups = list(table.groupby("law", sort=False))
    figure, axes = _panels(len(groups), sharey=True)
    for axis, (law, part) in zip(axes, groups, strict=True):
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.plot(
            part.threads, part.residual_pct, "o-", color="0.2", markersize=4, linewidth=1, label="fitted"
        )
        axis.plot(part.threads, part.held_out_pct, "s", mfc="none", color=COLOURS[1], label="left out")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(sorted(set(part.threads))))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(law, fontsize=8, loc="left")
        axis.set_xlabel("threads", fontsize=7.5)
    axes[0].set_ylabel("law against time, %", fontsize=7.5)
    axes[0].legend(fontsize=6.5, frameon=False)
    return figure


def plot_errors(table: pd.DataFrame) -> Figure:
    """Draw a table of `prediction_table`: every tested time over its prediction, with the 90 % interval."""
    rows = table[(table.use == "test") & table.measured_s.notna()].copy()
    rows["ratio"] = rows.measured_s / rows.time_s
    rows = rows.sort_values("ratio", ignore_index=True)
    low, high = rows.low_s / rows.time_s, rows.high_s / rows.time_s
    figure, axis = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    axis.vlines(rows.index, low, high, color="0.8", linewidth=2.2, label="90 % interval")
    for covered, colour in ((True, COLOURS[0]), (False, COLOURS[1])):
        part = rows[rows.covered == covered]
        axis.plot(
            part.index, part.ratio, "o", color=colour, markersize=3, label=None if covered else "outside"
        )
    axis.axhline(1, color="0.4", linewidth=0.8)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(xlabel=f"{len(rows)} times that were not fitted on, sorted", ylabel="measured / predicted")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    return figure
