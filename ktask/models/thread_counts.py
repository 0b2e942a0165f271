"""How many threads: the fewest within noise of the fastest, searched for, and rules that guess.

A rule takes what is known of a machine and gives a number. It is scored by how much slower that number is
than the fastest that was measured.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ktask.models import published
from ktask.models.simulation.machines import load_machine

NOISE = 0.03  # of the time; what is nearer to the fastest counts as fast
WORSE_IN_A_ROW = 2
NEARLY = 0.05  # of a thread: so little of a quotient is no thread more
NEAR = 4  # counts that differ by less than a fourth, both neighbours together, are not told apart


@dataclass(frozen=True)
class Known:
    """What a rule may know: CPUs and nodes; bytes per second of all memory of a node, and of one thread."""

    cpus: int
    nodes: int = 1
    bandwidth: float = math.nan
    of_one_thread: float = math.nan

    @property
    def cpus_of_node(self) -> int:
        """CPUs of one node."""
        return max(1, self.cpus // self.nodes)


def _by_bandwidth(known: Known) -> float:
    """Return the bandwidth of the node over that of one thread, at most its CPUs; NaN if unknown."""
    if not known.bandwidth > 0:
        return math.nan
    return min(math.ceil(known.bandwidth / known.of_one_thread - NEARLY), known.cpus_of_node)


RULES: dict[str, Callable[[Known], float]] = {
    "4 (ktask)": lambda known: min(4, known.cpus),
    "a quarter of the node (ktask, boot)": lambda known: max(1, known.cpus_of_node // 4),
    "2 per node (hugetlb, 2024)": lambda known: min(2 * known.nodes, known.cpus),
    "a quarter of the machine (hugetlb, 2025)": lambda known: max(1, known.cpus // 4),
    "the whole node (padata)": lambda known: known.cpus_of_node,
    "all CPUs": lambda known: known.cpus,
    "bandwidth over one thread's": _by_bandwidth,
}


@dataclass(frozen=True)
class Curve:
    """Times by thread count of one piece of work, and what is known of the machine."""

    name: str
    machine: str
    times: Mapping[int, float]
    known: Known


def fewest(times: Mapping[int, float], noise: float = NOISE) -> int:
    """Return the fewest threads whose time is within `noise` of the shortest.

    Examples
    --------
    >>> fewest({1: 8.0, 2: 4.1, 4: 2.5, 8: 2.45, 16: 3.0})
    4
    """
    shortest = min(times.values())
    return min(n for n, time_s in times.items() if time_s <= shortest * (1 + noise))


def slower(times: Mapping[int, float], threads: float) -> float:
    """Return the time with `threads` over the shortest one measured.

    Between two counts it lies on the straight line of logarithms; NaN beyond those measured.
    """
    counts = sorted(times)
    if not counts[0] <= threads <= counts[-1]:
        return math.nan
    logs = [math.log(times[n]) for n in counts]
    at = float(np.interp(math.log(threads), np.log(counts), logs))
    return math.exp(at - min(logs))


def scores(curves: Iterable[Curve]) -> pd.DataFrame:
    """Return how much slower than the fastest each rule is on each curve.

    Returns
    -------
    pandas.DataFrame
        One row per curve and rule: `name`, `machine`, `rule`, `threads`, `slower` (1 is as fast as the
        fastest; NaN where the number was not measured, or the rule knows nothing) and `fewest`.
    """
    rows = [
        {"name": curve.name, "machine": curve.machine, "rule": rule, "threads": (n := number(curve.known))}
        | {"slower": slower(curve.times, n), "fewest": fewest(curve.times)}
        for curve in curves
        for rule, number in RULES.items()
    ]
    return pd.DataFrame(rows, columns=["name", "machine", "rule", "threads", "slower", "fewest"])


# --- the search ----------------------------------------------------------------------------------------


@dataclass
class Search:
    """What a search measured, and what it found.

    Attributes
    ----------
    threads
        The fewest within noise of the fastest, of those measured.
    times
        The seconds of each count that was measured.
    """

    threads: int = 1
    times: dict[int, float] = field(default_factory=dict)


def search(measure: Callable[[int], float], counts: Sequence[int], noise: float = NOISE) -> Search:
    """Find the fewest threads within noise of the fastest with few measurements.

    Counts double until the time has grown twice in a row. Then it looks beside the fastest, each time halving
    the distance, and at last downwards for the fewest that are as fast. The time is taken to fall, and then
    to rise or to stay, apart from noise.

    Parameters
    ----------
    measure
        Returns the seconds that a number of threads takes; called once per count.
    counts
        Those allowed, in any order.
    noise
        Share of the time; what is nearer to the fastest counts as fast.
    """
    ordered, found = sorted(set(counts)), Search()
    if not ordered or ordered[0] < 1:
        raise ValueError(f"counts={list(counts)} are not allowed; give at least one, each 1 or more")

    def time_of(k: int) -> float:
        n = ordered[k]
        if n not in found.times:
            found.times[n] = measure(n)
        return found.times[n]

    def fewest_of(known: Iterable[int]) -> int:
        known = [*known]
        limit = min(map(time_of, known)) * (1 + noise)
        return min(k for k in known if time_of(k) <= limit)

    places = _doubling(ordered, time_of, noise)
    best = fewest_of(places)
    after = places[min(places.index(best) + 1, len(places) - 1)]
    if time_of(after) > time_of(best) * (1 + noise):  # a peak, and not a plateau
        best = _beside(best, places, fewest_of)
    limit = min(found.times.values()) * (1 + noise)
    low = max((k for k in range(best) if found.times.get(ordered[k], 0.0) > limit), default=-1)
    _downwards(low, best, limit, time_of)
    found.threads = fewest(found.times, noise)
    return found


def _doubling(ordered: Sequence[int], time_of: Callable[[int], float], noise: float) -> list[int]:
    """Measure counts that double, and the last one; end when it has become slower twice in a row."""
    wanted = [2**k for k in range(ordered[-1].bit_length())]
    places = sorted({min(bisect_left(ordered, n), len(ordered) - 1) for n in wanted} | {len(ordered) - 1})
    worse = 0
    for used, k in enumerate(places, 1):
        shortest = min(map(time_of, places[: used - 1]), default=math.inf)
        worse = worse + 1 if time_of(k) > shortest * (1 + noise) else 0
        if worse == WORSE_IN_A_ROW:
            return places[:used]
    return places


def _beside(best: int, places: Sequence[int], fewest_of: Callable[[Iterable[int]], int]) -> int:
    """Halve the distance to both neighbours of the fastest until it is small; return the fastest place."""
    at = places.index(best)
    low, high = places[max(at - 1, 0)], places[min(at + 1, len(places) - 1)]
    while high - low > max(2, best // NEAR):
        known = sorted({low, (low + best) // 2, best, (best + high + 1) // 2, high})
        best = fewest_of(known)
        i = known.index(best)
        low, high = known[max(i - 1, 0)], known[min(i + 1, len(known) - 1)]
    return best


def _downwards(low: int, high: int, limit: float, time_of: Callable[[int], float]) -> None:
    """Halve the way from a place that is fast enough to one that is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if time_of(middle) <= limit else (middle, high)


