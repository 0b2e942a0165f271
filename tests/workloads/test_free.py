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
from ktask.engine import placement
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, children, populated, populated_child
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


@pytest.mark.parametrize("page_kind", ["4KiB", "THP"])
def test_looking_for_marked_pages_brings_none_that_are_gone(page_kind):
    with state_of("lazyfree", page_kind) as state:
        state.before()
        run(state)
        state.region.zap()
        assert state.region.lazy_free_bytes() == 0
        assert not state.region.present().any()


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
        assert state.rows[:, 0].tolist() == [state.size * (k + 1) // threads for k in range(threads)]
        assert len({tuple(psutil.Process(c.pid).cpu_affinity()) for c in state.children}) == threads
        # when memory runs out, they are to go, and not the process that can tell of it
        assert {Path(f"/proc/{c.pid}/oom_score_adj").read_text() for c in state.children} == {"1000\n"}


def test_a_child_that_the_kernel_kills_once_it_has_its_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(exits, "wait_until_ready", lambda child: (child.kill(), child.wait()))
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
    monkeypatch.setattr(children.populated_child, "__file__", str(program))
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

    monkeypatch.setattr(children.subprocess, "Popen", refused)
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


# --- who filled the memory --------------------------------------------------------------------------------


def filled_on(monkeypatch, fill, method="dontneed"):
    """Return the CPUs on which a range was filled, and the last one that its preparation was moved to."""
    seen, moved_to, populate, move = [], [], populated.Mapped._populate, os.sched_setaffinity

    def note(state, threads):
        populate(state, threads)
        seen.append((threads, tuple(sorted(os.sched_getaffinity(0)))))

    def note_move(tid, cpus):
        moved_to.append(tuple(cpus))
        move(tid, cpus)

    monkeypatch.setattr(populated.Mapped, "_populate", note)
    monkeypatch.setattr(os, "sched_setaffinity", note_move)
    case = Case("free", method, "4KiB", 8 * MIB, 64 * KIB, options=(("fill", fill),))
    with contextlib.closing(workloads.get("free").setup(case)) as state:
        state.before()
        return seen, next(cpus[0] for cpus in reversed(moved_to) if len(cpus) == 1)


@pytest.fixture
def one_node(monkeypatch):
    """Have the caller count as on the first node, wherever the scheduler moves it meanwhile."""
    monkeypatch.setattr(placement, "_nid_here", lambda topo: topo.nodes[0].nid)


@pytest.mark.cpus(2)
@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("method", ["dontneed", "munmap"])
@pytest.mark.parametrize("fill", ["one", "each", "other"])
def test_the_memory_is_filled_by_whom_the_case_says_and_the_caller_ends_on_its_cpu(fill, method, monkeypatch):
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    order = placement.cpus_in_order()
    wanted = {"one": (1, order[:1]), "each": (len(cpus), cpus), "other": (1, order[1:2])}
    assert filled_on(monkeypatch, fill, method) == ([wanted[fill]], order[0])
    assert tuple(sorted(os.sched_getaffinity(0))) == cpus


def test_the_serial_call_starts_from_what_threads_start_from(monkeypatch):
    """By default one thread fills, whoever frees."""
    by = []
    monkeypatch.setattr(populated.Mapped, "_populate", lambda _, threads: by.append(threads))
    for threads in (1, 2):
        with state_of("dontneed", threads=threads) as state, pytest.raises(CheckError, match="were missing"):
            state.before()
    assert by == [1, 1]


@pytest.mark.cpus(2)
@pytest.mark.usefixtures("one_node")
@pytest.mark.parametrize("fill", ["one", "each", "other"])
def test_a_child_exits_on_its_cpu_wherever_it_has_filled_its_memory(fill):
    case = Case("free", "exit", "4KiB", 8 * MIB, 64 * KIB, options=(("fill", fill),))
    with contextlib.closing(workloads.get("free").setup(case)) as state:
        cpus = state.cpus
        assert cpus == list(placement.cpus_in_order())
        wanted = {"one": [cpus[0]], "each": cpus, "other": [cpus[1]]}
        assert state._fill_cpus(cpus[0]) == wanted[fill]
        state.ctl = replace(state.ctl, max_threads=1)
        state.before()
        assert psutil.Process(state.children[0].pid).cpu_affinity() == [cpus[0]]
        run(state)
        state.check()


def test_each_cpu_fills_its_part_of_a_child(monkeypatch):
    calls = []
    monkeypatch.setattr(populated_child.os, "sched_setaffinity", lambda _, cpus: calls.append(cpus))
    monkeypatch.setattr(populated_child, "populate", lambda _, start, size_bytes: calls.append(size_bytes))
    populated_child.populated(9 * MIB, 0, 0, 1, [0, 1]).close()
    assert calls == [{0}, 4 * MIB, {1}, 5 * MIB]


def test_another_cpu_is_needed_to_fill_on_another(monkeypatch):
    monkeypatch.setattr(populated.topology, "allowed_cpus", lambda: (3,))
    case = Case("free", "dontneed", "4KiB", 8 * MIB, options=(("fill", "other"),))
    assert workloads.why_not(case) == "fill=other needs a second CPU, and this process may use one"
    assert workloads.why_not(replace(case, options=())) is None


def test_every_page_is_looked_at_once_and_then_a_64th(monkeypatch):
    looked, present = [], memory.Region.present

    def note(region, *part):
        looked.append(part[1] if part else region.size_bytes)
        return present(region, *part)

    monkeypatch.setattr(memory.Region, "present", note)
    with state_of("dontneed") as state:
        for _ in range(3):
            state.before()
            run(state)
            state.check()
    assert looked == [8 * MIB, 8 * MIB, 128 * KIB, 8 * MIB, 128 * KIB, 8 * MIB]
