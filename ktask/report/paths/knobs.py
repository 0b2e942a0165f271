"""Figures with a knob to turn; where nobody can turn it, in an export, the figure as it was left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ktask.common.units import fmt_size, fmt_time, parse_size
from ktask.engine import trace as traces
from ktask.engine.task import Result
from ktask.host import topology
from ktask.lab.measure.rounds import prepared, repeat
from ktask.lab.records import load_run, unconditioned
from ktask.models import figures
from ktask.models.scaling import forecast
from ktask.report import sentences as words
from ktask.report import tables
from ktask.workloads import Case

Draw = Callable[..., Any]

LONGEST_VALUE = 12


class Knob:
    """A figure that follows sliders.

    A live notebook shows the sliders. A saved or exported one shows the picture as it was last.

    Parameters
    ----------
    draw
        Gets one choice of each knob by name; returns a drawing.
    choices
        The positions of each knob, as text or numbers.
    """

    def __init__(self, draw: Draw, choices: Mapping[str, Sequence[Any]]):
        self._draw = draw
        self._choices = {name: list(values) for name, values in choices.items()}
        self._first = self.picture(**{name: values[0] for name, values in self._choices.items()})

    def picture(self, **chosen: Any) -> bytes:
        """Return the figure for these choices as PNG."""
        return self._draw(**chosen)._repr_png_()

    def show(self) -> None:
        """Show sliders, and the picture as an output of its own: what an export keeps is the picture."""
        from IPython.display import Image, display  # noqa: PLC0415  (only a notebook shows knobs)

        sliders = self.sliders()
        if sliders:
            from ipywidgets import VBox  # noqa: PLC0415

            display(VBox(list(sliders.values())))
        shown = display(Image(self._first), display_id=True)

        def turned(_: Any) -> None:
            chosen = {name: slider.value for name, slider in sliders.items()}
            shown.update(Image(self.picture(**chosen)))

        for slider in sliders.values():
            slider.observe(turned, "value")

    def sliders(self) -> dict[str, Any]:
        """Return the sliders by name; none where ipywidgets is missing."""
        try:
            return {name: _chooser(name, values) for name, values in self._choices.items()}
        except ImportError:
            return {}

    _ipython_display_ = show


# --- chunk size against the timeline ----------------------------------------------------------------------


def chunk_sizes(case: Case, threads: int | None = None) -> Knob:
    """Return a knob for the minimum chunk: each turn runs the case once and shows its timeline."""
    most = max(case.size_bytes // 2, case.page_size)
    sizes = [fmt_size(case.page_size << i) for i in range(64) if case.page_size << i <= most]
    shown = sizes[::-1][: 2 * 6 : 2] if len(sizes) > 6 else sizes[::-1]

    def draw(minimum_chunk: str) -> Any:
        result = traced(replace(case, min_chunk_bytes=parse_size(minimum_chunk)), threads)
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


# --- threads against the predicted curve ------------------------------------------------------------------


def more_threads(run: str | Path) -> Knob:
    """Return knobs for the path and for the thread counts to predict."""
    found = unconditioned(load_run(run))
    scaling = tables.at_largest_size(tables.scaling_table(found))
    fitted = forecast.curves_of(scaling, tables.CASE)
    curves = {words.case_label(dict(one.group)): one for one in fitted if len(one.threads) > 1}
    if not curves:
        raise ValueError(f"run {found.name} has no case with several thread counts, so there is no curve")
    most = max(int(curve.threads.max()) for curve in curves.values())

    def draw(path: str, threads: int) -> Any:
        doublings = [n for i in range(1, 12) if (n := most << i) <= threads]
        table = forecast.forecast([curves[path]], doublings)
        return figures.forecasts(table, ("workload", "method", "page_kind"))

    return Knob(draw, {"path": list(curves), "threads": [most << i for i in (2, 1, 3, 4, 5)]})


def _chooser(name: str, values: Sequence[Any]) -> Any:
    """Return a slider, or a list where the values are too long to stand beside one."""
    import ipywidgets  # noqa: PLC0415

    look = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
    if max(len(str(value)) for value in values) > LONGEST_VALUE:
        return ipywidgets.Dropdown(options=values, **look)
    return ipywidgets.SelectionSlider(options=values, continuous_update=False, **look)
