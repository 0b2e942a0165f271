"""A fresh account with a clone of its own, for commands that run as a user who owns nothing else."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLONE = ("ktask", "notebooks", "data/published")
NOBODY = (
    61_000 + os.getpid() % 4_000
)  # no such user: whatever is this one's, commands of this process have made


def why_not() -> str | None:
    """Return why no command can run as somebody else here, or None."""
    if os.getuid() != 0 or not (shutil.which("setpriv") and shutil.which("unshare")):
        return "takes root, setpriv and unshare, to be somebody else"
    return None


def make_account(folder: Path) -> dict[str, str]:
    """Make home and clone of the user in `folder`; return the environment for commands."""
    for name in CLONE:  # with what is compiled there: it takes a minute
        shutil.copytree(ROOT / name, folder / "clone" / name)
    for name in ("home", "t"):
        (folder / name).mkdir()
    give(folder)
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "t"), "PYTHONPATH": str(folder / "clone")}
    return {"PATH": os.environ["PATH"], **places}


def give(folder: Path) -> None:
    """Make the user the owner of a folder and of all in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def words() -> list[str]:
    """Return the words before a command that run it as the user."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    prefixes = [Path(name).resolve() for name in (sys.base_prefix, sys.prefix)]
    closed = dict.fromkeys(found for prefix in prefixes if (found := _closed(prefix)))
    return [*(_opened(list(closed), prefixes) if closed else []), *become]


def _closed(path: Path) -> Path | None:
    """Return the outermost folder around a path that others cannot enter, None without one."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & stat.S_IXOTH), None)


def _opened(closed: list[Path], prefixes: list[Path]) -> list[str]:
    """Return the words that show this Python, which lies in folders closed to others, to one command.

    In a mount namespace of its own; nothing changes for anybody else.
    """
    steps = ["mount -t tmpfs none /mnt"]
    for at, prefix in enumerate(prefixes):
        steps += [f"mkdir /mnt/{at}", f"mount --bind '{prefix}' /mnt/{at}"]
    steps += [f"mount -t tmpfs -o mode=755 none '{one}'" for one in closed]
    for at, prefix in enumerate(prefixes):
        steps += [f"mkdir -p '{prefix}'", f"mount --bind /mnt/{at} '{prefix}'"]
    return ["unshare", "--mount", "sh", "-ec", f'{"; ".join(steps)}; exec "$@"', "sh"]


def owned(folder: Path) -> Iterator[Path]:
    """Yield the paths below a folder that are the user's; he cannot get into what is closed to others."""
    for here, folders, files in os.walk(folder, onerror=lambda _: None):
        folders[:] = [name for name in folders if _is_open(Path(here) / name)]
        for path in (Path(here) / name for name in (*folders, *files)):
            try:
                if path.lstat().st_uid == NOBODY:
                    yield path
            except OSError:  # gone by now
                continue


def _is_open(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return found.st_uid == NOBODY or bool(found.st_mode & stat.S_IXOTH)
