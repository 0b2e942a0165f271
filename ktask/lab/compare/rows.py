"""Two runs side by side: the change of each variant and of all together, with a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ktask.common.units import fmt_size
from ktask.lab.compare.differences import Difference, differences
from ktask.lab.compare.judgement import Change, Side, Verdict, alarms, change, passes_needed, verdict
from ktask.lab.measure import stats
from ktask.lab.measure.levels import PROCESS, TIME_DRIFT, across, in_rates
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run

THRESHOLD = 0.05
# So many rows of a large table may be too noisy for the threshold before nothing is said of the table: some
# process of some case is always disturbed. A table of fewer than ten rows, as for bisecting, may have none.
NOISY_SHARE = 0.1
WORK = ("workload", "backend", "method", "page_kind", "size_bytes", "options", "policy", "min_chunk_size")
VARIANT = ("threads_requested", "baseline")
Key = tuple[Any, ...]  # the values of WORK and VARIANT, in front the host if a run has several


@dataclass(frozen=True)
class Row:
    """One variant of one cell in both runs; times in seconds.

    Attributes
    ----------
    threads
        Asked for; `baseline` tells the serial call from one chunked thread.
    old, new
        Times, with 95 % intervals over the processes of the run.
    ratio
        New time over old time (below 1 is better). Its 95 % interval is that of two runs: it knows the spread
        between processes, and how much a run drifts from the next. None (NaN) if a side is one process.
    p_value
        How often two runs of the same thing would differ by as much; None if a side is one process.
    verdict
        "better", "worse", "same" (the interval lies within 0.95 to 1.05), or "undecided".
    passes_needed
        Of each run, taken in turns, to show a slowdown by the threshold; None if unknown or over a thousand.
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
    ratio: Estimate
    p_value: float | None
    verdict: Verdict
    passes_needed: int | None
    host_id: str = ""  # where the runs are of several machines

    @property
    def key(self) -> Key:
        """What tells the rows of a table apart."""
        return tuple(getattr(self, name) for name in ("host_id", *WORK, "threads", "baseline"))

    @property
    def variant(self) -> str:
        """How many threads, in words."""
        return variant_name(self.threads, self.baseline)

    def shows(self, threshold: float) -> bool:
        """Return whether the row is quiet enough for a slowdown by `threshold` to show."""
        return self.smallest_visible <= threshold

    @property
    def smallest_visible(self) -> float:
        """The smallest slowdown, as a share, at which the interval would not hold 1; NaN for one process."""
        return self.ratio.high / self.ratio.median - 1


