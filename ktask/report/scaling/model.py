"""Laws of scaling fitted to each path, what they leave unexplained, and what they say about more threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pandas as pd

from ktask.models.scaling.forecast import curves_of
from ktask.models.scaling.laws import LAWS
from ktask.models.scaling.posterior import LEVEL, Fit
from ktask.models.scaling.predict import Options, Predicted, predict_curve
from ktask.report.tables import CASE, PATH, case_of, compared, parallel

SPLIT_FROM = 4  # thread counts from which some are kept out of the fit, to test it on
FARTHEST = 4  # forecasts reach this many times the most threads measured; beyond 2 with a warning


@dataclass(frozen=True)
class Fitted:
    """One path at one size with its laws, fitted on the times of some thread counts."""

    case: dict[str, Any]  # path and size
    measured: pd.DataFrame  # `threads`, and the estimate `wall` in seconds
    predicted: Predicted

    @property
    def fit_threads(self) -> tuple[int, ...]:
        """The thread counts whose times the laws have seen."""
        return self.predicted.fit_threads

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Per thread count the columns of `Predicted.table`, `fitted` and `residual`.

        The residual is measured over fitted time minus one. `measured_speedup` is the measured one; both
        have the interval of the measured time.
        """
        most = max(self.fit_threads)
        ahead = {most << i for i in range(1, FARTHEST.bit_length())}
        table = self.predicted.table({*self.measured["threads"], *ahead})
        measured = self.measured.set_index("threads").reindex(table["threads"]).set_axis(table.index)
        table[["processes", "n"]] = measured[["processes", "n"]]
        table["fitted"] = table["threads"].isin(self.fit_threads)
        base = self.measured["wall"].iloc[0]
        for end, other in (("", ""), ("_low", "_high"), ("_high", "_low")):
            table[f"residual{end}"] = measured[f"wall{end}"] / table["time_s"] - 1
            table[f"measured_speedup{end}"] = base / measured[f"wall{other}"]
        return table.assign(**self.case)

    @property
    def fit(self) -> Fit:
        """What was fitted."""
        return cast("Fit", self.predicted.fit)  # there is one for each curve of several thread counts

    @property
    def law(self) -> str:
        """The most probable law."""
        return self.fit.best().law.name


def fits(scaling: pd.DataFrame) -> list[Fitted]:
    """Return the laws fitted to each path that has several thread counts, at its largest size.

    Below `SPLIT_FROM` thread counts all are fitted on; else those up to half of the most, and the rest test.
    """
    usable = compared(scaling[scaling["n"] > 0])
    largest = parallel(usable).groupby(PATH)["size_bytes"].max()
    return [
        _fit(case_of(key), rows.sort_values("threads"))
        for key, rows in usable.groupby(CASE, sort=False)
        if largest.get(key[:-1]) == key[-1] and rows["threads"].nunique() > 1 and rows["baseline"].any()
    ]


def _fit(case: dict[str, Any], rows: pd.DataFrame) -> Fitted:
    (curve,) = curves_of(rows, list(case))
    measured = rows[["threads", "processes", "n", "wall", "wall_low", "wall_high"]].reset_index(drop=True)
    return Fitted(case, measured, predict_curve(curve, Options(fit_threads=calibration(list(curve.threads)))))


def calibration(threads: Sequence[int]) -> tuple[int, ...]:
    """Return the thread counts to fit on; the others are to test the fit."""
    counts = sorted(map(int, threads))
    if len(counts) < SPLIT_FROM:
        return tuple(counts)
    lower = [n for n in counts if n <= counts[-1] // 2]
    return tuple(lower if len(lower) > 1 else counts[:2])


def curves(found: Sequence[Fitted]) -> pd.DataFrame:
    """Return the curves of all fits below each other."""
    return pd.concat([one.curve for one in found], ignore_index=True) if found else pd.DataFrame()


ABOUT = {law.name: law.about for law in LAWS}
LEVEL_PERCENT = round(100 * LEVEL)
