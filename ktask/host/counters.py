"""Counters of the kernel, read around a repetition, that show a disturbance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ktask.host.topology import CPU_DIR, ROOT, numbered, quota_directories, read_int, read_text

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


def sample_events(root: Path = ROOT) -> dict[str, int]:
    """Return the counters of this moment by flag, as far as the machine has them; about 0.1 ms."""
    counts: dict[str, int] = {}
    for name, value in _LINE.findall(read_text(root / "proc/vmstat") or ""):
        flag = _FLAG_OF.get(name, "reclaim")
        counts[flag] = counts.get(flag, 0) + int(value)
    if groups := _quota_groups(root):
        counts["throttled"] = sum(_throttled(group) for group in groups)
    if files := _heat_files(root):
        counts["thermal"] = sum(read_int(path) or 0 for path in files)
    if (khz := read_int(root / CPU_DIR / "cpu0/cpufreq/scaling_cur_freq")) is not None:
        counts["clock_changed"] = khz
    return counts


_FLAG_OF = {name: flag for flag, names in VMSTAT.items() for name in names.split("|")}


@lru_cache(maxsize=4)
def _quota_groups(root: Path) -> tuple[Path, ...]:
    return tuple(quota_directories(root))


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
