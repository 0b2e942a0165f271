"""Which law explains a curve, and what its parameters say, in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from ktask.models.scaling.laws import LAWS
from ktask.models.scaling.posterior import Fit, LawFit, Rows, fit
from ktask.models.scaling.predict import curve_rows
from ktask.models.scaling.table import Curve

SLOW_START_WORTH_SAYING = 1.05
WIDE = 3.0  # an interval whose ends are farther apart than this tells a bound, and no value
# To explain, all laws start with the same odds: with those of the published curves a serial share alone would
# be told as a far roof, which is 14 times as usual.
EVEN = tuple(replace(law, weight=1 / len(LAWS)) for law in LAWS)


def say(found: LawFit, slow_start: float = 1.0) -> str:
    """Return what a law says about a curve: "2.1% of the work is serial; saturates at 9.3 threads".

    A share of which only the upper end is known is told as "at most"; other such parameters are not told.
    """
    parts = []
    for parameter in found.law.parameters:
        if not (parameter.about and found.settled(parameter.name)):
            continue
        known = found.parameters()[parameter.name]
        if known["high"] <= WIDE * known["low"]:
            parts.append(parameter.about.format(known["value"]))
        elif parameter.share:
            parts.append("at most " + parameter.about.format(known["high"]))
    if slow_start > SLOW_START_WORTH_SAYING:
        parts.append(f"one thread alone is {slow_start:.2f} times slower than its share")
    return "; ".join(parts) or "the times do not settle its parameters"


def _errors(found: LawFit, own: Rows) -> np.ndarray:
    return np.abs(found.held_out(own) / np.exp(own.log_time) - 1) * 100


def compare_laws(curve: Curve) -> pd.DataFrame:
    """Return all laws held against all times of a curve, the best first.

    Returns
    -------
    pandas.DataFrame
        One row per law: `held_out_pct`, the median error for a thread count that was left out; `share`, the
        probability of the law; `says`, its settled parameters in words.
    """
    own = curve_rows(curve)
    found = fit(own, laws=EVEN)
    shares = found.shares()
    rows = [
        {
            "law": one.law.name,
            "about": one.law.about,
            "held_out_pct": float(np.nanmedian(_errors(one, own))) if len(own.threads) > 2 else np.nan,
            "share": shares[one.law.name],
            "says": say(one),
        }
        for one in found.laws
    ]
    return pd.DataFrame(rows).sort_values(
        ["held_out_pct", "share"], ascending=[True, False], ignore_index=True
    )


def residuals(curve: Curve) -> pd.DataFrame:
    """Return what each law leaves unexplained.

    Returns
    -------
    pandas.DataFrame
        One row per law and thread count: `time_s`, `fitted_s`, `residual_pct`, and `held_out_pct`, the
        error of the time predicted from the other thread counts.
    """
    own = curve_rows(curve)
    times = np.exp(own.log_time)
    parts = []
    for one in fit(own, laws=EVEN).laws:
        fitted, held_out = one.fitted(own), one.held_out(own)
        part = {"law": one.law.name, "threads": curve.threads, "time_s": times, "fitted_s": fitted}
        part |= {"residual_pct": (fitted / times - 1) * 100, "held_out_pct": (held_out / times - 1) * 100}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def _explained(curve: Curve) -> dict[str, object]:
    own = curve_rows(curve)
    found: Fit = fit(own, laws=EVEN)
    errors = {one.law.name: float(np.nanmedian(_errors(one, own))) for one in found.laws}
    best = found.best()
    others = {name: error for name, error in errors.items() if name != best.law.name}
    return {
        **curve.group,
        "threads": f"{curve.threads[0]} to {curve.threads[-1]}",
        "law": best.law.name,
        "share": found.shares()[best.law.name],
        "held_out_pct": errors[best.law.name],
        "next_held_out_pct": min(others.values()),
        "says": say(best, found.slow_start() if curve.threads[0] == 1 else 1.0),
    }


def explain(curves: Iterable[Curve], least: int = 4) -> pd.DataFrame:
    """Return one row per curve with at least `least` thread counts: its law, how good it is, what it says.

    The law is the most probable one, if all are as probable before. `held_out_pct` is its median error for a
    thread count that was left out, `next_held_out_pct` the smallest such error of any other law.
    """
    return pd.DataFrame([_explained(curve) for curve in curves if len(curve.threads) >= least])
