"""Figures with a knob to turn; where nobody can turn it, in an export, the figure as it was left."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from ktask.common import figures as plots
from ktask.common.units import fmt_size, fmt_time, parse_size
from ktask.engine import trace as traces
from ktask.engine.task import Result
from ktask.host import topology
from ktask.lab.measure.rounds import prepared, repeat
from ktask.lab.records import load_run
from ktask.lab.runs import find_run, latest_run
from ktask.report import sentences as words
from ktask.report import tables
from ktask.workloads import Case

Draw = Callable[..., Any]

LONGEST_VALUE = 12


class Knob:
    """A figure that follows knobs.

    A live notebook shows the knobs. A saved or exported one shows the picture as it was last, and so does one
    without ipywidgets. Turning a knob draws what is known already; it measures nothing.

    Parameters
    ----------
    draw
        Gets one choice of each knob by name; returns a drawing.
    choices
        The positions of each knob; or a table with a row for each combination that there is. What a knob
        offers then follows from those before it.
    start
        The row to begin with.
    """

    def __init__(self, draw: Draw, choices: Mapping[str, Sequence[Any]] | pd.DataFrame, start: int = 0):
        self._draw = draw
        self._choices = choices if isinstance(choices, pd.DataFrame) else _all_of(choices)
        self._start = dict(self._choices.iloc[start])
        self._first = self.picture(**self._start)

    def picture(self, **chosen: Any) -> bytes:
        """Return the figure for these choices as PNG."""
        return self._draw(**chosen)._repr_png_()

    def offers(self, name: str, chosen: Mapping[str, Any]) -> list[Any]:
        """Return the positions of a knob, where those before it are at `chosen`."""
        rows = self._choices
        for earlier in rows.columns[: rows.columns.get_loc(name)]:
            rows = rows[rows[earlier] == chosen[earlier]]
        return list(dict.fromkeys(rows[name]))

    def show(self) -> None:
        """Show knobs, and the picture as an output of its own: what an export keeps is the picture."""
        from IPython.display import Image, display  # noqa: PLC0415  (only a notebook shows knobs)

        knobs = self.knobs()
        if knobs:
            from ipywidgets import HBox, Layout  # noqa: PLC0415

            display(HBox(list(knobs.values()), layout=Layout(flex_flow="row wrap")))
        shown = display(Image(self._first), display_id=True)
        turning = False

        def turned(_: Any) -> None:
            nonlocal turning
            if not turning:  # a knob that gets other positions turns, too
                turning = True
                shown.update(Image(self.picture(**self._settle(knobs))))
                turning = False

        for knob in knobs.values():
            knob.observe(turned, "value")

    def _settle(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Give each knob the positions that those before it leave, and return the choice."""
        chosen: dict[str, Any] = {}
        for name in self._choices:
            offered = self.offers(name, chosen)
            wanted = knobs[name].value if name in knobs else offered[-1]
            chosen[name] = wanted if wanted in offered else offered[-1]
            if name in knobs:
                knobs[name].options = offered
                knobs[name].value = chosen[name]
        return chosen

    def knobs(self) -> dict[str, Any]:
        """Return the knobs that have a choice, by name; none where ipywidgets is missing."""
        several = [name for name in self._choices if self._choices[name].nunique() > 1]
        try:
            return {name: self._chooser(name) for name in several}
        except ImportError:
            return {}

    _ipython_display_ = show

    def _chooser(self, name: str) -> Any:
        """Return a slider, or a list where the values are too long to stand beside one."""
        import ipywidgets  # noqa: PLC0415

        look = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
        look |= {"options": self.offers(name, self._start), "value": self._start[name]}
        if max(len(str(value)) for value in self._choices[name]) > LONGEST_VALUE:
            return ipywidgets.Dropdown(**look)
        return ipywidgets.SelectionSlider(continuous_update=False, **look)


