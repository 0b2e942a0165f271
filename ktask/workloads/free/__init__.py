"""Free: zapping, unmapping and exiting, and a model of the buddy allocator."""

from ktask.workloads.free.free import ORDER, WORKLOAD

__all__ = ["ORDER", "WORKLOAD"]
