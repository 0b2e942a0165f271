"""Fragmented memory: no free block of 2 MiB, and pinned pages that keep the kernel from making one.

That holds for the whole machine while a case is set up. A process of its own (`fragmenting_child`) holds the
pins: a page per block of 2 MiB, not the memory between them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from functools import lru_cache
from typing import Any

from ktask.host import available_memory, kernel_files
from ktask.memory import region as memory
from ktask.workloads import fragmenting_child as child
from ktask.workloads.base import Case, CheckError, Option, expect
from ktask.workloads.children import ending
from ktask.workloads.rings import no_io_uring

AS_IT_IS, FRAGMENTED = "as_it_is", "fragmented"
MOST_BLOCKS = 1 << 16  # of one order: 128 GiB
LIMIT_S = 300
HELD_BYTES = child.BATCH * child.BLOCK


def pinned_bytes() -> int:
    """Return how much has to be pinned at most: a page per 2 MiB that is free or can be moved."""
    return available_memory.meminfo().get("MemAvailable", 0) // child.BLOCK * child.PAGE


@lru_cache(maxsize=1)
def no_fragments() -> str | None:
    """Return why memory cannot be fragmented here, or None."""
    if reason := no_io_uring() or memory.why_not("THP", memory.THP_SIZE):
        return reason
    if not kernel_files.read_text(kernel_files.ROOT / "proc/buddyinfo"):
        return "memory=fragmented needs /proc/buddyinfo, which cannot be read here"
    if (blocks := pinned_bytes() // child.PAGE) > MOST_BLOCKS:
        most, found = (n * child.BLOCK / memory.GIB for n in (MOST_BLOCKS, blocks))
        return f"memory=fragmented is for up to {most:.0f} GiB of available memory; here are {found:.0f} GiB"
    return None


MEMORY = Option(
    "memory",
    "the free memory of the machine: as it is, or without a block of 2 MiB, which holds for all its programs",
    AS_IT_IS,
    (AS_IT_IS, FRAGMENTED),
    why_not=lambda value: no_fragments() if value == FRAGMENTED else None,
)


class Fragments:
    """A process that keeps memory fragmented from its first `renew` to `close`."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", child.__file__, str(MOST_BLOCKS), str(LIMIT_S)]
        pipe = subprocess.PIPE
        try:
            self.process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603
        except OSError as error:
            raise CheckError(f"the process that fragments memory did not start: {error.strerror}") from None

    def renew(self) -> None:
        """Break all blocks of 2 MiB that are free now; CheckError tells why not."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"f")
            self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            self.process.wait()
            self.expect_alive()
        expect(
            answer[1:] == [b"done"], f"others give back blocks of 2 MiB for {LIMIT_S} s now; use a quiet time"
        )

    def expect_alive(self) -> None:
        """Raise CheckError if the process has ended, and with it the pins."""
        if (code := self.process.poll()) is not None:
            said = self.process.stderr.read().decode(errors="replace").strip()
            why = said.splitlines()[-1] if said else ending(code)
            raise CheckError(f"memory did not stay fragmented until the end: {why}")

    def close(self) -> None:
        """End the process, so that the kernel can have its blocks again."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def is_fragmented(case: Case) -> bool:
    """Return whether a case asks for fragmented memory."""
    return dict(case.options).get(MEMORY.name) == FRAGMENTED
