"""Larger machines of the same kind: what the laws and the simulator say, beside what was measured.

The laws see times only. The simulator is calibrated from the same run, and carries out the chunks that the
policy would hand out on a machine with more CPUs. Where the two part, nobody has measured who is right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes
from msgspec.structs import replace

from ktask.common import figures as draw
from ktask.common import units
from ktask.engine.policy import MOST_CPUS
from ktask.lab.records import Run
from ktask.models.simulation.calibrate import calibrate, measured_walls
from ktask.models.simulation.machines import Machine
from ktask.models.simulation.what_if import repeated
from ktask.report import markup, tables
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.scaling.model import Fitted
from ktask.report.scaling.model_figures import draw_law
from ktask.report.tables import PATH

PREDICTION_KEY = "larger"  # a key has no hyphen before the workload
SEEDS = 9
ROOM_BELOW = 0.6
SIMULATED = ("simulated_s", "simulated_low_s", "simulated_high_s", "simulated_speedup", "most_chunks")


@dataclass(frozen=True)
class LargerMachines:
    """What is to be expected of larger machines.

    `table` has `Fitted.curve` of every path, and per thread count the simulated time with its 5th and 95th
    percentile, the speedup over the simulated one-thread time, and how many chunks of the least size there
    are (`most_chunks`); NaN where there is none.
    """

    table: pd.DataFrame
    machine: Machine | None  # what was simulated, calibrated from the run
    walls: pd.DataFrame  # what it was calibrated from (`measured_walls`)
    reason: str = ""  # why nothing was simulated

    @property
    def simulated(self) -> pd.DataFrame:
        """The rows that were simulated."""
        return self.table[self.table["simulated_s"].notna()]


def predict(run: Run, fits: Sequence[Fitted]) -> LargerMachines:
    """Return laws and simulation beside the measured times of a run."""
    curves = [one.curve for one in fits]
    most = max((int(curve["threads"].max()) for curve in curves), default=1)
    asked = _asked(run)
    try:
        larger = enlarged(calibrate(run), most)
        simulated = [_simulated(larger, curve, asked) for curve in curves]
    except ValueError as error:
        plain = [curve.assign(**dict.fromkeys(SIMULATED, np.nan)) for curve in curves]
        return LargerMachines(_below(plain), None, pd.DataFrame(), str(error))
    return LargerMachines(_below(simulated), larger, measured_walls(run))


def enlarged(machine: Machine, threads: int) -> Machine:
    """Return the machine, its cores doubled until a task gets `threads`: 4/5 of the CPUs, and one."""
    while 4 * machine.cpus // 5 + 1 < threads:
        if 2 * machine.cpus > MOST_CPUS:
            raise ValueError(f"a machine for {threads} threads has more than {MOST_CPUS} CPUs")
        machine = replace(machine, cores_per_node=2 * machine.cores_per_node)
    return machine


def _below(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*PATH, *SIMULATED])


def _asked(run: Run) -> pd.DataFrame:
    """Return one row per path and size: the kind of work, policy and least chunk that were measured."""
    rows = tables.repetitions(run)
    rows = rows[tables.is_of_path(rows)]
    rows = rows.assign(label=tables.policy_labels(rows))
    rows = rows[~rows["baseline"]].assign(policy_name=lambda table: table["policy"])
    rows = rows.assign(policy=rows["label"]).drop_duplicates([*PATH, "size_bytes"])
    work = rows[["workload", "method", "page_kind", "options"]].itertuples(index=False)
    return rows.assign(work=["-".join(filter(None, row)) for row in work]).set_index([*PATH, "size_bytes"])


def _simulated(larger: Machine, curve: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return a curve with what the simulator says; NaN for work that it was not calibrated on."""
    case = asked.loc[tuple(curve.iloc[0][[*PATH, "size_bytes"]])]
    if case["work"] not in larger.work:
        return curve.assign(**dict.fromkeys(SIMULATED, np.nan))
    machine, size, chunk = larger.for_work(case["work"]), int(case.name[-1]), int(case["min_chunk_size"])
    how = {"min_chunk": chunk, "policy_name": case["policy_name"], "low_priority": False}
    runs = [repeated(machine, size, seeds=SEEDS, max_threads=int(n), **how) for n in curve["threads"]]
    walls = [[one.wall_s for one in same] for same in runs]
    low, middle, high = np.quantile(walls, (0.05, 0.5, 0.95), axis=1)
    found = (middle, low, high, middle[0] / middle, math.ceil(size / chunk))
    return curve.assign(**dict(zip(SIMULATED, found, strict=True)))


# --- figure ------------------------------------------------------------------------------------------------


@draw.theme()
def prediction_figure(found: LargerMachines, key: str) -> Figure | None:
    """Draw measured speedups, law with interval and simulated curve, one panel per path."""
    if found.table.empty:
        return None
    paths = [rows for _, rows in found.table.groupby([*PATH, "size_bytes"], sort=False)]
    drawing, axes = draw.panels(len(paths), 1.75, sharex=True, sharey=True)
    for axis, rows in zip(axes, paths, strict=True):
        draw_law(axis, rows)
        if rows["simulated_speedup"].notna().any():
            look = {"color": draw.PALETTE[1], "linestyle": "--", "marker": "s", "markersize": 3}
            simulated = {"x": "threads", "y": "simulated_speedup", "label": "simulated"}
            sns.lineplot(rows, ax=axis, errorbar=None, **simulated, **look)
        _warn(axis, rows)
        draw.set_title(axis, words.full_label(rows.iloc[0]))
    draw.label_left(axes, "speedup")
    draw.thread_axis(axes, found.table["threads"], log=True)
    axes[0].set_ylim(bottom=ROOM_BELOW * axes[0].get_ylim()[0])  # for the words at the bottom of each panel
    draw.legend(drawing, axes)
    return Figure(key, drawing, found.table, _caption(found), _alt(found))


