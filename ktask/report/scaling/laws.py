"""Laws of scaling, fitted to each path with enough thread counts, and the simulator beside them.

The laws see times only. The simulator is calibrated from the same run, and carries out the chunks that the
policy would hand out on a machine with more CPUs. Where the two disagree, nobody has measured who is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
from msgspec.structs import replace

from ktask.engine.policy import MOST_CPUS
from ktask.lab.records import Run
from ktask.models.scaling.forecast import curves_of
from ktask.models.scaling.posterior import Fit
from ktask.models.scaling.predict import Options, Predicted, predict_curve
from ktask.models.simulation.calibrate import calibrate
from ktask.models.simulation.machines import Machine
from ktask.models.simulation.what_if import repeated
from ktask.report import tables
from ktask.report.paths.numa import parted
from ktask.report.tables import CASE, PATH, case_of, compared

LEAST_COUNTS = 4  # thread counts that a law needs: fewer do not determine one, and its prior would speak
LEAST_PROCESSES = 2  # per thread count
FARTHEST = 2  # predictions are for this many times the helpers of the most threads measured
# Laws learned without any curve of a published machine, and fitted on 1, 2 and 4 threads, are off by
# at most this factor in nine of ten of its other times (`ktask predict data/published --held-out machine`,
# which tests/models/test_predict.py compares).
MISSED = 1.22
SEEDS = 5
SIMULATED = ("simulated_s", "simulated_low_s", "simulated_high_s", "simulated_speedup", "most_chunks")


def enough(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return the serial calls and thread counts of each path that a law may be fitted to, at one size.

    That is the largest size with `LEAST_COUNTS` thread counts of several processes. Memory that was put
    elsewhere on purpose is left out: the same path stands beside it.
    """
    known = compared(scaling[scaling["processes"] >= LEAST_PROCESSES])
    known = known[known["options"].map(lambda options: parted(options)[1] == "").astype(bool)]
    cases = known.groupby(CASE)
    kept = known[(cases["threads"].transform("nunique") >= LEAST_COUNTS) & cases["baseline"].transform("any")]
    return kept[kept["size_bytes"] == kept.groupby(PATH)["size_bytes"].transform("max")]


