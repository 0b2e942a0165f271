"""Counters of the kernel and of this process, read around a repetition, that show a disturbance."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from ktask.host.control_groups import quotas
from ktask.host.kernel_files import ROOT, numbered, read_int, read_text
from ktask.host.kernel_log import kernel_log
from ktask.host.topology import CPU_DIR

# What a flag means, in words that end a sentence such as "3 repetitions were taken while ...".
MEANINGS: dict[str, str] = {
    "steal": "the host gave CPU time to others",
    "other_load": "other processes used the CPUs",
    "preempted": "the process lost its CPU against its will",
    "throttled": "a CPU quota stopped the process",
    "clock_changed": "the CPU changed its clock by more than a tenth",
    "thermal": "a CPU was slowed down because it was hot",
    "swapped": "pages went to or came from swap",
    "reclaim": "an allocation had to reclaim memory itself",
    "compaction": "an allocation had to move pages for a huge one",
    "huge_fallback": "huge pages were not to be had, and small ones took their place",
    "numa_moves": "the kernel moved pages between nodes",
    "ballooned": "the host took memory away or gave some back",
    "cold_memory": "the host had to bring memory back first",
    "outlier": "the time was far from the others of its kind",
    "short": "the time was too short for the clock",
    "above_threads": "the speedup was above the number of threads",
    "kernel_log": "the kernel wrote to its log",
    "aa": "the baseline was measured once more (the A/A comparison)",
}
# Lines of /proc/vmstat by the flag that any growth raises.
VMSTAT: dict[str, str] = {
    "swapped": r"pswpin|pswpout",
    "reclaim": r"allocstall\w*",
    "compaction": r"compact_stall",
    "huge_fallback": r"thp_fault_fallback",
    "numa_moves": r"numa_pages_migrated",
    "ballooned": r"balloon_inflate|balloon_deflate",
}
_LINE = re.compile(rf"^({'|'.join(VMSTAT.values())}) (\d{{1,20}})$", re.MULTILINE)
CLOCK_CHANGE = 0.1
STEAL_LIMIT = 0.01  # of wall time x CPUs
OTHER_LOAD_LIMIT = 0.05
PREEMPTIONS_PER_CPU_S = 100
MIN_PREEMPTIONS = 20
# The kernel counts CPU time in ticks of up to 10 ms; less than three of them is no evidence.
MIN_EVIDENCE_S = 0.03
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@lru_cache(maxsize=4)
def boot_id(root: Path = ROOT) -> str:
    """Return what tells this boot of the kernel from others; empty if unknown."""
    return (read_text(root / "proc/sys/kernel/random/boot_id") or "").strip()


def sample_events(root: Path = ROOT) -> dict[str, int]:
    """Return the counters of this moment by flag, as far as the machine has them; about 0.1 ms."""
    counts: dict[str, int] = {}
    for name, value in _LINE.findall(read_text(root / "proc/vmstat") or ""):
        flag = _FLAG_OF.get(name, "reclaim")
        counts[flag] = counts.get(flag, 0) + int(value)
    if groups := _quota_groups(root):
        counts["throttled"] = sum(_throttled(group) for group in groups)
    if (log := kernel_log(root)).is_readable:
        counts["kernel_log"] = log.read()
    if files := _heat_files(root):
        counts["thermal"] = sum(read_int(path) or 0 for path in files)
    if (khz := read_int(root / CPU_DIR / "cpu0/cpufreq/scaling_cur_freq")) is not None:
        counts["clock_changed"] = khz
    return counts


_FLAG_OF = {name: flag for flag, names in VMSTAT.items() for name in names.split("|")}


@lru_cache(maxsize=4)
def _quota_groups(root: Path) -> tuple[Path, ...]:
    return tuple(quotas(root))


def _throttled(group: Path) -> int:
    found = re.search(r"^nr_throttled (\d{1,20})$", read_text(group / "cpu.stat") or "", re.MULTILINE)
    return int(found[1]) if found else 0


@lru_cache(maxsize=4)
def _heat_files(root: Path) -> tuple[Path, ...]:
    """Return a counter per package; the CPUs of a package count alike."""
    packages: dict[int | None, Path] = {}
    for _, cpu in numbered(root / CPU_DIR, "cpu"):
        path = cpu / "thermal_throttle/package_throttle_count"
        if path.exists():
            packages.setdefault(read_int(cpu / "topology/physical_package_id"), path)
    return tuple(packages.values())


def event_flags(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return the flags that the time between two samples raises, in the order of `MEANINGS`."""
    raised = {flag for flag in before.keys() & after.keys() if after[flag] > before[flag]}
    raised.discard("clock_changed")
    clocks = before.get("clock_changed", 0), after.get("clock_changed", 0)
    if min(clocks) > 0 and max(clocks) > (1 + CLOCK_CHANGE) * min(clocks):
        raised.add("clock_changed")
    return [flag for flag in MEANINGS if flag in raised]


