"""The published contention tables, simulated: helpers at nice 19 and handed-over priority beside other load.

Daniel Jordan measured a task beside stress-ng and usemem on 8 CPUs of a two-socket machine (ktask v4 4/13 and
5/13, 2018-11-05, and his reply of 2018-11-07). Rows without contention say how much work there is:

* stress-ng: 43.04 s per thread, alone (case 1, for both tables of it);
* usemem: 25 GiB in 10.45 s, alone (case 2; the 86 GiB of the other table in proportion), and 24.0 s or 25.3 s
  for 4 rounds with 4 or 8 threads, alone (case 3). What 8 threads take longer than 4 is taken to be the end
  of each round, when one thread frees the memory of all and the others sleep;
* VFIO: 13.5 s with one thread and 2.8 s with eight for 64 GiB, alone (case 3): a start of 1.27 s, whatever
  the size, and 0.191 s per GiB that is shared by all threads;
* what does not fit on one node lies on the other, and takes longer. Task and load of the other tables need
  up to 350 GiB, those of 2/8 need 720; the two-socket machines of that author have 377 or 384 GiB per node.
  How much longer is taken from one thread that clears 100 to 800 GiB, alone, on a machine of 128 GiB per node
  (`remote_penalty`: 1.36). Without this all six times of 2/8 are 9 to 16 % short; with it, within 4 %.

So only case 3 rests on nothing but rows without contention (`rests_on` "alone"). In case 2 those of other
sizes and of another machine are scaled ("scaled"). The task of case 1 was never published alone; its work
comes from one contended row of each table, which is not scored ("stands in"): helpers at normal priority,
and one thread. How that test program was cut is not published: one chunk per thread is supposed, because its
author says that its helpers starved until stress-ng was over (42 s at 1.4 % of a CPU are 0.6 s of work; 32
chunks of the 15 s that it needs have 0.5 s).

One rule holds for all: CPU time is shared by the weights of the nice levels; threads that sleep wake up
wherever there is room, which balances them over the CPUs, and where nobody sleeps, all stay on the CPU where
they began. So case 3 (rounds) is balanced, the others are not. What either would make of all rows is in the
table beside it: 29 of 32 times within 15 % if all were balanced, 28 if all stayed, 32 by the rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from ktask.engine import policy
from ktask.engine.policy import Part
from ktask.models import published
from ktask.models.simulation.machines import Load, Machine
from ktask.models.simulation.simulator import run_plan

GIB = 1 << 30
KERNEL = policy.Machine(96, {0: 48, 1: 48})  # what the policy saw; the cpumask left 8 CPUs to run on
MIN_CHUNK = 2 << 20  # PMD_SIZE, which the author later called a mistake
SCHEDULES = {"balanced": "node", "pinned": "cpu"}
BEFORE_S = 1e-3
ROUNDS = 4  # of usemem in case 3
NODE_GIB = 377  # of the machine of case 3; the other one is not named, but has two sockets, too
VFIO_GIB = {"2/7": 175, "2/8": 32, "3/0": 64, "3/4": 64, "3/8": 64}
USEMEM_GIB = {"2/7": 25, "2/8": 86, "3/0": 0, "3/4": 30, "3/8": 30}  # per thread


@dataclass(frozen=True)
class Setting:
    """What one table has in common.

    Attributes
    ----------
    start_s, work_s
        CPU seconds of the task before its first chunk, and in chunks.
    load_s, rounds, pause_s
        CPU seconds of each thread of the load, in how many rounds, and of one thread alone after each.
    load_first
        Whether the load starts before the task.
    split_once
        Whether the task is cut into one chunk per thread, instead of by the policy.
    """

    start_s: float
    work_s: float
    load_s: float
    rounds: int = 1
    pause_s: float = 0.0
    load_first: bool = True
    split_once: bool = False

    @property
    def schedule(self) -> str:
        """What becomes of threads: "balanced" if the load sleeps now and then, else "pinned"."""
        return "balanced" if self.rounds > 1 else "pinned"


class Outcome(NamedTuple):
    """Seconds of the task, of the last thread of the load, and of its threads in the mean."""

    task_s: float
    load_s: float
    load_mean_s: float


def rows() -> pd.DataFrame:
    """Return the rows that are measurements of their own, in numbers where they are numbers.

    Columns added: case_number, kind ("task", "load" or "load, mean"), and setting, which names the table.
    """
    table = published.read_file("ktask_priority_contention")
    table = table[table.new_measurement == "yes"].reset_index(drop=True)
    for column in ("kernel_threads", "competitor_threads", "time_s", "stdev_s", "spread_pct"):
        table[column] = pd.to_numeric(table[column])
    table["spread_pct"] = table.spread_pct.fillna(100 * table.stdev_s / table.time_s)
    table["case_number"] = table.case.str[0].astype(int)
    is_load = table.workload_measured.str.startswith(("stress-ng", "usemem"))
    table["kind"] = is_load.map({True: "load", False: "task"})
    table.loc[table.workload_measured.str.contains("mean of per-thread"), "kind"] = "load, mean"
    table["setting"] = table.case_number.astype(str) + "/" + table.competitor_threads.astype(int).astype(str)
    return table


def simulate_row(
    setting: Setting, run_queue: str, threads: int, load_threads: int, low: bool, hand: bool
) -> Outcome:
    """Return what becomes of a task with `threads` beside `load_threads`; 0 threads are no task."""
    size = int(setting.work_s * GIB) if threads else 0
    least = -(-size // threads) if setting.split_once and threads else MIN_CHUNK
    plan = policy.make_plan("ktask-v4", [Part(0, size, 0)], least, threads, machine=KERNEL)
    begin_s = -BEFORE_S if setting.load_first else BEFORE_S
    load = Load(
        load_threads,
        cpu_time_s=setting.load_s,
        start_s=begin_s,
        rounds=setting.rounds,
        pause_s=setting.pause_s * load_threads,
    )
    machine = Machine(
        "8 CPUs",
        cores_per_node=8,
        core_bandwidth=float(GIB),  # so that a CPU second is a GiB
        task_start_s=setting.start_s,
        helper_start_s=50e-6,
        run_queue=run_queue,
        load=(load,) if load_threads else (),
    )
    run = run_plan(machine, plan, low_priority=low, hand_over=hand, loads_to_end=True)
    ends = run.loads.end_s - begin_s
    return Outcome(run.wall_s, ends.max(), ends.mean())


def _outcome(setting: Setting, run_queue: str, row) -> Outcome:
    """Return the simulated outcome of a published row."""
    threads = 0 if pd.isna(row.kernel_threads) else int(row.kernel_threads)
    low, hand = "MAX_NICE" in row.variant, row.renice == "yes"
    return simulate_row(setting, run_queue, threads, int(row.competitor_threads), low, hand)


# --- calibration -------------------------------------------------------------------------------------------


def settings(table: pd.DataFrame, run_queue: str) -> dict[str, Setting]:
    """Return the setting of each table, from the rows that `_calibrates` marks."""
    vfio = table[(table.case_number == 3) & (table.kind == "task") & (table.competitor_threads == 0)]
    one_s, eight_s = (float(vfio[vfio.kernel_threads == n].time_s.iloc[0]) for n in (1, 8))
    per_gib_s = (one_s - eight_s) * 8 / 7 / VFIO_GIB["3/0"]
    start_s = one_s - per_gib_s * VFIO_GIB["3/0"]
    found = {}
    for name, gib in VFIO_GIB.items():
        slower = far_factor(gib + int(name[2:]) * USEMEM_GIB[name])
        load = _usemem(table, name) if name != "3/0" else {"load_s": 0.0}
        load["load_s"] *= slower
        found[name] = Setting(start_s, per_gib_s * gib * slower, load_first=name != "2/7", **load)
    stress_s = _alone_s(table, 1, 7)
    for name, first in (("1/7", False), ("1/8", True)):
        row = next(r for r in table.itertuples() if r.setting == name and _calibrates(r) and r.kind == "task")
        found[name] = _with_work(
            lambda work_s, first=first: Setting(0.0, work_s, stress_s, load_first=first, split_once=True),
            run_queue,
            row,
        )
    return found


def _alone_s(table: pd.DataFrame, case: int, threads: int) -> float:
    """Return the published time of the load of a case without the task."""
    chosen = table[(table.case_number == case) & (table.competing_workload == "none")]
    chosen = chosen[(chosen.kind == "load") & (chosen.competitor_threads == threads)]
    return float(chosen.time_s.iloc[0])


def _usemem(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return what the load of a table of case 2 or 3 does, as keywords of `Setting`."""
    if name.startswith("2"):
        return {"load_s": _alone_s(table, 2, 7) * USEMEM_GIB[name] / USEMEM_GIB["2/7"]}
    four_s, eight_s = (_alone_s(table, 3, n) for n in (4, 8))
    # T = load_s + rounds * pause_s * threads
    pause_s = (eight_s - four_s) / (ROUNDS * 4)
    return {"load_s": 2 * four_s - eight_s, "rounds": ROUNDS, "pause_s": pause_s}


