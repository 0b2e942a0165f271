"""Tasks that lose time in a known way: the speedup stack has to put it there.

Each has two threads, which is what the smallest machine has. On some machines others use the CPUs meanwhile,
so a few tries are made, and where none of them is quiet nothing is judged.
"""

import known
import pytest

from ktask.engine.placement import placed
from ktask.host import perf
from ktask.host.topology import cpu_count
from ktask.lab.evidence.case import Evidence, gather
from ktask.lab.evidence.functions import USER
from ktask.lab.measure.rounds import repeat
from ktask.workloads import protect

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timing,
    pytest.mark.skipif(perf.why_not() is not None, reason=perf.why_not() or ""),
    pytest.mark.skipif(cpu_count() < 2, reason="there is one CPU"),
]
ENOUGH, TRIES = 0.8, 5
OF_OTHERS = ("waiting for a CPU", "steal")


def seen_of(state: known.Known, is_right) -> Evidence:
    """Return what two threads show; the first of some quiet tries that `is_right`, or the last of them."""
    with placed():
        repeat(state, 2, "dynamic")
        quiet = []
        for _ in range(TRIES):
            seen = gather(state, 2, "dynamic")
            if known.is_quiet(seen):
                quiet.append(seen)
                if is_right(seen.stack):
                    return seen
    if not quiet:
        pytest.skip("others used the CPUs in every try")
    return quiet[-1]


def share_of_lost(stack: dict[str, float], part: str) -> float:
    """Return the share of a part in what is lost, apart from what others took."""
    return stack.get(part, 0.0) / (1 - stack["ideal"] - sum(stack[name] for name in OF_OTHERS))


def judge(state: known.Known, part: str) -> Evidence:
    """Expect most of what two threads lose in this part."""
    seen = seen_of(state, lambda stack: share_of_lost(stack, part) >= ENOUGH)
    assert share_of_lost(seen.stack, part) >= ENOUGH, seen.stack
    return seen


def test_spinning_for_a_semaphore():
    """All work is under one lock, so one of the two threads waits for it at any time, be it awake or asleep.

    What else is lost is that the work takes longer: each change interrupts the other CPU.
    """

    def waited(stack):
        both = stack.get("spinning", 0.0) + stack["waiting"]
        return both / (0.5 * (1 - stack["imbalance"] - sum(stack[name] for name in OF_OTHERS)))

    with known.pages(160 << 20) as base:
        state = known.Known(known.change_protection, base, 4096, size=12)
        seen = seen_of(state, lambda stack: abs(waited(stack) - 1) < 1 - ENOUGH)
    assert waited(seen.stack) == pytest.approx(1, abs=1 - ENOUGH), seen.stack
    assert ("mmap_lock", "do_mprotect_pkey") in {(one["lock"], one["site"]) for one in seen.locks}


def test_spinning_for_a_spinlock():
    room = known.words().ctypes
    with known.pages() as base, known.two_files("/proc/self/pagemap") as files:
        seen = judge(known.Known(known.read_one_table, base, files, room.data, 10, size=40), "spinning")
    if seen.sees_locks:
        assert "page-table lock" in {one["lock"] for one in seen.locks}


@pytest.mark.parametrize("outside", [0, 250_000])
def test_sleeping_for_a_lock(outside):
    """Inside of the lock for H, outside for U: a thread waits for H - U out of 2 H."""
    inside, word = 1_000_000, known.words()
    state = known.Known(known.work_under_a_futex, word.ctypes.data, inside, outside, size=24)
    wanted = (inside - outside) / (2 * inside)
    seen = seen_of(state, lambda stack: abs(stack["waiting"] / wanted - 1) < 1 - ENOUGH)
    assert seen.stack["waiting"] == pytest.approx(wanted, rel=1 - ENOUGH), seen.stack
    assert share_of_lost(seen.stack, "waiting") >= ENOUGH, seen.stack


def test_spinning_in_user_space_is_neither_memory_nor_a_lock_of_the_kernel():
    word = known.words()
    state = known.Known(known.work_under_an_own_spinlock, word.ctypes.data, 200_000, size=16)
    seen = judge(state, USER)
    assert seen.stack.get("memory", 0.0) + seen.stack.get("spinning", 0.0) < 0.02


@pytest.mark.parametrize("times", [3, 5])
def test_imbalance(times):
    """One chunk takes `times` as long as the other: the thread of the other is idle for the difference."""
    wanted = (times - 1) / (2 * times)
    state = known.Known(known.unequal, known.STEP_CYCLES, times, size=2)
    seen = seen_of(state, lambda stack: abs(stack["imbalance"] / wanted - 1) < 1 - ENOUGH)
    assert seen.stack["imbalance"] == pytest.approx(wanted, rel=1 - ENOUGH), seen.stack
    assert share_of_lost(seen.stack, "imbalance") >= ENOUGH, seen.stack


def test_memory_that_is_slower():
    """Both clear the same 64 KiB: that takes longer, as its cache lines are with the other CPU."""
    buffer = known.words(64 << 10)
    with known.two_files("/dev/zero") as files:
        judge(known.Known(known.clear_one_buffer, files, buffer.ctypes.data, 64 << 10, 12, size=40), "memory")


@pytest.mark.skipif(protect.no_userfaultfd() is not None, reason=protect.no_userfaultfd() or "")
def test_tlb_shootdowns():
    with known.pages() as base, known.write_protectable(base) as fd:
        judge(known.Known(known.protect_page_after_page, base, fd, 20, size=40), "page tables and TLB")
