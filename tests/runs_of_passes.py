"""Runs for tests of comparisons: 52 real passes of eight cells, and made ones.

`data/passes.csv` has the median time of each process in 52 passes over eight cells of one commit, a pass
every 14 s, on a KVM guest with two CPUs (Linux 6.18, 26 November 2026), at times beside other work.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ktask.lab.records import NEEDED, SCHEMA, Run

MACHINE = {"host_id": "a", "virtualised": True, "kernel_release": "6.18", "packages": {"numba": "0.62"}}
PASSES = Path(__file__).parent / "data" / "passes.csv"
CASE = {"backend": "kernel", "options": "", "policy": "ktask-v4", "min_chunk_size": 2 << 20, "host_id": "a"}
START = pd.Timestamp("2026-11-26 02:35", tz="UTC")


def filled(row):
    """Return a row of records with something in each column that must not be empty."""
    plain = {pa.string(): "", pa.bool_(): False}
    return {name: row.get(name, plain.get(SCHEMA.field(name).type, 1)) for name in NEEDED} | row


def run_of(rows, name="run", **machine):
    """A run of these rows; columns that they lack are filled in."""
    rest = {**CASE, "boot_id": "boot", "round": 0, "order": 0, "warmup": False}
    table = rows.assign(**{name: value for name, value in rest.items() if name not in rows})
    if "flags" not in table:
        table["flags"] = [[] for _ in range(len(table))]
    table = table.reindex(columns=SCHEMA.names).reset_index(drop=True)
    return Run(name, Path(name), table, MACHINE | machine, {"protocol": {"least": 3}}, pd.DataFrame())


@cache
def _measured():
    table = pd.read_csv(PASSES).rename(columns={"threads": "threads_requested"})
    times = {
        "wall_s": 1e-6 * table["wall_us"],
        "started_at": START + pd.to_timedelta(table["started_s"], "s"),
    }
    return table.assign(cell_id=table["method"] + table["page_kind"], **times)


def measured(first, last, name="run", **machine):
    """The real passes from `first` to `last` as a run."""
    return run_of(_measured()[lambda rows: rows["pass"].between(first, last)], name, **machine)


def slowed(run, factor, where=lambda rows: rows["wall_s"] > 0, name="slowed"):
    """A copy of a run that took longer."""
    table = run.records.copy()
    table.loc[where(table), "wall_s"] *= factor
    return replace(run, name=name, records=table)


def made(
    rng, cells=20, passes=5, spread=0.08, drift=0.0, factor=1.0, boots=1, name="run", start_s=0.0, **machine
):
    """A run of `cells` cells at one and two threads, whose processes differ by `spread`.

    `drift` is what all processes of a cell share; boots differ by it, too. Passes start every minute.
    """
    rows = []
    for cell in range(cells):
        shared = {boot: np.exp(drift * rng.standard_normal()) * factor for boot in range(boots)}
        for number in range(passes):
            boot = number * boots // passes
            for threads in (1, 2):
                wall = 1e-3 * (cell + 1) / threads * shared[boot] * np.exp(spread * rng.standard_normal())
                rows.append(
                    {
                        "cell_id": f"c{cell}",
                        "pass": number + 1,
                        "boot_id": f"{name}-boot{boot}" if boots > 1 else "boot",
                        "workload": "zeroing" if cell % 2 else "free",
                        "method": "m",
                        "page_kind": "THP",
                        "size_bytes": (cell + 1) << 20,
                        "threads_requested": threads,
                        "baseline": threads == 1,
                        "started_at": START + pd.Timedelta(seconds=start_s + 60 * number),
                        "wall_s": wall,
                    }
                )
    return run_of(pd.DataFrame(rows), name, **machine)
