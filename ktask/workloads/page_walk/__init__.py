"""Page walks: the kernel's own walkers, text files, and a radix table in arrays."""

from ktask.workloads.page_walk.page_walk import ORDER, WORKLOAD

__all__ = ["ORDER", "WORKLOAD"]
