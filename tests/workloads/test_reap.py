"""Reap: who took part, how the process ended, and what is in the way of seeing its memory come back."""

import contextlib
import errno
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from test_workloads import set_up

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import MIB
from ktask.workloads import Case, CheckError, reap

CASE = Case("reap", "mrelease", "4KiB", 8 * MIB)


@pytest.fixture
def state():
    with contextlib.closing(set_up(CASE)) as state:
        state.before()
        yield state


def test_helpers_free_beside_the_exit_or_find_it_over(state):
    assert engine.run(0, state.size, replace(state.ctl, max_threads=2), "dynamic").error == 0
    state.check()
    assert state.outcomes[0] == 0
    assert set(state.outcomes[1:]) <= {0, errno.ESRCH, errno.EAGAIN}
    assert not Path(f"/proc/{state.child.pid}").exists()


def test_a_process_that_ended_before_is_an_error(state):
    os.kill(state.child.pid, signal.SIGTERM)
    state.child.wait()
    engine.run(0, state.size, replace(state.ctl, max_threads=1))
    state._table[reap._UNITS // 8 :] = 1
    with pytest.raises(CheckError, match="had ended before it was killed: it was ended by SIGTERM"):
        state.check()


def test_helpers_do_not_wait_for_a_kill_that_failed(state):
    pid, state._table[0] = int(state._table[0]), 1 << 22  # beyond any number of a process
    assert engine.run(0, state.size, replace(state.ctl, max_threads=2), "dynamic").error == errno.EPERM
    state._table[0] = pid


@pytest.mark.parametrize("count", [1, 3])
def test_the_memory_lies_in_as_many_mappings_as_asked_for(count):
    case = replace(CASE, options=(("mappings", str(count)),)) if count > 1 else CASE
    with contextlib.closing(set_up(case)) as state:
        state.before()
        smaps = Path(f"/proc/{state.child.pid}/smaps").read_text()
        sizes = map(int, re.findall(r"^Anonymous: +(\d+) kB", smaps, re.MULTILINE))
        large = [size for size in sizes if size and size % 2048 == 0]
        assert (len(large), sum(large)) == (count, 8192)


def test_what_the_kernel_lacks_is_a_reason(monkeypatch):
    def refuse(name, *args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(memory, "syscall", refuse)
    reap.no_mrelease.cache_clear()
    try:
        reason = workloads.why_not(CASE)
    finally:
        reap.no_mrelease.cache_clear()
    assert reason == "process_mrelease (Linux 5.15) is refused: Function not implemented"
