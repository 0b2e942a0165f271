"""The control groups of this process (version 1 and 2), their CPU quotas, and room for one more."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ktask.host.kernel_files import ROOT, parse_int, read_int, read_text


def quota_cpus(root: Path = ROOT) -> float | None:
    """Return the CPU quota in CPUs, or None without one.

    A quota of any ancestor of the process's control group binds too (cgroup v1 and v2): the smallest counts.
    """
    return min(quotas(root).values(), default=None)


def quotas(root: Path = ROOT) -> dict[Path, float]:
    """Return the quota in CPUs of each control group of the process that has one."""
    pairs: dict[Path, tuple[int | None, int | None]] = {}
    for group in cgroup_directories(root, ""):
        quota, _, period = (read_text(group / "cpu.max") or "").partition(" ")
        pairs[group] = parse_int(quota), parse_int(period)
    for group in cgroup_directories(root, "cpu"):
        pairs[group] = read_int(group / "cpu.cfs_quota_us"), read_int(group / "cpu.cfs_period_us")
    # Version 1 writes "no quota" as -1.
    found = pairs.items()
    return {group: us / period for group, (us, period) in found if us and period and min(us, period) > 0}


class _Mount(NamedTuple):
    top: PurePosixPath  # the control group that is visible at `point`
    point: PurePosixPath
    kind: str  # "cgroup" (version 1) or "cgroup2"
    controllers: frozenset[str]


def _cgroup_mounts(root: Path) -> Iterator[_Mount]:
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        place, source = left.split(), right.split()
        if len(place) > 4 and len(source) > 2 and source[0] in {"cgroup", "cgroup2"}:
            top, point = (PurePosixPath(_unescape(text)) for text in place[3:5])
            yield _Mount(top, point, source[0], frozenset(source[2].split(",")))


def _unescape(text: str) -> str:
    # mountinfo writes blanks and backslashes as octal escapes, "\040".
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), text)


def cgroup_directories(root: Path, controller: str) -> list[Path]:
    """Return the directories of the process's control group and of its visible ancestors, innermost first.

    `controller` names a version 1 hierarchy; the empty string is version 2.
    """
    path = _cgroup_path(root, controller)
    if path is None:
        return []
    for mount in _cgroup_mounts(root):
        if (controller in mount.controllers) if controller else (mount.kind == "cgroup2"):
            inside = _path_below(path, mount.top)
            point = root / mount.point.relative_to(mount.point.anchor)
            return [point / parent for parent in (inside, *inside.parents)]
    return []


def _cgroup_path(root: Path, controller: str) -> PurePosixPath | None:
    text = read_text(root / "proc/self/cgroup") or ""
    for controllers, path in re.findall(r"^[0-9]+:([^:]*):(/.*)$", text, re.MULTILINE):
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _path_below(path: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    # A container may see a path from outside its namespace; then the mount point is all that is visible.
    if ".." in path.parts or not path.is_relative_to(top):
        return PurePosixPath()
    return path.relative_to(top)


HOW_V2 = "run it by `systemd-run --scope -p CPUWeight=100 ktask ...` as root"
HOW_V1 = "run it by `sudo ktask ...`"


class Room(NamedTuple):
    """Where a control group with a CPU quota may be made, and the group that the process is in meanwhile."""

    parent: Path
    home: Path
    version: int


def room_for_quota(root: Path = ROOT) -> Room | str:
    """Return where this process may have a control group with a quota of its own, or why nowhere.

    Version 2 gives a group with processes no controllers for its children, so there the new one stands beside
    the own one. Nothing outside of the new group is changed.
    """
    if groups := cgroup_directories(root, "cpu"):
        if _may_move_in(groups[0]) and os.access(groups[0], os.W_OK):
            return Room(groups[0], groups[0], 1)
        return f"control group {groups[0]} may not be written to; {HOW_V1}"
    groups = cgroup_directories(root, "")
    if not groups:
        return "no control groups are mounted"
    for parent in groups[:2]:
        if "cpu" in (read_text(parent / "cgroup.subtree_control") or "").split():
            if os.access(parent, os.W_OK) and _may_move_in(parent) and _may_move_in(groups[0]):
                return Room(parent, groups[0], 2)
            return f"control group {parent} may not be written to; {HOW_V2}"
    return f"control group {groups[0]} cannot limit CPU time; {HOW_V2}"


def _may_move_in(group: Path) -> bool:
    return os.access(group / "cgroup.procs", os.W_OK)
