"""Look at some repetitions of a case with `perf`: where its threads spend time, and what they wait for."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from ktask.engine.task import Result
from ktask.host import perf
from ktask.host.kernel_counters import STEAL, sample
from ktask.lab.evidence.locks import Wait, waits
from ktask.lab.measure.rounds import repeat
from ktask.workloads import State

BUDGET_S = 0.3  # of recorded wall time; 1,200 samples per thread
PATIENCE = 5.0  # times the budget, with all that prepares and checks
MOST = 300  # repetitions


@dataclass(frozen=True)
class Look:
    """What was seen of one way to run a case; all times are of one repetition, the mean.

    Attributes
    ----------
    threads, wall_s
        How many ran, and for how long.
    idle_s
        Thread time after the last chunk of each thread: the imbalance.
    stacks
        CPU seconds by stack of functions, the innermost first, of threads that still had work.
    waits
        Waits for locks, of all threads together.
    sees_locks
        Whether the kernel says when a thread waits.
    counters
        By how much the counters of the kernel grew (`ktask.host.kernel_counters`).
    repetitions
        How many were looked at.
    """

    threads: int
    wall_s: float
    idle_s: float
    stacks: dict[tuple[str, ...], float] = field(repr=False)
    waits: list[Wait]
    sees_locks: bool
    counters: dict[str, float]
    repetitions: int

    @property
    def cpu_s(self) -> float:
        """CPU time of all threads while they had work."""
        return sum(self.stacks.values())

    @property
    def steal_s(self) -> float:
        """CPU time that the host gave to others, of the whole machine."""
        return self.counters.get(STEAL, 0.0)

    @property
    def waiting_s(self) -> float:
        """Thread time off the CPU, before the last chunk of each thread ended."""
        return max(0.0, self.threads * self.wall_s - self.idle_s - self.cpu_s)


class Way(NamedTuple):
    """How to run a case: as of `ktask.lab.measure.rounds.repeat`."""

    threads: int
    policy: str
    chunk_size: int = 0


def look(state: State, ways: Sequence[Way], *, budget_s: float = BUDGET_S) -> list[Look]:
    """Repeat a case, warmed up, in several ways, and record its threads while the task runs.

    Parameters
    ----------
    state
        From `ktask.lab.measure.rounds.prepared`. The helpers have to exist already.
    ways
        How to run it.
    budget_s
        How much wall time of the task to record in each way; five times that with all that prepares and
        checks it.

    Raises
    ------
    ktask.host.perf.UnavailableError
        If perf cannot record here.
    """
    tids = [int(tid) for tid in os.listdir("/proc/self/task")]  # noqa: PTH208
    with perf.Recording(tids) as recording:
        seen = [_repeated(state, way, _Switch(recording), budget_s) for way in ways]
    return [summary(recording.events, *one, recording.sees_locks) for one in seen]


def _repeated(state: State, way: Way, switch: _Switch, budget_s: float) -> tuple[list[Result], Counter[str]]:
    """Return the results of the repetitions, and by how much the counters grew in all of them."""
    results: list[Result] = []
    counted: Counter[str] = Counter()
    end, left_s = time.monotonic() + PATIENCE * budget_s, budget_s
    while not results or (left_s > 0 and time.monotonic() < end and len(results) < MOST):
        seen = repeat(state, *way, observe=switch)
        results.append(seen.result)
        counted.update({name: seen.after[name] - value for name, value in seen.before.items()})
        left_s -= seen.result.wall_s
    return results, counted


class _Switch:
    """Switches a recording on at the first call and off at the second; returns the counters outside of it."""

    def __init__(self, recording: perf.Recording):
        self.recording, self.is_on = recording, False

    def __call__(self) -> dict[str, float]:
        self.is_on = not self.is_on
        if self.is_on:
            counters = sample()
            self.recording.on()
            return counters
        self.recording.off()
        return sample()


def summary(
    events: Iterable[perf.Event], results: Sequence[Result], counted: Mapping[str, float], sees_locks: bool
) -> Look:
    """Return what the events say of these repetitions; what lies outside of their clocks is left out."""
    n = len(results)
    kept = _by_repetition(events, results)
    seconds: dict[tuple[str, ...], float] = defaultdict(float)
    for event in chain.from_iterable(kept):
        if event.name == perf.CLOCK:
            seconds[event.frames] += 1 / perf.SAMPLES_PER_S / n
    return Look(
        threads=results[0].threads,
        wall_s=sum(one.wall_s for one in results) / n,
        idle_s=sum(one.wall_s - ended for one in results for ended in one.ended_s) / n,
        stacks=dict(seconds),
        waits=[replace(one, wait_s=one.wait_s / n) for one in waits(kept)],
        sees_locks=sees_locks,
        counters={name: value / n for name, value in counted.items()},
        repetitions=n,
    )


def _by_repetition(events: Iterable[perf.Event], results: Sequence[Result]) -> list[list[perf.Event]]:
    """Return the events between the start of each repetition and the end of the work of their thread."""
    kept: list[list[perf.Event]] = [[] for _ in results]
    for event in events:
        k = bisect_right(results, event.at_s, key=lambda one: one.started_s) - 1
        if k >= 0 and event.at_s <= results[k].started_s + _end_s(results[k], event.cpu):
            kept[k].append(event)
    return kept


def _end_s(one: Result, cpu: int) -> float:
    """Return when the thread on `cpu` ended, since the start; where no thread ended, the end of all."""
    return dict(zip(one.cpu_of_thread, one.ended_s, strict=True)).get(cpu, one.wall_s)
