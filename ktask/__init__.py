"""Parallelise kernel memory paths, measure them and report what pays.

>>> import ktask, numpy as np
>>> @ktask.thread_func
... def zero(start, end, buf):
...     buf[start:end] = 0
...     return 0
>>> buf = np.ones(8 << 20, np.uint8)
>>> ctl = ktask.Ctl(zero, args=(buf,), min_chunk_size=2 << 20)
>>> result = ktask.run(0, buf.size, ctl)
>>> result.error, bool(buf.any())
(0, False)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ktask.common.version import __version__
from ktask.engine.live import Bar, Live
from ktask.engine.task import Ctl, Node, Result

if TYPE_CHECKING:
    from ktask.engine.run import plan, run, run_numa
    from ktask.engine.thread_functions import thread_func
    from ktask.lab.measure.processes import measure
    from ktask.memory.inspect import walk

__all__ = [
    "Bar",
    "Ctl",
    "Live",
    "Node",
    "Result",
    "__version__",
    "measure",
    "plan",
    "run",
    "run_numa",
    "thread_func",
    "walk",
]

# numba takes 0.2 to 0.5 s to import, so the names that need it are looked up at their first use.
_LAZY = {
    "run": "ktask.engine.run",
    "run_numa": "ktask.engine.run",
    "plan": "ktask.engine.run",
    "thread_func": "ktask.engine.thread_functions",
    "walk": "ktask.memory.inspect",
    "measure": "ktask.lab.measure.processes",
}


def __getattr__(name: str) -> Any:
    """Import the engine when it is first asked for."""
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'ktask' has no attribute {name!r}")
