"""A trial: a command with hostile surroundings or input, and what has to hold after it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ENDS = (0, 1, 2, 125, 130)
LIMIT_S = 20.0
PATIENCE = float(
    os.environ.get("KTASK_CHAOS_PATIENCE", "1")
)  # times as long, where others use the CPUs as well
LIMIT_BYTES = 1 << 30
LONGEST_LINE = 2000
MARK = "KTASK_CHAOS"  # in the environment of all that a trial starts
UGLY = re.compile(
    r"Traceback \(most recent|^  File \"|Fatal Python error|Exception ignored|^\w*Error: ", re.MULTILINE
)


class BrokenError(Exception):
    """Something did not hold; the message says what, in one line."""


class SkippedError(Exception):
    """This machine cannot try it; the message says why."""


@dataclass(frozen=True)
class Kind:
    """A kind of trials.

    `attempt` tries what a seed stands for in an empty folder, and returns how many things it has tried.
    """

    name: str
    about: str
    attempt: Callable[[int, Path], int]
    many: int  # in the long form
    few: int  # in the short one


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str
    wall_s: float
    peak_bytes: int


def require(holds: object, what: str) -> None:
    """Raise BrokenError unless something holds."""
    if not holds:
        raise BrokenError(" ".join(what.split()))


def start(
    words: Sequence[str],
    folder: Path,
    *,
    before: Sequence[str] = (),
    limits: Mapping[int, int] | None = None,
    **env: str | None,
) -> subprocess.Popen[bytes]:
    """Start `ktask` in `folder`, with places of its own for what is temporary; None unsets a variable."""
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "runtime").mkdir(mode=0o700, exist_ok=True)
    places = {"TMPDIR": str(folder / "tmp"), "XDG_RUNTIME_DIR": str(folder / "runtime"), MARK: str(folder)}
    environment: dict[str, str | None] = {**os.environ, **places, **env}

    def limit() -> None:
        with contextlib.suppress(OSError):  # its session is scheduled as a group, which `nice` does not reach
            Path("/proc/self/autogroup").write_text(f"{os.nice(0)}")
        for what, most in (limits or {}).items():
            resource.setrlimit(what, (most, most))

    process = subprocess.Popen(
        [*before, sys.executable, "-m", "ktask", *words],
        cwd=folder,
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # a file would be within the limits on files
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=limit,  # noqa: PLW1509  (no other thread is there)
    )
    for stream in (process.stdout, process.stderr):
        os.set_blocking(stream.fileno(), False)  # type: ignore[union-attr]
    return process


def finish(process: subprocess.Popen[bytes], folder: Path, limit_s: float = LIMIT_S) -> Ended:
    """Wait for the end of a command, and say what came of it; one that goes on for too long is broken."""
    limit_s *= PATIENCE
    began, code, usage = time.monotonic(), None, None
    out, err = bytearray(), bytearray()
    while code is None and time.monotonic() < began + limit_s:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if pid else None
        out += process.stdout.read() or b""  # type: ignore[union-attr]
        err += process.stderr.read() or b""  # type: ignore[union-attr]
        time.sleep(0 if pid else 0.01)
    if code is None:
        end_all(folder)
        process.wait()
    else:
        process.returncode = code
    let_go(process)
    require(code is not None, f"went on for more than {limit_s:g} s")
    texts = out.decode(errors="replace"), err.decode(errors="replace")
    return Ended(code, *texts, time.monotonic() - began, 1024 * usage.ru_maxrss)


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Close the ends of the pipes to a command that is over."""
    for stream in (process.stdout, process.stderr):
        stream.close()  # type: ignore[union-attr]


def judge(ended: Ended, *, most_bytes: int = LIMIT_BYTES) -> None:
    """See that a command ended as it should: a known code, one line if it is not done, nothing ugly."""
    last = ended.err.strip().rpartition("\n")[2]
    require(ended.code in ENDS, f"exit {ended.code}: {last[:300]}")
    if found := UGLY.search(ended.err):
        raise BrokenError(f"exit {ended.code}, stderr has {found[0]!r}: {last[:300]}")
    if ended.code == 2:
        require(last.startswith("ktask: "), f"exit 2 without its line: {last[:300]!r}")
        require(
            len(re.findall(r"^ktask: ", ended.err, re.MULTILINE)) == 1,
            f"exit 2 with several lines: {ended.err[-300:]!r}",
        )
        require(len(last) <= LONGEST_LINE, f"a line of {len(last)} characters: {last[:300]}")
    elif ended.code:
        require(ended.out.strip() or last, f"exit {ended.code} without a word")
    require(ended.peak_bytes <= most_bytes, f"took {ended.peak_bytes >> 20} MiB")


def own_processes(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes that a trial in `folder` has started, however they are related now."""
    mark = f"{MARK}={folder}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                yield process


def end_all(folder: Path) -> None:
    """Kill what a trial has started."""
    for process in own_processes(folder):
        with contextlib.suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)


def gone(folder: Path, within_s: float = 10.0) -> None:
    """See that nothing that a trial has started goes on."""
    end = time.monotonic() + within_s * PATIENCE
    while left := [one for one in own_processes(folder) if _lives(one)]:
        if time.monotonic() > end:
            names = [f"{one.pid} {' '.join(one.cmdline())[:100]}" for one in left]
            end_all(folder)
            raise BrokenError(f"processes are left: {names}")
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def listening_beyond_loopback(folder: Path) -> list[str]:
    """Return the addresses beyond loopback that the processes of a trial listen on."""
    found: list[Any] = []
    for process in own_processes(folder):
        with contextlib.suppress(psutil.Error):
            found += process.net_connections("inet")
    return [
        f"{one.laddr.ip}:{one.laddr.port}"
        for one in found
        if not one.raddr and not one.laddr.ip.startswith("127.")
    ]


def shared_with_all(numbers: set[int]) -> set[str]:
    """Return what outlives processes and has the name of ktask and the number of one of these processes."""
    roots = (Path("/dev/shm"), Path("/sys/fs/cgroup"), Path("/dev/hugepages"))
    found = [
        path for root in roots if root.is_dir() for path in (*root.glob("*ktask*"), *root.glob("*/*ktask*"))
    ]
    return {str(path) for path in found if numbers & set(map(int, re.findall(r"\d+", path.name)))}


def run(words: Sequence[str], folder: Path, limit_s: float = LIMIT_S, **how: Any) -> Ended:
    """Run `ktask` to its end; see that it ended as it should and left nothing behind."""
    ended = finish(start(words, folder, **how), folder, limit_s)
    judge(ended)
    gone(folder)
    left = sorted(path.name for path in (folder / "tmp").iterdir() if path.suffix != ".slots")
    require(not left, f"left in the temporary directory: {left[:5]}")
    return ended