@dataclass(frozen=True)
class State:
    """Counters of the machine and of this process at one moment.

    Attributes
    ----------
    at_s
        Monotonic clock.
    cpus
        CPUs the machine has online.
    busy_s, steal_s
        CPU time all processes of the machine used, and CPU time the host gave to others, since boot.
    cpu_user_s, cpu_system_s, ctx_involuntary, faults_minor
        CPU time, involuntary context switches and minor faults of this process.
    children_s
        CPU time of the processes that this thread started, alive or reaped: they work for the measurement.
    events
        Counters of the kernel, by the flag that their growth raises (`ktask.host.counters`).
    """

    at_s: float
    cpus: int
    busy_s: float
    steal_s: float
    cpu_user_s: float
    cpu_system_s: float
    ctx_involuntary: int
    faults_minor: int
    children_s: float = 0.0
    events: dict[str, int] = field(default_factory=dict)


def sample_state(root: Path = ROOT) -> State:
    """Return the counters of this moment; takes about 0.2 ms on a machine with few CPUs.

    Where ``/proc/stat`` cannot be read, the counters of the machine are 0, so that no flag is raised.
    """
    text = read_text(root / "proc/stat") or ""
    busy, steal = machine_ticks(text)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return State(
        at_s=time.monotonic(),
        cpus=max(1, text.count("\ncpu")),
        busy_s=busy / TICKS_PER_S,
        steal_s=steal / TICKS_PER_S,
        cpu_user_s=own.ru_utime,
        cpu_system_s=own.ru_stime,
        ctx_involuntary=own.ru_nivcsw,
        faults_minor=own.ru_minflt,
        children_s=_children_s(root),
        events=sample_events(root),
    )


def _children_s(root: Path) -> float:
    """Return the CPU time of children, those alive in nanoseconds of their first thread (schedstat).

    A child that is populated before the clock and exits under it counts as alive before and as reaped after:
    what is between is what it did meanwhile.
    """
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = (read_text(root / "proc/thread-self/children") or "").split()
    texts = [read_text(root / f"proc/{pid}/schedstat") or "0" for pid in alive]
    return reaped.ru_utime + reaped.ru_stime + sum(int(text.split()[0]) for text in texts) / 1e9


def machine_ticks(text: str) -> tuple[int, int]:
    """Return busy and stolen ticks of the first line of ``/proc/stat``."""
    match = re.match(r"cpu +((?:[0-9]{1,20} ?)+)", text)
    counts = [int(part) for part in match[1].split()] if match else []
    if len(counts) < 8:
        return 0, 0
    user, nice, system, _idle, _iowait, irq, softirq, steal = counts[:8]
    return user + nice + system + irq + softirq, steal


def state_change(before: State, after: State) -> dict[str, float]:
    """Return what changed between two samples.

    Returns
    -------
    dict
        ``wall_s``, ``capacity_s`` (wall time x CPUs), ``steal_s``, ``other_s`` (CPU time of other processes,
        own children apart), ``cpu_user_s``, ``cpu_system_s``, ``ctx_involuntary`` and ``faults_minor``.
    """
    old, new = asdict(before), asdict(after)
    levels = {"at_s", "cpus", "busy_s", "children_s", "events"}
    change = {key: new[key] - old[key] for key in old if key not in levels}
    wall_s = after.at_s - before.at_s
    own_s = change["cpu_user_s"] + change["cpu_system_s"] + after.children_s - before.children_s
    change["other_s"] = max(0.0, after.busy_s - before.busy_s - own_s)
    return {**change, "wall_s": wall_s, "capacity_s": wall_s * after.cpus}


def state_flags(before: State, after: State, load_s: float = 0.0) -> list[str]:
    """Return the measurement warnings for the time between two samples.

    `load_s` is the CPU time of processes that are load on purpose.

    Returns
    -------
    list of str
        ``steal`` if the host took more than 1 % of the CPUs' time, ``other_load`` if other processes used
        more than 5 % of it, ``preempted`` if this process lost a CPU against its will more than 100 times per
        second of CPU time. Less than three ticks is below the resolution of the counters and raises nothing.
        Then what `ktask.host.counters` counts: one event is enough.
    """
    change = state_change(before, after)
    own_s = change["cpu_user_s"] + change["cpu_system_s"]
    others_s = change["other_s"] - load_s
    raised = {
        "steal": change["steal_s"] > max(STEAL_LIMIT * change["capacity_s"], MIN_EVIDENCE_S),
        "other_load": others_s > max(OTHER_LOAD_LIMIT * change["capacity_s"], MIN_EVIDENCE_S),
        "preempted": change["ctx_involuntary"] > max(PREEMPTIONS_PER_CPU_S * own_s, MIN_PREEMPTIONS),
    }
    loud = [flag for flag, is_raised in raised.items() if is_raised]
    return loud + event_flags(before.events, after.events)