def far_factor(gib: float) -> float:
    """Return how much longer so much memory takes: what does not fit on one node lies on the other."""
    return 1 + max(0.0, 1 - NODE_GIB / gib) * (remote_penalty() - 1)


@functools.cache
def remote_penalty() -> float:
    """Return how many times longer a thread takes to clear memory of another node.

    From the rates of one thread that clears 100, 200 and 800 GiB of a Xeon E7-8895 v3 with 1 TiB on 8 nodes:
    the first lie on its own node, as their author says. Least squares over the other two.
    """
    table = published.read_file("ktask_clear_gigantic_page")
    one = table[table.machine.str.contains("E7-8895") & (table.threads == "1")].drop_duplicates("size_gib")
    gib, time_s = one.size_gib.to_numpy(float), one.time_s.to_numpy(float)
    longer = time_s / gib * (gib / time_s)[gib == 100] - 1
    far = 1 - np.minimum(1, 128 / gib)
    return 1 + float(far @ longer / (far @ far))


def _calibrates(row) -> bool:
    """Return whether a row is calibrated on: all without contention, and one each for the task of case 1."""
    if row.competing_workload == "none":
        return True
    stands_in = {"1/7": "helpers at normal priority", "1/8": "1 thread"}
    return row.kind == "task" and stands_in.get(row.setting) == row.variant


