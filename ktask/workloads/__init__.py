"""Workloads: one file or folder each; `base` says what a workload is and finds them all.

`Case` names one workload in one variant on one size; `registry` and `get` return the workloads by name.
`why_not` and `require_memory` say what this machine cannot do; `expect` is what a check calls. `populated` is
the region that most workloads work on, and `nodes_of` says on which nodes it lies.
"""

from ktask.workloads.base import (
    Case,
    CheckError,
    Method,
    Option,
    State,
    Workload,
    expect,
    expect_pool_pages,
    get,
    registry,
    require_memory,
    require_options,
    why_not,
)
from ktask.workloads.nodes import nodes_of

__all__ = [
    "Case",
    "CheckError",
    "Method",
    "Option",
    "State",
    "Workload",
    "expect",
    "expect_pool_pages",
    "get",
    "nodes_of",
    "registry",
    "require_memory",
    "require_options",
    "why_not",
]
