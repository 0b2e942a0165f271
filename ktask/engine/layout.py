"""The shared state of a running task: declared once, every offset derived from it.

The state is one block of memory: a header, one row per node part, one row per worker, all values int64.
Compiled code reads it by address (`load(part + PART.next_chunk)`), Python by name
(`state.parts["next_chunk"]`).
"""

from __future__ import annotations

import ctypes
from collections import namedtuple

import numpy as np

WORD, LINE, PAGE = 8, 64, 4096
# Processors fetch cache lines in pairs, so a row is one or more pairs: no two workers or parts write to one.
PAIR = 2 * LINE


def _row(*lines: str) -> np.dtype:
    """Return a record of int64 fields, given the names in each cache line."""
    offsets: dict[str, int] = {}
    for k, names in enumerate(map(str.split, lines)):
        if len(names) > LINE // WORD:
            raise ValueError(f"{names} do not fit into a cache line")
        offsets |= {name: k * LINE + n * WORD for n, name in enumerate(names)}
    size = -(-len(lines) * LINE // PAIR) * PAIR
    formats = ["i8"] * len(offsets)
    return np.dtype(
        {"names": [*offsets], "formats": formats, "offsets": [*offsets.values()], "itemsize": size}
    )


HEADER_ROW = _row(
    # Read for every chunk, written before the first one: addresses of the thread function, of its packed
    # arguments, of the byte that stops workers when a signal arrives, of trace and table of bounds (or 0).
    "function args interrupt trace bounds chunk_size n_parts n_threads",
    # The mode of the run: masks are addresses, 0 to leave the affinity alone; equal nice levels leave
    # priorities alone. `quiet` stays 0: what `interrupt` points at where no signals arrive.
    "helper_masks caller_mask own_mask after_mask mask_bytes helper_nice caller_nice quiet",
    # Read for every chunk, written by the first worker that fails.
    "error stop",
    # Written by the caller.
    "t0 t1 used_ns not_all_known user_us system_us faults switches",
    "hand_overs hands_over",  # how often; whether the caller does, if the nice levels differ
)
PART_ROW = _row(
    "start end n_chunks origin first_row",  # first_row: of its chunks in trace and table
    "next_chunk",  # goes from CPU to CPU, hence not with what is only read: 7 to 15 % of an empty chunk
)
WORKER_ROW = _row(
    "part done failed_part failed_chunk random cpu ended tid",  # its own
    "over",  # looked at by the caller while it waits
)
TRACE_ROW = np.dtype([(name, np.int64) for name in ("part", "helper", "cpu", "start", "end", "t0", "t1")])


def _offsets(name: str, row: np.dtype):
    """Return the byte offsets of a record's fields, and `n_bytes`, by name; numba takes them as constants."""
    offsets = {field: place[1] for field, place in (row.fields or {}).items()} | {"n_bytes": row.itemsize}
    return namedtuple(name, offsets)(**offsets)


HEADER, PART = _offsets("Header", HEADER_ROW), _offsets("Part", PART_ROW)
WORKER, TRACE = _offsets("Worker", WORKER_ROW), _offsets("Trace", TRACE_ROW)


class State:
    """The state of one task, zero to begin with.

    Attributes
    ----------
    address
        Where it begins: always at a page, so that no run depends on where malloc has room.
    header, parts, workers
        The same memory by name: one record, an array of records each.
    """

    def __init__(self, n_parts: int, n_workers: int):
        self.shape = n_parts, n_workers
        self.n_bytes = HEADER.n_bytes + PART.n_bytes * n_parts + WORKER.n_bytes * n_workers
        self._room = room = np.zeros(self.n_bytes + PAGE, np.uint8)
        first = -room.ctypes.data % PAGE
        self.address = room.ctypes.data + first
        self.header = np.ndarray((), HEADER_ROW, room, first)
        self.parts = np.ndarray(n_parts, PART_ROW, room, first + HEADER.n_bytes)
        workers = first + HEADER.n_bytes + PART.n_bytes * n_parts
        self.workers = np.ndarray(n_workers, WORKER_ROW, room, workers)

    def copy(self) -> State:
        """Return another state with the same content."""
        made = State(*self.shape)
        ctypes.memmove(made.address, self.address, self.n_bytes)
        return made
