"""Bystanders: what others wait for while a task runs, and how much of their cache is left.

`standing_by` starts neighbours, `gather` has them measure beside the serial call and beside the most threads
(`collect`). What they do is compiled (`probes`), in threads of the same process and in processes of their own
(`neighbours`). `summary.over_processes` makes estimates of what several processes found, `store` keeps it.
"""

from ktask.lab.bystanders.collect import BUDGET_S, Bystanders, gather
from ktask.lab.bystanders.neighbours import ProcessNeighbour, standing_by

__all__ = ["BUDGET_S", "Bystanders", "ProcessNeighbour", "gather", "standing_by"]
