"""Have neighbours probe beside a task: idle, beside the serial call, and beside the most threads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ktask.engine import placement
from ktask.lab.bystanders import probes
from ktask.lab.bystanders.neighbours import (
    SAME,
    Neighbour,
    ProcessNeighbour,
    ThreadNeighbour,
    probing,
    switch,
)
from ktask.lab.measure.rounds import SERIAL_POLICY, repeat
from ktask.workloads import CheckError, State

BUDGET_S = 2.0  # for all ways to run the case, with all that prepares and checks it
ENOUGH_S = 0.2  # of each way: a thousand samples of each probe
AFTER_S = 0.002  # after the task, in which a cache is looked at once more
MOST_ROUNDS = 50  # of tasks that are too short for that
LEAST_FOR_P99 = 100  # samples
HELPER, ELSEWHERE = "helper", "elsewhere"
IDLE, SERIAL, THREADS = WAYS = ("idle", "serial", "threads")
DURING, AFTER = PHASES = ("during", "after")
ONE_THREAD = "there is one thread, and nobody to be in the way of; ask for more threads"


@dataclass(frozen=True)
class Bystanders:
    """What the neighbours of one process found.

    Attributes
    ----------
    rows
        One per probe, place, way and phase: see `ktask.lab.bystanders.store.COLUMNS`.
    skipped
        Why there is none.
    took_s
        How long it took.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: str | None = None
    took_s: float = field(default=0.0, compare=False)


class Window(NamedTuple):
    """From when to when (ns) a way to run the case ran."""

    way: str
    start_ns: int
    end_ns: int


def gather(
    state: State,
    neighbours: Sequence[ProcessNeighbour],
    threads: int,
    policy: str,
    used: Sequence[int],
    *,
    budget_s: float = BUDGET_S,
) -> Bystanders:
    """Have neighbours probe beside a case that is warmed up.

    Parameters
    ----------
    state
        From `ktask.lab.measure.rounds.prepared`.
    neighbours
        From `standing_by`, begun before the case was set up.
    threads, policy
        How to run the case beside the serial call.
    used
        The CPUs that these threads use, the caller's first.
    budget_s
        Past this time no further round starts.
    """
    begun = time.monotonic()
    if threads < 2 or len(used) < 2 or not neighbours:
        return Bystanders(skipped=ONE_THREAD)
    places = places_beside(used)
    placed: list[tuple[str, Neighbour, int]] = []
    for (place, cpu), process in zip(places.items(), neighbours, strict=False):
        placed += [(place, ThreadNeighbour(), cpu), (place, process, cpu)]
    try:
        with probing([(one, cpu) for _, one, cpu in placed]):
            windows = _windows(state, threads, policy, [one for _, one, _ in placed], begun + budget_s)
    except (OSError, CheckError) as error:
        return Bystanders(skipped=f"probing failed: {error}", took_s=time.monotonic() - begun)
    counts = {IDLE: 0, SERIAL: 1, THREADS: threads}
    rows = [
        {"process": one.process, "place": place, "cpu": cpu, "threads": counts[row["way"]]} | row
        for place, one, cpu in placed
        for row in summary(one.room.samples, windows, one.at_once, one.process)
    ]
    return Bystanders(rows, took_s=time.monotonic() - begun)


def places_beside(used: Sequence[int]) -> dict[str, int]:
    """Return the CPU of the first helper, and one that no thread uses, on an unused core if there is one."""
    topo = placement.site().topo
    cores = {topo.by_number[cpu].core for cpu in used if cpu in topo.by_number}
    free = [cpu for cpu in placement.cpus_in_order() if cpu not in used and cpu in topo.by_number]
    alone = [cpu for cpu in free if topo.by_number[cpu].core not in cores]
    return {HELPER: used[1]} | ({ELSEWHERE: (alone or free)[-1]} if free else {})


