"""The fitted laws as curves, and what they leave unexplained."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, NullLocator

from ktask.common import units
from ktask.report import sentences as words
from ktask.report.charts import (
    FULL_WIDTH_IN,
    INK,
    Figure,
    build,
    leftmost,
    legend,
    panel_size,
    panels,
    series_style,
    set_title,
    thread_axis,
)
from ktask.report.model import LEVEL_PERCENT, Fitted, curves

MODEL_KEY, RESIDUALS_KEY = "model", "residuals"


def model_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured speedups, the fitted laws and their intervals, one panel per path."""
    data = curves(found)
    if data.empty:
        return None
    workloads = list(dict.fromkeys(str(one.case["workload"]) for one in found))

    def paint(drawing: Drawing) -> None:
        axes = panels(drawing, len(found), sharex=True, sharey=True)
        for axis, one in zip(axes, found, strict=True):
            workload = str(one.case["workload"])
            _draw_curve(axis, one, workloads.index(workload), words.workload_label(workload))
            set_title(axis, words.path_label(one.case))
            thread_axis(axis, sorted({n for each in found for n in each.curve["threads"]}))
        for axis in leftmost(axes):
            axis.set_ylabel("speedup")
        legend(drawing, axes)

    return build(
        key,
        panel_size(len(found), 1.65),
        paint,
        data=data,
        caption=model_caption(found, data),
        alt=model_alt(found),
    )


def residuals_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured over fitted time, a row per path and a mark per measured thread count."""
    data = curves(found)
    if data.empty:
        return None
    data = data[data["measured_s"].notna()].reset_index(drop=True)
    counts = sorted(set(data["threads"]))

    def paint(drawing: Drawing) -> None:
        axis = drawing.add_subplot()
        axis.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        for level, one in enumerate(found):
            _draw_residuals(axis, one, level, counts)
        names = [
            f"{words.workload_label(str(one.case['workload']))}: {words.path_label(one.case)}"
            for one in found
        ]
        axis.set_yticks(range(len(found)), names)
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.set_xlabel("measured over fitted time, %")
        legend(drawing, [axis])

    return build(
        key,
        (FULL_WIDTH_IN, 0.23 * len(found) + 0.9),
        paint,
        data=data,
        caption=residuals_caption(data),
        alt=f"Measured over fitted time. {_residual_words(data)}.",
    )


def _draw_curve(axis: Axes, one: Fitted, i: int, label: str) -> None:
    table, style = one.curve, series_style(i)
    counts = sorted(table["threads"])
    axis.plot(counts, counts, color=INK, linewidth=0.8, linestyle=":", label="ideal")
    last = int(one.measured["threads"].max())
    axis.axvline(last, color=INK, linewidth=0.6, linestyle="--", label="last measured")
    axis.plot(table["threads"], table["speedup"], label=label, **style | {"markersize": 0})
    ends = (table["speedup_low"], table["speedup_high"])
    axis.fill_between(table["threads"], *ends, color=style["color"], alpha=0.2, linewidth=0)
    base, rows = one.measured["wall"].iloc[0], one.measured
    reach = np.vstack(
        [base / rows["wall"] - base / rows["wall_high"], base / rows["wall_low"] - base / rows["wall"]]
    )
    style |= {"linestyle": "none"}
    axis.errorbar(
        rows["threads"], base / rows["wall"], yerr=np.nan_to_num(reach).clip(min=0), capsize=2, **style
    )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_residuals(axis: Axes, one: Fitted, level: int, counts: Sequence[int]) -> None:
    """Draw the residuals of one path at height `level`, those of more threads a little lower."""
    rows = one.curve[one.curve["measured_s"].notna()].reset_index(drop=True)
    ends = one.measured.set_index("threads").loc[rows["threads"], ["wall_low", "wall_high"]].to_numpy()
    reach = np.abs(ends - rows["measured_s"].to_numpy()[:, None]) / rows["time_s"].to_numpy()[:, None] * 100
    for place, row in rows.iterrows():
        i = counts.index(row["threads"])
        height = level + 0.4 * (i / max(len(counts) - 1, 1) - 0.5)
        style = series_style(i) | {"linestyle": "none", "label": words.count(int(row["threads"]), "thread")}
        axis.errorbar(100 * row["residual"], height, xerr=np.nan_to_num(reach[[place]]).T, capsize=2, **style)


def model_caption(found: Sequence[Fitted], data: pd.DataFrame) -> Markup:
    """Return which laws were found, and what they say about twice as many threads."""
    laws = pd.Series([one.law for one in found]).value_counts()
    told = words.listed([f"{law} for {words.count(int(number), 'path')}" for law, number in laws.items()])
    twice = data[~data["beyond"] & data["measured_s"].isna()]
    ahead = ""
    if len(twice):
        ends = sorted(twice["speedup"])
        reach = " to ".join(dict.fromkeys(map(units.fmt_number, (ends[0], ends[-1]))))
        counts = words.listed([str(n) for n in sorted(set(twice["threads"]))])
        ahead = f" With {counts} threads, which were not measured, they say a speedup of {reach}."
    n = words.n_range(pd.concat([one.measured for one in found]))
    return Markup(
        "The most probable law is {}.{} Points: medians with 95 % intervals, {} repetitions per point. "
        "Lines: all laws weighted by their probability, with a band of {} %. Dotted: ideal line."
    ).format(told, ahead, n, LEVEL_PERCENT)


def model_alt(found: Sequence[Fitted]) -> str:
    """Return the laws and their ends in words."""
    parts = []
    for one in found:
        last = one.curve.iloc[-1]
        ends = f"{units.fmt_number(last['speedup'])} with {words.count(int(last['threads']), 'thread')}"
        parts.append(f"{one.case['workload']} {words.path_label(one.case)}: {one.law}, {ends}")
    return f"Fitted speedup against threads. {'; '.join(parts)}."


def _residual_words(data: pd.DataFrame) -> str:
    worst = data.loc[data["residual"].abs().idxmax()]
    most = f"{units.fmt_number(100 * abs(worst['residual']), 2)} %"
    where = f"{words.path_label(worst)} with {words.count(int(worst['threads']), 'thread')}"
    return f"The largest residual is {most} ({where})"


def residuals_caption(data: pd.DataFrame) -> Markup:
    """Return the largest residual, and how much weight it bears."""
    tested = data[~data["fitted"]]
    kept = (
        f"{words.count(len(tested), 'point')} of {len(data)} were kept out of the fit."
        if len(tested)
        else "All points were fitted on: too few thread counts to keep some out, so this tests nothing."
    )
    return Markup("{}. {} Bars: 95 % order-statistic interval of the measured median, {} per point.").format(
        _residual_words(data), kept, words.n_range(data)
    )
