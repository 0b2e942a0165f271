"""Start: each of its steps is checked, and a step that fails does not leave the others waiting."""

import contextlib
import errno
from dataclasses import replace

import pytest
from test_workloads import set_up

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, start


def started(method, pin="mlock", threads=2):
    case = Case("start", method, "4KiB", 2 * MIB, 64 * KIB, options=(("pin", pin),))
    state = set_up(case)
    state.ctl = replace(state.ctl, max_threads=threads)
    state.before()
    return state


@pytest.mark.parametrize("method", ["fused", "stages"])
@pytest.mark.parametrize("pin", ["io_uring", "mlock"])
def test_a_step_that_was_left_out_is_found(method, pin):
    with contextlib.closing(started(method, pin)) as state:
        assert engine.run(0, state.size, state.ctl).error == 0
        state.check()
        state.region.one_word_per_page()[7] = 0
        with pytest.raises(CheckError, match="1 pages of 4 KiB are not filled"):
            state.check()
        state.region.one_word_per_page()[7] = state.region.one_word_per_page()[8]
        if pin == "io_uring":
            state.rings.empty()
        else:
            memory.unlock(state.region.address, memory.BASE_PAGE)
        with pytest.raises(CheckError, match="bytes are pinned after the start"):
            state.check()


def test_pages_that_are_there_before_the_start_are_an_error(monkeypatch):
    with contextlib.closing(started("fused")) as state:
        state.region.populate()
        monkeypatch.setattr(start.Fused, "_zap", lambda self: None)
        with pytest.raises(CheckError, match="512 pages of 4 KiB were there before the start"):
            state.before()


def test_who_waits_for_a_stage_learns_that_a_step_has_failed():
    with contextlib.closing(started("stages")) as state:
        state.region.unmap()
        assert engine.run(0, state.size, state.ctl).error == errno.ENOMEM


def test_a_later_stage_ends_at_once_if_an_earlier_one_failed():
    with contextlib.closing(started("stages")) as state:
        state._told[1] = 1
        assert start.start_in_stages(state.size - 1, state.size, *state.ctl.args) == errno.ECANCELED


def test_hugetlb_pages_cannot_be_locked():
    case = Case("start", "fused", "2MiB", 2 * MIB, options=(("pin", "mlock"),))
    assert workloads.why_not(case) == "mlock passes over hugetlb pages; use pin=io_uring"
