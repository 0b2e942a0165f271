"""What the kernel refuses while a case is set up, runs or is checked: a failure of that case, in words.

The sweep keeps the words and goes on; an error with its number would be taken for one of its own disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ktask.workloads import Case, CheckError

_ROOM = "use a smaller size, or end what else takes it"
NEXT_STEPS = {
    errno.ENOMEM: f"memory, a hugetlb pool or a limit (`ulimit -v`, control group) has run short: {_ROOM}",
    errno.ENOSPC: f"a hugetlb pool, or the room of memory files, has run dry meanwhile: {_ROOM}",
    errno.EFAULT: f"a page could not be had: a hugetlb pool has run dry meanwhile: {_ROOM}",
    errno.EAGAIN: "a limit on processes and threads (`ulimit -u`) or locked memory (`ulimit -l`): raise it",
    errno.EMFILE: "too many files are open at once: raise `ulimit -n`",
    errno.EFBIG: "memory files may not be that long: raise `ulimit -f`, or use a smaller size",
    errno.EPIPE: "a process of the case has ended meanwhile, or was killed: run it again",
    errno.ESRCH: "a process of the case has ended meanwhile, or was killed: run it again",
    errno.EPERM: "this process may not do that: `ktask doctor` shows what it may do",
    errno.EACCES: "this process may not do that: `ktask doctor` shows what it may do",
}


def failure(case: Case, error: OSError) -> CheckError:
    """Return the failure of a case that the kernel has refused something: what, and what to do."""
    said = error.strerror or str(error)
    known = os.strerror(error.errno or 0)
    name = known if known in said else f"{said} ({known})"
    step = NEXT_STEPS.get(error.errno or 0)
    return CheckError(f"{case.workload} {case.method} failed: {name}" + (f"; {step}" if step else ""))


@contextlib.contextmanager
def as_check_errors(case: Case) -> Iterator[None]:
    """Turn what the kernel refuses inside the block into `ktask.workloads.CheckError`."""
    try:
        yield
    except OSError as error:
        raise failure(case, error) from error
    except MemoryError as error:
        raise failure(case, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from error
