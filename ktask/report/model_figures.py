"""The fitted laws as curves, and what they leave unexplained."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, NullLocator

from ktask.lab import units
from ktask.report import words
from ktask.report.charts import FULL_WIDTH_IN, INK, Figure, build, series_style, thread_axis
from ktask.report.model import LEVEL_PERCENT, Fitted, curves
from ktask.report.tables import PATH

MODEL_KEY, RESIDUALS_KEY = "model", "residuals"


def model_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured speedups, the fitted laws and their intervals, one panel per workload."""
    data = curves(found)
    if data.empty:
        return None
    return build(
        key,
        _size(data),
        lambda drawing: _paint(drawing, found, _draw_curve, "speedup"),
        data=data,
        caption=model_caption(found, data),
        alt=model_alt(found),
    )


def residuals_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured over fitted time for every measured thread count."""
    data = curves(found)
    if data.empty:
        return None
    data = data[data["measured_s"].notna()].reset_index(drop=True)
    return build(
        key,
        _size(data),
        lambda drawing: _paint(drawing, found, _draw_residuals, "measured over fitted, %"),
        data=data,
        caption=residuals_caption(data),
        alt=f"Measured over fitted time. {_residual_words(data)}.",
    )


def _size(data: pd.DataFrame) -> tuple[float, float]:
    tallest = data.drop_duplicates(PATH).groupby("workload").size()
    return FULL_WIDTH_IN, sum(max(2.1, 0.19 * count + 0.5) for count in tallest) + 0.2


def _paint(drawing: Drawing, found: Sequence[Fitted], draw, label: str) -> None:
    workloads = list(dict.fromkeys(one.case["workload"] for one in found))
    for number, workload in enumerate(workloads, start=1):
        axis = drawing.add_subplot(len(workloads), 1, number)
        mine = [one for one in found if one.case["workload"] == workload]
        for i, one in enumerate(mine):
            draw(axis, one, i)
        _marks(axis, mine, draw is _draw_curve)
        thread_axis(axis, sorted({n for one in mine for n in one.curve["threads"]}))
        axis.set_title(words.workload_label(str(workload)))
        axis.set_ylabel(label)
        axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=2.6)


def _marks(axis: Axes, mine: Sequence[Fitted], is_curve: bool) -> None:
    """Draw what all paths of a panel share: the ideal line and the end of the measured range, or zero."""
    if not is_curve:
        axis.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        return
    counts = sorted({n for one in mine for n in one.curve["threads"]})
    axis.plot(counts, counts, color=INK, linewidth=0.8, linestyle=":", label="ideal")
    last = max(int(one.measured["threads"].max()) for one in mine)
    axis.axvline(last, color=INK, linewidth=0.6, linestyle="--", label="last measured")


def _draw_curve(axis: Axes, one: Fitted, i: int) -> None:
    table, style = one.curve, series_style(i)
    axis.plot(
        table["threads"], table["speedup"], label=words.path_label(one.case), **style | {"markersize": 0}
    )
    axis.fill_between(
        table["threads"],
        table["speedup_low"],
        table["speedup_high"],
        color=style["color"],
        alpha=0.12,
        linewidth=0,
    )
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


def _draw_residuals(axis: Axes, one: Fitted, i: int) -> None:
    rows = one.curve[one.curve["measured_s"].notna()]
    ends = one.measured.set_index("threads").loc[rows["threads"], ["wall_low", "wall_high"]].to_numpy()
    reach = np.abs(ends - rows["measured_s"].to_numpy()[:, None]).T / rows["time_s"].to_numpy() * 100
    axis.errorbar(
        rows["threads"], 100 * rows["residual"], yerr=np.nan_to_num(reach), capsize=2,
        label=words.path_label(one.case), **(series_style(i) | {"linestyle": "none"}),
    )  # fmt: skip


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
        ahead = f" With {counts} threads, which were not measured, they say {reach}."
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
