"""Where the threads of this process spend their time and which locks they wait for: `perf` looks at them.

`perf record` samples the call stacks of given threads by a clock of the CPU (`cpu-clock`, which works in a
virtual machine without hardware counters), and records when a thread begins and ends to wait for a lock. It
starts switched off, and is on only while the task runs. It is the system's own `perf`, of any version; what
it cannot do becomes an `UnavailableError` with the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ktask.host.kernel_files import ROOT, read_int, status_field

SAMPLES_PER_S = 3989  # a prime, so that it does not beat with the ticks of the kernel
CLOCK, LOCKS = "cpu-clock", ("lock:contention_begin", "lock:contention_end")
PATIENCE_S = 10.0  # for anything that perf is asked to do
MOST_TEXT_BYTES = 256 << 20
CAP_PERFMON, CAP_SYS_ADMIN = 38, 21
TRACING = "sys/kernel/tracing", "sys/kernel/debug/tracing"


class UnavailableError(Exception):
    """Nothing can be seen, with the reason and what would allow it."""


@dataclass(frozen=True)
class Event:
    """One sample, or one step of waiting for a lock.

    Attributes
    ----------
    tid, cpu
        The thread, and where it ran.
    at_s
        On the monotonic clock.
    name
        "cpu-clock", or one of `LOCKS`.
    detail
        What a tracepoint says, such as "0xffff8881b9f20d38 (flags=WRITE)".
    frames
        Names of functions, the innermost first; "?" for an unknown one.
    """

    tid: int
    cpu: int
    at_s: float
    name: str
    detail: str
    frames: tuple[str, ...]


def why_not(root: Path = ROOT) -> str | None:
    """Return why kernel stacks cannot be recorded here and what would allow it; None if they can."""
    if not shutil.which("perf"):
        return "perf is not installed; install your distribution's perf (linux-perf, linux-tools)"
    paranoid = read_int(root / "proc/sys/kernel/perf_event_paranoid")
    if paranoid is None:
        return "the kernel has no perf events; boot one built with CONFIG_PERF_EVENTS"
    if paranoid > 1 and not _is_able():
        return (
            f"kernel.perf_event_paranoid is {paranoid}; `sudo sysctl kernel.perf_event_paranoid=1` "
            "allows it, or run as root or with CAP_PERFMON"
        )
    if not _has_symbols(root):
        return "addresses of the kernel are hidden; `sudo sysctl kernel.kptr_restrict=0` allows it, or root"
    return None


def _is_able() -> bool:
    able = int(status_field("CapEff") or "0", 16)
    return bool(able >> CAP_PERFMON & 1 or able >> CAP_SYS_ADMIN & 1)


def _has_symbols(root: Path) -> bool:
    with contextlib.suppress(OSError), (root / "proc/kallsyms").open(encoding="ascii") as file:
        return any(int(line.split()[0], 16) for line, _ in zip(file, range(100), strict=False))
    return False


def may_see_locks(root: Path = ROOT) -> bool:
    """Return whether the kernel says when threads wait for locks (Linux 5.19), and to this process."""
    folders = [root / folder / "events/lock/contention_begin" for folder in TRACING]
    return any(os.access(folder / "id", os.R_OK) for folder in folders)


class Recording:
    """`perf record` on some threads of this process, off until `on` is called.

    A context manager; what it has recorded is in `events` afterwards.

    Parameters
    ----------
    tids
        The threads; those that they start later are seen, too.

    Raises
    ------
    UnavailableError
        If perf cannot record here, or does not answer.
    """

    def __init__(self, tids: Sequence[int]):
        if reason := why_not():
            raise UnavailableError(reason)
        self.events: list[Event] = []
        self.sees_locks = may_see_locks()
        self._exit = contextlib.ExitStack()
        try:
            self._start(tids)
        except BaseException:
            self._exit.close()
            raise

    def _start(self, tids: Sequence[int]) -> None:
        folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="ktask-perf-")))
        self._data, self._said = folder / "perf.data", (folder / "said").open("w+b")
        self._exit.callback(self._said.close)
        control, answer = self._pipe(), self._pipe()
        self._control, self._answer = control[1], answer[0]
        locks = [word for name in LOCKS for word in ("-e", name)] if self.sees_locks else []
        switched: list[str | Path] = ["-D", "-1", f"--control=fd:{control[0]},{answer[1]}", "-o", self._data]
        what = ["-e", CLOCK, *locks, "-F", str(SAMPLES_PER_S), "-g", "--sample-cpu", "-k", "CLOCK_MONOTONIC"]
        self._perf = subprocess.Popen(  # noqa: S603 - the system's perf
            ["perf", "record", "-q", *switched, *what, "-t", ",".join(map(str, tids))],  # noqa: S607
            pass_fds=(control[0], answer[1]),
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
        )
        self._exit.callback(self._kill)
        self._ask("ping")

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        for end in ends:
            self._exit.callback(os.close, end)
        return ends

    def _kill(self) -> None:
        self._perf.kill()
        self._perf.wait()

    def _ask(self, what: str) -> None:
        """Send a command and wait for its acknowledgement."""
        os.write(self._control, f"{what}\n".encode())
        end = time.monotonic() + PATIENCE_S
        while not select.select([self._answer], [], [], 0.02)[0]:
            if self._perf.poll() is not None:
                raise UnavailableError(f"perf ended at once: {self._words()}")
            if time.monotonic() > end:
                raise UnavailableError(f"perf did not answer within {PATIENCE_S:g} s")
        os.read(self._answer, 64)  # "ack"

    def _words(self) -> str:
        self._said.seek(0)
        lines = self._said.read(4096).decode(errors="replace").split("\n")
        return next((line.strip() for line in lines if line.strip()), "it said nothing")

    def on(self) -> None:
        """Record from now on."""
        self._ask("enable")

    def off(self) -> None:
        """Record no longer."""
        self._ask("disable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._exit:
            if kind is None:
                self._stop()
                self.events = [*parse(self._text())]

    def _stop(self) -> None:
        self._perf.terminate()  # it writes what it has
        try:
            self._perf.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"perf did not end within {PATIENCE_S:g} s") from None

    def _text(self) -> str:
        command: list[str | Path] = [
            "perf",
            "script",
            "-i",
            self._data,
            "-F",
            "tid,cpu,time,event,ip,sym,trace",
        ]
        try:
            found = subprocess.run(command, capture_output=True, timeout=6 * PATIENCE_S, check=True)  # noqa: S603
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode(errors="replace").strip().split("\n")[0]
            raise UnavailableError(f"perf script failed: {words}") from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"perf script did not end within {6 * PATIENCE_S:g} s") from None
        return found.stdout[:MOST_TEXT_BYTES].decode(errors="replace")


_HEAD = re.compile(r"^\s*(\d+)\s+\[(\d+)\]\s+(\d+\.\d+):\s+([\w:-]+?):?(?:\s+(.*))?$")
_ADDED = re.compile(r"(\.(constprop|isra|part|cold|llvm)[.\d]*)+$")
_FRAME = re.compile(r"^\s+[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)?$")


def parse(text: str) -> Iterator[Event]:
    """Yield the events of what `perf script -F tid,cpu,time,event,ip,sym,trace` prints.

    Blocks that do not look like an event are left out.
    """
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        if not (match := _HEAD.match(head)):
            continue
        frames = tuple(_name(found[1]) for line in lines if (found := _FRAME.match(line)))
        tid, cpu, at_s, name, detail = match.groups("")
        yield Event(int(tid), int(cpu), float(at_s), name.rstrip(":"), detail.strip(), frames)


def _name(text: str) -> str:
    """Return the name of a function, without the parts that a compiler adds to it."""
    return "?" if text.startswith("[unknown]") else _ADDED.sub("", text)
