"""Locked memory: mlock from compiled code, and how much a process may lock."""

from __future__ import annotations

import resource
from functools import lru_cache

from numba import njit

from ktask.engine import native
from ktask.host import kernel_files
from ktask.memory import region as memory


@njit(cache=True, nogil=True)
def lock_range(address, size_bytes):
    """Call mlock; return 0 or an errno."""
    code = native.EAGAIN
    for _ in range(100):
        failed = native.mlock(address, size_bytes)
        code = native.last_errno() if failed else 0
        if code not in (native.EINTR, native.EAGAIN):
            break
    return code


def over_limit(need_bytes: int) -> str | None:
    """Return why this process may not have so much locked in all, or None."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or may_lock_beyond_limit() or need_bytes <= limit:
        return None
    return (
        f"this process may lock {limit / memory.MIB:.2f} MiB (RLIMIT_MEMLOCK, `ulimit -l`); "
        f"the case needs {need_bytes / memory.MIB:.2f} MiB"
    )


@lru_cache(maxsize=1)
def may_lock_beyond_limit() -> bool:
    """Return whether RLIMIT_MEMLOCK does not bind this process (CAP_IPC_LOCK)."""
    return bool(int(kernel_files.status_field("CapEff") or "0", 16) >> 14 & 1)
