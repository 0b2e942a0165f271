"""In which function of the kernel threads of this process sleep, looked up again and again (`wchan`).

An ordinary user may read that of own threads. It names the function, not the lock.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ktask.host.kernel_files import ROOT, read_text
from ktask.host.perf import Event
from ktask.host.topology import allowed_cpus

EVERY_S = 0.002
NAME = "wchan"
_STATE = re.compile(r"\) [SD] (?:\S+ ){35}(\d+)")  # after the name: asleep, and where it last ran


class WaitChannels:
    """Looks from a thread of its own while the block runs; `events` has who slept where, and when.

    An event has the thread, the CPU that it ran on before, and as `detail` the function that it sleeps in.
    """

    def __init__(self, tids: Sequence[int], root: Path = ROOT):
        self.events: list[Event] = []
        self._folders = {tid: root / f"proc/self/task/{tid}" for tid in tids}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(allowed_cpus(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, cpus: Sequence[int]) -> None:
        os.sched_setaffinity(0, cpus)  # the caller may be kept to one CPU, and would be in the way there
        while not self._over.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Look once at every thread."""
        for tid, folder in self._folders.items():
            state = _STATE.search(read_text(folder / "stat") or "")
            channel = read_text(folder / "wchan") if state else None
            if state and channel and re.fullmatch(r"[A-Za-z_]\w{0,79}", channel):
                self.events.append(Event(tid, int(state[1]), time.monotonic(), NAME, channel, ()))
