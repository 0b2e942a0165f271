"""Two states, drift and settling in the times of one variant, taken in the order of the rounds.

A median hides all three. They are looked for in logarithms of times, within and between processes; nothing is
left out for them. The limits below are such that of samples with none of it (normal, uniform, skewed and
heavy-tailed, 6 to 101 values) at most 2 % are called anything: tests/lab/test_states.py counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktask.common.units import fmt_time

WORTH_NAMING = np.log(1.05)  # states or ends of a drift closer than this change no conclusion
LEAST_VALUES = 6
LEAST_GROUP, LEAST_SHARE = 3, 0.08  # of the values in one of two states
TRIMMED = 0.04  # at either end: a few slow repetitions must not widen a state
LEAST_SPREAD = 0.01
# Distance of two groups over the larger of their standard deviations that at most 1 % of samples without
# states exceed: the first, plus the second over the root of how many are in the smaller group. Few values are
# a narrow group by chance, and the end of a long tail has few.
SEPARATION, SEPARATION_OF_FEW = 3.2, 8.2
# For the medians of processes, of which one alone is a group only if it is far from the others.
PROCESS_SEPARATION, SEPARATION_OF_ONE, LEAST_PROCESSES = 12.0, 25.0, 3
# If states change within processes, most of the values in the rarer state are not alone with their like.
MIXED_SHARE = 0.4
DRIFT_DEVIATIONS = 2.9
SETTLING_DEVIATIONS = 3.2
TYPICAL_WITHIN = 0.1


class TwoStates(NamedTuple):
    """Two groups of times: the median of each, and how many of the times are in the slower one."""

    fast_s: float
    slow_s: float
    slow_share: float
    between_processes: bool  # each process stayed in one of them

    def __str__(self) -> str:
        where = " (each process in one)" if self.between_processes else ""
        fast = f"{fmt_time(self.fast_s)} ({1 - self.slow_share:.0%})"
        return f"two states{where}: {fast} and {fmt_time(self.slow_s)} ({self.slow_share:.0%})"


class Drift(NamedTuple):
    """Times that rise or fall over the rounds of a process: medians of the first and of the last third."""

    first_s: float
    last_s: float

    def __str__(self) -> str:
        return f"drift: {fmt_time(self.first_s)} to {fmt_time(self.last_s)}"


class Settling(NamedTuple):
    """Times that fall at first and then stay: where they began, the median of the rest, how long it took."""

    first_s: float
    settled_s: float
    rounds: int

    def __str__(self) -> str:
        ends = f"{fmt_time(self.first_s)} to {fmt_time(self.settled_s)}"
        return f"settling: {ends} over {self.rounds} round{'s' * (self.rounds != 1)}"


class States(NamedTuple):
    """What was found in the times of one variant; None where there is nothing."""

    two_states: TwoStates | None = None
    drift: Drift | None = None
    settling: Settling | None = None

    def __bool__(self) -> bool:
        return any(one is not None for one in self)

    def __str__(self) -> str:
        return "; ".join(str(one) for one in self if one is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return what was found by name, as JSON can hold it, and all of it as `text`."""
        found = {name: one._asdict() for name, one in self._asdict().items() if one is not None}
        return found | {"text": str(self)}


def find(times: ArrayLike, rounds: ArrayLike | None = None, passes: ArrayLike | None = None) -> States:
    """Look for two states, drift and settling in the times of one variant.

    Parameters
    ----------
    times
        Seconds, positive, in any order.
    rounds
        The round of each; by default they are one after the other in each process.
    passes
        The process that each comes from; by default one.
    """
    logs = np.log(np.asarray(times, dtype=float))
    process = np.zeros(logs.size, dtype=int) if passes is None else np.unique(passes, return_inverse=True)[1]
    place = _places(process) if rounds is None else np.asarray(rounds)
    settling = find_settling(logs, place, process)
    settled = place >= (settling.rounds if settling else 0) + place.min(initial=0)
    drift = find_drift(logs[settled], place[settled], process[settled])
    return States(find_two_states(logs, process), drift, settling)


