"""What medians hide: two states, drift and settling at every size, and results with cold repetitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import seaborn as sns
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.measure import levels
from ktask.lab.measure.states import Drift, Settling, TwoStates, find
from ktask.lab.records import Run
from ktask.report import markup, tables
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.markup import Cell
from ktask.report.tables import CASE

if TYPE_CHECKING:
    from ktask.report.study import Study

FIGURE_KEY, TABLE_KEY, COLD_KEY = "states", "states-and-drift", "with-cold"
CELL = [*CASE, "min_chunk_size"]
SAMPLE = [*CELL, "threads", "baseline"]  # both serial calls together: they are the same


def samples(run: Run) -> pd.DataFrame:
    """Return the repetitions of a run, the policy as in the other tables, and a number for each process."""
    rows = tables.repetitions(run)
    process = rows.groupby(levels.PROCESS, dropna=False).ngroup() + 1
    return rows.assign(policy=tables.policy_labels(rows), process=process)


# --- two states, drift, settling ------------------------------------------------------------------------


def states_table(run: Run) -> pd.DataFrame:
    """Return one row per sample in which something was found, at every size.

    `two_states`, `drift` and `settling` are those of `ktask.lab.measure.states`, or None; `n` counts the
    repetitions, cold ones apart, `processes` where they come from; `factor` is the largest ratio of times.
    """
    rows = samples(run)
    found = []
    for key, part in rows[rows["in_rates"]].groupby(SAMPLE, sort=False):
        if one := find(part["wall_s"], part["round"], part["process"]):
            counts = {"n": len(part), "processes": part["process"].nunique(), "factor": _factor(*one)}
            found.append(dict(zip(SAMPLE, key, strict=True)) | one._asdict() | counts)
    names = ["two_states", "drift", "settling", "n", "processes", "factor"]
    return tables.sort_cases(pd.DataFrame(found, columns=[*SAMPLE, *names]))


def _factor(*found: TwoStates | Drift | Settling | None) -> float:
    return max(max(one[:2]) / min(one[:2]) for one in found if one)


def _state(row: pd.Series, end: int) -> str:
    """Return the median of the fast (0) or the slow state (1) with its share; empty without states."""
    if not (two := row["two_states"]):
        return ""
    share = two.slow_share if end else 1 - two.slow_share
    return f"{units.fmt_time(two[end])} ({words.percent(share)})"


def _where(row: pd.Series) -> str:
    two = row["two_states"]
    return "" if not two else "between processes" if two.between_processes else "within a process"


def _ends(found: Drift | Settling | None) -> str:
    if not found:
        return ""
    took = f", {words.count(found.rounds, 'round')}" if isinstance(found, Settling) else ""
    return f"{units.fmt_time(found[0])} to {units.fmt_time(found[1])}{took}"


STATES: dict[str, Cell] = {
    "Path": words.full_label,
    "Size": words.size_label,
    "Threads": words.threads_label,
    "Least chunk": lambda row: units.fmt_size(row["min_chunk_size"]),
    "n": "n",
    "Fast state": lambda row: _state(row, 0),
    "Slow state": lambda row: _state(row, 1),
    "They change": _where,
    "Drift": lambda row: _ends(row["drift"]),
    "Settling": lambda row: _ends(row["settling"]),
}
COLUMN_OF = {"two_states": ("Fast state", "Slow state", "They change"), "drift": ("Drift",)}
COLUMN_OF["settling"] = ("Settling",)


def _columns(columns: dict[str, Cell], rows: pd.DataFrame) -> dict[str, Cell]:
    """Return the columns, without the least chunk where none was varied."""
    varied = (rows.groupby(CASE)["min_chunk_size"].nunique() > 1).any()
    return {title: cell for title, cell in columns.items() if varied or title != "Least chunk"}


def states_section(study: Study) -> Markup:
    """Return how many samples have states or a trend, and which."""
    found, n_samples = study.states, samples(study.run).groupby(SAMPLE).ngroups
    if found.empty:
        return markup.paragraph(study.title, f"None of {n_samples} samples has two states or a trend.")
    counts = {name: int(found[name].notna().sum()) for name in COLUMN_OF}
    empty = {title for name, titles in COLUMN_OF.items() if not counts[name] for title in titles}
    columns = {title: cell for title, cell in _columns(STATES, found).items() if title not in empty}
    caption = Markup(
        "{}States and drift. Of {} samples, {} have two states, {} drift over the rounds of a process, and "
        "{} settle: the first rounds are slower. Times are medians, for a drift those of the first and the "
        "last third. Nothing is left out of the rates for it."
    ).format(study.title, n_samples, *counts.values())
    text = ["Fast state", "Slow state", "They change", "Drift", "Settling"]
    return markup.table(columns, found, caption=caption, key=study.key(TABLE_KEY), text=text)


@draw.theme()
def states_figure(run: Run, found: pd.DataFrame, key: str) -> Figure | None:
    """Draw the sample in which the largest ratio was found, against the rounds; None if none was."""
    if found.empty:
        return None
    worst = found.loc[found["factor"].idxmax()]
    rows = samples(run)
    mine = rows[rows["in_rates"] & (rows[SAMPLE] == worst[SAMPLE]).all(axis=1)]
    data = mine[[*SAMPLE, "process", "round", "order", "wall_s"]].sort_values(["process", "round", "order"])
    scale = units.time_scale(data["wall_s"].max())
    drawing, axis = draw.single(5.6, 2.3)
    processes = list(dict.fromkeys(data["process"]))
    points = data.assign(time=data["wall_s"] / scale.factor)
    look: dict[str, Any] = {"hue": "process", "style": "process", **draw.looks(processes)}
    # Points as marks of a line: each point of a scatter plot is a path of its own in the SVG.
    look |= {"estimator": None, "sort": False, "linestyle": "none", "dashes": False, "markersize": 4}
    sns.lineplot(points, x="round", y="time", ax=axis, legend=len(processes) > 1, **look)
    for end in worst["two_states"][:2] if worst["two_states"] else ():
        axis.axhline(end / scale.factor, **draw.DOTTED)
    axis.set(xlabel="round in its process", ylabel=f"time ({scale.suffix})")
    axis.set_ylim(bottom=0)
    if len(processes) > 1:
        sns.move_legend(axis, "center left", bbox_to_anchor=(1.01, 0.5))
    name = f"{words.full_label(worst)}, {words.size_label(worst)}, {words.threads_label(worst)}"
    return Figure(
        key, drawing, data, _caption(name, worst), f"Time against the round. {name}: {_said(worst)}."
    )


def _said(row: pd.Series) -> str:
    return "; ".join(str(row[name]) for name in COLUMN_OF if row[name])


def _caption(name: str, row: pd.Series) -> Markup:
    where = "one process" if row["processes"] == 1 else f"{row['processes']} processes"
    return Markup("The largest of what medians hide: {}: {}. Each point is a repetition, {} in {}.{}").format(
        name, _said(row), row["n"], where, " Dotted: the two states." if row["two_states"] else ""
    )


# --- cold memory ----------------------------------------------------------------------------------------


def cold_table(run: Run) -> pd.DataFrame:
    """Return one row per case and thread count with cold repetitions: the speedup with and without them.

    `cold_base` of `n_base` serial repetitions were cold, `cold` of `n` with threads. `without` is the speedup
    over the others, as everywhere; `all` that over all; `means` the ratio of the means of all, since a median
    hides what is rare, and who uses the memory pays for it.
    """
    rows = samples(run)
    rows = rows[~rows["aa"] & (rows["wall_s"] > 0)]
    found = [line for key, cell in rows.groupby(CELL, sort=False) for line in _cold_lines(key, cell)]
    columns = [*CELL, "threads", "baseline", "cold_base", "n_base", "cold", "n", "without", "all", "means"]
    return tables.sort_cases(pd.DataFrame(found, columns=columns))


def _cold_lines(key: tuple[Any, ...], cell: pd.DataFrame) -> list[dict[str, Any]]:
    base, others = cell[cell["baseline"]], cell[~cell["baseline"]]
    return [
        dict(zip(CELL, key, strict=True))
        | {"threads": threads, "baseline": False}
        | {"cold_base": int(base["cold"].sum()), "n_base": len(base)}
        | {"cold": int(part["cold"].sum()), "n": len(part)}
        | {"without": levels.ratio_of(base[base["in_rates"]], part[part["in_rates"]])}
        | {"all": levels.ratio_of(base, part), "means": base["wall_s"].mean() / part["wall_s"].mean()}
        for threads, part in others.groupby("threads")
        if len(base) and (base["cold"].any() or part["cold"].any())
    ]


COLD: dict[str, Cell] = {
    "Path": words.full_label,
    "Size": words.size_label,
    "Threads": words.threads_label,
    "Least chunk": lambda row: units.fmt_size(row["min_chunk_size"]),
    "Cold, serial": lambda row: f"{row['cold_base']} of {row['n_base']}",
    "Cold, threads": lambda row: f"{row['cold']} of {row['n']}",
    "Speedup without": lambda row: units.fmt_estimate(row["without"]),
    "Speedup with": lambda row: units.fmt_estimate(row["all"]),
    "Of the means of all": lambda row: units.fmt_number(row["means"]),
}


def cold_section(study: Study) -> Markup:
    """Return the results with and without cold repetitions, nothing where none was left out."""
    found = cold_table(study.run)
    if found.empty:
        return Markup("")
    caption = Markup(
        "{}Cold repetitions waited for memory from the host, and are in no rate. Here is what the speedup "
        "would be with them, by medians and by means."
    ).format(study.title)
    return markup.table(_columns(COLD, found), found, caption=caption, key=study.key(COLD_KEY))
