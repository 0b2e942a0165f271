"""Zeroing: fresh pages by the kernel, resident memory by user code."""

from ktask.workloads.zeroing.zeroing import ORDER, WORKLOAD

__all__ = ["ORDER", "WORKLOAD"]
