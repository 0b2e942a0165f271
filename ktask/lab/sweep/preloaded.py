"""What a cell needs before it can measure; importing this module makes it ready.

The engine itself is not loaded here: numba starts its threads then, and they would not survive a fork. What
numba reads before it loads any compiled function is: 0.2 s of every cell.
"""

from ktask.engine import worker
from ktask.lab import records  # noqa: F401
from ktask.lab.measure import processes  # noqa: F401

worker.current_cpu.compile(())