def _places(process: NDArray) -> NDArray:
    """Return the place of each value among those of its process."""
    place = np.empty(process.size, dtype=int)
    for one in np.unique(process):
        place[process == one] = np.arange(np.count_nonzero(process == one))
    return place


# --- two states -----------------------------------------------------------------------------------------


def find_two_states(logs: NDArray, process: NDArray) -> TwoStates | None:
    """Return two groups in logarithms of times, that differ within processes or between them."""
    several = np.unique(process)
    is_slow = _slower_group(logs) if logs.size >= LEAST_VALUES else None
    if is_slow is not None and (several.size == 1 or _are_mixed(is_slow, process)):
        return _two_states(logs, is_slow, False)
    middles = np.array([np.median(logs[process == one]) for one in several])
    are_slow = _slower_processes(middles) if several.size >= LEAST_PROCESSES else None
    return None if are_slow is None else _two_states(logs, np.isin(process, several[are_slow]), True)


def _slower_group(logs: NDArray) -> NDArray | None:
    """Return which values form a slower group; None if there is none."""
    separation, is_slow = separate(logs, max(LEAST_GROUP, int(LEAST_SHARE * logs.size)), TRIMMED)
    fewer = int(min(is_slow.sum(), (~is_slow).sum()))
    limit = SEPARATION + SEPARATION_OF_FEW / np.sqrt(max(fewer, 1))
    return is_slow if separation > limit and _is_worth_naming(logs, is_slow) else None


def _slower_processes(middles: NDArray) -> NDArray | None:
    separation, is_slow = separate(middles, 1, 0)
    limit = SEPARATION_OF_ONE if np.count_nonzero(is_slow) in (1, middles.size - 1) else PROCESS_SEPARATION
    return is_slow if separation > limit and _is_worth_naming(middles, is_slow) else None


def _is_worth_naming(logs: NDArray, is_slow: NDArray) -> bool:
    return bool(np.median(logs[is_slow]) - np.median(logs[~is_slow]) > WORTH_NAMING)


def _two_states(logs: NDArray, is_slow: NDArray, between: bool) -> TwoStates:
    fast, slow = (float(np.exp(np.median(logs[side]))) for side in (~is_slow, is_slow))
    return TwoStates(fast, slow, float(is_slow.mean()), between)


def _are_mixed(is_slow: NDArray, process: NDArray) -> bool:
    """Return whether processes change their state, by how many values are in the rarer state of theirs."""
    slow, values = np.bincount(process, is_slow), np.bincount(process)
    rarer = min(slow.sum(), is_slow.size - slow.sum())
    return bool(np.minimum(slow, values - slow).sum() >= MIXED_SHARE * rarer)


def separate(logs: NDArray, least: int, trimmed: float) -> tuple[float, NDArray]:
    """Return how far the best two groups are apart, in the larger of their deviations, and which are slower.

    Best is the split with the least squares within groups, each with `least` values or more; the share
    `trimmed` at either end does not count. The larger deviation, because a long tail is wide.
    """
    ordered, cut = np.sort(logs), int(trimmed * logs.size)
    kept = ordered[cut : logs.size - cut] - ordered[0]
    left = np.arange(least - cut, kept.size - least + cut + 1)
    sides = [_squares(kept)[left - 1], _squares(kept[::-1])[kept.size - left - 1]]
    best = int(np.argmin(sides[0] + sides[1]))
    size = int(left[best])
    degrees = np.maximum([size - 1, kept.size - size - 1], 1)
    deviation = np.sqrt(max(sides[0][best] / degrees[0], sides[1][best] / degrees[1]))
    distance = kept[size:].mean() - kept[:size].mean()
    border = ordered[0] + (kept[size - 1] + kept[size]) / 2
    return float(distance / max(deviation, LEAST_SPREAD)), logs > border


