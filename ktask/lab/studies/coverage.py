"""Do intervals hold on the next run? Many sweeps of one grid, each judged by all the others.

`python -m ktask.lab.studies.coverage` makes the sweeps (`coverage-01` and so on in data/runs; those that are
there are kept, those that were stopped go on) and prints the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as distributions

from ktask.common.resources import runs_folder
from ktask.lab.measure import levels
from ktask.lab.measure.stats import LEVEL, Estimate
from ktask.lab.records import Run, load_run
from ktask.lab.sweep.grid import load_grid
from ktask.lab.sweep.sweep import run_path, sweep

SWEEPS = 12


def make_sweeps(
    n: int = SWEEPS, grid: str = "coverage", root: Path | None = None, quiet: bool = False
) -> list[Run]:
    """Sweep `grid` `n` times, one after the other, each in an order of its own; return the runs."""
    loaded = load_grid(grid)
    run = partial(sweep, resume=True, root=root, quiet=quiet, evidence=False, bystanders=False)
    names = [f"{loaded.name}-{number:02d}" for number in range(1, n + 1)]
    for number, name in enumerate(names, 1):
        one = replace(loaded, seed=loaded.seed + 1000 * number)
        run(one, name, title=name)
    return [load_run(run_path(name, root)) for name in names]


def estimates(run: Run) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
    """Yield the workload, the cell and the quantity of each estimate of a run, with it."""
    rows = levels.in_rates(run.records)
    for (workload, cell), part in rows.groupby(["workload", "cell_id"]):
        several = part[~part["baseline"].astype(bool) & (part["threads_requested"] > 1)]
        yield (workload, cell, "time, serial"), levels.time_of(levels.serial(part))
        for threads, group in several.groupby("threads_requested"):
            yield (workload, cell, f"time, {threads} threads"), levels.time_of(group)
        for threads, one in levels.speedups(part).items():
            yield (workload, cell, f"speedup, {threads} threads"), one


def coverage_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return how often the interval of one run contains the mean of the others, per workload and quantity.

    Returns
    -------
    pandas.DataFrame
        `workload` ("all" in the last rows), `quantity`, `hits`, `of` (intervals of all cells and runs),
        `share`, `low` and `high` (its 95 % interval, Clopper and Pearson), and `width_pct`: half the width of
        an interval, the median, in percent of the value.
    """
    found = pd.DataFrame([_plain(key, k, one) for k, run in enumerate(runs) for key, one in estimates(run)])
    found["hit"], found["width"] = False, (found["high"] - found["low"]) / 2
    for _, part in found.groupby(["cell", "quantity"]):
        others = (part["middle"].sum() - part["middle"]) / (len(part) - 1)
        found.loc[part.index, "hit"] = (part["low"] <= others) & (others <= part["high"])
    everything = pd.concat([found, found.assign(workload="all")])
    groups = everything.groupby(["workload", "quantity"], sort=False)
    return pd.DataFrame([_share(workload, quantity, part) for (workload, quantity), part in groups])


def _plain(key: tuple[str, str, str], run: int, one: Estimate) -> dict[str, Any]:
    middle, low, high = np.log([one.median, one.low, one.high])
    names = dict(zip(("workload", "cell", "quantity"), key, strict=True))
    return names | {"run": run, "middle": middle, "low": low, "high": high}


def _share(workload: str, quantity: str, part: pd.DataFrame) -> dict[str, Any]:
    hits, of = int(part["hit"].sum()), len(part)
    ends = distributions.binomtest(hits, of).proportion_ci(LEVEL)
    return {
        "workload": workload,
        "quantity": quantity,
        "hits": hits,
        "of": of,
        "share": hits / of,
        "low": float(ends.low),
        "high": float(ends.high),
        "width_pct": 100 * float(np.expm1(part["width"].median())),
    }


def main() -> None:
    """Make the sweeps and print the table."""
    parser = argparse.ArgumentParser(prog="python -m ktask.lab.studies.coverage", description=__doc__)
    parser.add_argument(
        "--sweeps", type=int, default=SWEEPS, help="how many, at least 3 (default %(default)s)"
    )
    parser.add_argument("--grid", default="coverage", help="name or file (default %(default)s)")
    parser.add_argument("--dir", type=Path, help="where data/runs is; the current directory by default")
    given = parser.parse_args()
    if given.sweeps < 3:
        parser.error(f"--sweeps {given.sweeps} is not allowed; use 3 or more")
    table = coverage_table(make_sweeps(given.sweeps, given.grid, runs_folder(given.dir)))
    print(table.to_string(index=False, float_format="{:.3f}".format))  # noqa: T201 - this is the result


if __name__ == "__main__":
    main()