def _with_work(make: Callable[[float], Setting], run_queue: str, row) -> Setting:
    """Return the setting whose work makes the simulated task take as long as a row says."""

    def off(work_s: float) -> float:
        return _outcome(make(work_s), run_queue, row).task_s - row.time_s

    return make(brentq(off, row.time_s / 100, row.time_s * 8, xtol=1e-3))


# --- the tables side by side ---------------------------------------------------------------------------

RESTS_ON = {"1": "stands in", "2": "scaled", "3": "alone"}  # by case: where its amounts of work come from


def compare() -> pd.DataFrame:
    """Return every published row beside the simulator's.

    Returns
    -------
    DataFrame
        One row per published figure: setting, rests_on (`RESTS_ON`), kind, variant, kernel_threads,
        competitor_threads, calibrated_on, published_s, spread_pct (its published standard deviation, or a
        spread whose kind is not defined; NaN if there is none), simulated_s and error_pct (by the rule), and
        what either schedule would make of it: balanced_s and pinned_s.
    """
    table, schedules = rows(), {}
    for schedule, run_queue in SCHEDULES.items():
        known = settings(table, run_queue)
        outcomes = [_outcome(known[row.setting], run_queue, row) for row in table.itertuples()]
        kinds = {"task": "task_s", "load": "load_s", "load, mean": "load_mean_s"}
        table[f"{schedule}_s"] = [
            getattr(one, kinds[kind]) for one, kind in zip(outcomes, table.kind, strict=True)
        ]
        schedules |= {name: setting.schedule for name, setting in known.items()}
    table["simulated_s"] = table.balanced_s.where(table.setting.map(schedules) == "balanced", table.pinned_s)
    table["calibrated_on"] = [_calibrates(row) for row in table.itertuples()]
    table["rests_on"] = table.setting.str[0].map(RESTS_ON)
    table = table.rename(columns={"time_s": "published_s"})
    table["error_pct"] = 100 * (table.simulated_s / table.published_s - 1)
    columns = ["setting", "rests_on", "kind", "variant", "kernel_threads", "competitor_threads", "renice"]
    columns += ["calibrated_on", "published_s", "spread_pct", "simulated_s", "error_pct"]
    columns += ["balanced_s", "pinned_s"]
    return table[columns].sort_values(["setting", "calibrated_on", "kind"], ignore_index=True)


def score(table: pd.DataFrame) -> dict[str, Any]:
    """Return how many of the rows that were not calibrated on come out within 15 %, and the errors.

    `by_rests_on` has the same for each source of the amounts of work.
    """
    scored = table[~table.calibrated_on]
    parts = {name: _score(part) for name, part in scored.groupby("rests_on")}
    return {**_score(scored), "by_rests_on": parts}


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return `score` as a table, one row per source of the amounts of work and one for all."""
    found = score(table)
    rows = found.pop("by_rests_on") | {"all": found}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("amounts of work")


def _score(table: pd.DataFrame) -> dict[str, float]:
    errors = table.error_pct.abs()
    return {
        "n": len(errors),
        "within_15_pct": int((errors <= 15).sum()),
        "median_ape_pct": float(errors.median()),
        "max_ape_pct": float(errors.max()),
    }


def result() -> dict[str, Any]:
    """Return `compare` and `score` as `ktask simulate --contention --json` prints them."""
    table = compare()
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return {"rows": records, "score": score(table)}
