"""The conditions of one case while it is measured."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ktask.lab.conditions.load import RunningLoad
from ktask.lab.conditions.quota import QuotaGroup
from ktask.workloads import Case
from ktask.workloads.conditions import Nice, parse_load, parse_nice, parse_quota

BY_POLICY = Nice()


@dataclass
class Meanwhile:
    """What load and quota did during a repetition; NaN where there is none."""

    load_count: float = math.nan
    load_cpu_s: float = math.nan
    load_alone_rate: float = math.nan
    throttled_s: float = math.nan
    elapsed_s: float = math.nan


@dataclass(frozen=True)
class Conditions:
    """What a case runs under: the nice level of helpers, a load, a group with a quota."""

    nice: Nice = BY_POLICY
    load: RunningLoad | None = None
    quota: QuotaGroup | None = None

    @property
    def threads(self) -> list[int]:
        """The threads of this process that are load, not helpers."""
        return self.load.threads if self.load else []

    def settle(self) -> None:
        """Wait until the load is steady."""
        if self.load and self.load.alone_rate is None:
            self.load.settle()

    @contextlib.contextmanager
    def entered(self) -> Iterator[Conditions]:
        """Have the quota hold for the block."""
        with self.quota.entered() if self.quota else contextlib.nullcontext():
            yield self

    @contextlib.contextmanager
    def metered(self) -> Iterator[Meanwhile]:
        """Give what load and quota did during the block, once that is over."""
        found, begun = Meanwhile(), time.monotonic()
        load = self.load.read() if self.load else None
        throttled_s = self.quota.throttled_s if self.quota else 0.0
        yield found
        if self.load and load:
            after = self.load.read()
            found.load_count, found.load_cpu_s = after.done - load.done, after.cpu_s - load.cpu_s
            found.load_alone_rate = self.load.alone_rate or math.nan
        if self.quota:
            found.throttled_s = self.quota.throttled_s - throttled_s
        found.elapsed_s = time.monotonic() - begun


NONE = Conditions()


@contextlib.contextmanager
def under(case: Case) -> Iterator[Conditions]:
    """Set up the conditions of a case for the block.

    The load starts here and goes on while the case is set up; `Conditions.settle` waits for it.

    Raises
    ------
    ktask.memory.region.UnavailableError
        If this process may not have the quota.
    """
    load, quota = parse_load(case.option("load")), parse_quota(case.option("quota"))
    with contextlib.ExitStack() as stack:
        how: dict[str, Any] = {"nice": parse_nice(case.option("nice"))}
        if load:
            how["load"] = stack.enter_context(contextlib.closing(RunningLoad(load)))
        if quota:
            how["quota"] = stack.enter_context(contextlib.closing(QuotaGroup(quota)))
        yield Conditions(**how)
