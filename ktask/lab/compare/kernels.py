"""Several runs by kernel: each against the first kernel, and the kernels at which a case steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pandas as pd

from ktask.lab.compare.rows import THRESHOLD, Comparison, Row, compare_all
from ktask.lab.measure.levels import PROCESS
from ktask.lab.records import Run


@dataclass(frozen=True)
class Step:
    """One case on one kernel.

    Attributes
    ----------
    kernel
        Its release.
    row
        The comparison with the first kernel.
    step
        "better" or "worse" if the case changed from the kernel before to this one, else empty.
    """

    kernel: str
    row: Row
    step: str


@dataclass(frozen=True)
class Kernels:
    """What `compare_kernels` returns.

    Attributes
    ----------
    names
        The kernel releases in the order of the runs; the first is the base.
    runs
        The names of the runs of each.
    to_base, to_previous
        Each later kernel compared with the first, and with the one before it.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    to_base: tuple[Comparison, ...]
    to_previous: tuple[Comparison, ...]

    @property
    def slower(self) -> bool:
        """Whether a kernel is slower than the first by more than the threshold."""
        return any(one.slower for one in self.to_base)

    @property
    def judged(self) -> bool:
        """Whether there is a regression, or every kernel could be judged."""
        return self.slower or all(one.judged for one in self.to_base)

    @property
    def reason(self) -> str | None:
        """Why it could not be judged; None if it was."""
        reasons = {name: one.reason for name, one in zip(self.names[1:], self.to_base, strict=True)}
        open_ = [f"{name}: {text}" for name, text in reasons.items() if text]
        return None if self.judged else "; ".join(open_)

    def cases(self) -> dict[tuple, list[Step]]:
        """Return what came of each case on each kernel; by workload, method and size."""
        found: dict[tuple, list[Step]] = {}
        for name, base, previous in zip(self.names[1:], self.to_base, self.to_previous, strict=True):
            steps = {row.key: row.verdict for row in previous.rows}
            for row in base.rows:
                step = steps.get(row.key, "")
                changed = step if step in ("better", "worse") else ""
                found.setdefault(row.key, []).append(Step(name, row, changed))
        return dict(sorted(found.items()))


def compare_kernels(runs: Sequence[Run], threshold: float = THRESHOLD, only: str = "") -> Kernels:
    """Compare runs by the kernel they were measured on; runs of one kernel are taken together.

    Parameters
    ----------
    runs
        In the order of the kernels; the kernel of the first run is the base.
    threshold, only
        As in `compare`.

    Raises
    ------
    ValueError
        If all runs are of one kernel, one does not say of which it is, or two have no case in common.
    """
    groups: dict[str, list[Run]] = {}
    for name, run in zip(_kernel_names(runs), runs, strict=True):
        groups.setdefault(name, []).append(run)
    if len(groups) < 2:
        raise ValueError(
            f"all runs are of kernel {next(iter(groups), '(none)')}; give runs of two kernels or more, "
            "or compare two runs without --by"
        )
    pooled = [together(group) for group in groups.values()]
    base = [(pooled[0], one) for one in pooled[1:]]
    steps = [*pairwise(pooled[1:])]
    found = compare_all([*base, *steps], threshold, only)
    to_base, to_previous = found[: len(base)], [found[0], *found[len(base) :]]
    members = tuple(tuple(run.name for run in group) for group in groups.values())
    return Kernels(tuple(groups), members, tuple(to_base), tuple(to_previous))


def _kernel_names(runs: Sequence[Run]) -> list[str]:
    """Return the kernel of each run; with its build where one release was built more than once."""
    builds: dict[str, set[str]] = {}
    for run in runs:
        builds.setdefault(_release(run), set()).add(str(run.machine.get("kernel_version", "")))
    return [
        f"{_release(run)} {run.machine.get('kernel_version', '')}".strip()
        if len(builds[_release(run)]) > 1
        else _release(run)
        for run in runs
    ]


def _release(run: Run) -> str:
    """Return the kernel release of a run; ValueError if it has none, or went on under another."""
    first = str(run.machine.get("kernel_release", ""))
    later = {one.get("kernel_release", first) for one in run.machine.get("resumed", [])}
    if not first:
        raise ValueError(f"run {run.name} does not say which kernel it is of; compare it without --by kernel")
    if later - {first}:
        raise ValueError(
            f"run {run.name} has passes of several kernels ({', '.join(sorted({first, *later}))}); "
            "measure each kernel as a run of its own"
        )
    return first


def together(runs: Sequence[Run]) -> Run:
    """Return runs of one kernel as one: their passes are counted on."""
    if len(runs) == 1:
        return runs[0]
    parts, passes = [], 0
    for run in runs:
        numbers = run.records.groupby(PROCESS, sort=False, dropna=False).ngroup()
        parts.append(run.records.assign(**{"pass": numbers + passes + 1}))
        passes += numbers.nunique()
    return replace(
        runs[0],
        name="+".join(run.name for run in runs),
        records=pd.concat(parts, ignore_index=True),
        skipped=pd.concat([run.skipped for run in runs], ignore_index=True),
    )
