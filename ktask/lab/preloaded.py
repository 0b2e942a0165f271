"""What a cell needs before it can measure; importing this module makes it ready.

Compiled functions come from disk here, all but those with a parallel region: these start threads when loaded.
"""

import numba

from ktask import worker
from ktask.lab import session  # noqa: F401

worker.serial_work.compile((numba.types.Array(numba.int64, 1, "C"),))
