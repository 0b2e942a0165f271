"""Forecasts for larger machines: the measured cases of a run, extrapolated by the laws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ktask.models.scaling.predict import EXTRAPOLATED, Options, predict_curve
from ktask.models.scaling.table import Curve
from ktask.models.simulation.machines import Machine

DOUBLINGS = 3
Z_95 = 1.96  # the intervals of a run have a level of 95 %
SINGLE = 0.05  # spread of a measurement without an interval


def curves_of(scaling: pd.DataFrame, case: Sequence[str]) -> list[Curve]:
    """Return the curves of a run.

    Parameters
    ----------
    scaling
        One row per case and thread count, with `threads`, `baseline`, `n`, `size_bytes`, and the time as
        `wall`, `wall_low`, `wall_high` in seconds. The serial call (`baseline`) stands for one thread.
    case
        The columns that tell one case from another, the size included.
    """
    usable = scaling[(scaling["n"] > 0) & (scaling["baseline"].astype(bool) | (scaling["threads"] > 1))]
    return [
        _curve(dict(zip(case, key, strict=True)), rows.sort_values("threads"))
        for key, rows in usable.groupby(list(case), sort=False)
    ]


def _curve(group: dict[str, object], rows: pd.DataFrame) -> Curve:
    spread = (np.log(rows["wall_high"] / rows["wall_low"]) / (2 * Z_95)).fillna(SINGLE)
    return Curve(
        group,
        rows["threads"].to_numpy(dtype=np.int64),
        rows["wall"].to_numpy(dtype=float),
        spread.to_numpy(dtype=float),
        int(rows["size_bytes"].iloc[0]),
    )


def forecast(
    curves: Iterable[Curve], threads: Sequence[int] = (), machine: Machine | None = None
) -> pd.DataFrame:
    """Return the law of each curve at the measured thread counts and at more.

    Parameters
    ----------
    threads
        Thread counts to forecast; by default three doublings of the most that were measured.
    machine
        The larger machine; its roof and its CPUs enter.

    Returns
    -------
    pandas.DataFrame
        One row per case and thread count: the columns of the case, those of `Predicted.table`, `law` and
        `says`.
    """
    parts = []
    for curve in curves:
        measured = tuple(curve.threads.tolist())
        found = predict_curve(curve, Options(fit_threads=measured, machine=machine))
        if found.fit is not None:
            more = threads or [measured[-1] << i for i in range(1, DOUBLINGS + 1)]
            words = {"law": found.fit.best().law.name, "says": found.fit.says()}
            parts.append(found.table({*measured, *more}).assign(**curve.group, **words))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def rests_on(curve: Curve, machine: Machine | None = None) -> str:
    """Return in words what a forecast of a curve rests on, and how far it reaches."""
    counts = ", ".join(map(str, curve.threads))
    roof = (
        f"the memory bandwidth described for {machine.name}"
        if machine and np.isfinite(machine.node_bandwidth)
        else "what published machines show: most saturate near ten threads of one node"
    )
    return (
        f"Rests on times measured here with {counts} threads. What they leave open, above all the roof, is "
        f"taken from {roof}. Beyond {EXTRAPOLATED * int(curve.threads.max())} threads, twice the measured "
        "range, it is more guess than forecast; the interval says how much more."
    )
