"""Page out: what stays in memory, and what a machine lacks for it."""

import contextlib
import errno
import os

import pytest
from test_workloads import open_files, set_up

from ktask import workloads
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, pageout


@pytest.fixture
def probed_anew():
    pageout.no_file.cache_clear()
    yield
    pageout.no_file.cache_clear()


def test_a_page_that_came_back_is_found():
    case = Case("pageout", "pageout_file", "4KiB", MIB)
    with contextlib.closing(set_up(case)) as state:
        state.before()
        state.region.advise(pageout.MADV_PAGEOUT)
        state.check()
        assert state.region.words[5 * memory.BASE_PAGE // 8] == 0  # which reads it in again
        with pytest.raises(CheckError, match="pages of 4 KiB are still in memory"):
            state.check()


def test_a_page_that_is_used_again_is_found():
    with contextlib.closing(set_up(Case("pageout", "cold", "4KiB", MIB))) as state:
        state.before()
        state.region.advise(pageout.MADV_COLD)
        state.check()
        assert state.region.words[5 * memory.BASE_PAGE // 8] == 0
        with pytest.raises(CheckError, match=f"{4 * KIB} of {MIB} bytes still count as used"):
            state.check()


def test_pages_that_were_not_there_before_are_an_error(monkeypatch):
    with contextlib.closing(set_up(Case("pageout", "pageout_file", "4KiB", MIB))) as state:
        monkeypatch.setattr(memory, "drain_lru_batches", lambda: state.region.advise(pageout.MADV_PAGEOUT))
        with pytest.raises(CheckError, match="pages of 4 KiB were missing before"):
            state.before()


def test_a_folder_whose_files_stay_in_memory_is_a_reason(monkeypatch, probed_anew):
    files = open_files()
    monkeypatch.setattr(pageout.memory.Region, "resident", lambda region: memory.np.ones(1, bool))
    reason = workloads.why_not(Case("pageout", "pageout_file", "4KiB", MIB))
    assert reason.endswith("stay in memory; set TMPDIR to a folder on a disk")
    assert open_files() == files


def test_a_folder_without_room_is_a_reason(monkeypatch, probed_anew):
    def refuse():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(pageout.tempfile, "TemporaryFile", refuse)
    reason = workloads.why_not(Case("pageout", "cold_file", "4KiB", MIB))
    assert reason.startswith("a file in ") and reason.endswith(" is refused: Read-only file system")


@pytest.mark.parametrize(
    ("swap", "words"),
    [({}, "there is no swap"), ({"SwapTotal": MIB, "SwapFree": 4 * KIB}, "swap has 0.00 MiB left")],
)
def test_without_enough_swap_anonymous_memory_stays(monkeypatch, swap, words):
    monkeypatch.setattr(pageout.available_memory, "meminfo", lambda *_: swap)
    assert workloads.why_not(Case("pageout", "pageout", "4KiB", MIB)).startswith(words)
