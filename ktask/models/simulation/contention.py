"""The published contention tables, simulated: helpers at nice 19 and handed-over priority beside other load.

Daniel Jordan measured a task beside stress-ng and usemem on 8 CPUs of a two-socket machine (ktask v4 4/13 and
5/13, 2018-11-05, and his reply of 2018-11-07). Rows without contention say how much work there is:

* stress-ng: 43.04 s per thread, alone (case 1, for both tables of it);
* usemem: 25 GiB in 10.45 s, alone (case 2; the 86 GiB of the other table in proportion), and 24.0 s or 25.3 s
  for 4 rounds with 4 or 8 threads, alone (case 3). What 8 threads take longer than 4 is assumed to be the end
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
and one thread. How that test program was split is not published: one chunk per thread is assumed, because its
author says that its helpers starved until stress-ng was over (42 s at 1.4 % of a CPU are 0.6 s of work; 32
chunks of the 15 s that it needs have 0.5 s).

One rule holds for all: CPU time is shared by the weights of the nice levels; threads that sleep wake up
wherever there is room, which balances them over the CPUs, and where nobody sleeps, all stay on the CPU where
they began. So case 3 (rounds) is balanced, the others are not. What either would make of all rows is in the
table beside it: 29 of 32 times within 15 % if all were balanced, 28 if all stayed, 32 by the rule.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

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
RunQueue = Literal["cpu", "node"]
SCHEDULES: dict[str, RunQueue] = {"balanced": "node", "pinned": "cpu"}
BEFORE_S = 1e-3
ROUNDS = 4  # of usemem in case 3
NODE_GIB = 377  # of the machine of case 3; the other one is not named, but has two sockets, too
VFIO_GIB = {"2/7": 175, "2/8": 32, "3/0": 64, "3/4": 64, "3/8": 64}
USEMEM_GIB = {"2/7": 25, "2/8": 86, "3/0": 0, "3/4": 30, "3/8": 30}  # per thread
STANDS_IN = {"1/7": "helpers at normal priority", "1/8": "1 thread"}  # the variant that gives the work
RESTS_ON = {"1": "stands in", "2": "scaled", "3": "alone"}  # by case: where its amounts of work come from


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
        Whether the task is split into one chunk per thread, instead of by the policy.
    """

    start_s: float = 0.0
    work_s: float = 0.0
    load_s: float = 0.0
    rounds: int = 1
    pause_s: float = 0.0
    load_first: bool = True
    split_once: bool = False

    @property
    def schedule(self) -> str:
        """What becomes of threads: "balanced" if the load sleeps now and then, else "pinned"."""
        return "balanced" if self.rounds > 1 else "pinned"