def variant_name(threads: int, baseline: bool) -> str:
    """Return how many threads a row has, in words."""
    return "serial" if baseline else "1 thread" if threads == 1 else f"{threads} threads"


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes
    ----------
    old, new
        The runs.
    threshold
        Regressions beyond it (0.05 is 5 % slower) are what exit code 1 means.
    rows
        Sorted by effect within each workload, the largest first.
    overall, overall_verdict
        The same for the geometric mean of all rows: what changes everything by one factor shows best here.
    only_old, only_new
        What the other run has not measured.
    differences
        Of the machines and of the way of measuring.
    """

    old: Run
    new: Run
    threshold: float
    rows: tuple[Row, ...]
    overall: Estimate
    overall_verdict: Verdict
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def regressions(self) -> list[Row]:
        """The rows that got worse by more than the threshold."""
        return [row for row in self.rows if self._beyond(row.ratio, row.verdict)]

    @property
    def slower(self) -> bool:
        """Whether a row, or all rows together, got worse by more than the threshold."""
        return bool(self.regressions) or self._beyond(self.overall, self.overall_verdict)

    def _beyond(self, ratio: Estimate, verdict: Verdict) -> bool:
        return verdict == "worse" and ratio.median > 1 + self.threshold

    @property
    def blind(self) -> list[Row]:
        """The rows in which a slowdown by the threshold would not show."""
        return [row for row in self.rows if not row.shows(self.threshold)]

    @property
    def judged(self) -> bool:
        """Whether there is a regression, or nine of ten rows are quiet enough to say that there is none."""
        return self.slower or len(self.blind) <= NOISY_SHARE * len(self.rows)

    @property
    def reason(self) -> str | None:
        """Why it could not be judged, and what to do; None if it was."""
        if self.judged:
            return None
        sides = ((self.old, [row.old for row in self.rows]), (self.new, [row.new for row in self.rows]))
        alone = [run.name for run, times in sides if max(one.processes for one in times) < 2]
        return _one_pass(alone) if alone else _too_noisy(self)


def passes(run: Run) -> int:
    """Return in how many processes a run measured each cell."""
    return len(run.records.drop_duplicates(PROCESS))


def _one_pass(names: Sequence[str]) -> str:
    runs = " and ".join(dict.fromkeys(names))
    return (
        f"cannot judge: {runs} measured each case in a single process (one pass), and the next process "
        "differs by an unknown amount; the ratios hold for these processes only. 5 passes on each side show "
        "large changes, and how many more small ones take: `ktask sweep GRID --run NAME --resume --passes 5`"
    )


def _too_noisy(found: Comparison) -> str:
    needed = sorted(row.passes_needed or np.inf for row in found.blind)
    half, most = (_passes_text(needed[k]) for k in ((len(needed) - 1) // 2, -1))
    would = f"{most} would do" if half == most else f"{half} would do for half of them, {most} for all"
    return (
        f"cannot judge: a slowdown of {100 * found.threshold:.3g}% would not show in {len(found.blind)} of "
        f"{len(found.rows)} rows, because their processes differ too much. Passes of each run, in turns "
        f"(A, B, A, B): {would}. {_reach(found.rows)}; --threshold and --only go with that"
    )


def _passes_text(number: float) -> str:
    return f"{number:.0f}" if np.isfinite(number) else "more than 1000"


def _reach(rows: Sequence[Row]) -> str:
    """Return which slowdown the rows show as they are."""
    known = sorted(row.smallest_visible if row.p_value is not None else np.inf for row in rows)
    half, most = (f"{np.ceil(100 * known[k]):.0f}%" for k in ((len(known) - 1) // 2, -1))
    return f"As it is, half of the rows show {half}, all of them {most}"


def compare(old: Run, new: Run, threshold: float = THRESHOLD, only: str = "") -> Comparison:
    """Compare two runs variant by variant, by their times.

    Parameters
    ----------
    old, new
        Runs as `ktask.lab.records.load_run` returns them.
    threshold
        Of a regression, as a share: 0.05 is 5 % slower.
    only
        Compare only the rows whose name has this text, such as "free munmap" or "2 threads".

    Raises
    ------
    ValueError
        If the threshold is negative, or the runs have no case in common.
    """
    return compare_all([(old, new)], threshold, only)[0]


def compare_all(pairs: Sequence[tuple[Run, Run]], threshold: float, only: str = "") -> list[Comparison]:
    """Compare each pair of runs; false alarms are controlled over all tables together."""
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold} is not allowed; use a share such as 0.05")
    tables = [_Table.of(*pair, threshold, only) for pair in pairs]
    p_values = [one.p_value for table in tables for one in table.changes]
    decided = iter(alarms(p_values))
    return [table.judge([next(decided) for _ in table.changes]) for table in tables]


class _Found(NamedTuple):
    """One variant in one run."""

    time: Estimate
    side: Side


class _Table(NamedTuple):
    """A comparison before its verdicts: those depend on all p-values."""

    old: Run
    new: Run
    threshold: float
    rows: dict[Key, tuple[_Found, _Found, Change | None]]
    overall: Change | None
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]

    @classmethod
    def of(cls, old: Run, new: Run, threshold: float, only: str) -> _Table:
        hosts = ["host_id"] if any(run.records["host_id"].nunique() > 1 for run in (old, new)) else []
        keys, turns = [*hosts, *WORK, *VARIANT], _turns(old, new)
        before, after = (
            {key: one for key, one in _variants(run, keys, n) if only in _name(key)}
            for run, n in zip((old, new), turns, strict=True)
        )
        both = [key for key in before if key in after]
        if not both:
            wanted = f" with {only!r}" if only else ""
            raise ValueError(
                f"runs {old.name} and {new.name} have no case{wanted} in common; use runs of the same grid"
            )
        rows = {key: (before[key], after[key], change(before[key].side, after[key].side)) for key in both}
        missing = [
            tuple(_name(key) for key in a if key not in b) for a, b in ((before, after), (after, before))
        ]
        return cls(old, new, threshold, rows, _overall(rows), *missing)

    @property
    def changes(self) -> list[Change]:
        """What is tested: the rows that can be, and all of them together."""
        return [one for one in (*(row[2] for row in self.rows.values()), self.overall) if one]

    def judge(self, alarm: Sequence[bool]) -> Comparison:
        decided = dict(zip(self.changes, alarm, strict=True))
        rows = [_row(key, *found, decided, self.threshold) for key, found in self.rows.items()]
        overall = _ratio_of(self.overall) if self.overall else stats.NOTHING
        return Comparison(
            self.old,
            self.new,
            self.threshold,
            tuple(_by_effect(rows)),
            overall,
            verdict(overall.low, overall.high, bool(self.overall and decided[self.overall])),
            self.only_old,
            self.only_new,
            tuple(differences(self.old, self.new)),
        )


def _variants(run: Run, keys: list[str], turns: int) -> Iterable[tuple[Key, _Found]]:
    """Yield what a run found of each variant by `keys`; both baselines of a cell together."""
    found: dict[Key, dict[tuple[str, int], Estimate]] = {}
    for key, times in in_rates(run.records).groupby([*keys, *PROCESS], dropna=False, sort=False)["wall_s"]:
        *variant, boot, number = map(_plain_value, key)
        found.setdefault(tuple(variant), {})[boot, number] = stats.estimate(times.to_numpy())
    for variant_key, processes in found.items():
        side = Side(np.log([one.median for one in processes.values()]), tuple(processes), turns)
        time = across([*processes.values()], [boot for boot, _ in processes], drift=TIME_DRIFT)
        yield variant_key, _Found(time, side)


def _plain_value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _turns(old: Run, new: Run) -> tuple[int, int]:
    """Return of how many unbroken series of passes each run consists, in one order of time with the other.

    A reboot breaks a series, too. Runs that do not say when they measured are one series.
    """
    passes: list[tuple[pd.Timestamp, int, str]] = []
    for side, run in enumerate((old, new)):
        starts = run.records.groupby(PROCESS)["started_at"].min().dropna()
        passes += [(start, side, boot) for (boot, _), start in starts.items()]
    order = [(side, boot) for _, side, boot in sorted(passes)]
    series = [one for one, last in zip(order, [None, *order], strict=False) if one != last]
    first, second = (max(sum(side == one for one, _ in series), 1) for side in (0, 1))
    return first, second


def _overall(rows: Mapping[Key, tuple[_Found, _Found, Change | None]]) -> Change | None:
    """Return the change of the geometric mean of all rows, over the processes that have them all."""
    judged = [(old.side, new.side) for old, new, one in rows.values() if one]
    if len(judged) < 2:
        return None
    old, new = (_mean_side(sides) for sides in zip(*judged, strict=True))
    return change(old, new)


def _mean_side(sides: Sequence[Side]) -> Side:
    logs = [dict(zip(side.processes, side.logs, strict=True)) for side in sides]
    complete = tuple(at for at in logs[0] if all(at in one for one in logs))
    return Side(np.array([np.mean([one[at] for one in logs]) for at in complete]), complete, sides[0].turns)


def _ratio_of(one: Change, n: int = 0, processes: int = 0) -> Estimate:
    middle, low, high = np.exp([one.value, one.value - one.reach, one.value + one.reach])
    return Estimate(float(middle), float(low), float(high), np.nan, n, processes)


def _row(
    key: Key,
    old: _Found,
    new: _Found,
    found: Change | None,
    decided: Mapping[Change, bool],
    threshold: float,
) -> Row:
    n, processes = (min(getattr(one.time, name) for one in (old, new)) for name in ("n", "processes"))
    ratio = Estimate(new.time.median / old.time.median, np.nan, np.nan, np.nan, n, processes)
    if found:
        ratio = _ratio_of(found, n, processes)
    return Row(
        **dict(zip((*WORK, "threads", "baseline"), _own(key), strict=True)),
        old=old.time,
        new=new.time,
        ratio=ratio,
        p_value=found.p_value if found else None,
        verdict=verdict(ratio.low, ratio.high, bool(found and decided[found])),
        passes_needed=passes_needed(old.side, new.side, threshold),
        host_id="".join(key[: -len(_own(key))]),
    )


def _own(key: Key) -> Key:
    """Return a key without the host."""
    return key[-len(WORK + VARIANT) :]


def _by_effect(rows: Sequence[Row]) -> list[Row]:
    order = list(dict.fromkeys(row.workload for row in rows))
    return sorted(rows, key=lambda row: (order.index(row.workload), -abs(np.log(row.ratio.median))))


def _name(key: Key) -> str:
    workload, _, method, page_kind, size_bytes, options, policy, min_chunk, threads, baseline = _own(key)
    parts = [workload, method, page_kind, fmt_size(size_bytes), options, policy, f"min {fmt_size(min_chunk)}"]
    return " ".join([part for part in parts if part] + [variant_name(threads, baseline)])
