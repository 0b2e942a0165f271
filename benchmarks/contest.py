"""A contest: contestants that take turns, and the library of peers in C.

Every round runs all contestants once, in random order, so that a ratio compares neighbours in time.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ktask.lab.measure.rounds import quiet_rounds

SEED = 20261123
SOURCES = [str(Path(__file__).with_name(name)) for name in ("omp.c", "thread_functions.c")]
WALKS = {"pagemap_scan": "walk_scan", "pagemap": "walk_pagemap", "mincore": "walk_mincore"}


@dataclass
class Contest:
    """One question: contestants that return seconds, and the one the others are compared with."""

    name: str
    unit: str
    per_second: float  # multiplies seconds
    contestants: dict[str, Callable[[], float]]
    reference: str
    rounds: int = 31
    serial: dict[str, str] = field(default_factory=dict)  # the serial call of a contestant
    close: Callable[[], None] = lambda: None

    def measure(self, rounds: int, warmups: int) -> tuple[dict[str, np.ndarray], float]:
        """Return the seconds of every contestant in each round that was quiet, and the load beside these."""
        return quiet_rounds(self.contestants, rounds, SEED, warmups=warmups)


def openmp() -> ctypes.CDLL | None:
    """Build and load the C peers; None without a compiler that has OpenMP."""
    if not shutil.which("gcc"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="ktask-bench-"))
    try:
        library = folder / "omp.so"
        command = ["gcc", "-O2", "-fopenmp", "-shared", "-fPIC", "-o", str(library), *SOURCES]
        if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
            return None
        loaded = ctypes.CDLL(str(library))
    finally:
        shutil.rmtree(folder)
    pointer, long, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    walk = (number, pointer, long, long, number, pointer)
    arguments = {
        **dict.fromkeys(("run_dynamic", "run_static", "run_placed"), (pointer, long, long, long, number)),
        **dict.fromkeys(("zero_memset", "zero_stream"), (pointer, long, number)),
        **dict.fromkeys(WALKS.values(), walk),
        "set_places": (pointer, long),
        "in_chunks": (number, pointer, long, long, number, number),
        "fill_and_free": (number, long, long, number, number, number),
        "fork_here": (long, pointer, number),
        "fork_there": (long, pointer, pointer, pointer, pointer, number),
        "end_children": (long, pointer, number),
        "cut_files": (long, pointer, number),
        "register_buffers": (pointer, long, long, long, pointer, long, number),
    }
    for name, kinds in arguments.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = ctypes.c_double, kinds
    return loaded


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that returns how long `call` takes, in seconds."""

    def measure() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return measure


def threads_word(count: int) -> str:
    """Return how many threads, as text."""
    return "1 thread" if count == 1 else f"{count} threads"


Named = Iterator[tuple[str, Callable[[str], Contest]]]  # the name, and what sets the contest up
