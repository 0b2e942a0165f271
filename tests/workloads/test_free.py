"""Freeing: what each way leaves behind, and what becomes of it when memory cannot be had."""

import contextlib
import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError
from ktask.workloads.free import exits


def state_of(method, page_kind="4KiB", size_bytes=8 * MIB, threads=2):
    case = Case("free", method, page_kind, size_bytes, 64 * KIB)
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    state = workloads.get("free").setup(case)
    state.ctl = replace(state.ctl, max_threads=threads)
    return contextlib.closing(state)


def run(state):
    return engine.run(0, state.size, state.ctl)


# --- lazily freed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_kind", ["4KiB", "THP"])
def test_lazily_freed_pages_stay_and_keep_their_content_until_memory_is_short(page_kind):
    with state_of("lazyfree", page_kind) as state:
        state.before()
        state.region.one_word_per_page()[:] = 7
        run(state)
        state.check()
        assert state.region.present().all()
        assert (state.region.one_word_per_page() == 7).all()


def test_a_write_takes_the_mark_of_lazy_freeing_away():
    with state_of("lazyfree") as state:
        state.before()
        run(state)
        state.region.words[0] = 1
        assert state.region.lazy_free_bytes() == 8 * MIB - 4 * KIB
        with pytest.raises(CheckError, match="8384512 of 8388608 bytes are marked as lazily free"):
            state.check()


def test_looking_for_marked_pages_leaves_the_thread_on_its_cpus():
    before = os.sched_getaffinity(0)
    memory.drain_lru_batches()
    assert os.sched_getaffinity(0) == before


# --- one munmap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_the_whole_range_is_unmapped_once_whoever_comes_last(threads):
    with state_of("munmap_at_once", threads=threads) as state:
        state.before()
        result = run(state)
        assert result.threads == threads or len(os.sched_getaffinity(0)) < threads
        assert state._zapped[0] == (0 if threads == 1 else state.size)
        assert not memory.is_mapped(state.region.address + state.region.size_bytes - memory.BASE_PAGE)


# --- exit -------------------------------------------------------------------------------------------------


@pytest.mark.cpus(2)
@pytest.mark.parametrize("threads", [1, 2])
def test_there_are_as_many_children_as_threads_and_they_share_the_range(threads):
    with state_of("exit", threads=threads) as state:
        state.before()
        assert len(state.children) == threads
        assert state._rows()[:, 0].tolist() == [state.size * (k + 1) // threads for k in range(threads)]
        assert len({tuple(psutil.Process(c.pid).cpu_affinity()) for c in state.children}) == threads
        # when memory runs out, they are to go, and not the process that can tell of it
        assert {Path(f"/proc/{c.pid}/oom_score_adj").read_text() for c in state.children} == {"1000\n"}


def test_a_child_that_the_kernel_kills_once_it_has_its_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(exits, "_wait_until_ready", lambda child: (child.kill(), child.wait()))
    with state_of("exit") as state, pytest.raises(CheckError, match=r"until its exit: it was killed .*"):
        state.before()


def test_a_child_that_was_killed_before_its_time_is_no_measurement():
    with state_of("exit", threads=1) as state:
        state.before()
        state.children[0].send_signal(signal.SIGTERM)
        run(state)
        with pytest.raises(CheckError, match="had ended before it was told to: it was ended by SIGTERM"):
            state.check()


def test_a_child_that_the_kernel_kills_as_it_fills_its_memory_is_an_error(monkeypatch, tmp_path):
    program = tmp_path / "child.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(exits, "_PROGRAM", program)
    with state_of("exit") as state, pytest.raises(CheckError, match=r"killed .* when memory runs out"):
        state.before()


def test_a_child_that_cannot_have_its_memory_says_why(monkeypatch):
    monkeypatch.setattr(memory, "hugetlb_flags", lambda _: 0x40000 | 21 << 26)  # more than any pool has
    with state_of("exit") as state, pytest.raises(CheckError, match="Cannot allocate memory"):
        state.size = 1 << 28
        state.before()


def test_a_process_that_cannot_be_started_is_an_error(monkeypatch):
    def refused(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(exits.subprocess, "Popen", refused)
    with state_of("exit") as state, pytest.raises(CheckError, match="a child did not start: Resource temp"):
        state.before()


def test_children_end_with_the_process_that_started_them():
    state = state_of("exit").thing
    state.before()
    children = [psutil.Process(child.pid) for child in state.children]
    for child in state.children:
        child.stdin.close()  # as the kernel does for a process that was killed
    assert not psutil.wait_procs(children, timeout=10)[1]
    state.close()


def test_closing_leaves_no_child():
    with state_of("exit") as state:
        state.before()
        pids = [child.pid for child in state.children]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
