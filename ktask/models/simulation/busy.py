"""What the simulator says of a task beside spinning load, on a machine calibrated without any."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from msgspec import structs

from ktask.engine.policy import policy_named
from ktask.models.simulation.machines import Load, Machine
from ktask.models.simulation.simulator import simulations
from ktask.workloads.conditions import parse_load, parse_nice

SEEDS = range(7)


class Busy(NamedTuple):
    """One measured way to run a task: `work` names it as `calibrate` does, the rest as records do."""

    work: str
    size_bytes: int
    min_chunk_size: int
    policy: str
    threads: int
    load: str
    nice: str


def wall_s(machine: Machine, busy: Busy) -> float:
    """Return the simulated seconds; NaN for work that the machine does not have, or load that sleeps."""
    load, nice = parse_load(busy.load), parse_nice(busy.nice)
    if busy.work not in machine.work or (load and (load.kind != "spin" or load.share < 1)):
        return float("nan")
    known = machine.for_work(busy.work)
    if load:
        known = structs.replace(known, load=(Load(load.generators(machine.cpus)),))
    how: dict[str, Any] = {"hand_over": nice.hand_over}
    if nice.level is not None:
        known = structs.replace(known, helper_nice=nice.level)
        how["low_priority"] = nice.level > known.caller_nice
    how["hand_over"] &= how.get("low_priority", policy_named(busy.policy).low_priority)
    task = busy.size_bytes, busy.min_chunk_size, busy.threads, busy.policy
    return float(np.median([one.wall_s for one in simulations(known, *task, seeds=SEEDS, **how)]))
