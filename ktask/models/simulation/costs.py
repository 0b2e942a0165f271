"""What cutting a task costs beyond its bytes, from one task that was cut in several ways.

Chunk timelines of freeing show what a rate and a contention leave out (KVM guest, two CPUs, kernel 6.18):

* caller and helper begin 45 us and 68 us after the call: 10 % of freeing 2 GiB of hugetlb pages;
* huge pages of one GiB lie under one page-table lock. A thread of two frees a THP in 4.9 us while the other
  is a GiB away, in 6.1 us while it is nearer, and in 4.7 us once the other is over;
* each chunk ends with a flush of translations, which the other CPU hears of only if it runs the task, too;
* a thread of two that goes on alone is faster than a task of one thread may be: what a page costs depends on
  which thread populated it (1 GiB of 4 KiB pages: 20 ms if one thread did, 24 ms if two).

So the figures that tell these apart come from ways of cutting that differ in them: one call, and many chunks
in one thread; one chunk per thread, one more, the policy's own, and many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from scipy.optimize import least_squares

from ktask.models.simulation.calibrate import simulated_wall_s
from ktask.models.simulation.machines import Machine

# Figure, and what makes a visible difference.
COSTS = {
    "slow_start": 0.1,
    "contention": 0.1,
    "neighbour_contention": 0.1,
    "chunk_cost_s": 1e-5,
    "chunk_flush_s": 1e-5,
}
PULL = 1e-3  # what is not seen stays near nothing


def fit_costs(machine: Machine, cases: Sequence[Any]) -> Machine:
    """Return the machine with the costs at which it takes the measured times.

    Parameters
    ----------
    machine
        With its bandwidth as a thread alone has it, `neighbour_span`, and the starts of helpers.
    cases
        Rows with the columns of `calibrate.measured_walls`: the same task cut in several ways.
    """

    def misfit(x: np.ndarray) -> np.ndarray:
        found = _with(machine, x)
        off = [math.log(simulated_wall_s(found, case) / case.wall_s) for case in cases]
        return np.concatenate([off, PULL * x[1:]])

    n = len(COSTS)
    bounds = ([-1.0] + [0.0] * n, [1.0] + [50.0] * n)
    found = least_squares(misfit, [0.0] + [0.01] * n, bounds=bounds, diff_step=1e-3)
    return _with(machine, found.x)


def _with(machine: Machine, x: np.ndarray) -> Machine:
    costs = {name: float(share * unit) for share, (name, unit) in zip(x[1:], COSTS.items(), strict=True)}
    costs["slow_start"] += 1
    bandwidth = machine.core_bandwidth * costs["slow_start"] * math.exp(x[0])
    return replace(machine, core_bandwidth=bandwidth, **costs)
