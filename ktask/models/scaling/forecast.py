"""Forecasts for the bigger relatives of a machine: its measured cases, carried on by the laws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ktask.models.scaling.explain import say
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


def doublings(most: int, count: int = DOUBLINGS) -> tuple[int, ...]:
    """Return the thread counts to forecast: twice the most measured, twice that, and so on."""
    return tuple(most << i for i in range(1, count + 1))


def forecast(
    curves: Iterable[Curve], threads: Sequence[int] = (), machine: Machine | None = None
) -> pd.DataFrame:
    """Return measured times beside the fitted law, and the law carried on to more threads.

    Parameters
    ----------
    threads
        Thread counts to forecast; by default three doublings of the most that were measured.
    machine
        The bigger relative; its roof and its CPUs enter.

    Returns
    -------
    pandas.DataFrame
        One row per case and thread count: the columns of the case; `threads`; `measured_s` (NaN in a
        forecast); `time_s`, `low_s`, `high_s` with a 90 % interval; `speedup`, `speedup_low`, `speedup_high`
        against the measured time of one thread; `beyond`, whether that is more than twice the measured range;
        `law` and `says`.
    """
    curves = list(curves)
    parts = [_forecast(curve, threads, machine) for curve in curves if len(curve.threads) > 1]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _forecast(curve: Curve, threads: Sequence[int], machine: Machine | None) -> pd.DataFrame:
    most = int(curve.threads.max())
    measured = dict(zip(curve.threads.tolist(), curve.time_s.tolist(), strict=True))
    wanted = tuple(sorted({*measured, *(threads or doublings(most))}))
    options = Options(fit_threads=tuple(measured), threads=wanted, machine=machine, and_fitted=True)
    found = predict_curve(curve, options)
    best = found.fit.best()
    table = pd.DataFrame(
        [
            (p.threads, measured.get(p.threads, np.nan), p.time_s, p.low_s, p.high_s)
            for p in found.predictions
        ],
        columns=["threads", "measured_s", "time_s", "low_s", "high_s"],
    )
    one = curve.time_s[0]
    ends = {"speedup": "time_s", "speedup_low": "high_s", "speedup_high": "low_s"}
    table = table.assign(**{name: one / table[column] for name, column in ends.items()})
    table["beyond"] = table["threads"] > EXTRAPOLATED * most
    return table.assign(**curve.group, law=best.law.name, says=say(best, found.fit.slow_start()))


def rests_on(curve: Curve, machine: Machine | None = None) -> str:
    """Return in words what a forecast of a curve rests on, and how far it reaches."""
    most = int(curve.threads.max())
    counts = ", ".join(map(str, curve.threads))
    roof = (
        f"the memory bandwidth described for {machine.name}"
        if machine and np.isfinite(machine.node_bandwidth)
        else "what published machines show: most saturate near ten threads of one node"
    )
    return (
        f"Rests on times measured here with {counts} threads. What they leave open, above all the roof, is "
        f"taken from {roof}. Beyond {EXTRAPOLATED * most} threads, twice the measured range, it is more "
        "guess than forecast; the interval says how much more."
    )