def _all_of(choices: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    return pd.DataFrame(itertools.product(*choices.values()), columns=list(choices), dtype=object)


# --- what a run says of a path --------------------------------------------------------------------------


def of_run(run: str | Path | None = None, workload: str | None = None) -> Knob:
    """Return knobs for path, pages, size, load, policy and threads, over what a run has measured.

    On the left is the speedup by threads of what is chosen; on the right, that of the number of threads
    chosen, beside all else that was measured of the path.

    Parameters
    ----------
    run
        A directory or a name; by default the latest run here, or the sample.
    workload
        Show this one only, if the run has it.
    """
    found = load_run(latest_run() if run is None else find_run(str(run)))
    records = found.records
    if workload in set(records["workload"]):
        records = records[records["workload"] == workload]
    rows = tables.parallel(tables.repetitions(replace(found, records=records)))
    if rows.empty:
        raise ValueError(f"run {found.name} has no case with several threads; give another one")
    cases = tables.sort_cases(rows.drop_duplicates([*tables.CASE, "threads"]))
    choices, paths = _choices_of(cases), records["workload"] + " " + records["method"]

    @cache
    def scaling(path: str, pages: str) -> pd.DataFrame:
        kept = records[(paths == path) & (records["page_kind"] == pages)]
        return tables.scaling_table(replace(found, records=kept))

    def draw(path: str, pages: str, **chosen: Any) -> Any:
        return beside_others(scaling(path, pages), f"{path}, {pages} pages", **chosen)

    first = choices[
        (choices[["path", "pages", "load"]] == choices.iloc[0][["path", "pages", "load"]]).all(axis=1)
    ]
    return Knob(draw, choices, int(first.index[-1]))


NO_LOAD = "idle machine"


def _choices_of(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the cases as the knobs of a run have them."""
    return pd.DataFrame(
        {
            "path": cases["workload"] + " " + cases["method"],
            "pages": cases["page_kind"],
            "load": cases["options"].replace("", NO_LOAD),
            "size": cases["size_bytes"].map(fmt_size),
            "policy": cases["policy"],
            "threads": cases["threads"],
        },
        dtype=object,
    )


@plots.theme()
def beside_others(table: pd.DataFrame, title: str, load: str, size: str, policy: str, threads: int) -> Any:
    """Draw the speedup of a case by threads, and beside all other cases of its path with as many threads."""
    table = table.assign(load=table["options"].replace("", NO_LOAD), size=table["size_bytes"].map(fmt_size))
    mine = (table["load"] == load) & (table["size"] == size) & table["policy"].isin(["", policy])
    names = table[["size", "options", "policy"]].to_numpy()
    table = table.assign(case=[", ".join(filter(None, row)) for row in names])
    others = tables.parallel(table[table["threads"] == threads])
    drawing, (left, right) = plots.panels(2, 1.2 + 0.13 * max(8, len(others)), width_in=9)
    plots.ideal(left, [1, *table[mine]["threads"]])
    plots.curves(left, table[mine], "threads", "speedup")
    plots.thread_axis([left], table["threads"], slope=False)
    left.set(ylabel="speedup over the serial call", ylim=(0, None))
    plots.intervals(right, others, "speedup", "case", color=plots.PALETTE[7])
    chosen = others[mine.loc[others.index]]
    plots.intervals(right, chosen, "speedup", "case", color=plots.PALETTE[3])
    right.axvline(1, **plots.DOTTED)
    count = words.count(threads, "thread")
    right.set(xlabel=f"speedup with {count}", xlim=(0, None))
    for row in chosen.to_dict("records"):
        drawing.suptitle(f"{title}, {size}, {count}: {words.value(row, 'speedup')} ({row['verdict']})")
    return drawing


# --- chunk size against the timeline ----------------------------------------------------------------------


def chunk_sizes(case: Case, threads: int | None = None) -> Knob:
    """Run the case once for each of some least chunks; return a knob for them that shows the timelines."""
    most = max(case.size_bytes // 2, case.page_size)
    sizes = [fmt_size(case.page_size << i) for i in range(64) if case.page_size << i <= most]
    shown = sizes[::-1][: 2 * 6 : 2] if len(sizes) > 6 else sizes[::-1]
    results = {one: traced(replace(case, min_chunk_bytes=parse_size(one)), threads) for one in shown}

    def draw(minimum_chunk: str) -> Any:
        result = results[minimum_chunk]
        title = (
            f"{case.workload} {case.method}, {fmt_size(case.size_bytes)}: {result.n_chunks} chunks, "
            f"{fmt_time(result.wall_s)}"
        )
        return traces.plot(result, title)

    return Knob(draw, {"minimum_chunk": shown})


def traced(case: Case, threads: int | None = None) -> Result:
    """Run a case once with a trace, and check that the work was done.

    Raises
    ------
    ktask.memory.region.UnavailableError, ktask.memory.region.BudgetError, CheckError
        If this machine cannot do it, has not enough memory, or the work did not happen.
    """
    with prepared(case) as state:
        return repeat(state, threads or topology.cpu_count(), case.policy, trace=True).result
