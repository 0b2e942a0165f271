"""Helper slots and CPUs, shared out among all processes of the machine.

Each is one byte of one file, held by an open-file-description lock: the kernel itself gives it back when the
holder dies, however it dies. Taking never waits. Byte `k` is the k-th helper of the machine, and byte
`CPUS + c` is CPU `c`: who pins a thread to a CPU holds it, so no two processes choose the same one while
there are free ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CPUS = 1 << 16
TURN = 1 << 40  # the byte of the one who measures
ENVIRONMENT = "KTASK_LIMITS_FILE"

_FLOCK = struct.Struct("hhqqi4x")
_LOCK, _LOCK_WAIT = 37, 38  # F_OFD_SETLK and F_OFD_SETLKW of <linux/fcntl.h>


@lru_cache(maxsize=4096)
def _request(kind: int, byte: int) -> bytes:
    """Return the `struct flock` that locks or unlocks one byte."""
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def default_path() -> Path:
    """Return the file of the slots: the administrator's if one is set, else one per user."""
    agreed = os.environ.get(ENVIRONMENT)
    if agreed:
        return Path(agreed)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = Path(runtime) if runtime and _is_own(runtime) else Path(tempfile.gettempdir())
    return own / f"ktask-{os.getuid()}.slots"


def _is_own(folder: str) -> bool:
    """Return whether a directory is this user's; a relative one would be another in each directory."""
    return Path(folder).is_absolute() and Path(folder).is_dir() and Path(folder).stat().st_uid == os.getuid()


@dataclass
class Grant:
    """What one task holds: a slot per helper, the CPU of each, and those of them that nobody else holds."""

    slots: list[int]
    cpus: list[int]
    held_cpus: list[int]

    def __len__(self) -> int:
        """Return the number of helpers granted."""
        return len(self.slots)

    @property
    def taken(self) -> Iterator[int]:
        """The bytes of all CPUs and slots; who finds a slot free finds its CPU free as well."""
        yield from (CPUS + cpu for cpu in self.held_cpus)
        yield from self.slots


class Slots:
    """The slots of one file, as seen by this process.

    Locks of one open file do not exclude each other, so the process keeps its own record of what it holds;
    the file excludes the other processes.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self._reopen()
        os.register_at_fork(after_in_child=self._reopen)

    def _reopen(self) -> None:
        """Start with nothing held; a forked child must not share the parent's description."""
        inherited = getattr(self, "_fd", None)
        if inherited is not None:
            os.close(inherited)
        self._fd: int | None = None
        self._opened = False
        self._mutex = threading.Lock()  # for opening
        self._held: dict[int, object] = {}  # by `setdefault`, which is one step for all threads

    def take(self, orders: Sequence[Sequence[int]], limit: int) -> Grant:
        """Take up to one slot per entry of `orders`, and a CPU with each, never waiting.

        Parameters
        ----------
        orders
            For each helper the CPUs it may have, the best one first.
        limit
            The most helpers in use on the machine.

        Returns
        -------
        Grant
            As many helpers as there were free slots. Once all CPUs of an order are held, helpers share them.
        """
        grant, free = Grant([], [], []), range(limit)
        left: dict[int, Iterator[int]] = {}
        for order in orders:
            slot = self._first_free(free)
            if slot is None:
                break
            free = range(slot + 1, limit)
            grant.slots.append(slot)
            cpus = left.setdefault(id(order), iter(order))
            if (cpu := self._first_free(cpus, CPUS)) is not None:
                grant.held_cpus.append(cpu)
            grant.cpus.append(order[len(grant) % len(order)] if cpu is None else cpu)
        return grant

    @contextlib.contextmanager
    def cpu(self, order: Sequence[int]) -> Iterator[int]:
        """Hold the first free CPU of `order` for the block; share the first one if none is free."""
        cpu = self._first_free(order, CPUS)
        try:
            yield order[0] if cpu is None else cpu
        finally:
            if cpu is not None:
                self._release(CPUS + cpu)

    def give_back(self, grant: Grant) -> None:
        """Release all that `grant` holds, in the file first; harmless if called twice."""
        for byte in grant.taken:
            self._release(byte)
        grant.slots.clear()
        grant.held_cpus.clear()

    def _release(self, byte: int) -> None:
        if byte in self._held and self._fd is not None:
            fcntl.fcntl(self._fd, _LOCK, _request(fcntl.F_UNLCK, byte))
        self._held.pop(byte, None)

    def _first_free(self, numbers: Iterable[int], row: int = 0) -> int | None:
        """Take the first number that nobody holds and return it; None if all are held."""
        me = object()
        for number in numbers:
            byte = row + number
            if self._held.setdefault(byte, me) is me:
                if self._lock(byte):
                    return number
                del self._held[byte]
        return None

    def _lock(self, byte: int) -> bool:
        with self._mutex:
            if not self._opened:
                self._fd = _open_private(self._path or default_path())
                self._opened = True
        if self._fd is None:
            return True
        try:
            fcntl.fcntl(self._fd, _LOCK, _request(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError):
            return False
        return True


def _open_private(path: Path) -> int | None:
    """Open the slot file, or warn once that limits hold within this process only."""
    agreed = os.environ.get(ENVIRONMENT) == str(path)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _process_only(path, error.strerror or str(error))
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or (status.st_uid != os.getuid() and not agreed):
        os.close(fd)
        _process_only(path, "it is not a regular file of this user")
        return None
    return fd


def _process_only(path: Path, why: str) -> None:
    warnings.warn(
        f"helper slots cannot be kept in {path} ({why}); limits hold within this process only. "
        f"Set {ENVIRONMENT} to a file that this user may write",
        RuntimeWarning,
        stacklevel=2,
    )


SLOTS = Slots()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Hold the machine for one measurement; wait while another process holds it.

    The turn is one more byte of the slot file, so it goes on to the next when its holder dies.
    """
    fd = _open_private(default_path())
    try:
        if fd is not None:
            _wait_for(fd, TURN)
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _wait_for(fd: int, byte: int) -> None:
    """Lock one byte, however long it takes; say so if it takes."""
    try:
        fcntl.fcntl(fd, _LOCK, _request(fcntl.F_WRLCK, byte))
    except (BlockingIOError, PermissionError):
        sys.stderr.write("\nktask: another sweep is measuring on this machine; waiting for its turn\n")
        fcntl.fcntl(fd, _LOCK_WAIT, _request(fcntl.F_WRLCK, byte))
