"""The section on larger machines: laws and simulation beside the measured times, or why there is no law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.measure.threads import counts_between
from ktask.lab.records import synthetic_note
from ktask.models.scaling.laws import LAWS
from ktask.models.scaling.posterior import LEVEL
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.scaling.laws import (
    LEAST_COUNTS,
    MISSED,
    Fitted,
    LargerMachines,
    most_threads,
)
from ktask.report.tables import PATH, compared

if TYPE_CHECKING:
    from ktask.report.study import Study

LARGER_KEY, RESIDUALS_KEY = "larger", "residuals"
LEVEL_PERCENT = round(100 * LEVEL)
MOST_NAMED = 3
ABOUT = {law.name: law.about for law in LAWS}


def section(study: Study, figure: Markup) -> Markup:
    """Return law, prediction and simulation of each path, or in a sentence why this run has none."""
    if not study.fits:
        return markup.paragraph(study.title, why_none(study.scaling, study.run.machine))
    said = markup.paragraph(
        study.title, *findings(study.larger), synthetic_note(study.run.machine) and CIRCULAR
    )
    return markup.join([said, figure, markup.paragraph(*rests_on(study.larger)), law_table(study)])


# --- too few thread counts ---------------------------------------------------------------------------------


def why_none(scaling: pd.DataFrame, machine: dict[str, Any]) -> Markup:
    """Return why no law is fitted to this run, and the command that gets one."""
    known = compared(scaling[scaling["processes"] > 1])
    counts = sorted(set(known["threads"]))
    have = f"{words.listed(list(map(str, counts)))} threads" if counts else "no thread count"
    return Markup(
        "No law of scaling is fitted and nothing is predicted for larger machines: a law needs {} thread "
        "counts with several processes each, and this run has {}. {} gets one."
    ).format(LEAST_COUNTS, have, _how(machine))


def _how(machine: dict[str, Any]) -> Markup:
    """Return the command that measures enough thread counts: here, if this machine has the CPUs."""
    cpus = machine.get("threads")
    if isinstance(cpus, int) and len(counts_between(most_threads(cpus), ())) >= LEAST_COUNTS:
        return Markup("<code>ktask sweep quick --cpus 0-{} --passes 5</code>").format(cpus - 1)
    return Markup("<code>make report PASSES=5</code> on a machine with at least 8 CPUs")


# --- figure ------------------------------------------------------------------------------------------------


@draw.theme()
def larger_figure(found: LargerMachines, key: str) -> Figure | None:
    """Draw measured speedups, law with interval and simulation, one panel per path."""
    if found.table.empty:
        return None
    paths = [rows for _, rows in found.table.groupby([*PATH, "size_bytes"], sort=False)]
    drawing, axes = draw.panels(len(paths), 1.75, width_in=draw.FULL_WIDTH_IN, sharex=True, sharey=True)
    for axis, rows in zip(axes, paths, strict=True):
        _draw_path(axis, rows, found)
        first = rows.iloc[0]
        axis.set_title(f"{words.workload_label(first['workload'])}\n{words.path_label(first)}")
    draw.label_left(axes, "speedup")
    draw.thread_axis(axes, found.table["threads"], log=True)
    draw.legend(drawing, axes)
    return Figure(key, drawing, found.table, _caption(found), _alt(found))


def _draw_path(axis: Axes, rows: pd.DataFrame, found: LargerMachines) -> None:
    draw.ideal(axis, rows["threads"])
    draw.curves(
        axis, rows, "threads", "speedup", band=True, label=f"law, {LEVEL_PERCENT} % interval × {MISSED}"
    )
    known = rows[rows["measured_s"].notna()]
    look: dict[str, Any] = {"color": draw.INK, "linestyle": "none", "label": "measured", "zorder": 4}
    draw.curves(axis, known, "threads", "measured_speedup", **look)
    axis.axvline(known["threads"].max(), color=draw.INK, linewidth=0.6, linestyle="--", label="last measured")
    there = most_threads(found.cpus)
    parts = {"simulated": rows[rows["threads"] <= there]}
    if len(parts["simulated"]) < len(rows):
        parts[_on_paper(found)] = rows[rows["threads"] >= parts["simulated"]["threads"].max()]
    for (label, part), colour, dash in zip(parts.items(), draw.PALETTE[1:3], ("--", ":"), strict=False):
        if part["simulated_speedup"].notna().any():
            style = {"color": colour, "linestyle": dash, "marker": "s", "markersize": 3, "markeredgewidth": 0}
            sns.lineplot(
                part, x="threads", y="simulated_speedup", ax=axis, errorbar=None, label=label, **style
            )


def _on_paper(found: LargerMachines) -> str:
    return f"simulated, enlarged on paper to {found.machine.cpus} CPUs" if found.machine else ""


def _caption(found: LargerMachines) -> Markup:
    ahead = found.ahead
    counts = words.listed(sorted({str(n) for n in ahead["threads"]}, key=int))
    reach = words.reach(ahead["speedup"])
    n = words.n_range(found.table.dropna(subset="measured_s"))
    return Markup(
        "With {} threads, which nobody measured, the laws say a speedup of {}. Points: measured, with 95 % "
        "intervals, {} per point. Band: the {} % interval of the law, wider by a factor of {} at both ends: "
        "laws fitted on 1, 2 and 4 threads of a published machine miss one in ten of its other times by more."
    ).format(counts, reach, n, LEVEL_PERCENT, MISSED)


def _alt(found: LargerMachines) -> str:
    """Return the last point of every path in words."""

    def end(row: pd.Series) -> str:
        law, simulated = (units.fmt_number(row[name]) for name in ("speedup", "simulated_speedup"))
        tail = f"simulated {simulated}" if pd.notna(row["simulated_speedup"]) else "not simulated"
        return f"{words.name_of(row)} with {int(row['threads'])} threads: law {law}, {tail}"

    last = found.table.groupby([*PATH, "size_bytes"], sort=False).tail(1)
    return f"Measured, fitted and simulated speedup against threads. {'; '.join(words.each(last, end))}."


@draw.theme()
def residuals_figure(fits: Sequence[Fitted], key: str) -> Figure | None:
    """Draw measured over fitted time, a row per path and a mark per measured thread count."""
    if not fits:
        return None
    data = pd.concat([one.curve for one in fits], ignore_index=True)
    data = data[data["measured_s"].notna()].reset_index(drop=True)
    names = ["residual", "residual_low", "residual_high"]
    counts = [words.count(int(n), "thread") for n in data["threads"]]
    rows = data.assign(**100 * data[names], count=counts, path=words.each(data, words.full_label))
    drawing, (axis,) = draw.panels(1, 0.23 * len(fits) + 0.55, width_in=draw.FULL_WIDTH_IN)
    axis.axvline(0, **draw.DOTTED)
    draw.intervals(axis, rows, "residual", "path", "count")
    axis.set_xlabel("measured over fitted time, %")
    draw.legend(drawing, [axis])
    worst = data.loc[data["residual"].abs().idxmax()]
    where = f"{words.full_label(worst)} with {words.count(int(worst['threads']), 'thread')}"
    said = f"The laws miss a measured time by at most {words.percent(abs(worst['residual']))} ({where})."
    caption = Markup("{} Bars: 95 % interval of the measured time.").format(said)
    return Figure(key, drawing, data, caption, f"Measured over fitted time. {said}")


# --- words -------------------------------------------------------------------------------------------------

CIRCULAR = (
    "This run was made by the same simulator: where the simulation meets it, that shows only that the "
    "calibration finds its figures again."
)


def findings(found: LargerMachines) -> list[str]:
    """Return where law and simulation disagree, and what was enlarged on paper."""
    if found.machine is None:
        return [f"Nothing was simulated: {found.reason}."]
    ahead = found.ahead.dropna(subset="simulated_s")
    if ahead.empty:
        return ["Nothing was simulated: the chunks of no path are alike."]
    parts = [_disagreement(found, len(ahead))]
    if found.machine.cpus > found.cpus:
        parts.append(
            f"The {words.count(found.machine.cpus, 'CPU')} of the simulated machine exist on paper only: "
            f"it is the measured one, with {found.cpus}, its cores doubled and nothing else changed."
        )
    return parts


def _disagreement(found: LargerMachines, n: int) -> str:
    rows = found.disagreeing
    if rows.empty:
        return "Law and simulation agree on all threads that were not measured: their intervals overlap."
    shown = words.each(rows.head(MOST_NAMED), _both)
    more = [words.count(len(rows) - len(shown), "other")] if len(rows) > len(shown) else []
    return (
        f"Law and simulation disagree in {len(rows)} of {words.count(n, 'case')}, and nobody measured who is "
        f"right: {words.listed([*shown, *more])}."
    )


def _both(row: pd.Series) -> str:
    law, simulated = (units.fmt_number(row[name]) for name in ("speedup", "simulated_speedup"))
    chunks = words.count(int(row["most_chunks"]), "chunk")
    few = f"; the law ignores that it has no more than {chunks}" * (row["most_chunks"] < row["threads"])
    return (
        f"{words.full_label(row)} with {row['threads']:.0f} threads (law {law}, simulated {simulated}{few})"
    )


def rests_on(found: LargerMachines) -> list[str]:
    """Return what law and simulation cannot know, and what was not simulated."""
    left = found.table[found.table["simulated_s"].isna()].drop_duplicates(PATH)
    names = words.listed(words.each(left, words.name_of))
    return [
        "Neither law nor simulation knows what the measured threads did not meet: a roof of the memory that "
        "they do not reach, one more node, a lock that so few do not wait for.",
        f"Not simulated, because their chunks are not all alike: {names}." if names and found.machine else "",
    ]


def law_table(study: Study) -> Markup:
    """Return law, what the times determine, and the prediction, per path."""
    ends = study.larger.table.groupby([*PATH, "size_bytes"], sort=False).tail(1)
    rows = list(zip(study.fits, ends.to_dict("records"), strict=True))
    columns: dict[str, markup.Cell] = {
        "Path": lambda row: words.full_label(row[1]),
        "Size": lambda row: words.size_label(row[1]),
        "Law": lambda row: f"{row[0].law}, {words.percent(row[0].fit.probabilities()[row[0].law])}",
        "What the times determine": lambda row: row[0].fit.says(),
        "Largest residual": lambda row: words.percent(row[0].curve["residual"].abs().max()),
        "Threads": lambda row: int(row[1]["threads"]),
        "Law says": lambda row: _with_ends(row[1]),
        "Simulated": lambda row: units.fmt_number(row[1]["simulated_speedup"]),
    }
    meant = "; ".join(f"{law}: {ABOUT[law]}" for law in dict.fromkeys(one.law for one in study.fits))
    caption = Markup(
        "{}The most probable law of each path, and speedups with twice the helpers that were measured. {}."
    ).format(study.title, meant)
    text = ["Law", "What the times determine"]
    return markup.table(columns, rows, caption=caption, key=study.key("laws"), text=text)


def _with_ends(row: dict[str, Any]) -> str:
    middle, low, high = (units.fmt_number(row[f"speedup{end}"]) for end in ("", "_low", "_high"))
    return f"{middle} [{low}, {high}]"
