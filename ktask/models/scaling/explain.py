"""Which law explains a measured curve, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from ktask.models.scaling.laws import LAWS
from ktask.models.scaling.posterior import Fit, fit
from ktask.models.scaling.predict import curve_rows
from ktask.models.scaling.table import Curve

# To explain, all laws have the same prior weight: with those of the published curves a serial share alone
# would pass for a far roof, which is 14 times as frequent.
EVEN = tuple(replace(law, prior_weight=1 / len(LAWS)) for law in LAWS)


def _fitted(curve: Curve) -> Fit:
    return fit(curve_rows(curve), laws=EVEN)


def _residuals(curve: Curve, found: Fit) -> pd.DataFrame:
    times = np.exp(found.own.log_time)
    parts = []
    for one in found.laws:
        fitted, held_out = one.fitted(found.own), one.held_out(found.own)
        part = {"law": one.law.name, "threads": curve.threads, "time_s": times, "fitted_s": fitted}
        part |= {"residual_pct": (fitted / times - 1) * 100, "held_out_pct": (held_out / times - 1) * 100}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def residuals(curve: Curve) -> pd.DataFrame:
    """Return what each law leaves unexplained.

    Returns
    -------
    pandas.DataFrame
        One row per law and thread count: `time_s`, `fitted_s`, `residual_pct`, and `held_out_pct`, the
        error of the time predicted from the other thread counts.
    """
    return _residuals(curve, _fitted(curve))


def _compared(curve: Curve, found: Fit) -> pd.DataFrame:
    errors = _residuals(curve, found).assign(error=lambda table: table["held_out_pct"].abs())
    slow_start = found.slow_start() if curve.threads[0] == 1 else 1.0
    table = pd.DataFrame(
        {
            "law": [one.law.name for one in found.laws],
            "about": [one.law.about for one in found.laws],
            "probability": list(found.probabilities().values()),
            "says": [one.says(slow_start) for one in found.laws],
        }
    )
    table.insert(2, "held_out_pct", table["law"].map(errors.groupby("law")["error"].median()))
    return table


def compare_laws(curve: Curve) -> pd.DataFrame:
    """Return all laws validated on all times of a curve, the best first.

    Returns
    -------
    pandas.DataFrame
        One row per law: `held_out_pct`, the median error for a thread count that was left out; `probability`
        of the law, if all are equally probable before; `says`, what the times determine, in words.
    """
    table = _compared(curve, _fitted(curve))
    return table.sort_values(["held_out_pct", "probability"], ascending=[True, False], ignore_index=True)


def explain(curves: Iterable[Curve], least: int = 4) -> pd.DataFrame:
    """Return one row per curve with at least `least` thread counts: the most probable of its laws.

    The columns are those of `compare_laws`, and `next_held_out_pct`, the smallest error of any other law.
    """
    rows = []
    for curve in curves:
        if len(curve.threads) >= least:
            table = _compared(curve, _fitted(curve)).drop(columns="about")
            at = table["probability"].idxmax()
            reach = {"threads": f"{curve.threads[0]} to {curve.threads[-1]}"}
            others = {"next_held_out_pct": table["held_out_pct"].drop(at).min()}
            rows.append({**curve.group, **reach, **table.loc[at], **others})
    return pd.DataFrame(rows)
