"""What a task is, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ktask.engine.policy import Part as Node
from ktask.engine.policy import whole_number

# Below, the CPU time of a task is unknown: reading the clocks of its threads would be much of it.
CPU_TIME_FROM_S = 20e-6


@dataclass(frozen=True)
class Ctl:
    """The control block of a task: what to call and how finely to chunk; `dataclasses.replace` gives another.

    Parameters
    ----------
    thread_func
        A function marked with `ktask.thread_func`: `(start, end, *args) -> 0`, or an error code. It must
        accept any range, is called concurrently with itself, and tidies up its own failed chunk.
    args
        Passed on to every call: NumPy arrays, numbers, or tuples of them.
    min_chunk_size
        The least worthwhile chunk, in units of the task; at least 1.
    max_threads
        Cap on the threads, the caller included; 0 stands for the default of the policy.
    undo_func
        A function of the same kind, `(start, end, *args)`, called in the caller's thread on finished
        ranges after a failure.
    iter_func
        `(position, units) -> position` for positions that are not to be added up: an index into a list of
        ranges, a node of a tree. Called by the caller only, before the first chunk runs; may be Python.
    align
        Boundary alignment of the `padata-*` policies, in units.
    """

    thread_func: Any
    args: tuple = ()
    min_chunk_size: int = 1
    max_threads: int = 0
    undo_func: Any = None
    iter_func: Callable[[Any, int], Any] | None = None
    align: int = 1

    def __post_init__(self) -> None:
        """Refuse what could not run."""
        for name, least in (("min_chunk_size", 1), ("max_threads", 0), ("align", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if not isinstance(self.args, tuple):
            object.__setattr__(self, "args", (self.args,))

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what the engine keeps with them holds for this process and object."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


TRACE_COLUMNS = ("part", "helper", "cpu", "start", "end", "t0_s", "t1_s")


@dataclass(slots=True)
class Result:
    """What came of a task.

    Attributes
    ----------
    error
        0, or the first nonzero code that a thread function returned.
    threads, chunk_size, n_chunks
        The plan as carried out; `threads` counts the caller.
    wall_s, cpu_user_s, cpu_system_s
        From just before the threads are released to the return of the last one; the CPU time is that of
        the caller and its helpers over the same span, split as that of the process is. It is unknown (NaN)
        for a task of less than `CPU_TIME_FROM_S`, and where the clock of a helper cannot be read.
    started_s
        When the threads were released, on the monotonic clock.
    chunks_per_thread, cpu_of_thread
        Chunks run by each thread, the caller first, and the CPU each ended on.
    ended_s
        When each thread found no more chunks, in seconds since the release.
    undone
        The ranges handed to `undo_func`, in order.
    done, finished
        Units of work finished (and not undone), and the ranges they make up, in order of the parts; None
        if that is the whole task.
    pinned, caller_pinned, helper_nice, watches_signals
        The mode of the run: whether each helper was kept to a CPU of its own and the caller off these;
        whether the caller was kept to one, too; the nice level that helpers ran at, None if it was the
        caller's; whether a signal could stop the workers.
    hands_over, hand_overs
        Whether helpers at another level than the caller are raised to its own at the end, one at a time; how
        often the caller, out of chunks, raised an unfinished helper to its own nice level.
    trace
        One row per chunk if asked for: part, helper (0 is the caller), cpu, start, end, and times in seconds
        since the release.
    """

    error: int = 0
    threads: int = 0
    chunk_size: int = 0
    n_chunks: int = 0
    policy: str = ""
    wall_s: float = math.nan
    started_s: float = math.nan
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    chunks_per_thread: tuple[int, ...] = ()
    cpu_of_thread: tuple[int, ...] = ()
    ended_s: tuple[float, ...] = ()
    undone: tuple[tuple[Any, Any], ...] = ()
    failed: tuple[tuple[Any, Any], ...] = ()
    done: int = 0
    finished: tuple[tuple[Any, Any], ...] | None = None
    pinned: bool = False
    caller_pinned: bool = False
    helper_nice: int | None = None
    watches_signals: bool = False
    hands_over: bool = False
    hand_overs: int = 0
    faults_minor: int = 0
    ctx_involuntary: int = 0
    trace_rows: Sequence | None = field(default=None, repr=False)

    @property
    def run_mode(self) -> str:
        """The mode of the run as one short text, e.g. 'pinned, helpers at nice 19, signals watched'."""
        nice = "the caller's nice" if self.helper_nice is None else f"nice {self.helper_nice}"
        if self.helper_nice is not None and not self.hands_over:
            nice += " without hand-over"
        signals = "signals watched" if self.watches_signals else "signals not watched"
        if self.threads <= 1:
            return f"caller alone{', pinned' * self.caller_pinned}, {signals}"
        pins = "all pinned" if self.caller_pinned else "pinned" if self.pinned else "not pinned"
        return f"{pins}, helpers at {nice}, {signals}"

    @property
    def apart_s(self) -> float:
        """Seconds between the first thread that found no more chunks and the last; 0 for one alone."""
        return max(self.ended_s, default=0.0) - min(self.ended_s, default=0.0)

    def _repr_html_(self) -> str:
        from ktask.common.views import result_html  # noqa: PLC0415  (not needed to run anything)

        return result_html(self)

    @property
    def trace(self):
        """The trace as a DataFrame, in order of start; None if it was not asked for."""
        if self.trace_rows is None:
            return None
        import pandas as pd  # noqa: PLC0415  (kept out of the import of ktask)

        return pd.DataFrame(self.trace_rows, columns=list(TRACE_COLUMNS)).sort_values(["t0_s", "helper"])


__all__ = ["TRACE_COLUMNS", "Ctl", "Node", "Result"]
