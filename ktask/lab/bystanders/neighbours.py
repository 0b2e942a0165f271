"""Neighbours of a task: a thread of its process, and a process of its own; both probe where they are put.

The process is forked before the case is set up: later, it would share the memory that is measured. Until it
is told to probe it waits for an order and uses no CPU. It ends with its parent, whatever ends that.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ktask.common import children
from ktask.host import topology
from ktask.lab.bystanders import probes
from ktask.workloads import CheckError

SAME, ANOTHER = "same", "another"
DONE, PATIENCE_S = b"d", 5.0


class Room:
    """Words and samples that a neighbour shares with the one who switches it."""

    def __init__(self):
        self.words = np.frombuffer(mmap.mmap(-1, probes.ROOM_BYTES), dtype=np.int64)

    def clear(self) -> None:
        """Forget what was, and be off."""
        self.words[: probes.WORDS] = 0

    def word(self, offset: int) -> int:
        """Return the word at some bytes from the start."""
        return int(self.words[offset // 8])

    def put(self, offset: int, value: int) -> None:
        """Set a word."""
        self.words[offset // 8] = value

    @property
    def samples(self) -> np.ndarray:
        """What was done, when it was begun and how long it took (ns), a row each."""
        n = self.word(probes.COUNT)
        return self.words[probes.WORDS : probes.WORDS + 3 * n].reshape(n, 3)

    def require_work(self) -> None:
        """Raise CheckError unless the probes did what they are for."""
        faults = int(np.count_nonzero(self.samples[:, 0] == probes.FAULT))
        if self.word(probes.FAULTS) < faults:
            raise CheckError(f"a probe had {self.word(probes.FAULTS)} page faults, not {faults}")
        if failed := self.word(probes.FAILED):
            raise CheckError(f"{failed} calls of a probe failed")


class ThreadNeighbour:
    """Probes in a thread of this process, which exists only while it probes.

    It does one kind of thing beside a repetition: a mapping waits for every fault under way, and faults wait
    behind it, so a probe that did both would wait for itself.
    """

    process, kinds, at_once = SAME, (probes.FAULT, probes.MMAP), 1

    def __init__(self) -> None:
        self.room = Room()
        self._thread = threading.Thread()
        self._prober = probes.Prober(self.room.words, self.kinds[:1])

    def begin(self, cpu: int) -> None:
        """Start to probe on a CPU; nothing is done yet, as the words are off."""
        self.room.clear()
        self._thread = threading.Thread(target=self._run, args=(cpu,), daemon=True)
        self._thread.start()

    def _run(self, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        self._prober.run()

    def take_turn(self, number: int) -> None:
        """Do one of the kinds from now on; only while the probes are off."""
        self._prober.kinds[0] = self.kinds[number % len(self.kinds)]

    def end(self) -> None:
        """Stop to probe."""
        self.room.put(probes.END, 1)
        self._thread.join()
        self._prober.close()


class ProcessNeighbour:
    """Probes in a process of its own, which was forked from this one and shares the words alone."""

    process, kinds, at_once = ANOTHER, (probes.FAULT, probes.CACHE), 2

    def __init__(self) -> None:
        self.room = Room()
        theirs, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        parent = os.getpid()
        try:
            self.pid = _fork()
        except OSError:
            for fd in (theirs, answers):
                os.close(fd)
            self._close_pipes()
            raise
        if self.pid == 0:
            _serve(parent, theirs, answers, self)
        os.close(theirs)
        os.close(answers)

    def begin(self, cpu: int) -> None:
        """Start to probe on a CPU; nothing is done yet, as the words are off."""
        self.room.clear()
        os.sched_setaffinity(self.pid, {cpu})
        os.write(self._orders, b"g")

    def take_turn(self, number: int) -> None:
        """Go on with all of the kinds."""

    def end(self) -> None:
        """Stop to probe; OSError if the process is gone."""
        self.room.put(probes.END, 1)
        answered, _, _ = select.select([self._answers], [], [], PATIENCE_S)
        if not (answered and os.read(self._answers, 1) == DONE):
            raise ChildProcessError("the neighbouring process has ended, or does not answer")

    def close(self) -> None:
        """End the process."""
        self._close_pipes()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _close_pipes(self) -> None:
        os.close(self._orders)
        os.close(self._answers)


def _fork() -> int:
    with warnings.catch_warnings():  # the child calls nothing that another thread may hold a lock of
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _serve(parent: int, orders: int, answers: int, own: ProcessNeighbour) -> NoReturn:
    """Probe as often as told, until there are no more orders."""
    try:
        _leave_all_behind(parent, {orders, answers})
        while os.read(orders, 1):
            with contextlib.closing(probes.Prober(own.room.words, own.kinds)) as prober:
                prober.run()
            os.write(answers, DONE)
    finally:
        os._exit(0)


def _leave_all_behind(parent: int, kept: set[int]) -> None:
    """Be a process that shares nothing with its parent but `kept` files, and lives no longer than it."""
    gc.disable()  # nothing of the parent's is to be closed here
    children.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    first = 3
    for fd in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(first, fd)
        first = fd + 1
    with contextlib.suppress(OSError):  # when memory runs out, this is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")


Neighbour = ThreadNeighbour | ProcessNeighbour


@contextlib.contextmanager
def standing_by() -> Iterator[list[ProcessNeighbour]]:
    """Start the processes that may be needed, two where there are CPUs for a place elsewhere."""
    probes.compile_probes()
    found: list[ProcessNeighbour] = []
    try:
        for _ in range(min(topology.cpu_count() - 1, 2)):
            found.append(ProcessNeighbour())
        yield found
    finally:
        for one in found:
            one.close()


@contextlib.contextmanager
def probing(placed: Sequence[tuple[Neighbour, int]]) -> Iterator[None]:
    """Have each neighbour ready to probe on its CPU for the block; what it did is checked at its end."""
    with contextlib.ExitStack() as begun:
        for one, cpu in placed:
            one.begin(cpu)
            begun.callback(one.end)
        yield
    for one, _ in placed:
        one.room.require_work()


def switch(neighbours: Sequence[Neighbour], on: bool) -> None:
    """Switch all probes on or off, and wait until each of them has seen it."""
    for one in neighbours:
        one.room.put(probes.ON, on)
    end = time.monotonic() + PATIENCE_S
    while any(one.room.word(probes.ACK) != on for one in neighbours):
        if time.monotonic() > end:
            raise ChildProcessError("a neighbour does not start to probe")