def rows() -> pd.DataFrame:
    """Return the rows that are measurements of their own, in numbers where they are numbers.

    Columns added: case_number, kind ("task", "load" or "load, mean"), setting, which names the table, and
    calibrated_on, for all rows without contention and one each for the task of case 1.
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
    stands_in = (table.kind == "task") & (table.setting.map(STANDS_IN) == table.variant)
    table["calibrated_on"] = (table.competing_workload == "none") | stands_in
    return table


def _outcome(setting: Setting, run_queue: RunQueue, row: Any) -> dict[str, float]:
    """Return by kind of row the simulated seconds: the task, the last thread of the load, and their mean."""
    threads = 0 if pd.isna(row.kernel_threads) else int(row.kernel_threads)
    load_threads = int(row.competitor_threads)
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
    low, hand_over = "MAX_NICE" in row.variant, row.renice == "yes"
    run = run_plan(machine, plan, low_priority=low, hand_over=hand_over, loads_to_end=True)
    ends = run.loads.end_s - begin_s
    return {"task": run.wall_s, "load": ends.max(), "load, mean": ends.mean()}


# --- calibration -------------------------------------------------------------------------------------------


def settings(table: pd.DataFrame, run_queue: RunQueue) -> dict[str, Setting]:
    """Return the setting of each table, from the rows that are calibrated on."""
    vfio = table[(table.case_number == 3) & (table.kind == "task") & (table.competitor_threads == 0)]
    one_s, eight_s = (float(vfio[vfio.kernel_threads == n].time_s.iloc[0]) for n in (1, 8))
    per_gib_s = (one_s - eight_s) * 8 / 7 / VFIO_GIB["3/0"]
    start_s = one_s - per_gib_s * VFIO_GIB["3/0"]
    found = {}
    for name, gib in VFIO_GIB.items():
        slower = far_factor(gib + int(name[2:]) * USEMEM_GIB[name])
        load = _usemem(table, name)
        found[name] = replace(
            load,
            start_s=start_s,
            work_s=per_gib_s * gib * slower,
            load_s=load.load_s * slower,
            load_first=name != "2/7",
        )
    stress = Setting(load_s=_alone_s(table, 1, 7), split_once=True)
    found["1/7"] = _with_work(replace(stress, load_first=False), run_queue, table, "1/7")
    found["1/8"] = _with_work(stress, run_queue, table, "1/8")
    return found


def _alone_s(table: pd.DataFrame, case: int, threads: int) -> float:
    """Return the published time of the load of a case without the task."""
    chosen = table[(table.case_number == case) & (table.competing_workload == "none")]
    chosen = chosen[(chosen.kind == "load") & (chosen.competitor_threads == threads)]
    return float(chosen.time_s.iloc[0])


def _usemem(table: pd.DataFrame, name: str) -> Setting:
    """Return what the load of a table of case 2 or 3 does."""
    if name.startswith("2"):
        return Setting(load_s=_alone_s(table, 2, 7) * USEMEM_GIB[name] / USEMEM_GIB["2/7"])
    if not USEMEM_GIB[name]:
        return Setting()
    four_s, eight_s = (_alone_s(table, 3, n) for n in (4, 8))
    # T = load_s + rounds * pause_s * threads
    return Setting(load_s=2 * four_s - eight_s, rounds=ROUNDS, pause_s=(eight_s - four_s) / (ROUNDS * 4))


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


def _with_work(setting: Setting, run_queue: RunQueue, table: pd.DataFrame, name: str) -> Setting:
    """Return the setting whose work makes the simulated task take as long as the row that stands in."""
    row = next(table[(table.setting == name) & (table.kind == "task") & table.calibrated_on].itertuples())

    def error_s(work_s: float) -> float:
        return _outcome(replace(setting, work_s=work_s), run_queue, row)["task"] - row.time_s

    return replace(setting, work_s=brentq(error_s, row.time_s / 100, row.time_s * 8, xtol=1e-3))


# --- the tables side by side ---------------------------------------------------------------------------


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
    table = rows()
    known: dict[str, Setting] = {}
    for schedule, run_queue in SCHEDULES.items():
        known = settings(table, run_queue)
        table[f"{schedule}_s"] = [
            _outcome(known[row.setting], run_queue, row)[row.kind] for row in table.itertuples()
        ]
    by_rule = table.setting.map({name: setting.schedule for name, setting in known.items()})
    table["simulated_s"] = table.balanced_s.where(by_rule == "balanced", table.pinned_s)
    table["rests_on"] = table.setting.str[0].map(RESTS_ON)
    table = table.rename(columns={"time_s": "published_s"})
    table["error_pct"] = 100 * (table.simulated_s / table.published_s - 1)
    columns = ["setting", "rests_on", "kind", "variant", "kernel_threads", "competitor_threads", "renice"]
    columns += ["calibrated_on", "published_s", "spread_pct", "simulated_s", "error_pct"]
    columns += ["balanced_s", "pinned_s"]
    return table[columns].sort_values(["setting", "calibrated_on", "kind"], ignore_index=True)


def score_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many of the rows that were not calibrated on come out within 15 %, and the errors.

    One row per source of the amounts of work (`RESTS_ON`), and one for all.
    """
    errors = table[~table.calibrated_on].assign(error=lambda rows: rows.error_pct.abs())
    both = pd.concat([errors, errors.assign(rests_on="all")])
    return both.groupby(both.rests_on.rename("amounts of work"), sort=False).error.agg(
        n="size",
        within_15_pct=lambda error: int((error <= 15).sum()),
        median_ape_pct="median",
        max_ape_pct="max",
    )


def result() -> dict[str, Any]:
    """Return `compare` and its scores as `ktask simulate --contention --json` prints them."""
    table = compare()
    scores = score_table(table).astype(object).to_dict("index")
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return {"rows": records, "score": {**scores.pop("all"), "by_rests_on": scores}}
