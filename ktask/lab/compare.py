"""Two runs side by side: what got better, what got worse, and what is within noise.

Another process has other pages in other places, and another minute has other neighbours. With the interval
within one process alone, 61 % of the rows of the 45 comparisons among ten runs of one commit would be called
changed. So the spread between processes is estimated from the two runs themselves, and enters every interval
and every verdict (`docs/measuring.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as distributions

from ktask.common.units import fmt_size
from ktask.lab.measure import stats
from ktask.lab.measure.stats import ENOUGH, Estimate
from ktask.lab.records import Run

THRESHOLD = 0.05
FALSE_ALARMS = 0.05
WORK = ("workload", "backend", "method", "page_kind", "size_bytes", "options", "policy", "min_chunk_size")
VARIANT = ("threads_requested", "baseline")

# The prior, where two runs have too few cells to tell: the standard deviation, between processes, of the
# logarithm of a median time, and its weight in degrees of freedom. Ten runs of eight cells of 0.3 s on a KVM
# guest gave 0.02 to 0.28, 0.10 in the middle; two runs of the `noise` grid, 0.5 s each, 0.07. For the
# hardware itself 0.03 is a guess on the safe side.
SPREAD_VIRTUAL, SPREAD_BARE = 0.08, 0.03
PRIOR_WEIGHT = 4.0
# What Rousseeuw and Croux's Q_n knows of a standard deviation, as a share of the degrees of freedom (20,000
# trials at m = 4 to 100: 0.44 to 0.8).
Q_EFFICIENCY = 0.6
FEWEST_CELLS = 4

VOLATILE = frozenset(
    ("collected_at", "load_average", "memory_available_bytes", "swap_used_bytes", "doctor", "schema_version")
)
Key = tuple[Any, ...]  # the values of WORK and VARIANT, in front the host if a run has several


@dataclass(frozen=True)
class Row:
    """One variant of one cell in both runs; times in seconds.

    Attributes
    ----------
    threads
        Asked for; `baseline` tells the serial call from one chunked thread.
    old, new
        Median times with the 95 % intervals within the run.
    ratio
        New time over old time (below 1 is better), with a 95 % interval that includes the spread between
        processes. None where a side has a single value or none.
    p_value
        How often two runs of the same thing would differ by as much.
    verdict
        "better", "worse", "within noise", or "too few" values for an interval.
    """

    workload: str
    backend: str
    method: str
    page_kind: str
    size_bytes: int
    options: str
    policy: str
    min_chunk_size: int
    threads: int
    baseline: bool
    old: Estimate
    new: Estimate
    ratio: Estimate | None
    p_value: float | None
    verdict: str

    @property
    def variant(self) -> str:
        """How many threads, in words."""
        return variant_name(self.threads, self.baseline)


def variant_name(threads: int, baseline: bool) -> str:
    """Return how many threads a row has, in words."""
    return "serial" if baseline else "1 thread" if threads == 1 else f"{threads} threads"


@dataclass(frozen=True)
class Difference:
    """A fact of machine, software or protocol in which the runs differ; None where a run does not tell."""

    fact: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes
    ----------
    old, new
        Names of the runs.
    threshold
        Regressions beyond it (0.05 is 5 % slower) are what exit code 1 means.
    spread
        Standard deviation of the logarithm of a ratio that two processes of the same commit would give.
    rows
        Sorted by effect within each workload, the largest first.
    only_old, only_new
        What the other run has not measured.
    differences
        Of the machines and of the way of measuring.
    """

    old: str
    new: str
    threshold: float
    spread: float
    rows: tuple[Row, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def regressions(self) -> list[Row]:
        """The rows that got worse by more than the threshold."""
        return [
            r for r in self.rows if r.verdict == "worse" and r.ratio and r.ratio.median > 1 + self.threshold
        ]


class _Spread(NamedTuple):
    """Standard deviation of the logarithm of a ratio between processes, and the degrees of freedom in it."""

    value: float
    freedom: float


class _Change(NamedTuple):
    """A logarithm of new over old, with its standard errors to either side and their degrees of freedom."""

    value: float
    error_low: float
    error_high: float
    freedom: float = np.inf

    @property
    def error(self) -> float:
        return (self.error_low + self.error_high) / 2

    def p_value(self, spread: _Spread) -> float:
        total = np.hypot(self.error, spread.value)
        if total == 0:
            return float(self.value == 0)
        return float(2 * distributions.t.sf(abs(self.value) / total, min(spread.freedom, self.freedom)))

    def interval(self, spread: _Spread) -> tuple[float, float]:
        """Return the ends of the ratio's interval."""
        reach = distributions.t.ppf(0.5 + stats.LEVEL / 2, min(spread.freedom, self.freedom))
        below, above = (reach * np.hypot(error, spread.value) for error in (self.error_low, self.error_high))
        return float(np.exp(self.value - below)), float(np.exp(self.value + above))


def compare(old: Run, new: Run, threshold: float = THRESHOLD) -> Comparison:
    """Compare two runs variant by variant, by their times.

    Parameters
    ----------
    old, new
        Runs as `ktask.lab.records.load_run` returns them.
    threshold
        Of a regression, as a share: 0.05 is 5 % slower.

    Raises
    ------
    ValueError
        If the threshold is negative, or the runs have no case in common.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold} is not allowed; use a share such as 0.05")
    hosts = ["host_id"] if any(run.records["host_id"].nunique() > 1 for run in (old, new)) else []
    before, after = (_times(run, [*hosts, *WORK, *VARIANT]) for run in (old, new))
    both = [key for key in before if key in after]
    if not both:
        raise ValueError(
            f"runs {old.name} and {new.name} have no case in common; compare runs of the same grid"
        )
    changes = {key: change for key in both if (change := _change(before[key], after[key]))}
    virtual = any(run.machine.get("virtualised", True) for run in (old, new))
    spread = _spread_between_processes(changes, SPREAD_VIRTUAL if virtual else SPREAD_BARE)
    p_values = {key: change.p_value(spread) for key, change in changes.items()}
    alarms = dict(zip(p_values, _alarms([*p_values.values()]), strict=True))
    rows = []
    for key in both:
        ratio, verdict = None, "too few"
        if change := changes.get(key):
            ratio = _ratio(before[key], after[key], change, spread)
            verdict = ("better" if change.value < 0 else "worse") if alarms[key] else "within noise"
        named = dict(zip((*WORK, "threads", "baseline"), key[len(hosts) :], strict=True))
        named |= {"old": stats.estimate(before[key]), "new": stats.estimate(after[key])}
        rows.append(Row(**named, ratio=ratio, p_value=p_values.get(key), verdict=verdict))
    return Comparison(
        old.name,
        new.name,
        threshold,
        spread.value,
        tuple(_by_effect(rows)),
        tuple(_name(key) for key in before if key not in after),
        tuple(_name(key) for key in after if key not in before),
        tuple(_differences(old, new)),
    )


def _times(run: Run, keys: list[str]) -> dict[Key, np.ndarray]:
    """Return the times (seconds) that may enter a rate, both baselines of a cell together, by `keys`."""
    rows = run.records[~run.records["warmup"].astype(bool) & (run.records["wall_s"] > 0)]
    warm = rows[["cold_memory" not in list(flags) for flags in rows["flags"]]]
    groups = warm.groupby(keys, dropna=False, sort=False)["wall_s"]
    return {tuple(map(_plain_value, key)): times.to_numpy() for key, times in groups}


def _plain_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _change(old: np.ndarray, new: np.ndarray) -> _Change | None:
    fewest = min(old.size, new.size)
    if fewest < 2:
        return None
    if fewest < ENOUGH:
        return _change_of_few(np.log(old), np.log(new))
    middle, low, high = np.log(stats.ratio(new, old)[:3])
    per_error = distributions.norm.ppf(0.5 + stats.LEVEL / 2)
    return _Change(float(middle), float((middle - low) / per_error), float((high - middle) / per_error))


def _change_of_few(old: np.ndarray, new: np.ndarray) -> _Change:
    """Return the difference of two to five logarithms; Welch's, which takes them for normal."""
    parts = old.var(ddof=1) / old.size, new.var(ddof=1) / new.size
    error = float(np.sqrt(sum(parts)))
    weights = parts[0] ** 2 / (old.size - 1) + parts[1] ** 2 / (new.size - 1)
    freedom = sum(parts) ** 2 / weights if weights > 0 else np.inf
    return _Change(float(np.median(new) - np.median(old)), error, error, float(freedom))


def _spread_between_processes(changes: Mapping[Key, _Change], prior: float) -> _Spread:
    """Return the spread that a ratio has between processes.

    It is that of the variant (a thread count, the serial baseline) whose cells agree best, corrected for
    being the least of several; of each variant, that of the better half of its cells. So it is not widened by
    a true change of all cells alike, of less than half of them, or of some thread counts only.
    """
    variants: dict[Key, list[_Change]] = {}
    for key, change in changes.items():
        variants.setdefault(key[-len(VARIANT) :], []).append(change)
    enough = [cells for cells in variants.values() if len(cells) >= FEWEST_CELLS]
    if not enough:
        return _Spread(float(np.sqrt(2) * prior), PRIOR_WEIGHT)
    freedom = Q_EFFICIENCY * (min(map(len, enough)) - 1)
    of_the_least = distributions.chi2.ppf(1 - 0.5 ** (1 / len(enough)), freedom) / freedom  # its median
    seen = min(map(_variance_between, enough)) / of_the_least
    variance = (PRIOR_WEIGHT * 2 * prior**2 + freedom * seen) / (PRIOR_WEIGHT + freedom)
    return _Spread(float(np.sqrt(variance)), PRIOR_WEIGHT + freedom)


def _variance_between(cells: Sequence[_Change]) -> float:
    within = np.median([cell.error**2 for cell in cells])
    return float(max(robust_spread(np.array([cell.value for cell in cells])) ** 2 - within, 0.0))


def robust_spread(values: np.ndarray) -> float:
    """Return the standard deviation of the better half of the values: Q_n (Rousseeuw and Croux 1993).

    It is a quarter-quantile of all distances between two values, corrected for their number.
    """
    m = values.size
    half = m // 2 + 1
    distances = np.abs(values[:, None] - values)[np.triu_indices(m, 1)]
    quarter = np.partition(distances, half * (half - 1) // 2 - 1)[half * (half - 1) // 2 - 1]
    return float(2.2219 * m / (m + (1.4 if m % 2 else 3.8)) * quarter)


def _alarms(p_values: Sequence[float]) -> list[bool]:
    """Return which p-values are alarms, by Benjamini and Hochberg (1995).

    If nothing changed, 95 % of the tables have no alarm at all; if much changed, few are false.
    """
    return [*(distributions.false_discovery_control(p_values) <= FALSE_ALARMS)] if p_values else []


def _ratio(old: np.ndarray, new: np.ndarray, change: _Change, spread: _Spread) -> Estimate:
    best = float(new.min() / old.min())
    return Estimate(float(np.exp(change.value)), *change.interval(spread), best, min(old.size, new.size))


def _by_effect(rows: Sequence[Row]) -> list[Row]:
    order = list(dict.fromkeys(row.workload for row in rows))

    def effect(row: Row) -> float:
        return abs(np.log(row.ratio.median)) if row.ratio else -1.0

    return sorted(rows, key=lambda row: (order.index(row.workload), -effect(row)))


def _name(key: Key) -> str:
    workload, _, method, page_kind, size_bytes, options, policy, min_chunk, threads, baseline = key[-10:]
    parts = [workload, method, page_kind, fmt_size(size_bytes), options, policy, f"min {fmt_size(min_chunk)}"]
    return " ".join([part for part in parts if part] + [variant_name(threads, baseline)])


# --- what else differs ---------------------------------------------------------------------------------


def _differences(old: Run, new: Run) -> Iterator[Difference]:
    """Yield the facts of both runs that differ, and the parts of their protocols."""
    sides = [dict(_facts(run)) for run in (old, new)]
    for fact in sorted(set(sides[0]) | set(sides[1])):
        before, after = (side.get(fact) for side in sides)
        if before != after:
            yield Difference(fact, before, after)


def _facts(run: Run) -> Iterator[tuple[str, Any]]:
    parts = {"protocol": run.grid.get("protocol", {}), "threads_asked": run.grid.get("threads")}
    for name, value in {**run.machine, **parts}.items():
        if name in VOLATILE:
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{part}", inner) for part, inner in value.items())
        else:
            yield name, value


# --- what comes out ------------------------------------------------------------------------------------


def to_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison ready for JSON: `workloads` maps each workload to its rows."""
    workloads: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        plain = asdict(row) | {name: _plain(getattr(row, name)) for name in ("old", "new", "ratio")}
        workloads.setdefault(row.workload, []).append(plain)
    return {
        "old": found.old,
        "new": found.new,
        "threshold": found.threshold,
        "noise": float(np.expm1(found.spread)),
        "regressions": len(found.regressions),
        "workloads": workloads,
        "only_in_old": list(found.only_old),
        "only_in_new": list(found.only_new),
        "differences": [asdict(one) for one in found.differences],
    }


def _plain(one: Estimate | None) -> dict[str, Any] | None:
    return one and one.as_dict()
