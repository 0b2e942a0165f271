"""Machines side by side: the speedup of each path that all runs have, a mark per run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.tables import PATH

if TYPE_CHECKING:
    from ktask.report.study import Study

BESIDE_KEY = "beside"
MOST_ROWS = 24
ROW_IN, MARK_IN, AROUND_IN = 0.13, 0.055, 1.0  # of a path, of each of its runs, and of axis and legend


def beside_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Return a row per run and kernel path that all runs have, in the order of the first run's speedups.

    The columns are those of `headline_table`, and `run`. `gap` is the highest low end over the lowest high
    end of a path: above 1, the intervals of two runs exclude each other. Runs of one process are left out of
    it, and below two others it is NaN. `factor` is the highest speedup over the lowest.
    """
    every = pd.concat([study.headline.assign(run=study.label) for study in studies], ignore_index=True)
    shared = every.groupby(PATH)["run"].transform("size") == len(studies)
    table = every[shared].assign(row=words.each(every[shared], words.full_label))
    order = {label: place for place, label in enumerate(table["row"].drop_duplicates())}
    table = table.sort_values("row", key=lambda rows: rows.map(order), kind="stable", ignore_index=True)
    several = table[table["processes"] > 1].groupby(PATH)
    gap = several["speedup_low"].max() / several["speedup_high"].min()
    speedups = table.groupby(PATH)["speedup"]
    known = gap.where(several.size() > 1).rename("gap")
    return table.join(known, on=PATH).assign(factor=speedups.transform("max") / speedups.transform("min"))


def beside_figure(studies: Sequence[Study]) -> Figure | None:
    """Draw the speedups of several runs on the same rows; None for one run, or with nothing in common."""
    if len(studies) < 2 or any(study.headline.empty for study in studies):
        return None
    table = beside_table(studies)
    return _figure(table) if len(table) else None


@draw.theme()
def _figure(table: pd.DataFrame) -> Figure:
    drawn = _most_different(table)
    paths, runs = drawn["row"].nunique(), drawn["run"].nunique()
    height = AROUND_IN + paths * (ROW_IN + MARK_IN * runs)
    drawing, axis = draw.single(draw.FULL_WIDTH_IN, height)
    named = drawn.assign(name=drawn["run"] + ", " + drawn["row"])
    draw.intervals(axis, named, "speedup", "row", "run", said="name")
    axis.axvline(1, **draw.DOTTED)
    axis.set(xlabel="speedup over the serial call of the same run", ylim=(paths - 0.4, -0.6))
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y")
    if drawn["threads"].max() > draw.MANY_THREADS:
        draw.log_axis(axis, "x")
    else:
        axis.set_xlim(left=0)
    draw.legend(drawing, [axis])
    return Figure(BESIDE_KEY, drawing, table, _caption(table, paths), _alt(table))


def _most_different(table: pd.DataFrame) -> pd.DataFrame:
    """Return the paths that differ most: those whose intervals are farthest from each other first."""
    ranked = table.drop_duplicates(PATH).sort_values(["gap", "factor"], ascending=False, kind="stable")
    return table[table["row"].isin(ranked["row"].head(MOST_ROWS))]


def finding(table: pd.DataFrame) -> str:
    """Return on which path the runs differ most, and on how many their intervals exclude each other."""
    paths = table.drop_duplicates(PATH)
    known, apart = paths[paths["gap"].notna()], paths[paths["gap"] > 1]
    if known.empty:
        return "Whether the runs differ is not known: that needs several processes of each."
    if apart.empty:
        return f"No two intervals exclude each other on {words.count(len(known), 'path')}."
    row = apart.loc[apart["gap"].idxmax()]
    ends = table[(table[PATH] == row[PATH]).all(axis=1)].sort_values("speedup").iloc[[0, -1]]
    speedups = words.each(ends, lambda one: f"{units.fmt_number(one['speedup'])} in {one['run']}")
    excluding = f"intervals exclude each other on {len(apart)} of {words.count(len(known), 'path')}"
    return f"The runs differ most on {words.name_of(row)}, {words.listed(speedups)}; {excluding}."


def _caption(table: pd.DataFrame, shown: int) -> Markup:
    paths = table["row"].nunique()
    rest = f" Of {paths} paths, the {shown} that differ most; the table has all." * (shown < paths)
    return Markup(
        "{}{} Each kernel path that all runs have, at its best number of threads and largest size in each "
        "run ({}), sorted by the speedups of {}. {}"
    ).format(finding(table), rest, words.sizes_of(table), table["run"].iloc[0], words.interval_note(table))


def _alt(table: pd.DataFrame) -> str:
    parts = []
    for label, rows in table.groupby("row", sort=False):
        speedups = words.each(rows, lambda row: f"{row['run']} {words.speedup(row)}")
        parts.append(f"{label}: {', '.join(speedups)}")
    return f"Speedup of each kernel path in each run. {'; '.join(parts)}."
