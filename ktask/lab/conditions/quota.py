"""A CPU quota on this process: a control group of its own, entered around each repetition.

The group is called ktask-PID. Other groups stay as they are, and so do other processes. A guard removes the
group if this process is killed; if the guard is killed as well, the next process with a quota removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ktask.host.control_groups import room_for_quota
from ktask.host.kernel_files import ROOT, read_text
from ktask.memory.region import UnavailableError

PERIOD_US = 100_000  # the kernel's own
_STAT = re.compile(r"^throttled_(time|usec) ([0-9]{1,20})$", re.MULTILINE)
# At the end of its input, which this process holds, it removes the group; a last thread may be in it still.
_GUARD = 'read _; until rmdir "$0" || [ ! -d "$0" ] || [ $((n += 1)) -gt 100 ]; do sleep 0.1; done'
_UNITS_PER_S = {"time": 1e9, "usec": 1e6}  # version 1 counts nanoseconds


class QuotaGroup:
    """A control group with a quota for this process, until `close`."""

    def __init__(self, cpus: float, root: Path = ROOT):
        room = room_for_quota(root)
        if isinstance(room, str):
            raise UnavailableError(room)
        remove_leftovers(room.parent)
        self.room, self.path = room, room.parent / f"ktask-{os.getpid()}"
        self._guard = _guard_of(self.path)
        try:
            self.path.mkdir()
            self._limit(cpus)
        except OSError as error:
            self.close()
            reason = f"{self.path} cannot have a quota of {cpus:.0%}: {error.strerror}"
            raise UnavailableError(f"{reason}; that of a group above it may be smaller") from None

    def _limit(self, cpus: float) -> None:
        quota_us = round(cpus * PERIOD_US)
        if self.room.version == 1:
            (self.path / "cpu.cfs_period_us").write_text(f"{PERIOD_US}")
            (self.path / "cpu.cfs_quota_us").write_text(f"{quota_us}")
        else:
            (self.path / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this process in the group for the block, and back where it was after it."""
        _move_to(self.path)
        try:
            yield
        finally:
            _move_to(self.room.home)

    @property
    def throttled_s(self) -> float:
        """For how long the quota has stopped the process so far, all CPUs together."""
        found = _STAT.search(read_text(self.path / "cpu.stat") or "")
        return int(found[2]) / _UNITS_PER_S[found[1]] if found else 0.0

    def close(self) -> None:
        """Remove the group."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self._guard.kill()
        self._guard.communicate()


def _guard_of(group: Path) -> subprocess.Popen:
    """Start what removes a group at the latest when this process is gone."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = ["/bin/sh", "-c", _GUARD, str(group)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)  # type: ignore[call-overload]  # noqa: S603


def _move_to(group: Path) -> None:
    """Move all threads of this process."""
    (group / "cgroup.procs").write_text(f"{os.getpid()}")


def remove_leftovers(parent: Path) -> None:
    """Remove the groups of processes that are gone."""
    for group in parent.glob("ktask-*"):
        pid = group.name.removeprefix("ktask-")
        if pid.isdecimal() and (int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists()):
            with contextlib.suppress(OSError):
                group.rmdir()
