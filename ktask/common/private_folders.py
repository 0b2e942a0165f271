"""Directories that belong to a living process; what a kill -9 has left is removed by the next in need of one.

Each is locked while in use, so what nobody holds was left by a process that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PREFIX = "ktask-private-"
_LONGEST_ROOT = 65  # the path of a socket has at most 107 characters


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Give a directory that only this user can read, short enough for a socket; it is removed afterwards."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > _LONGEST_ROOT:
        root = Path("/tmp")  # noqa: S108
    remove_stale(private_of(root))
    with held_directory(lambda: Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))) as path:
        yield path


def private_of(root: Path) -> Iterator[Path]:
    """Return the private directories in `root`, of all processes."""
    return root.glob(f"{PREFIX}*")


@contextlib.contextmanager
def held_directory(make: Callable[[], Path]) -> Iterator[Path]:
    """Hold the directory that `make` makes for the block; it is removed afterwards, unless it was renamed."""
    path, fd = _locked(make)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def remove_stale(paths: Iterable[Path]) -> None:
    """Remove those of the directories `paths` that are this user's and that nobody holds."""
    for path in paths:
        with contextlib.suppress(OSError):  # held, not ours, no directory, or gone already
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.getuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _locked(make: Callable[[], Path]) -> tuple[Path, int]:
    """Make a directory and lock it."""
    while True:
        path = make()
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # no locks here (NFS): then nobody can think it stale
                fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():  # else somebody thought it stale, before it was locked
                return path, fd
            os.close(fd)