def _windows(
    state: State, threads: int, policy: str, neighbours: Sequence[Neighbour], end: float
) -> list[Window]:
    """Run the case in turns until each way has had enough time, or the time is used up; twice at least."""
    found: list[Window] = []
    spent = dict.fromkeys(WAYS, 0.0)
    for number in range(MOST_ROUNDS):
        for one in neighbours:
            one.take_turn(number)
        for way, count, rule in ((THREADS, threads, policy), (SERIAL, 1, SERIAL_POLICY)):
            result = repeat(state, count, rule, observe=_Switch(neighbours)).result
            start_ns, wall_ns = round(result.started_s * 1e9), round(result.wall_s * 1e9)
            found.append(Window(way, start_ns, start_ns + wall_ns))
            spent[way] += result.wall_s
        found.append(_idle(neighbours, min(result.wall_s, ENOUGH_S / 2)))
        spent[IDLE] += (found[-1].end_ns - found[-1].start_ns) / 1e9
        if number > 0 and (min(spent.values()) >= ENOUGH_S or time.monotonic() > end):
            break
    return found


def _idle(neighbours: Sequence[Neighbour], idle_s: float) -> Window:
    """Let the neighbours probe beside nothing."""
    switch(neighbours, True)
    start_ns = time.monotonic_ns()
    time.sleep(idle_s)
    end_ns = time.monotonic_ns()
    switch(neighbours, False)
    return Window(IDLE, start_ns, end_ns)


class _Switch:
    """Switches the probes on at the first call; at the second, off after `AFTER_S`."""

    def __init__(self, neighbours: Sequence[Neighbour]):
        self._neighbours, self._is_on = neighbours, False

    def __call__(self) -> None:
        self._is_on = not self._is_on
        if not self._is_on:
            time.sleep(AFTER_S)
        switch(self._neighbours, self._is_on)


# --- what the samples say ------------------------------------------------------------------------------


def summary(
    samples: np.ndarray, windows: Sequence[Window], n_kinds: int, process: str
) -> Iterator[dict[str, Any]]:
    """Yield a row per probe, way and phase of one neighbour, of what was begun in the windows."""
    kinds, begun_ns, took_ns = samples.T
    for kind, name in probes.NAMES.items():
        if kind not in kinds or (kind == probes.WAKEUP and process == SAME):
            continue
        every_s = probes.PERIOD_NS / 1e9 * (1 if kind == probes.WAKEUP else n_kinds)
        for way in WAYS:
            mine = [one for one in windows if one.way == way]
            for phase in PHASES if kind == probes.CACHE and way != IDLE else (DURING,):
                inside = (kinds == kind) & _inside(begun_ns, mine, phase)
                took_s = took_ns[inside] / 1e9
                row = quantiles(took_s if kind == probes.CACHE else corrected(took_s, every_s))
                about = {"probe": name, "way": way, "phase": phase, "n": len(took_s)}
                wall_s = sum(one.end_ns - one.start_ns for one in mine) / len(mine) / 1e9
                yield about | row | {"repetitions": len(mine), "wall_s": wall_s}


def _inside(begun_ns: np.ndarray, windows: Sequence[Window], phase: str) -> np.ndarray:
    """Return which samples were begun in one of the windows, or in the moment after one."""
    found = np.zeros(len(begun_ns), dtype=bool)
    for _, start_ns, end_ns in windows:
        first, last = (start_ns, end_ns) if phase == DURING else (end_ns, end_ns + round(AFTER_S * 1e9))
        found |= (begun_ns >= first) & (begun_ns < last)
    return found


def corrected(took_s: np.ndarray, every_s: float) -> np.ndarray:
    """Return latencies with those that a long one kept from being taken (coordinated omission).

    While a probe waits it begins nothing, and what it would have begun would have waited, too, each time by
    one interval less.

    Examples
    --------
    >>> corrected(np.array([0.1, 3.5]), 1.0).tolist()
    [0.1, 3.5, 2.5, 1.5, 0.5]
    """
    missed = np.floor(took_s / every_s).astype(int)
    steps = np.concatenate([np.arange(1, n + 1) for n in missed]) if len(missed) else np.empty(0)
    return np.concatenate([took_s, np.repeat(took_s, missed) - every_s * steps])


def quantiles(took_s: np.ndarray) -> dict[str, float]:
    """Return median, 99th percentile and maximum; NaN for those that so few samples do not give."""
    if not len(took_s):
        return dict.fromkeys(("p50_s", "p99_s", "max_s"), float("nan"))
    p99_s = float(np.quantile(took_s, 0.99)) if len(took_s) >= LEAST_FOR_P99 else float("nan")
    return {"p50_s": float(np.median(took_s)), "p99_s": p99_s, "max_s": float(took_s.max())}
