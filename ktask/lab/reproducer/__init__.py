"""C programs of cases: the same calls in the same chunks, for a mail or for somebody without Python.

`reproducer` makes the text of one; the parts that it is made of lie in `c`, one file per method.
"""

from ktask.lab.reproducer.program import reproducer

__all__ = ["reproducer"]
