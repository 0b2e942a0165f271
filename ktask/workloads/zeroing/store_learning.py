"""Which of two kinds of store to use where that changes: the one that has been faster lately.

Where a cache may or may not hold the memory, no calibration lasts: a cache shared with others, as that of a
virtual machine is, holds more at one minute than at the next. On such a machine the answer that was kept for
64 and 128 MiB, memset, was 0.60 and 0.54 times as fast as non-temporal stores an hour later.

The costs are those of all pieces together. Kept for each piece, one interruption there spoiled its choice for
hundreds of calls, and stores that found their piece in the cache left its writing back to the others: two
threads were 0.94 times as fast over 512 MiB.
"""

import numpy as np
from numba import njit

from ktask.engine import native
from ktask.host import topology
from ktask.memory.region import MIB

UNKNOWN_CACHE, LEAST_END_BYTES = 128 * MIB, 512 * MIB
LEAST_PIECE, PIECES = MIB, 64  # at least so long, and at most so many
COSTS, TURN, WORDS = 0, 2, 16  # femtoseconds per byte by each kind; pieces so far; two cache lines
FIRST = 16  # pieces that try either kind in turn
SOON, SELDOM = 32, 1024  # pieces between two trials of the slower kind


def is_learnt(size_bytes: int) -> bool:
    """Return whether the faster kind for `size_bytes` changes too often to be measured once.

    That is from an eighth of the largest cache, of which others may leave no more, to twice its size.
    """
    largest = max((cache["size_bytes"] for cache in topology.caches()), default=UNKNOWN_CACHE)
    return largest // 8 <= size_bytes <= max(LEAST_END_BYTES, 2 * largest)


def piece_bytes(size_bytes: int) -> int:
    """Return the size of the pieces that are decided about one by one, a multiple of 64."""
    return max(LEAST_PIECE, -(-size_bytes // PIECES // 64) * 64)


def notes() -> np.ndarray:
    """Return notes about what either kind costs one thread (first row), and several."""
    return np.zeros((2, WORDS), np.int64)


@njit(cache=True, nogil=True)
def choose(note):
    """Return which of two kinds, 0 or 1, to use for a piece now.

    The second, which leaves nothing in a cache that has to be written back later, wins unless the first is
    faster by a quarter. The loser is tried again, the seldomer the slower it is: that costs half a percent.
    """
    turn = native.fetch_add(note + 8 * TURN, 1)
    if turn < FIRST:
        return turn & 1
    first, second = native.load(note + 8 * COSTS), native.load(note + 8 * (COSTS + 1))
    better = 0 if 5 * first <= 4 * second else 1
    period = min(max(200 * max(first, second) // max(min(first, second), 1) - 200, SOON), SELDOM)
    return 1 - better if turn % period == 0 else better


@njit(cache=True, nogil=True)
def learn(note, kind, n_bytes, wall_ns):
    """Note what a kind has cost: a quarter of it counts, and at most twice of what it cost before.

    So a thread that was interrupted, and took twenty times as long, does not decide.
    """
    at = note + 8 * (COSTS + kind)
    cost, before = max(wall_ns * 1_000_000 // n_bytes, 1), native.load(at)
    native.store(at, cost if before == 0 else before + (min(cost, 2 * before) - before) // 4)
