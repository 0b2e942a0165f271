"""The fitted laws as curves, and what they leave unexplained."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.scaling.model import LEVEL_PERCENT, Fitted
from ktask.report.scaling.model import curves as fitted_curves

MODEL_KEY, RESIDUALS_KEY = "model", "residuals"


@draw.theme()
def model_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured speedups, the fitted laws and their intervals, one panel per path."""
    data = fitted_curves(found)
    if data.empty:
        return None
    drawing, axes = draw.panels(len(found), 1.75, sharex=True, sharey=True)
    for axis, one in zip(axes, found, strict=True):
        draw_law(axis, one.curve)
        last = int(one.measured["threads"].max())
        axis.axvline(last, color=draw.INK, linewidth=0.6, linestyle="--", label="last measured")
        draw.set_title(axis, words.full_label(one.case))
    draw.label_left(axes, "speedup")
    draw.thread_axis(axes, data["threads"], log=True)
    draw.legend(drawing, axes)
    return Figure(key, drawing, data, model_caption(found, data), model_alt(found))


def draw_law(axis: Axes, curve: pd.DataFrame) -> None:
    """Draw a law with its interval (`Fitted.curve`), the measured speedups and the ideal."""
    draw.ideal(axis, curve["threads"])
    draw.curves(axis, curve, "threads", "speedup", band=True, label=f"fitted law, {LEVEL_PERCENT} % interval")
    known = curve[curve["measured_s"].notna()]
    look: dict[str, Any] = {"color": draw.INK, "linestyle": "none", "label": "measured", "zorder": 4}
    draw.curves(axis, known, "threads", "measured_speedup", **look)


@draw.theme()
def residuals_figure(found: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured over fitted time, a row per path and a mark per measured thread count."""
    data = fitted_curves(found)
    if data.empty:
        return None
    data = data[data["measured_s"].notna()].reset_index(drop=True)
    names = ["residual", "residual_low", "residual_high"]
    rows = data.assign(
        **100 * data[names],
        count=[words.count(int(n), "thread") for n in data["threads"]],
        path=words.each(data, words.full_label),
    )
    drawing, (axis,) = draw.panels(1, 0.23 * len(found) + 0.55, width_in=draw.FULL_WIDTH_IN)
    axis.axvline(0, **draw.DOTTED)
    draw.intervals(axis, rows, "residual", "path", "count")
    axis.set_xlabel("measured over fitted time, %")
    draw.legend(drawing, [axis])
    alt = f"Measured over fitted time. {_residual_words(data)}."
    return Figure(key, drawing, data, residuals_caption(data), alt)


def model_caption(found: Sequence[Fitted], data: pd.DataFrame) -> Markup:
    """Return which laws were found, and what they say about twice as many threads."""
    laws = pd.Series([one.law for one in found]).value_counts()
    listed = words.listed([f"{law} for {words.count(int(number), 'path')}" for law, number in laws.items()])
    twice = data[~data["beyond"] & data["measured_s"].isna()]
    ahead = ""
    if len(twice):
        counts = words.listed([str(n) for n in sorted(set(twice["threads"]))])
        reach = words.reach(twice["speedup"])
        ahead = f" With {counts} threads, which were not measured, they say a speedup of {reach}."
    n = words.n_range(pd.concat([one.measured for one in found]))
    return Markup(
        "The most probable law is {}.{} Points: measured, with 95 % intervals, {} per point. "
        "Lines: all laws weighted by their probability, with a band of {} %. Dotted: ideal line."
    ).format(listed, ahead, n, LEVEL_PERCENT)


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
    return Markup("{}. {} Bars: 95 % interval of the measured time, {} per point.").format(
        _residual_words(data), kept, words.n_range(data)
    )
