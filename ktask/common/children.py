"""Processes that this one starts: the same Python, and no life beyond their parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def python() -> list[str]:
    """Return the command of this Python; -P: what lies in the current directory shadows no module."""
    return [sys.executable, "-P"]


def die_with(parent: int) -> None:
    """Have the operating system kill this process when `parent`, which has started it, ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