@dataclass(frozen=True)
class Fitted:
    """One path at one size with its laws, fitted on all its times."""

    case: dict[str, Any]  # path and size
    measured: pd.DataFrame  # `threads`, and the estimate `wall` in seconds
    predicted: Predicted

    @property
    def most(self) -> int:
        """The most threads that were measured."""
        return int(self.measured["threads"].max())

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Per thread count the columns of `Predicted.table`, intervals wider by `MISSED`, and `residual`.

        The residual is measured over fitted time minus one. `measured_speedup` is the measured one; both
        have the interval of the measured time.
        """
        table = self.predicted.table({*self.measured["threads"], FARTHEST * (self.most - 1) + 1})
        for low, high in (("low_s", "high_s"), ("speedup_low", "speedup_high")):
            table[low], table[high] = table[low] / MISSED, table[high] * MISSED
        measured = self.measured.set_index("threads").reindex(table["threads"]).set_axis(table.index)
        table[["processes", "n"]] = measured[["processes", "n"]]
        base = self.measured["wall"].iloc[0]
        for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
            table[f"residual{end}"] = measured[f"wall{end}"] / table["time_s"] - 1
            table[f"measured_speedup{end}"] = base / measured[f"wall{other}"]
        return table.drop(columns="beyond").assign(**self.case)

    @property
    def fit(self) -> Fit:
        """What was fitted."""
        return cast("Fit", self.predicted.fit)  # there is one for each curve of several thread counts

    @property
    def law(self) -> str:
        """The most probable law."""
        return self.fit.best().law.name


def fits(scaling: pd.DataFrame) -> list[Fitted]:
    """Return the laws of each path that has enough thread counts."""
    return [
        _fit(case_of(key), rows.sort_values("threads"))
        for key, rows in enough(scaling).groupby(CASE, sort=False)
    ]


def _fit(case: dict[str, Any], rows: pd.DataFrame) -> Fitted:
    (curve,) = curves_of(rows, list(case))
    measured = rows[["threads", "processes", "n", "wall", "wall_low", "wall_high"]].reset_index(drop=True)
    return Fitted(case, measured, predict_curve(curve, Options(fit_threads=tuple(curve.threads.tolist()))))


# --- the simulator -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LargerMachines:
    """What is to be expected of more threads than were measured.

    `table` has `Fitted.curve` of every path, and per thread count the simulated time with its 5th and 95th
    percentile, the speedup over the simulated one-thread time, and how many chunks of the least size there
    are (`most_chunks`); NaN where there is none.
    """

    table: pd.DataFrame
    machine: Machine | None = None  # what was simulated, calibrated from the run
    cpus: int = 0  # that the measured machine has
    reason: str = ""  # why nothing was simulated

    @property
    def ahead(self) -> pd.DataFrame:
        """The rows of thread counts that were not measured."""
        return self.table[self.table["measured_s"].isna()]

    @property
    def disagreeing(self) -> pd.DataFrame:
        """Those of them where the intervals of law and simulation do not overlap."""
        rows = self.ahead
        return rows[(rows["simulated_low_s"] > rows["high_s"]) | (rows["simulated_high_s"] < rows["low_s"])]


def predict(run: Run, found: Sequence[Fitted]) -> LargerMachines:
    """Return laws and simulation beside the measured times of a run."""
    if not found:
        return LargerMachines(pd.DataFrame(columns=[*PATH, "measured_s", *SIMULATED]))
    curves = [one.curve for one in found]
    asked = _asked(run)
    try:
        small = calibrate(run)
        larger = enlarged(small, max(int(curve["threads"].max()) for curve in curves))
        simulated = [_simulated(small, larger, curve, asked) for curve in curves]
    except ValueError as error:
        plain = [curve.assign(**dict.fromkeys(SIMULATED, np.nan)) for curve in curves]
        return LargerMachines(pd.concat(plain, ignore_index=True), reason=str(error))
    return LargerMachines(pd.concat(simulated, ignore_index=True), larger, small.cpus)


def most_threads(cpus: int) -> int:
    """Return the most threads that a task gets: helpers on four fifths of the CPUs, and the caller."""
    return 4 * cpus // 5 + 1


def enlarged(machine: Machine, threads: int) -> Machine:
    """Return the machine, its cores doubled until a task gets `threads`."""
    while most_threads(machine.cpus) < threads:
        if 2 * machine.cpus > MOST_CPUS:
            raise ValueError(f"a machine for {threads} threads has more than {MOST_CPUS} CPUs")
        machine = replace(machine, cores_per_node=2 * machine.cores_per_node)
    return machine


def _asked(run: Run) -> pd.DataFrame:
    """Return one row per path and size: the kind of work, policy and least chunk that were measured."""
    rows = tables.repetitions(run)
    rows = rows[tables.is_of_path(rows)]
    rows = rows.assign(label=tables.policy_labels(rows))
    rows = rows[~rows["baseline"]].assign(policy_name=lambda table: table["policy"])
    rows = rows.assign(policy=rows["label"]).drop_duplicates([*PATH, "size_bytes"])
    work = rows[["workload", "method", "page_kind", "options"]].itertuples(index=False)
    return rows.assign(work=["-".join(filter(None, row)) for row in work]).set_index([*PATH, "size_bytes"])


def _simulated(small: Machine, larger: Machine, curve: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return a curve with what the simulator says; NaN for work that it was not calibrated on.

    Threads that the measured machine has no CPUs for run on the larger one.
    """
    case = asked.loc[tuple(curve.iloc[0][[*PATH, "size_bytes"]])]
    if case["work"] not in small.work:
        return curve.assign(**dict.fromkeys(SIMULATED, np.nan))
    size, chunk = int(case.name[-1]), int(case["min_chunk_size"])
    how = {"min_chunk": chunk, "policy_name": case["policy_name"], "low_priority": False, "seeds": SEEDS}
    walls = []
    for n in map(int, curve["threads"]):
        machine = (small if n <= most_threads(small.cpus) else larger).for_work(case["work"])
        walls.append([one.wall_s for one in repeated(machine, size, max_threads=n, **how)])
    low, middle, high = np.array([np.quantile(same, (0.05, 0.5, 0.95)) for same in walls]).T
    found = (middle, low, high, middle[0] / middle, -(-size // chunk))
    return curve.assign(**dict(zip(SIMULATED, found, strict=True)))
