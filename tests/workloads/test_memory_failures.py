"""Memory that is not there: refused with the numbers, or the failure of one case; nothing is left."""

import contextlib
import errno
import os
import re
import resource
import signal
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_python

from ktask import workloads
from ktask.cli import app as cli
from ktask.engine import placement as helpers
from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.host import available_memory
from ktask.lab.measure.cell import measure_case
from ktask.lab.sweep import cells
from ktask.memory import region as memory
from ktask.memory.calls import advise_pages
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError
from ktask.workloads.free import free

FREE = Case("free", "dontneed", "4KiB", 8 * MIB, 64 * KIB)


@pytest.fixture
def memory_group():
    """Return a function that limits a child's memory by a control group of version 1 or 2, as root can."""
    made = []

    def limit_to(limit_bytes):
        for root, file in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
            group = Path("/sys/fs/cgroup") / root / f"ktask-test-{uuid.uuid4().hex[:8]}"
            with contextlib.suppress(OSError):
                group.mkdir()
                made.append(group)
                (group / file).write_text(str(limit_bytes))
                return lambda: (group / "cgroup.procs").write_text("0")
        pytest.skip("a control group of memory cannot be made here")

    yield limit_to
    for group in made:
        group.rmdir()


# --- refused before it is touched ---------------------------------------------------------------------------


def test_a_control_group_counts_into_the_budget(memory_group):
    code = (
        "import sys; from ktask.cli.app import main; sys.argv[1:] = 'run free --size 400MiB'.split(); main()"
    )
    done = run_python(code, preexec_fn=memory_group(500 * MIB))
    assert done.returncode == 2
    assert done.stdout == ""
    found = re.fullmatch(
        r"ktask: free dontneed needs 0\.39 GiB, but the budget is (0\.[0-9]+) GiB .*\n", done.stderr
    )
    assert float(found[1]) <= 0.25


def test_a_pool_that_is_too_small_is_refused_with_the_numbers(typed, monkeypatch):
    pools = {2 * MIB: {"total": 9, "free": 6, "reserved": 2}}
    monkeypatch.setattr(available_memory, "hugetlb_pools", lambda: pools)
    code, _, err = typed("run", "free", "--page-size", "2MiB", "--size", "10MiB", "--passes", "1")
    assert code == 2
    words = "free dontneed needs 5 pages of 2MiB, but the pool has 4 of its 9 left; use a smaller size"
    assert words in err
    memory.require_pool(8 * MIB, "2MiB", "this")


@pytest.mark.parametrize("pools", [{}, {2 * MIB: {"total": 0, "free": 0, "reserved": 0}}])
def test_a_pool_that_is_not_there_is_a_reason_and_no_matter_of_size(monkeypatch, pools):
    monkeypatch.setattr(available_memory, "hugetlb_pools", lambda: pools)
    case = Case("free", "dontneed", "2MiB", 1 << 50)
    with pytest.raises(memory.UnavailableError, match="no pool of 2MiB"):
        measure_case(case, [1])


