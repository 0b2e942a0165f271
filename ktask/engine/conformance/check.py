"""The engine checked against worked cases: chunks that really ran, and what really was undone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np

from ktask.engine import native, worker
from ktask.engine import run as engine
from ktask.engine.conformance.vectors import check_vectors
from ktask.engine.layout import HEADER
from ktask.engine.policy import Helper, Part, Plan
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import bound, thread_func
from ktask.engine.undo import undo_ranges

Range = tuple[int, int]


def check_file(path: Path) -> dict[str, Any]:
    """Check policies and engine against a vector file; see `vectors.check_vectors`."""
    return check_vectors(path, run_undo=run_undo, run_plan=run_plan)


@thread_func
def _nothing(start, end):
    """Succeed at once."""
    return 0


def run_plan(plan: Plan) -> list[list[Range]]:
    """Run a plan with a thread function that does nothing; return the chunks that ran, by part."""
    ran: list[list[Range]] = [[] for _ in plan.parts]
    if plan.threads == 0:
        return ran
    result = engine.carry_out(plan, Ctl(_nothing), trace=True)
    for part, _, _, start, end, *_ in result.trace_rows or ():
        ran[part].append((start, end))
    return ran


@thread_func
def _scripted(start, end, starts, failing, last, counters, code, stop):
    """Follow the script of a failure.

    `counters[0]` counts the chunks that have begun. A failing chunk fails once all wanted ones have begun;
    the last wanted chunk of a part ends only after that, so that its worker takes no more.
    """
    chunk = np.searchsorted(starts, start)
    native.fetch_add(counters.ctypes.data, 1)
    if failing[chunk]:
        while native.load(counters.ctypes.data) < counters[1]:
            native.sched_yield()
        return code
    while last[chunk] and native.load(stop[0]) == 0:
        native.sched_yield()
    return 0


@thread_func
def _log_undo(start, end, starts, failing, last, counters, code, stop):
    """Write down what is to be undone, in `counters[3:]`."""
    n = counters[2]
    counters[3 + 2 * n], counters[4 + 2 * n] = start, end
    counters[2] = n + 1
    return 0


def run_undo(
    parts: Sequence[Part],
    chunk_size: int,
    claimed_per_part: Sequence[int],
    failed: AbstractSet[tuple[int, int]],
    first_error: int,
) -> tuple[list[Range], int]:
    """Make the engine fail as described; return what it undid and the code it returned.

    Exactly `claimed_per_part` chunks are handed out and the `failed` ones fail. Each worker is the engine's
    own, on a thread of its own, so that as many chunks as it takes can be under way at once.
    """
    if not failed:
        return [], first_error
    starting_parts = _workers(claimed_per_part, failed)
    helpers = tuple(Helper(k, -1) for k in starting_parts[1:])
    plan = Plan("ktask-v4", tuple(parts), len(starting_parts), chunk_size, helpers=helpers)
    chunks = sorted(
        (plan.chunk_bounds(k, i)[0], (k, i) in failed, i == n - 1)
        for k, n in enumerate(claimed_per_part)
        for i in range(n)
    )
    starts, failing, last = (np.array(column) for column in zip(*chunks, strict=True))
    if len(set(starts.tolist())) < len(chunks):  # parts from the same place: a position names no chunk
        return undo_ranges(plan, claimed_per_part, set(failed)), first_error
    counters = np.zeros(3 + 2 * (len(chunks) + 1), dtype=np.int64)
    counters[1] = len(chunks)
    return _carry_out_script(plan, starting_parts[0], (starts, failing, last, counters, first_error))


def _workers(claimed_per_part: Sequence[int], failed: AbstractSet[tuple[int, int]]) -> list[int]:
    """Return the starting part of each worker: one per failing chunk, one for a part that ends well."""
    found = []
    for k, n in enumerate(claimed_per_part):
        count = sum(part == k for part, _ in failed) + (n > 0 and (k, n - 1) not in failed)
        found += [k] * count
    return found


def _carry_out_script(plan: Plan, first_part: int, script: tuple) -> tuple[list[Range], int]:
    stop = np.zeros(1, dtype=np.int64)  # the address of the word that stops workers
    entry, undo = bound(Ctl(_scripted, (*script, stop), undo_func=_log_undo))
    task = engine.Task(engine.prepare_plan(plan), entry)
    stop[0] = task.state.address + HEADER.stop
    task.state.workers["part"][0] = first_part
    threads = [
        threading.Thread(target=worker.take_chunks, args=(task.state.address, w)) for w in range(plan.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    task.conclude(undo)
    return _logged(script[3]), int(task.header["error"])


def _logged(counters: np.ndarray) -> list[Range]:
    ranges = counters[3 : 3 + 2 * counters[2]].reshape(-1, 2).tolist()
    return [(start, end) for start, end in ranges]
