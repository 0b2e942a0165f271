"""Private directories for sockets; those that a kill -9 has left are removed by the next who needs one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "ktask-private-"
_LONGEST_ROOT = 65  # the path of a socket has at most 107 characters


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Give a directory that only this user can read, with room for a socket's path; it is removed afterwards.

    It is locked while in use, so what nobody holds was left by a process that was killed.
    """
    root = Path(tempfile.gettempdir())
    if len(str(root)) > _LONGEST_ROOT:
        root = Path("/tmp")  # noqa: S108
    remove_stale(root)
    path, fd = _locked(root)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def remove_stale(root: Path) -> None:
    """Remove this user's private directories in `root` that nobody holds."""
    for path in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # held, not ours, no directory, or gone already
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.getuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def _locked(root: Path) -> tuple[Path, int]:
    """Make a directory and lock it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():  # else somebody thought it stale, before it was locked
                return path, fd
            os.close(fd)
