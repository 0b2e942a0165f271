"""Load beside a case: started before it is set up, steady before the clock starts, gone when it ends.

Generators of another process are children of a process (`load_process`) that reads from a pipe of ours.
However this process ends, the pipe is closed, and they end. Those of the same process are threads of it.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ktask.common import children
from ktask.engine import cpu_order, placement
from ktask.host import topology
from ktask.lab.conditions.generators import KINDS, ROW, WRONG, generate, words_for
from ktask.workloads import CheckError
from ktask.workloads.conditions import Load

START_S = 60.0  # longest; the first time, the generators are compiled
WINDOW_S, ALIKE, STEADY_S = 0.1, 0.1, 1.0


class Reading(NamedTuple):
    """What all generators have done so far, and when: in their unit, CPU seconds, monotonic clock."""

    done: int
    cpu_s: float
    at_s: float

    def rate_since(self, before: Reading) -> float:
        """Return what was done per second since another reading."""
        return (self.done - before.done) / max(self.at_s - before.at_s, 1e-9)


class RunningLoad:
    """Generators of load from their start to `close`.

    Attributes
    ----------
    load
        What was asked for.
    generators
        How many there are.
    alone_rate
        What they did per second, in their unit, before anything ran beside them; None before `settle`.
    threads
        The generators that are threads of this process.
    """

    def __init__(self, load: Load):
        self.load, self.generators = load, load.generators(topology.cpu_count())
        self.alone_rate: float | None = None
        self._file = os.memfd_create("ktask-load")
        os.ftruncate(self._file, self.generators * ROW.itemsize)
        self.rows = rows_in(self._file, self.generators)
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen | None = None
        if load.in_same_process:
            for k in range(self.generators):
                thread = threading.Thread(target=run, args=(self.rows, k, load, self.cpus[k]), daemon=True)
                thread.start()
                self._threads.append(thread)
        else:
            self._process = self._started()

    @property
    def cpus(self) -> list[int]:
        """The CPU that each generator is kept to, from the last that a task takes on; -1 where it is free."""
        if not self.load.pinned:
            return [-1] * self.generators
        order = cpu_order.order(placement.site().topo)[::-1]
        return [order[k % len(order)] for k in range(self.generators)]

    @property
    def threads(self) -> list[int]:
        """The numbers of the threads of this process that generate load."""
        return [thread.native_id for thread in self._threads if thread.native_id]

    def _started(self) -> subprocess.Popen:
        command = [*children.python(), "-m", "ktask.lab.conditions.load_process"]
        what = json.dumps([self._file, self.load, self.cpus])
        return subprocess.Popen([*command, what], stdin=subprocess.PIPE, pass_fds=[self._file])  # noqa: S603

    def read(self) -> Reading:
        """Return what the generators have done so far.

        Raises
        ------
        ktask.workloads.CheckError
            If one of them has failed or has ended.
        """
        if (errors := self.rows["error"][self.rows["error"] != 0]).size:
            why = "its work did not happen" if errors[0] == WRONG else os.strerror(errors[0])
            raise CheckError(f"a generator of the load {self.load.kind} has failed: {why}")
        if self._has_ended():
            raise CheckError(f"the load {self.load.kind} has ended: one of its processes or threads is gone")
        return Reading(int(self.rows["done"].sum()), self.rows["cpu_ns"].sum() / 1e9, time.monotonic())

    def _has_ended(self) -> bool:
        if self._process:
            return self._process.poll() is not None
        return not all(thread.is_alive() for thread in self._threads)

    def settle(self) -> None:
        """Wait until all generators run and their rate is steady, and keep that rate."""
        end = time.monotonic() + START_S
        while not (self.rows["done"] > 0).all():
            self.read()
            if time.monotonic() > end:
                raise CheckError(f"the load {self.load.kind} did not start within {START_S:.0f} s")
            time.sleep(0.001)
        self.alone_rate = steady(self._rate)

    def _rate(self) -> float:
        """Return what the generators do per second in a window of time."""
        before = self.read()
        time.sleep(WINDOW_S)
        return self.read().rate_since(before)

    def close(self) -> None:
        """End all generators and wait until they are gone."""
        self.rows["stop"] = 1
        for thread in self._threads:
            thread.join()
        if self._process:
            self._process.communicate()  # closes its input, at whose end it ends
        os.close(self._file)


def steady(rate: Callable[[], float]) -> float:
    """Return a rate once two in a row are alike, or what it is after a second."""
    end, before, now = time.monotonic() + STEADY_S, rate(), rate()
    while not (now > 0 and abs(now - before) <= ALIKE * now) and time.monotonic() < end:
        before, now = now, rate()
    return now


def rows_in(file: int, generators: int) -> np.ndarray:
    """Return the rows of generators that processes share by a memory file."""
    return np.frombuffer(mmap.mmap(file, generators * ROW.itemsize), dtype=ROW)


def run(rows: np.ndarray, k: int, load: Load, cpu: int) -> None:
    """Be generator `k` until its row says stop; what goes wrong before it begins is in the row, too."""
    try:
        if cpu >= 0:
            os.sched_setaffinity(0, {cpu})
        words = words_for(load.kind, len(rows))
    except (OSError, MemoryError) as error:
        rows["error"][k] = getattr(error, "errno", errno.ENOMEM)
        return
    place, per_s = rows.ctypes.data + k * ROW.itemsize, load.bytes_per_s / len(rows)
    generate(place, KINDS.index(load.kind), words, float(load.share), per_s)