# --- published curves ----------------------------------------------------------------------------------

TIMES_BY_THREADS = ("ktask_clear_gigantic_page", "ktask_hugetlbfs_fallocate", "ktask_vfio_pinning")
DESCRIBED = {  # how the tables call a machine, and its description
    "Platinum 8160": "xeon-platinum-8160",
    "E7-8895 v3": "xeon-e7-8895v3",
    "T7-4": "sparc-t7-4",
}


def published_curves() -> list[Curve]:
    """Return the published times by thread count of machines whose CPUs and nodes are known."""
    table = published.load()
    times = table[table["file"].isin(TIMES_BY_THREADS) & table["new_measurement"] & (table["threads"] >= 1)]
    times = times[(times["time_s"] > 0) & (times["cpus"] > 0)]
    names = ["file", "workload", "variant", "machine", "size_bytes", "source_date", "cpus"]
    found = []
    for key, part in times.groupby(names, dropna=False, sort=False):
        about = dict(zip(names, key, strict=True))
        by_threads = part.groupby("threads")["time_s"].median()
        machine = str(about["machine"])
        file = next((file for name, file in DESCRIBED.items() if name in machine), None)
        if file and len(by_threads) > 2 and 1 in by_threads.index:
            known = Known(int(about["cpus"]), load_machine(file).nodes, *_published_bandwidth(machine))
            times_s = {int(n): float(time_s) for n, time_s in by_threads.items()}
            found.append(Curve(f"{about['workload']}, {about['source_date']}", machine, times_s, known))
    return found


def _published_bandwidth(machine: str) -> tuple[float, float]:
    """Return the highest published bandwidth of clearing on one node of a machine, and that of one thread."""
    table = published.load()
    rows = table[(table["file"] == "ktask_clear_page_per_thread_bandwidth") & (table["machine"] == machine)]
    one = rows.loc[rows["threads"] == 1, "value"]
    return (float(rows["value"].max()), float(one.iloc[0])) if len(one) else (math.nan, math.nan)