def _squares(values: NDArray) -> NDArray:
    """Return the sum of squares around their mean of the first one, the first two, ... of the values."""
    sums = np.cumsum(values)
    return np.maximum(np.cumsum(values**2) - sums**2 / np.arange(1, values.size + 1), 0)


# --- drift and settling ---------------------------------------------------------------------------------


def find_drift(logs: NDArray, place: NDArray, process: NDArray) -> Drift | None:
    """Return a trend over the rounds, the same in all processes (Mann and Kendall, by process)."""
    if logs.size < LEAST_VALUES or abs(trend(logs, place, process)) < DRIFT_DEVIATIONS:
        return None
    first, last = np.quantile(place, [1 / 3, 2 / 3])
    begin, end = (float(np.median(logs[side])) for side in (place <= first, place >= last))
    return Drift(float(np.exp(begin)), float(np.exp(end))) if abs(end - begin) > WORTH_NAMING else None


def trend(logs: NDArray, place: NDArray, process: NDArray) -> float:
    """Return the trend over the rounds in standard deviations; above 0 for times that rise."""
    score = variance = 0.0
    for one in np.unique(process):
        mine, order = logs[process == one], place[process == one]
        later = np.sign(order[:, None] - order)
        score += float((later * np.sign(mine[:, None] - mine)).sum() / 2)
        n = mine.size
        variance += n * (n - 1) * (2 * n + 5) / 18
    return float(np.sign(score) * max(abs(score) - 1, 0) / np.sqrt(max(variance, 1)))


def find_settling(logs: NDArray, place: NDArray, process: NDArray) -> Settling | None:
    """Return the first rounds, at most a third, that are slower than the rest, if the rest stays level.

    Each place to split is tried, by the rank sum of the first rounds within each process (Mann and Whitney).
    """
    if logs.size < LEAST_VALUES:
        return None
    start = place - place.min()
    counts = np.arange(1, (int(start.max()) + 1) // 3 + 1)
    slower = [_rank_deviation(logs, start < count, process) for count in counts]
    if max(slower, default=0) < SETTLING_DEVIATIONS:
        return None
    rounds = int(counts[int(np.argmax(slower))])
    first, rest = start < max(rounds // 4, 1), start >= rounds
    if trend(logs[rest], place[rest], process[rest]) < -2:
        return None
    begin, end = float(np.median(logs[first])), float(np.median(logs[rest]))
    return Settling(float(np.exp(begin)), float(np.exp(end)), rounds) if begin - end > WORTH_NAMING else None


def _rank_deviation(logs: NDArray, is_first: NDArray, process: NDArray) -> float:
    """Return by how many standard deviations the first are slower than the others, process by process."""
    score = variance = 0.0
    for one in np.unique(process):
        mine = process == one
        first, rest = logs[mine & is_first], logs[mine & ~is_first]
        if first.size and rest.size:
            score += float(np.sign(first[:, None] - rest).sum() / 2)
            variance += first.size * rest.size * (first.size + rest.size + 1) / 12
    return (score - 0.5) / np.sqrt(variance) if variance else 0.0


# --- typical repetitions --------------------------------------------------------------------------------


def is_typical(wall_s: float, walls: ArrayLike) -> bool:
    """Return whether a time is typical of `walls`: within 10 % of their median, or in their 10 to 90 % range.

    What is seen in one repetition, such as a trace or a profile, explains a result only if it took so long.
    """
    known = np.asarray(walls, dtype=float)
    if not known.size or not wall_s > 0:
        return False
    low, high = np.quantile(known, [0.1, 0.9])
    return bool(low <= wall_s <= high or distance(wall_s, walls) <= np.log1p(TYPICAL_WITHIN))


def distance(wall_s: float, walls: ArrayLike) -> float:
    """Return how far a time is from the median of `walls`, as a logarithm; infinite without any."""
    known = np.asarray(walls, dtype=float)
    return abs(float(np.log(wall_s / np.median(known)))) if known.size and wall_s > 0 else np.inf
