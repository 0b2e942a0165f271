"""Thread counts: which ones to measure on a machine, and how many threads a count gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from numba import config

from ktask.common.units import fmt_size
from ktask.engine import cpu_order, placement
from ktask.engine import run as engine
from ktask.engine.policy import Machine, Plan
from ktask.engine.task import Node
from ktask.host import topology
from ktask.host.kernel_files import ROOT
from ktask.lab.measure.measurement import Granted
from ktask.workloads import State

CLOSE = 1.25  # a power of two is left out beside a border that is this near: nothing happens between
MOST_AT_FIRST = 7  # counts that the first pass of a sweep measures; later ones add some around the knee
KNEE = 0.95  # of the highest speedup: the fewest threads that reach this are where it flattens


def granted(state: State, asked: int, policy: str) -> Granted:
    """Return what a task gets that asks for `asked` threads, on a machine where nobody else uses helpers."""
    parts = getattr(state, "parts", ())
    task = parts if len(parts) > 1 else Node(0, state.size)  # as `rounds.repeat` runs it
    plan = engine.plan(task, replace(state.ctl, max_threads=asked), policy)
    return Granted(plan.threads, "" if plan.threads == asked else _why(plan, asked, state))


def _why(plan: Plan, asked: int, state: State) -> str:
    if plan.threads < plan.want:
        where, helpers, cpus = placement.site(), plan.threads - 1, topology.cpu_count()
        if helpers < where.machine.limit:
            return f"placement {where.placement} has {plan.threads} CPUs"
        if helpers < 4 * cpus // 5:
            return f"NUMBA_NUM_THREADS is {plan.threads}"
        return f"at most four fifths of the CPUs, {helpers} of {cpus}, go to helpers"
    if plan.want > asked:
        return f"{plan.policy} knows no cap per task, and its own is {plan.want}"
    size, least = (fmt_size(units * state.bytes_per_unit) for units in (state.size, plan.min_chunk))
    return f"{size} in chunks of at least {least} are work for {plan.want} under {plan.policy}"


def distinct(grants: Mapping[int, Granted]) -> dict[int, int]:
    """Return counts with the threads that each gives; of those that give as many, the smallest count."""
    found: dict[int, int] = {}
    for asked in sorted(grants):
        found.setdefault(grants[asked].threads, asked)
    return {asked: threads for threads, asked in found.items()}


# --- which to measure ----------------------------------------------------------------------------------


def most_threads(cpus: int) -> int:
    """Return the most threads that a task gets: helpers on four fifths of the CPUs, and the caller."""
    return Machine(cpus).limit + 1


def counts_between(most: int, borders: Iterable[int]) -> tuple[int, ...]:
    """Return the thread counts worth measuring: powers of two, `borders` and `most`, in order.

    Examples
    --------
    >>> counts_between(58, [18, 36])
    (1, 2, 4, 8, 18, 36, 58)
    """
    kept = {1, most, *(n for n in borders if 1 <= n <= most)}
    powers = itertools.takewhile(lambda n: n < most, (1 << k for k in range(most.bit_length())))
    lone = {n for n in powers if all(max(n / one, one / n) >= CLOSE for one in kept - {n})}
    return tuple(sorted(kept | lone))


def first_counts(counts: Iterable[int], borders: Iterable[int]) -> tuple[int, ...]:
    """Return the counts to begin with: at most `MOST_AT_FIRST`, without every other power of two below."""
    left = sorted(counts)
    spare = [n for n in left[2:-1] if n not in set(borders)]  # 1, 2 and the most stay
    for n in spare[::2] + spare[1::2]:
        if len(left) > MOST_AT_FIRST:
            left.remove(n)
    return tuple(left)


def around_knee(speedups: Mapping[int, float]) -> tuple[int, ...]:
    """Return the thread counts in the middle between the knee and its neighbours, where there is room.

    Examples
    --------
    >>> around_knee({2: 1.9, 8: 7.0, 18: 12.0, 64: 12.1, 144: 9.0})
    (12, 34)
    """
    points = {1: 1.0} | {n: speedup for n, speedup in speedups.items() if math.isfinite(speedup)}
    known, enough = sorted(points), KNEE * max(points.values())
    at = next(k for k, n in enumerate(known) if points[n] >= enough)
    pairs = itertools.pairwise(known[max(at - 1, 0) : at + 2])
    middles = ((low, round(math.sqrt(low * high)), high) for low, high in pairs)
    return tuple(n for low, n, high in middles if n >= CLOSE * low and high >= CLOSE * n)


def default_threads(root: Path = ROOT, cpus: Iterable[int] | None = None) -> tuple[int, ...]:
    """Return the thread counts to begin with on this machine, or with some of its CPUs: `first_counts`."""
    topo = topology.read_topology(root, cpus)
    most = min(most_threads(topology.cpu_count(root, topo.cpus)), config.NUMBA_NUM_THREADS)
    borders = cpu_order.borders(topo).values()
    return first_counts(counts_between(most, borders), borders)