def test_a_limit_on_address_space_is_a_reason():
    limit = 4 << 30
    done = run_python(
        """
        from ktask.memory import region as memory
        from ktask.host import available_memory
        from ktask.lab.measure.cell import measure_case
        from ktask.workloads import Case
        available_memory.available_memory_bytes = lambda *_: 1 << 50
        try:
            measure_case(Case("free", "dontneed", "4KiB", 8 << 30), [1])
        except memory.UnavailableError as error:
            print(error)
        """,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert "Cannot allocate memory" in done.stdout


# --- gone in the middle -------------------------------------------------------------------------------------


def test_out_of_memory_in_a_child_is_an_error_of_the_case_and_the_process_lives(memory_group):
    done = run_python(
        """
        from dataclasses import replace
        from ktask.memory import region as memory
        from ktask import workloads
        from ktask.workloads import Case
        memory.budget_bytes = lambda: 1 << 50
        state = workloads.get("free").setup(Case("free", "exit", "4KiB", 600 << 20))
        state.ctl = replace(state.ctl, max_threads=1)
        try:
            state.before()
        except workloads.CheckError as error:
            print(error)
        pids = [child.pid for child in state.children]
        state.close()
        import os
        print(any(os.path.exists(f"/proc/{pid}") for pid in pids))
        """,
        preexec_fn=memory_group(500 * MIB),
    )
    assert done.stdout.splitlines() == [
        "a child did not come to hold its memory: "
        "it was killed (SIGKILL), as the kernel does when memory runs out",
        "False",
    ], done.stderr


@pytest.mark.parametrize("page_kind", ["4KiB", "2MiB"])
def test_a_bus_error_in_the_middle_is_an_error_code_and_nobody_dies(page_kind):
    """As when a hugetlb pool runs dry under a mapping that reserved nothing, without taking a pool away."""
    page = memory.PAGE_KINDS[page_kind]
    if reason := memory.why_not(page_kind, 4 * page):
        pytest.skip(reason)
    free_pages = memory.free_pool_pages(page_kind)
    with memory.Files(4 * page, page_kind) as files:
        fd = int(files.fds[0])
        address = memory._libc.mmap(None, 4 * page, 3, memory._MAP_SHARED, fd, 0)
        os.ftruncate(fd, 2 * page)
        try:
            result = engine.run(
                0, 4, Ctl(advise_pages, (address, page, memory.MADV_POPULATE_WRITE), 1, max_threads=2)
            )
        finally:
            memory._libc.munmap(address, 4 * page)
    assert os.strerror(result.error) == "Bad address"
    assert result.done < 4
    workloads.expect_pool_pages(page_kind, free_pages)


def test_a_range_that_cannot_be_filled_is_no_measurement():
    with contextlib.closing(workloads.get("free").setup(FREE)) as state:
        state.before()  # what the first run maps must not come to lie in the hole
        memory._libc.munmap(state.region.address + 4 * MIB, 2 * MIB)
        with pytest.raises(CheckError, match="populating the range failed: Cannot allocate memory"):
            state.before()


def test_an_error_of_the_kernel_ends_a_case_with_its_name_and_leaves_nothing(monkeypatch):
    state = workloads.get("free").setup(FREE)
    args = state.region.address + 1, *state.ctl.args[1:]  # not on a page: EINVAL
    state.ctl = replace(state.ctl, args=args)
    monkeypatch.setitem(free.STATES, "dontneed", lambda _: state)
    with pytest.raises(CheckError, match="free dontneed failed: Invalid argument"):
        measure_case(FREE, [1])
    assert not memory.is_mapped(state.region.address)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.EFBIG, errno.EAGAIN, None])
def test_what_the_kernel_refuses_is_a_failure_of_the_case_with_the_next_step(code, typed, monkeypatch):
    """As when another process takes the pool: no bad input (exit 2), no full disk, which ends a sweep."""

    def refuse(*_):
        raise OSError(code, os.strerror(code)) if code else MemoryError

    monkeypatch.setattr(memory.Files, "allocate", refuse)
    exit_code, _, said = typed("run", "truncate", "--size", "1MiB", "--passes", "1")
    assert exit_code == 1
    name = os.strerror(code or errno.ENOMEM)
    assert re.search(rf"not done as it should: truncate punch_hole failed: {name}; \w.*: \w", said)
    assert said.count("\n") == 1
    assert not cells._FULL.search(said)


def test_a_pool_that_another_process_took_meanwhile_is_told_with_the_numbers(monkeypatch):
    pools = {2 * MIB: {"total": 9, "free": 2, "reserved": 0}}
    region = memory.Region.__new__(memory.Region)
    region.page_kind, region.shared, region.address, region.size_bytes = "2MiB", False, 0, 1 << 50
    monkeypatch.setattr(available_memory, "hugetlb_pools", lambda: pools)
    with pytest.raises(memory.UnavailableError, match="needs 536870912 pages of 2MiB, the pool has 2 free"):
        region.map()


