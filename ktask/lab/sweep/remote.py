"""What runs on the machines of a cluster: describing a machine, and measuring one cell on it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ktask.common.private_folders import private_directory
from ktask.common.version import __version__
from ktask.engine import slots as limits
from ktask.lab.sweep.cells import FOLDERS, CellTask, run_cell
from ktask.lab.sweep.grid import Grid, parse_grid
from ktask.lab.sweep.sweep import describe_machine

if TYPE_CHECKING:
    from ktask.lab.sweep.kernels import Kernels

T = TypeVar("T")


@dataclass(frozen=True)
class Description:
    """A machine of a cluster.

    Attributes
    ----------
    version
        Of ktask there.
    machine
        Its facts and what the doctor finds.
    grid
        The grid as it is there: "auto" depends on the CPUs.
    """

    version: str
    machine: dict[str, Any]
    grid: Grid


class RemoteError(RuntimeError):
    """Something raised on a machine of the cluster; the message is the reason."""


def plainly(function: Callable[..., T]) -> Callable[..., T]:
    """Make what `function` raises fit for the way back: one that cannot be pickled would never arrive."""

    @functools.wraps(function)
    def called(*args: Any) -> T:
        try:
            return function(*args)
        except OSError:
            raise  # a full disk, say; the caller looks at the number
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RemoteError(reason)  # out here, so that it drags no other exception along

    return called


@plainly
def describe(data: Any, name: str) -> Description:
    """Describe this machine and read the content of a grid's file on it; waits until nothing is measured."""
    grid = parse_grid(data, name)
    with limits.turn():
        return Description(__version__, describe_machine(), grid)


@plainly
def measure(task: CellTask) -> dict[str, bytes]:
    """Measure one cell on this machine; return its files by their path in the directory of a run."""
    with _one_at_a_time, private_directory() as folder, _quiet_worker():
        for name in FOLDERS:
            (folder / name).mkdir()
        run_cell(task, folder, _kernels())
        found = (path for name in FOLDERS for path in (folder / name).iterdir() if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def finish() -> None:
    """End the process that cells are forked from, unless somebody else's cell is running."""
    if _one_at_a_time.acquire(blocking=False):
        try:
            while _kept:
                _kept.pop().close()
        finally:
            _one_at_a_time.release()


_one_at_a_time = threading.Lock()  # a worker may have several threads
_kept: list[Kernels] = []  # for the next cell


def _kernels() -> Kernels:
    if not _kept:
        from ktask.lab.sweep.kernels import kernels_for_cells  # noqa: PLC0415  (0.2 s to import)

        _kept.append(kernels_for_cells())
    return _kept[0]


@contextlib.contextmanager
def _quiet_worker() -> Iterator[None]:
    """Stop the profiler of the worker, which wakes up a hundred times per second."""
    from distributed import get_worker  # noqa: PLC0415  (an extra)

    worker = get_worker()
    profiler = worker.periodic_callbacks.get("profile")
    if profiler is None:  # switched off by the user
        yield
        return
    worker.loop.add_callback(profiler.stop)
    try:
        yield
    finally:
        worker.loop.add_callback(profiler.start)
