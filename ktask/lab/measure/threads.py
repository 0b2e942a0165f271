"""Thread counts: which ones to measure on a machine, and how many threads a count gives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ktask.common.units import fmt_size
from ktask.engine import run as engine
from ktask.engine.policy import Machine, Plan
from ktask.engine.task import Node
from ktask.host import topology
from ktask.host.topology import ROOT
from ktask.lab.measure.measurement import Granted
from ktask.workloads import State

CLOSE = 1.25  # a power of two is left out beside a border that is this near: nothing happens between
MOST_AT_FIRST = 7  # counts that the first pass of a sweep measures; later ones add some around the knee
KNEE = 0.95  # of the highest speedup: the fewest threads that reach this are where it flattens


def granted(state: State, asked: int, policy: str) -> Granted:
    """Return what a task gets that asks for `asked` threads, on a machine where nobody else uses helpers."""
    plan = engine.plan(Node(0, state.size), replace(state.ctl, max_threads=asked), policy)
    return Granted(plan.threads, "" if plan.threads == asked else _why(plan, asked, state))


def _why(plan: Plan, asked: int, state: State) -> str:
    if plan.threads < plan.want:
        return f"at most four fifths of the CPUs, {plan.threads - 1} of {topology.cpu_count()}, go to helpers"
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


def default_threads(root: Path = ROOT) -> tuple[int, ...]:
    """Return the thread counts to begin with on this machine: `first_counts`."""
    cpus = topology.allowed_cpus() if root == ROOT else topology.recorded_affinity(root)
    most = most_threads(topology.cpu_count(root, cpus))
    borders = machine_borders(root, cpus)
    return first_counts(counts_between(most, borders), borders)


def machine_borders(root: Path, cpus: Iterable[int]) -> dict[int, str]:
    """Return the thread counts at which a cache, a node, a socket or the cores are used up, with its name.

    Threads take a core each before two share one, and the cores of one node first.
    """
    cores = sorted({_among(siblings, cpus) for siblings in topology.smt_siblings(root).values()} - {()})
    first = cores[0][0] if cores else -1
    near = {
        "one socket": _socket_of(first, root),
        "one node": next((here for here in topology.node_cpus(root).values() if first in here), ()),
        "one last-level cache": _last_cache_of(first, root),
    }
    found = {len(cores): "one thread per core"} if cores else {}
    for name, here in near.items():
        if count := sum(core[0] in here for core in cores):
            found[count] = name
    return found


def _among(cpus: Iterable[int], allowed: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*cpus} & {*allowed}))


def _socket_of(cpu: int, root: Path) -> tuple[int, ...]:
    files = topology.numbered(root / topology.CPU_DIR, "cpu")
    ids = {n: topology.read_int(path / "topology/physical_package_id") for n, path in files}
    return tuple(n for n, package in ids.items() if package is not None and package == ids.get(cpu))


def _last_cache_of(cpu: int, root: Path) -> tuple[int, ...]:
    mine = [
        one for one in topology.caches(root) if cpu in one["shared_cpus"] and one["type"] != "instruction"
    ]
    return max(mine, key=lambda one: one["level"])["shared_cpus"] if mine else ()
