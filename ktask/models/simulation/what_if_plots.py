"""Figures of the simulator's tables; each draws one table of `what_if`, `validation` or `contention`."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ktask.common.units import fmt_size, fmt_time
from ktask.models.simulation.what_if import HELPERS, LAYOUTS

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def _axes(count: int = 1, width_in: float = 4.2) -> tuple[Figure, list[Axes]]:
    figure, grid = plt.subplots(
        1, count, figsize=(width_in * count, 2.9), layout="constrained", squeeze=False
    )
    for axis in grid.flat:
        axis.grid(axis="y", color="0.85", linewidth=0.5)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def _names(axis: Axes, x: str, y: str, title: str = "") -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.set_title(title, fontsize=8, loc="left")


def _log_x(axis: Axes, values: pd.Series, text: Callable[[float], str] = "{:g}".format) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted({float(value) for value in values}))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.xaxis.set_minor_locator(NullLocator())


def _times(axis: Axes, which: str = "y") -> None:
    """Make an axis logarithmic, in seconds."""
    axis.set(**{f"{which}scale": "log"})
    one = axis.yaxis if which == "y" else axis.xaxis
    one.set_major_locator(LogLocator(subs=(1, 2, 5)))
    one.set_major_formatter(FuncFormatter(lambda value, _: fmt_time(value)))
    one.set_minor_locator(NullLocator())


def plot_balance(table: pd.DataFrame) -> Figure:
    """Draw what each chunk size costs over the best, and how long workers wait for the last one."""
    figure, (axis,) = _axes(width_in=5.2)
    rows = table[table.policy == "dynamic"].sort_values("chunk_size")
    low, high = (100 * (rows[name] / table.wall_s.min() - 1) for name in ("low_s", "high_s"))
    axis.fill_between(rows.chunk_size, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axis.plot(
        rows.chunk_size, rows.loss_pct, color=COLOURS[0], marker="o", markersize=3, label="time over the best"
    )
    axis.plot(
        rows.chunk_size, rows.idle_pct, color=COLOURS[1], linestyle="--", label="waiting for the last chunk"
    )
    chosen = table[table.policy == "ktask-v4"]
    axis.plot(
        chosen.chunk_size, chosen.loss_pct, "D", color="black", markersize=5, label="what ktask-v4 takes"
    )
    _log_x(axis, rows.chunk_size, lambda value: fmt_size(round(value)))
    axis.tick_params(axis="x", rotation=30)
    _names(axis, "chunk size", "%")
    axis.legend(fontsize=7, frameon=False)
    return figure


def plot_neighbours(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw, for ways of running helpers, time of the task and loss of the neighbours over the cap."""
    figure, axes = _time_and_loss(tables, "threads", "threads of the task")
    for axis in axes:
        _log_x(axis, next(iter(tables.values())).threads)
    return figure


def _time_and_loss(tables: dict[str, pd.DataFrame], x: str, what: str) -> tuple[Figure, list[Axes]]:
    """Draw time of the task and loss of the load over a column, one line per table."""
    figure, axes = _axes(2)
    for (name, rows), colour in zip(tables.items(), COLOURS, strict=False):
        for axis, y in zip(axes, ("wall_s", "load_loss_pct"), strict=True):
            axis.plot(rows[x], rows[y], color=colour, marker="o", markersize=3, label=name)
    _times(axes[0])
    _names(axes[0], what, "time of the task")
    _names(axes[1], what, "other threads lose, %")
    axes[1].legend(fontsize=7, frameon=False)
    return figure, axes


def plot_memory(table: pd.DataFrame) -> Figure:
    """Draw the curve for each layout of the memory."""
    figure, (axis,) = _axes(width_in=5.2)
    for (name, rows), colour in zip(table.groupby("memory", sort=False), COLOURS, strict=False):
        axis.plot(
            rows.threads,
            rows.wall_s,
            color=colour,
            marker="o",
            markersize=3,
            label=f"{name}: {LAYOUTS[name]}",
        )
    _log_x(axis, table.threads)
    _times(axis)
    _names(axis, "threads", "time of the task")
    axis.legend(fontsize=6, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.2))
    return figure


def plot_under_load(table: pd.DataFrame) -> Figure:
    """Draw time of the task and loss of the load over the threads of load, for each way of helping."""
    tables = {name: table[table.helpers == name] for name in HELPERS}
    return _time_and_loss(tables, "load_threads", "threads of other load")[0]


def plot_validation(table: pd.DataFrame) -> Figure:
    """Draw simulated over measured time of every trial, with the interval of the measured one."""
    groups = list(table.groupby("case", sort=False))
    figure, axes = _axes(len(groups), 3.6 if len(groups) < 4 else 2.9)
    for axis, (case, rows) in zip(axes, groups, strict=True):
        at = np.arange(len(rows))
        ratio, low, high = (rows.simulated_s / rows[name] for name in ("wall_s", "high_s", "low_s"))
        axis.axvspan(0.95, 1.05, color="0.92", linewidth=0)
        axis.errorbar(ratio, at, xerr=[ratio - low, high - ratio], fmt="none", ecolor="0.5", linewidth=1)
        axis.scatter(ratio, at, c=[COLOURS[1] if fit else COLOURS[0] for fit in rows.fit], s=16, zorder=3)
        axis.set_yticks(
            at, [f"{way}, {n} thr." for way, n in zip(rows.trial, rows.threads, strict=True)], fontsize=6
        )
        _names(axis, "simulated / measured", "", case)
    return figure


def plot_contention(table: pd.DataFrame) -> Figure:
    """Draw simulated against published times, rows that were calibrated on hollow."""
    figure, (axis,) = _axes(width_in=4.4)
    ends = np.array([table.published_s.min() / 1.2, table.published_s.max() * 1.2])
    axis.fill_between(ends, ends * 0.85, ends * 1.15, color="0.92", linewidth=0, label="within 15 %")
    for (kind, rows), colour in zip(table.groupby("kind", sort=False), COLOURS, strict=False):
        for fit, part in rows.groupby("calibrated_on"):
            face = "none" if fit else colour
            axis.scatter(
                part.published_s,
                part.simulated_s,
                s=16,
                facecolors=face,
                edgecolors=colour,
                label=f"{kind}{', calibrated on' if fit else ''}",
            )
    _times(axis, "x")
    _times(axis)
    _names(axis, "published", "simulated")
    axis.legend(fontsize=6, frameon=False)
    return figure
