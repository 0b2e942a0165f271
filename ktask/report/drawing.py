"""Drawing the figures of a page in two processes, where a CPU is idle: it is the largest part of the work."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor

from ktask.common import children
from ktask.common.progress import watched
from ktask.report.figure import Figure

Draw = Callable[[], Figure | None]


def second_process() -> ProcessPoolExecutor:
    """Return a process that dies with this one, and has its imports done by the time the tables are made."""
    context = multiprocessing.get_context("spawn")  # a fork would have locks of threads that it has not
    pool = ProcessPoolExecutor(1, context, _begin, (os.getpid(),))
    pool.submit(int)  # nothing: it begins
    return pool


def _begin(parent: int) -> None:
    children.die_with(parent)
    importlib.import_module("ktask.report.preloaded")


def drawn(todo: Sequence[Draw], second: Executor | None) -> list[Figure]:
    """Return what there is of the figures, in their order; the `second` process draws every other one."""
    if second is None:
        return [figure for draw in watched(todo, "figures") if (figure := draw())]
    both: list[Figure | None] = [None] * len(todo)
    try:
        theirs = second.submit(_rendered, todo[::2])
        both[1::2] = _rendered(watched(todo[1::2], "figures"))
        both[::2] = theirs.result()
    except BrokenExecutor:  # it was killed, for want of memory say
        return drawn(todo, None)
    second.shutdown(wait=False)
    return [figure for figure in both if figure]


def _rendered(todo: Iterable[Draw]) -> list[Figure | None]:
    return [figure and figure.rendered() for figure in (draw() for draw in todo)]
