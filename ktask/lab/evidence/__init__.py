"""Why not more: what was seen of a case in this run, by looking at untimed repetitions.

`gather` looks at the serial call, at one thread in chunks and at the most threads (`collect`);
`speedup_stack` says where the thread time goes (`stack`), by what kernel functions do (`functions`) and which
locks threads waited for (`locks`).
"""

from ktask.lab.evidence.case import Evidence, gather
from ktask.lab.evidence.stack import speedup_stack

__all__ = ["Evidence", "gather", "speedup_stack"]
