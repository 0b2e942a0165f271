"""Conditions that a case runs under: load beside it, a CPU quota, the nice level of its helpers.

They are options of every method. Here is what may be said and what this machine cannot do;
`ktask.lab.conditions` carries them out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ktask.engine import placement
from ktask.host import control_groups, topology

NAMES = ("load", "quota", "nice")  # options; a case with one of them set is measured under a condition
NO_LOAD = NO_QUOTA = "none"
OF_POLICY = "policy"
NO_HAND_OVER = "no-hand-over"
MOST_PER_CPU = 4

# Kinds of load: what a generator does over and over, and what it counts.
LOADS: dict[str, tuple[str, str]] = {
    "spin": ("counts in registers", "step"),
    "memory": ("adds to each word of an array larger than the caches: reads and writes", "byte"),
    "cache": ("follows pointers through an array half as large as the last-level cache", "load"),
    "fault": ("gives pages back and touches them again", "page fault"),
    "mmap": ("maps a page, touches it and unmaps it", "mapping"),
    "fork": ("forks a child that ends at once, and waits for it", "fork"),
}
_LOAD = re.compile(
    rf"(?P<kind>{'|'.join(LOADS)})(?::(?P<count>[0-9]{{1,5}}|half|all))?"
    r"(?::(?P<share>[0-9]{1,3})%|:(?P<rate>[0-9]{1,6})(?P<unit>[GM]iB)/s)?(?P<same>:same)?(?P<pinned>:pinned)?"
)
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20}
HOW_LOAD = (
    f"{', '.join(LOADS)}; then, in this order, as wished :COUNT (a number, half or all of the CPUs), "
    ":SHARE% of a CPU each or, for memory, :NGiB/s in all, :same (threads of the measured process), :pinned; "
    "such as memory:2 or spin:50%"
)


class Load(NamedTuple):
    """Generators of load beside a case.

    Attributes
    ----------
    kind
        One of `LOADS`.
    number
        How many: a number, `half` or `all` of the CPUs.
    share
        Of a CPU, that each of them may use.
    bytes_per_s
        That all of them together aim at; 0 for as much as they get.
    in_same_process
        Whether they are threads of the process that is measured; else processes of their own.
    pinned
        Whether each is kept to a CPU; else the scheduler places them.
    """

    kind: str
    number: str = "1"
    share: float = 1.0
    bytes_per_s: int = 0
    in_same_process: bool = False
    pinned: bool = False

    def generators(self, n_cpus: int) -> int:
        """Return how many there are on a machine with `n_cpus`."""
        return {"half": max(1, n_cpus // 2), "all": n_cpus}.get(self.number) or int(self.number)

    @property
    def unit(self) -> str:
        """What the generators count."""
        return LOADS[self.kind][1]


class Nice(NamedTuple):
    """The nice level of helpers, None where the policy says it, and whether the caller hands its own over."""

    level: int | None = None
    hand_over: bool = True


def parse_load(text: str) -> Load | None:
    """Return what a text such as "memory:2" or "spin:half:50%" asks for; None for "none"."""
    if text == NO_LOAD:
        return None
    found = _LOAD.fullmatch(text)
    if not found or found["count"] == "0" or (found["rate"] and found["kind"] != "memory"):
        raise ValueError(f"load={text!r} is not allowed; use none, or one of {HOW_LOAD}")
    share, rate = int(found["share"] or 100), int(found["rate"] or 0) * _BYTES.get(found["unit"], 0)
    if not 1 <= share <= 100 or (found["rate"] and not rate):
        raise ValueError(f"load={text!r} is not allowed; use a share of 1% to 100%, or a rate above zero")
    same, pinned = (found[name] is not None for name in ("same", "pinned"))
    return Load(found["kind"], found["count"] or "1", share / 100, rate, same, pinned)


def parse_quota(text: str) -> float | None:
    """Return the CPUs that a text such as "150%" allows; None for "none"."""
    if text == NO_QUOTA:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,6}%", text):
        raise ValueError(f"quota={text!r} is not allowed; use none, or percent of one CPU, such as 150%")
    return int(text[:-1]) / 100


def parse_nice(text: str) -> Nice:
    """Return what a text such as "19" or "19:no-hand-over" asks for; the policy's own for "policy"."""
    if text == OF_POLICY:
        return Nice()
    level, _, how = text.partition(":")
    if not re.fullmatch(r"[0-9]|1[0-9]", level) or text not in (level, f"{level}:{NO_HAND_OVER}"):
        raise ValueError(
            f"nice={text!r} is not allowed; use policy, a level from 0 to 19, or 19:{NO_HAND_OVER} to keep "
            "the caller from handing its own over"
        )
    return Nice(int(level), not how)


def why_no_load(text: str) -> str | None:
    """Return why this machine cannot have such a load, or None."""
    load, n_cpus = parse_load(text), topology.cpu_count()
    if load and load.generators(n_cpus) > (most := MOST_PER_CPU * n_cpus):
        why = topology.why_so_many_cpus()
        return f"load={text} is more than {MOST_PER_CPU} generators per CPU; use up to {most} ({why})"
    return None


def why_no_quota(text: str) -> str | None:
    """Return why this machine cannot have such a quota, permission apart, or None."""
    quota, n_cpus = parse_quota(text), topology.cpu_count()
    if quota and quota > n_cpus:
        return f"quota={text} is more than there is; use up to {100 * n_cpus}%, {topology.why_so_many_cpus()}"
    return None


def why_no_group(quota: str) -> str | None:
    """Return why this process may not have a control group for a quota, or None; None without a quota."""
    room = None if quota == NO_QUOTA else control_groups.room_for_quota()
    return f"quota={quota} needs a control group: {room}" if isinstance(room, str) else None


def why_no_nice(text: str) -> str | None:
    """Return why helpers cannot have such a nice level, or None."""
    level = parse_nice(text).level
    if level is None or level <= os.getpriority(os.PRIO_PROCESS, 0) or placement.may_renice():
        return None
    return f"nice={text}: a helper could not be raised again afterwards; run as root, or raise RLIMIT_NICE"


def are_in(options: Mapping[str, str] | str) -> bool:
    """Return whether options, as a mapping or as records have them, set a condition."""
    if isinstance(options, str):
        return bool(re.search(rf"(?:^|,)(?:{'|'.join(NAMES)})=", options))
    return any(name in options for name in NAMES)
