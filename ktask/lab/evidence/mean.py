"""The evidence on a case from all the processes that looked at it: their mean, and how they differ."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ktask.lab.evidence.case import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.locks import Wait
from ktask.lab.measure import levels
from ktask.lab.measure.stats import Estimate

Key = TypeVar("Key")


def mean_of(found: Sequence[Evidence]) -> Evidence:
    """Return the mean over the processes that saw a case; where none did, why the last one did not.

    Processes that got fewer threads than others, because the CPUs were busy, are left out.
    """
    took_s = sum(one.took_s for one in found)
    seen = [(one, one.many.threads) for one in found if one.serial and one.many]
    if not seen:
        return replace(found[-1], took_s=took_s)
    most = max(threads for _, threads in seen)
    kept = tuple(one for one, threads in seen if threads == most)
    if len(kept) == 1:
        return replace(kept[0], took_s=took_s, processes=kept)
    serial, many, alone = (
        _mean_look([look for one in kept if (look := getattr(one, place))])
        for place in ("serial", "many", "alone")
    )
    return Evidence(serial, many, alone, took_s=took_s, processes=kept)


def over_processes(evidence: Evidence, value: Callable[[Evidence], float]) -> Estimate:
    """Return the estimate over the processes that looked of a share that each of them gives."""
    each = [value(one) for one in evidence.processes or (evidence,)]
    known = [Estimate(one, math.nan, math.nan, one, 1) for one in each]
    found = levels.across(known, scale="linear", drift=levels.RATIO_DRIFT)
    return found._replace(low=max(0.0, found.low)) if len(known) > 1 else found


def _mean_look(looks: Sequence[Look]) -> Look | None:
    if not looks:
        return None
    n = len(looks)
    return Look(
        threads=looks[0].threads,
        wall_s=sum(one.wall_s for one in looks) / n,
        idle_s=sum(one.idle_s for one in looks) / n,
        stacks=_means([one.stacks for one in looks]),
        waits=_mean_waits((one.waits for one in looks), n),
        sees_locks=all(one.sees_locks for one in looks),
        counters=_means([one.counters for one in looks]),
        repetitions=sum(one.repetitions for one in looks),
    )


def _means(found: Sequence[Mapping[Key, float]]) -> dict[Key, float]:
    sums: dict[Key, float] = defaultdict(float)
    for one in found:
        for name, value in one.items():
            sums[name] += value
    return {name: value / len(found) for name, value in sums.items()}


def _mean_waits(found: Iterable[Sequence[Wait]], n: int) -> list[Wait]:
    """Return the mean wait for each lock at each place; `count` stays that of all repetitions."""
    sums: dict[tuple[str, str, str, str], Wait] = {}
    for wait in (wait for waits in found for wait in waits):
        which = wait.lock, wait.kind, wait.site, wait.source
        known = sums.get(which, replace(wait, wait_s=0.0, count=0))
        sums[which] = replace(known, wait_s=known.wait_s + wait.wait_s / n, count=known.count + wait.count)
    return sorted(sums.values(), key=lambda wait: -wait.wait_s)
