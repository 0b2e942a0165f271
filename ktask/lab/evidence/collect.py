"""Look at some repetitions of a case with `perf`: where its threads spend time, and what they wait for."""

from __future__ import annotations

import contextlib
import os
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

from ktask.engine.task import Result
from ktask.host import perf, perf_stat
from ktask.host.kernel_counters import RUN_QUEUE, STEAL, growth, sample
from ktask.host.wait_channels import WaitChannels
from ktask.lab.evidence.locks import Wait, waits
from ktask.lab.evidence.proxy import proxies
from ktask.lab.measure.rounds import repeat
from ktask.workloads import State

BUDGET_S = 0.3  # of recorded wall time; 1,200 samples per thread
PATIENCE = 3.0  # times the budget, with all that prepares and checks
MOST = 300  # repetitions
LARGER = "a larger size takes longer"
LEAST_SAMPLES = 10  # of one way: below, the shares of its parts are chance
DISTURBED = 0.05  # of the thread time


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
        Waits for locks, of all threads together; where the kernel does not say them, what else is known of
        threads that waited (`proxy`).
    sees_locks
        Whether the kernel says when a thread waits.
    counters
        By how much the counters of the kernel grew (`ktask.host.kernel_counters`), and what the hardware
        counted (`ktask.host.perf_stat`).
    repetitions
        How many these means are of.
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
        """CPU time that the host gave to others, of the whole machine, as far as threads were off the CPU."""
        return min(self.counters.get(STEAL, 0.0), self.waiting_s)

    @property
    def queue_s(self) -> float:
        """Thread time in which a thread could run and got no CPU, as far as it was off the CPU."""
        return min(self.counters.get(RUN_QUEUE, 0.0), self.waiting_s - self.steal_s)

    @property
    def asleep_s(self) -> float:
        """Thread time in which a thread could not run."""
        return self.waiting_s - self.steal_s - self.queue_s

    @property
    def undisturbed_s(self) -> float:
        """Wall time without what others took, spread over the threads."""
        return self.wall_s - (self.steal_s + self.queue_s) / self.threads

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
        How much wall time of the task to record in each way; three times that with all that prepares and
        checks it.

    Raises
    ------
    ktask.host.perf.UnavailableError
        If perf cannot record here.
    """
    tids = [int(tid) for tid in os.listdir("/proc/self/task")]  # noqa: PTH208
    with perf.Recording(tids) as recording, _channels(recording, tids) as channels:
        seen = [_repeated(state, way, recording, tids, budget_s) for way in ways]
    events = [*recording.events, *channels]
    looks = [summary(events, *one, sees_locks=recording.sees_locks) for one in seen]
    for one in looks:
        if (n := round(one.cpu_s * one.repetitions * perf.SAMPLES_PER_S)) < LEAST_SAMPLES:
            reason = f"perf took {n} samples of {one.repetitions} repetitions, and {LEAST_SAMPLES} are needed"
            raise perf.UnavailableError(f"{reason}; {LARGER}")
    return looks


@contextlib.contextmanager
def _channels(recording: perf.Recording, tids: Sequence[int]) -> Iterator[list[perf.Event]]:
    """Give the wait channels of threads in the block, where the kernel does not say what they wait for."""
    if recording.sees_locks:
        yield []
        return
    with WaitChannels(tids) as found:
        yield found.events


class Repetition(NamedTuple):
    """A result, and by how much the counters grew meanwhile."""

    result: Result
    grown: dict[str, float]

    @property
    def disturbed(self) -> float:
        """Share of the thread time in which threads could run, and others had their CPUs."""
        lost_s = self.grown.get(RUN_QUEUE, 0.0) + self.grown.get(STEAL, 0.0)
        return lost_s / (self.result.threads * self.result.wall_s)


def _repeated(
    state: State, way: Way, recording: perf.Recording, tids: Sequence[int], budget_s: float
) -> tuple[list[Repetition], dict[str, float]]:
    """Return the repetitions, and what the hardware counted in one of them."""
    found: list[Repetition] = []
    end, left_s = time.monotonic() + PATIENCE * budget_s, budget_s
    with perf_stat.counting(tids) as counting:
        switch = _Switch(recording, counting)
        while not found or (left_s > 0 and time.monotonic() < end and len(found) < MOST):
            seen = repeat(state, *way, observe=switch)
            found.append(Repetition(seen.result, growth(seen.before, seen.after)))
            left_s -= seen.result.wall_s
    return found, perf_stat.mean(counting.counts, len(found))


class _Switch:
    """Switches what looks on at the first call, off at the second; returns the counters next to the task."""

    def __init__(self, *looking: perf.Recording | perf_stat.Counting | perf_stat.Nothing):
        self.looking, self.is_on = looking, False

    def __call__(self) -> dict[str, float]:
        self.is_on = not self.is_on
        if self.is_on:
            for one in self.looking:
                one.on()
            return sample()
        counters = sample()
        for one in self.looking:
            one.off()
        return counters


def summary(
    events: Iterable[perf.Event],
    repetitions: Sequence[Repetition],
    counted: dict[str, float],
    *,
    sees_locks: bool,
) -> Look:
    """Return what the events say of these repetitions, the most disturbed ones apart.

    What lies outside of their clocks is left out.
    """
    every = _by_repetition(events, [one.result for one in repetitions])
    calm = _calm(repetitions)
    kept, n = [every[k] for k in calm], len(calm)
    results = [repetitions[k].result for k in calm]
    look = Look(
        threads=results[0].threads,
        wall_s=sum(one.wall_s for one in results) / n,
        idle_s=sum(one.wall_s - ended for one in results for ended in one.ended_s) / n,
        stacks=_stacks(chain.from_iterable(kept), n),
        waits=[replace(one, wait_s=one.wait_s / n) for one in waits(kept)],
        sees_locks=sees_locks,
        counters=_mean([repetitions[k].grown for k in calm]) | counted,
        repetitions=n,
    )
    if sees_locks:
        return look
    return replace(look, waits=proxies(look.asleep_s, look.queue_s, look.counters, kept))


def _stacks(events: Iterable[perf.Event], n: int) -> dict[tuple[str, ...], float]:
    """Return CPU seconds by stack in one of `n` repetitions.

    The clock says how much there is. Where there are samples by cycles, these say in which functions: the
    clock cannot interrupt code that has switched interrupts off.
    """
    seen: dict[str, list[tuple[str, ...]]] = {perf.CLOCK: [], perf.CYCLES: []}
    for event in events:
        if event.name in seen:
            seen[event.name].append(event.frames)
    total_s = len(seen[perf.CLOCK]) / perf.SAMPLES_PER_S / n
    counts = Counter(seen[perf.CYCLES] or seen[perf.CLOCK])
    return {frames: total_s * count / counts.total() for frames, count in counts.items()}


def _calm(repetitions: Sequence[Repetition]) -> list[int]:
    """Return which repetitions are nearly as undisturbed as the best; in any case a tenth, or three.

    Those that had fewer threads, because other tasks had the CPUs, are left out.
    """
    most = max(one.result.threads for one in repetitions)
    full = [k for k, one in enumerate(repetitions) if one.result.threads == most]
    order = sorted(full, key=lambda k: repetitions[k].disturbed)
    limit = repetitions[order[0]].disturbed + DISTURBED
    n = max(len(order) // 10, 3, sum(repetitions[k].disturbed <= limit for k in order))
    return sorted(order[:n])


def _mean(grown: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set[str]().union(*grown)
    return {name: sum(one.get(name, 0.0) for one in grown) / len(grown) for name in sorted(names)}


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