def test_helpers_that_cannot_be_started_are_an_error_and_not_the_end_of_the_process(monkeypatch):
    """libgomp ends the process when a thread does not start, as under `ulimit -u`."""
    before, start, started = threading.active_count(), threading.Thread.start, []

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(helpers._local, "n_helpers", 1)
    monkeypatch.setattr(threading.Thread, "start", start_two)
    helpers.require_threads(1)
    with pytest.raises(OSError, match="9 helper threads cannot be started") as refused:
        helpers.require_threads(9)
    assert refused.value.errno == errno.EAGAIN
    assert len(started) == 2
    assert threading.active_count() == before
    monkeypatch.undo()
    helpers.require_threads(2)


def test_memory_that_runs_out_on_the_way_is_one_line(typed, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(cli, "app", refuse)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    code, _, err = typed()
    assert code == 1
    assert re.fullmatch(r"ktask: memory has run out; raise .*`ulimit -v`.*\n", err)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"  # else a thread that does not start looks like Ctrl-C


# --- the place of what was unmapped -------------------------------------------------------------------------


def test_what_is_mapped_in_the_place_of_an_unmapped_region_is_noticed_and_left_alone():
    region = memory.Region(2 * MIB)
    region.unmap()
    assert region.hold()
    assert not region.hold()
    region.unmap()
    region.map()
    assert not region.hold()
    region.unmap()


def test_the_place_of_an_unmapped_range_is_held_until_it_is_mapped_anew():
    case = Case("free", "munmap", "4KiB", 8 * MIB, 64 * KIB)
    with contextlib.closing(workloads.get("free").setup(case)) as state:
        state.before()
        engine.run(0, state.size, state.ctl)
        state.check()
        with pytest.raises(memory.UnavailableError):
            memory._anonymous(4096, 3, memory._MAP_FIXED_NOREPLACE, state.region.address + 4 * MIB)
        state.before()


@pytest.mark.parametrize("page_kind", ["4KiB", "2MiB"])
@pytest.mark.parametrize("method", ["munmap", "munmap_at_once"])
def test_what_the_process_maps_next_takes_no_place_of_an_unmapped_range(method, page_kind):
    """It was taken for a range that is still mapped, and unmapped under whoever used it: SIGSEGV."""
    case = Case("free", method, page_kind, 8 * MIB, 64 * KIB)
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    with contextlib.closing(workloads.get("free").setup(case)) as state:
        state.before()
        assert engine.run(0, state.size, state.ctl).error == 0
        others = [memory.Region(size) for size in (8 * MIB, 2 * MIB, 256 * KIB)]
        state.check()
        for other in others:
            other.unmap()


@pytest.fixture
def storm():
    """A signal every 0.3 ms to this process, and how many of them Python has handled."""
    seen, before = [], signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 3e-4, 3e-4)
    yield seen
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    ("workload", "method", "page_kind", "size"),
    [
        ("zeroing", "populate", "4KiB", 16 * MIB),
        ("zeroing", "fallocate", "2MiB", 64 * MIB),
        ("free", "dontneed", "4KiB", 16 * MIB),
        ("page_walk", "pagemap_scan", "4KiB", 2048 * MIB),
        ("page_walk", "pagemap", "4KiB", 1024 * MIB),
        ("page_walk", "smaps", "4KiB", 256 * MIB),
        ("truncate", "punch_hole", "4KiB", 16 * MIB),
    ],
)
def test_calls_that_signals_interrupt_are_made_again(workload, method, page_kind, size, storm):
    case = Case(workload, method, page_kind, size)
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    state = workloads.get(workload).setup(case)
    try:
        for _ in range(3):
            state.before()
            assert engine.run(0, state.size, state.ctl).error == 0
            state.check()
    finally:
        state.close()
    assert storm
