"""Processes that hold memory: started, waited for, and how they ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.workloads import CheckError, populated_child


def start_child(
    size_bytes: int, page_kind: str, cpu: int, fill_cpus: list[int], mappings: int = 1
) -> subprocess.Popen[bytes]:
    """Start a process that comes to hold memory, in so many mappings; CheckError tells why not."""
    flags, advice = memory.hugetlb_flags(page_kind), memory.thp_advice(page_kind)
    numbers = map(str, (size_bytes, flags, advice, mappings, cpu, *fill_cpus))
    command = [sys.executable, "-I", "-S", populated_child.__file__, *numbers]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603
    except OSError as error:
        raise CheckError(f"a child did not start: {error.strerror}") from None


def wait_until_ready(child: Any) -> None:
    """Wait until a child holds its memory; CheckError tells why it never will."""
    if child.stdout.readline() == b"ready\n":
        return
    code, said = child.wait(), child.stderr.read().decode(errors="replace")
    words = said.strip().splitlines()[-1] if said.strip() else ending(code)
    raise CheckError(f"a child did not come to hold its memory: {words}")


def ending(code: int) -> str:
    """Return how a child has ended, by its return code."""
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as the kernel does when memory runs out"
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it left with code {code}"


HELD = {"4KiB": ("status", "RssAnon"), "THP": ("smaps_rollup", "AnonHugePages")}


def held_bytes(pid: int, page_kind: str) -> int:
    """Return how much memory in pages of a kind a process holds; 0 if it cannot be seen.

    Hugetlb pages by `status`: smaps of Linux 6.18 counts a private one of 1 GiB as shared.
    """
    file, field = HELD.get(page_kind, ("status", "HugetlbPages"))
    return status_bytes(field, pid, file)
