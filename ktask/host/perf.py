"""Where the threads of this process spend their time and which locks they wait for: `perf` looks at them.

`perf record` samples the call stacks of given threads by a clock of the CPU (`cpu-clock`, which works in a
virtual machine without hardware counters), and by cycles where the hardware counts them, which it does with
interrupts switched off, too. It records when a thread begins and ends to wait for a lock. It starts switched
off, and is on only while the task runs. What cannot be becomes an `UnavailableError` with the reason
(`perf_process`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktask.host.kernel_files import ROOT, read_int, status_field
from ktask.host.perf_process import Perf, RefusedError, UnavailableError, text_of
from ktask.host.perf_stat import has_pmu

__all__ = [
    "CLOCK",
    "CYCLES",
    "LOCKS",
    "Event",
    "Recording",
    "UnavailableError",
    "may_see_locks",
    "parse",
    "why_not",
]

SAMPLES_PER_S = 3989  # a prime, so that it does not beat with the ticks of the kernel
CLOCK, CYCLES, LOCKS = "cpu-clock", "cycles", ("lock:contention_begin", "lock:contention_end")
SCRIPT_PATIENCE_S = 60.0
# The thread that watches for BPF programs ends up to a second after the rest. Build ids would only say which
# kernel and libraries these are, and copy them to ~/.debug.
QUICK = ["--no-bpf-event", "--no-buildid", "--no-buildid-cache"]
# Symbols of the kernel that runs, not of a vmlinux that lies in the current directory.
SYMBOLS = ["--kallsyms", "/proc/kallsyms"]
CAP_PERFMON, CAP_SYS_ADMIN = 38, 21
TRACING = "sys/kernel/tracing", "sys/kernel/debug/tracing"


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
        "cpu-clock", "cycles", or one of `LOCKS`.
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


class Recording(Perf):
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
        locks, cycles = LOCKS if may_see_locks() else (), (CYCLES,) if has_pmu() else ()
        # A perf built without libtraceevent knows no tracepoint; a guest may have a PMU without cycles.
        self._start_first(dict.fromkeys([locks + cycles, cycles, locks, ()]), tids)

    def _start_first(self, choices: Iterable[tuple[str, ...]], tids: Sequence[int]) -> None:
        """Record the first of these events, beside the clock, that perf does not refuse."""
        *others, least = choices
        for events in others:
            with contextlib.suppress(RefusedError):
                self._begin(tids, events)
                return
        self._begin(tids, least)

    def _begin(self, tids: Sequence[int], events: Sequence[str]) -> None:
        super().__init__(_record(tids, events))
        self.sees_locks = set(LOCKS) <= set(events)

    def finish(self) -> None:
        """Read the events."""
        fields = "tid,cpu,time,event,ip,sym" + ",trace" * self.sees_locks
        data = ["-i", f"{self.folder}/perf.data"]
        text = text_of(["script", *SYMBOLS, *data, "-F", fields], SCRIPT_PATIENCE_S)
        self.events = [*parse(text)]


def _record(tids: Sequence[int], more: Sequence[str]) -> list[str]:
    """Return what follows `perf` to record these threads by the clock, and `more` events."""
    # The frequency is that of the clocks alone: by -F, tracepoints are sampled, too, and most of them missed.
    names = (
        f"{one}/freq={SAMPLES_PER_S},name={one}/" if one in (CLOCK, CYCLES) else one for one in (CLOCK, *more)
    )
    events = [word for name in names for word in ("-e", name)]
    how = ["-g", "--sample-cpu", "-k", "CLOCK_MONOTONIC"]
    return ["record", "-q", *QUICK, "-o", "{folder}/perf.data", *events, *how, "-t", ",".join(map(str, tids))]


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
