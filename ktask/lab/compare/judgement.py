"""How two sets of processes are told apart: the change, its interval, and which of many changes are alarms.

Everything is on the scale of logarithms, where a factor is a difference. What varies is the process, so a
variant is one value per process; the interval is Welch's, from the spread between the processes of both runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from ktask.lab.measure.levels import MOST_DRIFT, SAME, drift_of, mean_over_levels
from ktask.lab.measure.stats import LEVEL

FALSE_ALARMS = 0.05
MOST_PASSES = 1000
Verdict = Literal["better", "worse", "same", "undecided"]


class Side(NamedTuple):
    """What one run found of one variant.

    Attributes
    ----------
    logs
        Logarithm of the median time (seconds) of each process.
    processes
        Boot and pass of each.
    turns
        How many unbroken series of passes the run consists of, seen in one order of time with the other run.
    """

    logs: NDArray
    processes: tuple[tuple[str, int], ...]
    turns: int = 1

    @property
    def spread(self) -> float:
        """Standard deviation between processes."""
        return float(np.std(self.logs, ddof=1))


class Change(NamedTuple):
    """New over old as a logarithm, its standard error, and the degrees of freedom in that."""

    value: float
    error: float
    freedom: float

    @property
    def reach(self) -> float:
        """Half of the length of the 95 % interval."""
        return float(distributions.t.ppf(0.5 + LEVEL / 2, self.freedom)) * self.error

    @property
    def p_value(self) -> float:
        """How often two runs of the same thing would differ by as much."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * distributions.t.sf(abs(self.value) / self.error, self.freedom))


def change(old: Side, new: Side) -> Change | None:
    """Return how far `new` is from `old`; None if one of them is a single process.

    Each unbroken series of passes may have drifted as a whole; runs that take turns pass by pass share the
    drift, so it counts the less the more turns there are. The degrees of freedom are those of Welch and
    Satterthwaite. An allowance for drift that is at its limit is a known number and takes none.
    """
    if min(old.logs.size, new.logs.size) < 2:
        return None
    means, total, squares = [], 0.0, 0.0
    for side in (old, new):
        mean, error, freedom = mean_over_levels(side.logs, [boot for boot, _ in side.processes])
        drift = drift_of(side.spread) ** 2 / side.turns
        measured = error**2 + (drift if drift_of(side.spread) < MOST_DRIFT else 0.0)
        means.append(mean)
        total += error**2 + drift
        squares += measured**2 / freedom
    return Change(means[1] - means[0], float(np.sqrt(total)), total**2 / squares if squares else np.inf)


def alarms(p_values: Sequence[float]) -> list[bool]:
    """Return which p-values are alarms, by Benjamini and Hochberg (1995).

    If nothing changed, 95 % of the tables have no alarm at all; if much changed, few are false.
    """
    return [*(distributions.false_discovery_control(p_values) <= FALSE_ALARMS)] if len(p_values) else []


def verdict(low: float, high: float, alarm: bool) -> Verdict:
    """Return what is known of a ratio of times: the interval and, among many, the alarm have to say so."""
    if alarm and high < 1:
        return "better"
    if alarm and low > 1:
        return "worse"
    return "same" if SAME[0] <= low and high <= SAME[1] else "undecided"


def passes_needed(old: Side, new: Side, threshold: float) -> int | None:
    """Return how many passes of each run, taken in turns, show a slowdown by `threshold`.

    From the spread between processes as measured; None if a thousand would not do, or no spread is known.
    """
    known = [side.spread for side in (old, new) if side.logs.size > 1]
    if not known:
        return None
    variance = np.mean([spread**2 + drift_of(spread) ** 2 for spread in known])
    passes = np.arange(2, MOST_PASSES + 1)
    reach = distributions.t.ppf(0.5 + LEVEL / 2, 2 * (passes - 1)) * np.sqrt(2 * variance / passes)
    enough = passes[reach <= np.log1p(threshold)]
    return int(enough[0]) if enough.size else None
