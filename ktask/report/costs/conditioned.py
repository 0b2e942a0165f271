"""Cells under a condition: a table of their times, and of what load and quota did beside them.

They are no paths of the report. Each kind of question has its own page: `busy`, `quota`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd

from ktask.lab.measure import levels, stats
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run, conditioned
from ktask.report import tables
from ktask.workloads.conditions import NAMES, NO_LOAD, NO_QUOTA, OF_POLICY

DEFAULTS = dict(zip(NAMES, (NO_LOAD, NO_QUOTA, OF_POLICY), strict=True))
WORK = ["workload", "backend", "method", "page_kind", "options", "policy", "size_bytes", "min_chunk_size"]
ENDS = {"": "median", "_low": "low", "_high": "high"}


def once_per_run(make: Callable[[Run], pd.DataFrame]) -> Callable[[Run], pd.DataFrame]:
    """Return `make`, which is worked out once for each run, as a cached property of it is."""

    @wraps(make)
    def known(run: Run) -> pd.DataFrame:
        kept, name = vars(run), f"{make.__module__}.{make.__name__}"
        if name not in kept:
            kept[name] = make(run)
        return kept[name]

    return known


@once_per_run
def condition_table(run: Run) -> pd.DataFrame:
    """Return one row per case, condition and thread count, serial calls with `baseline`.

    `options` is without the conditions, which are `load`, `quota` and `nice`. Estimates are over processes,
    each with `_low` and `_high`:

    * `wall`: seconds;
    * `lost`: the share of its rate alone that the load lost meanwhile; NaN without a load;
    * `throttled`: CPU seconds per second that the quota took away; NaN without a quota.
    """
    rows = tables.repetitions(run)
    rows = rows[conditioned(rows) & ~rows["aa"] & (rows["baseline"] | (rows["threads_requested"] > 1))]
    keys = [*WORK, *NAMES, "threads", "baseline"]
    if rows.empty:
        return pd.DataFrame(columns=[*keys, *_figures(rows)])
    split = [split_options(text) for text in rows["options"]]
    rows = rows.assign(options=[rest for rest, _ in split])
    rows = rows.assign(**{name: [found[name] for _, found in split] for name in NAMES})
    rows = rows.assign(
        lost=1 - rows["load_rate"] / rows["load_alone_rate"], throttled=rows["throttled_s"] / rows["wall_s"]
    )
    found = [
        dict(zip(keys, key, strict=True)) | _figures(tables.usable(part))
        for key, part in rows.groupby(keys, sort=False)
    ]
    return tables.sort_cases(pd.DataFrame(found))


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """Return an options text without its conditions, and these, with what holds where nothing is said.

    Examples
    --------
    >>> split_options("fill=each,load=spin,nice=19")
    ('fill=each', {'load': 'spin', 'quota': 'none', 'nice': '19'})
    """
    known = dict(one.partition("=")[::2] for one in text.split(",") if one)
    found = {name: known.pop(name, default) for name, default in DEFAULTS.items()}
    return ",".join(f"{name}={value}" for name, value in known.items()), found


def _figures(rows: pd.DataFrame) -> dict[str, Any]:
    wall = levels.time_of(rows) if len(rows) else stats.NOTHING
    counts = {"n": wall.n, "processes": wall.processes}
    lost, throttled = (columns(name, share(rows, name)) for name in ("lost", "throttled"))
    return counts | columns("wall", wall) | lost | throttled


def columns(name: str, one: Estimate) -> dict[str, float]:
    """Return an estimate as the columns `name`, `name`_low and `name`_high."""
    return {f"{name}{end}": getattr(one, part) for end, part in ENDS.items()}


def share(rows: pd.DataFrame, column: str) -> Estimate:
    """Return the estimate of a share, which may be below zero, over the processes that rows come from."""
    known = rows.dropna(subset=column) if column in rows else rows.head(0).assign(**{column: np.nan})
    return levels.across(*levels.within(known, column), scale="linear")


def over(row: pd.Series, base: pd.Series) -> Estimate:
    """Return the time of a row over that of another, with the interval of both."""
    return tables.quotient(tables.as_estimate(row, "wall"), base)


def is_known(*values: float) -> bool:
    """Return whether all of these are numbers."""
    return bool(np.isfinite(values).all())
