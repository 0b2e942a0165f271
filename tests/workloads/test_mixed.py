"""Mixed: the two halves meet in one address space, and each of them is counted."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from test_workloads import set_up

from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, mixed


def case_of(work, beside):
    return Case("mixed", work, "4KiB", MIB, 64 * KIB, options=(("beside", beside),))


@pytest.mark.parametrize("beside", mixed.WORKS)
@pytest.mark.parametrize("work", ["populate", "fork"])
def test_alone_and_beside_each_other_work(work, beside):
    with contextlib.closing(set_up(case_of(work, beside))) as state:
        for threads in (1, 2):
            state.ctl = replace(state.ctl, max_threads=threads)
            state.before()
            assert engine.run(0, state.size, state.ctl).error == 0
            state.check()
            assert state._table[2] == state.n_operations


def test_the_other_thread_works_until_what_is_timed_is_over():
    with contextlib.closing(set_up(case_of("populate", "map"))) as state:
        state.ctl = replace(state.ctl, max_threads=2)
        state.before()
        result = engine.run(0, state.size, state.ctl)
        state.check()
        if result.threads == 2:  # else another process has all helpers at the moment
            assert state._table[3] > 0


def test_another_thread_that_did_nothing_is_an_error():
    with contextlib.closing(set_up(case_of("populate", "map"))) as state:
        state.ctl = replace(state.ctl, max_threads=1)
        state.before()
        engine.run(0, state.size, state.ctl)
        state.check()
        state._table[1] += 1  # as if a second thread had been there
        with pytest.raises(CheckError, match="the other thread did not get to map beside"):
            state.check()


def test_an_operation_too_few_is_an_error():
    with contextlib.closing(set_up(case_of("fork", "map"))) as state:
        state.ctl = replace(state.ctl, max_threads=1)
        state.before()
        engine.run(0, state.size, state.ctl)
        state._table[2] -= 1
        with pytest.raises(CheckError, match="15 of 16 operations were done"):
            state.check()


@pytest.mark.parametrize(("moving", "wanted"), [(1, True), (9, False)])
def test_pages_that_the_kernel_is_moving_are_looked_at_again(monkeypatch, moving, wanted):
    """Compaction moves pages at any moment; what stays away was swapped out."""
    entries = [np.uint64(1 << 62)] * moving
    monkeypatch.setattr(
        memory, "pagemap", lambda *_: np.array([entries.pop() if entries else 1 << 63], np.uint64)
    )
    with memory.Region(memory.BASE_PAGE) as region:
        assert region.present().tolist() == [wanted]
