"""Runs of several kernels: a heat map of times over those of the first kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes

from ktask.common import figures as draw
from ktask.common import units
from ktask.lab.compare import Kernels, Row, Step, compare_kernels
from ktask.lab.records import Run
from ktask.report import sentences as words
from ktask.report.figure import Figure

KERNELS_KEY = "kernels"
STEP_MARK = "►"
MOST_CASES = 32  # of the map: of more, those that change most
CALL = 2.0  # the colours end at this factor
ROW_IN, KERNEL_IN, LABEL_IN = 0.22, 1.25, 3.4


def kernels_figure(runs: Sequence[Run]) -> Figure | None:
    """Draw the ratios of runs of several kernels; None where there is one kernel, or nothing in common."""
    if len({run.machine.get("kernel_release") for run in runs}) < 2:
        return None
    try:
        found = compare_kernels(runs)
    except ValueError:  # said where the runs are side by side
        return None
    return _figure(found)


def kernel_data(found: Kernels) -> pd.DataFrame:
    """Return one row per case and kernel: ratio to the first kernel with interval, verdict, and the step."""
    cases = [*found.cases().values()]
    often = Counter(case_name(steps[0].row) for steps in cases)
    return pd.DataFrame([_data(step, often) for steps in cases for step in steps])


def _data(step: Step, often: Counter[str]) -> dict[str, object]:
    row, name = step.row, case_name(step.row)
    name += f", {_chunks(row)}" * (often[name] > 1)
    case = {"case": name, "kernel": step.kernel, "base_s": row.old.median, "time_s": row.new.median}
    ratio = {"ratio": row.ratio.median, "ratio_low": row.ratio.low, "ratio_high": row.ratio.high}
    return case | ratio | {"verdict": row.verdict, "step": step.step}


def case_name(row: Row) -> str:
    """Return what a row of the map is about: "free munmap (4 KiB), 64 MiB, 2 threads"."""
    inner = ", ".join(filter(None, [words.kind_label(row.page_kind), row.options]))
    path = words.short(f"{row.method} ({inner})")
    where = f"{row.host_id}: " if row.host_id else ""
    return f"{where}{row.workload} {path}, {units.fmt_size(row.size_bytes)}, {row.variant}"


def _chunks(row: Row) -> str:
    """Return how a case was split, for cases that are the same otherwise."""
    return f"{row.policy}, chunks from {units.fmt_size(row.min_chunk_size)}"


def _most_changed(data: pd.DataFrame) -> pd.DataFrame:
    """Return the cases that change most, in the order of all: steps first, then the largest known ratios."""
    known = np.log(data["ratio"]).abs().where(data["verdict"] != "undecided", 0.0)
    ranked = data.assign(size=known, steps=data["step"] != "").groupby("case")[["steps", "size"]].max()
    kept = ranked.sort_values(["steps", "size"], ascending=False, kind="stable").head(MOST_CASES)
    return data[data["case"].isin(kept.index)]


@draw.theme()
def _figure(found: Kernels) -> Figure:
    data, kernels = kernel_data(found), found.names[1:]
    drawn = _most_changed(data)
    known = drawn.assign(ratio=drawn["ratio"].where(drawn["verdict"] != "undecided", 1.0))
    table = known.pivot(index="case", columns="kernel", values="ratio")
    table = table.loc[list(dict.fromkeys(drawn["case"])), list(kernels)]
    height, width = 0.7 + ROW_IN * len(table), LABEL_IN + KERNEL_IN * len(kernels)
    drawing, axis = draw.single(width, height)
    _heat_map(axis, table, drawn)
    axis.set(xlabel=f"time over that of {found.names[0]}", ylabel="")
    return Figure(KERNELS_KEY, drawing, data, _caption(found, data, len(table)), _alt(found, data))


def _heat_map(axis: Axes, table: pd.DataFrame, data: pd.DataFrame) -> None:
    texts = data.assign(text=[_text(row) for _, row in data.iterrows()])
    labels = texts.pivot(index="case", columns="kernel", values="text").reindex_like(table).fillna("")
    limit = np.log(CALL)
    colours = {"cmap": "vlag", "vmin": -limit, "vmax": limit, "cbar": False}
    sns.heatmap(
        np.log(table), annot=labels, fmt="", ax=axis, linewidths=0.5, annot_kws={"fontsize": 7}, **colours
    )
    axis.tick_params(length=0)
    axis.set_yticks(np.arange(len(table)) + 0.5, table.index, fontsize=7, rotation=0)


def _text(row: pd.Series) -> str:
    mark = f"{STEP_MARK} " if row["step"] else ""
    known = "" if row["verdict"] == "undecided" else f" {row['verdict']}"
    return f"{mark}{units.fmt_number(row['ratio'])}{known}"


def _caption(found: Kernels, data: pd.DataFrame, shown: int) -> Markup:
    steps = data[data["step"] != ""]
    cases = words.count(steps["case"].nunique(), "case")
    where = words.listed([name for name in found.names[1:] if name in set(steps["kernel"])])
    every = data["case"].nunique()
    finding = f"{cases} of {every} change, at {where}." if len(steps) else "No case changes."
    rest = f" Shown are the {shown} that change most; the data have all." * (shown < every)
    return Markup(
        "{}{} Each field is the time over that on {}: red is slower, blue faster; a field without "
        "colour and word is undecided, and {} marks a change from the kernel before."
    ).format(finding, rest, found.names[0], STEP_MARK)


def _alt(found: Kernels, data: pd.DataFrame) -> str:
    counts = data.groupby("kernel", sort=False)["verdict"].value_counts().items()
    said = ", ".join(f"{kernel}: {number} {name}" for (kernel, name), number in counts)
    return f"Heat map of times over those of kernel {found.names[0]}; {said}."