def _warn(axis: Axes, rows: pd.DataFrame) -> None:
    """Shade and name what is more than twice the measured range away."""
    if rows["beyond"].any():
        start, end = rows.loc[~rows["beyond"], "threads"].max(), rows["threads"].max()
        axis.axvspan(start, end, color=draw.WARN, alpha=0.08, linewidth=0, label="a guess")
        look = {"color": draw.WARN, "fontsize": 6.5, "ha": "center"}
        axis.text(math.sqrt(start * end), 0.02, "beyond 2×", transform=axis.get_xaxis_transform(), **look)


# --- words -------------------------------------------------------------------------------------------------


def _caption(found: LargerMachines) -> Markup:
    """Return how far law and simulation agree, and what is drawn."""
    rest = (
        "Points: measured, with 95 % intervals, {} per point. Dotted: ideal. Shaded in "
        "the colour of warnings: more than twice the measured threads away."
    )
    n = words.n_range(found.table.dropna(subset="measured_s"))
    return markup.join([*_agreement(found), rest.format(n)], " ")


def _agreement(found: LargerMachines) -> list[str]:
    ahead = found.simulated[found.simulated["measured_s"].isna()]
    if ahead.empty:
        return ["No simulated curve is drawn; the text gives the reason."]
    inside = ahead[ahead["simulated_speedup"].between(ahead["speedup_low"], ahead["speedup_high"])]
    counts = [
        f"{(inside['threads'] == n).sum()} of {words.count(number, 'path')} with {n}"
        for n, number in ahead["threads"].value_counts().sort_index().items()
    ]
    farthest = ahead.loc[np.log(ahead["simulated_speedup"] / ahead["speedup"]).abs().idxmax()]
    simulated, law = (units.fmt_number(farthest[name]) for name in ("simulated_speedup", "speedup"))
    chunks = words.count(int(farthest["most_chunks"]), "chunk")
    few = farthest["most_chunks"] < farthest["threads"]
    return [
        f"The simulation lies within the interval of the law for {words.listed(counts)} threads.",
        f"They differ most for {words.case_label(farthest)} with {int(farthest['threads'])} threads: "
        f"simulated {simulated}, law {law}"
        + (f"; the law ignores that it has no more than {chunks}." if few else "."),
    ]


def _alt(found: LargerMachines) -> str:
    """Return the last point of every path in words."""

    def end(row: pd.Series) -> str:
        law, simulated = (units.fmt_number(row[name]) for name in ("speedup", "simulated_speedup"))
        tail = f"simulated {simulated}" if pd.notna(row["simulated_speedup"]) else "not simulated"
        return f"{words.name_of(row)} with {int(row['threads'])} threads: law {law}, {tail}"

    last = found.table.groupby([*PATH, "size_bytes"], sort=False).tail(1)
    ends = "; ".join(words.each(last, end))
    return f"Measured, fitted and simulated speedup against threads. {ends}."


def rests_on(found: LargerMachines) -> Markup:
    """Return in plain words what law and simulation rest on, and what they cannot know."""
    if found.machine is None:
        return markup.paragraph(f"Nothing was simulated: {found.reason}.")
    if found.simulated.empty:
        return markup.paragraph("Nothing was simulated: no path has both a law and a calibrated machine.")
    basis = markup.paragraph(LAWS, *_simulation(found.machine, found))
    return markup.join([basis, markup.paragraph(LIMITS, _left_out(found))])


LAWS = (
    "What this rests on: the law of a path sees the measured times of its largest size, and its prior comes "
    "from published curves."
)
LIMITS = (
    "Neither knows what these threads did not meet: a roof of the memory that they do not reach, a "
    "second node, siblings on a core, a lock that so few do not wait for. Where one of these "
    "comes first, the simulated curve bends too late."
)


def _simulation(machine: Machine, found: LargerMachines) -> list[str]:
    """Return what the simulator was calibrated from, and what it carries out."""
    works = [machine.for_work(name) for name in dict.fromkeys(machine.work)]
    costs = words.reach((100 * work.contention for work in works), lambda cost: units.fmt_number(cost, 2))
    counts = words.listed([str(n) for n in sorted(set(found.walls["threads"]))])
    ends = {
        "that the memory has a roof": sum(math.isfinite(work.node_bandwidth) for work in works),
        "that threads take turns at a lock": sum(work.lock_share > 0 for work in works),
    }
    roof = "".join(f", or {effect} ({words.count(n, 'kind')})" for effect, n in ends.items() if n)
    timelines = (
        "From the timelines it has when a helper begins and how far equal chunks spread; it takes "
        f"the median of {SEEDS} simulations."
        if any(work.helper_start_s for work in works)
        else "The run kept no timelines, so that helpers begin at once and equal chunks take equally long."
    )
    return [
        f"The simulation knows from the times of {counts} threads over {words.sizes_of(found.walls)} what a "
        f"byte costs one thread, and what each further thread costs all others ({costs} % by kind of work)"
        f"{roof}.",
        timelines,
        f"It hands out the chunks that the policy would, on a machine of this kind with {machine.cpus} CPUs "
        f"({words.count(machine.nodes, 'node')}).",
    ]


def _left_out(found: LargerMachines) -> str:
    left = found.table[found.table["simulated_s"].isna()].drop_duplicates(PATH)
    names = words.listed(words.each(left, words.name_of))
    return f"Not simulated, because their chunks are not all alike: {names}." if names else ""
