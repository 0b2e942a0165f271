"""What a cell needs before it can measure; importing this module makes it ready.

The engine itself is not loaded here: numba starts its threads then, and they would not survive a fork.
"""

from ktask.lab import session  # noqa: F401
