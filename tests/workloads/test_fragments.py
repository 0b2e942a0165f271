"""Fragmented memory, a few blocks of it: what is broken and kept, and what becomes of a case without it."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_workloads import set_up

from ktask import workloads
from ktask.engine import run as engine
from ktask.host.kernel_files import status_bytes
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, fragmenting_child, fragments

OPTIONS = (("memory", "fragmented"), ("pin", "mlock"))
CASE = Case("start", "fused", "THP", 4 * MIB, 2 * MIB, options=OPTIONS)


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    """No test breaks more: others run beside it."""
    if reason := fragments.no_fragments():
        pytest.skip(reason)
    monkeypatch.setattr(fragments, "MOST_BLOCKS", 4)


@pytest.fixture
def started(few_blocks):
    state = set_up(CASE)
    with contextlib.closing(state):
        state.ctl = replace(state.ctl, max_threads=1)
        state.before()
        assert engine.run(0, state.size, state.ctl).error == 0
        yield state


def test_each_broken_block_keeps_its_first_page_and_no_other():
    pins = fragmenting_child.Pins()
    try:
        assert pins.break_blocks(4) >= 4
        (mapping,) = pins.kept
        address = fragmenting_child.ctypes.addressof(fragmenting_child.ctypes.c_char.from_buffer(mapping))
        entries = memory.pagemap(address, len(mapping))
        there = np.flatnonzero(entries >> np.uint64(63))
        assert there.size == 4 and set(np.diff(there)) == {512}
        if (frames := entries[there] & np.uint64((1 << 55) - 1)).any():  # which root may see
            assert set(frames % np.uint64(512)) == {0}
            assert np.unique(frames).size == 4
    finally:
        os.close(pins.ring)


def test_all_orders_add_up_and_only_pages_are_kept():
    kept = fragments.Fragments()
    with contextlib.closing(kept):
        for blocks in (4, 8):
            kept.renew()
            assert status_bytes("VmPin", kept.process.pid) == blocks * 4 * KIB
        assert status_bytes("AnonHugePages", kept.process.pid, "smaps_rollup") == 0
        assert status_bytes("RssAnon", kept.process.pid) < 16 * MIB
    assert kept.process.returncode is not None


def test_what_came_as_huge_pages_is_a_share_and_no_error(started, monkeypatch):
    started.check()
    assert started.huge_share == 1.0  # a few blocks make no difference
    monkeypatch.setattr(memory.Region, "huge_bytes", lambda self: self.size_bytes // 4)
    started.check()
    assert started.huge_share == 0.25
    started.fragments, kept = None, started.fragments
    with pytest.raises(CheckError, match="only 1048576 of 4194304 bytes are mapped by huge pages"):
        started.check()
    started.fragments = kept


def test_a_case_whose_memory_did_not_stay_fragmented_is_no_measurement(started):
    started.fragments.process.kill()
    started.fragments.process.wait()
    message = "memory did not stay fragmented until the end: it was killed"
    for step in (started.check, started.before):
        with pytest.raises(CheckError, match=message):
            step()


def test_blocks_that_never_end_are_an_error(monkeypatch):
    monkeypatch.setattr(fragments, "LIMIT_S", 0)
    with (
        contextlib.closing(fragments.Fragments()) as kept,
        pytest.raises(CheckError, match="use a quiet time"),
    ):
        kept.renew()


def test_a_page_that_may_not_be_pinned_is_an_error(monkeypatch, tmp_path):
    program = tmp_path / "child.py"
    program.write_text("import os, sys; os.read(0, 1); sys.exit('a page could not be pinned: Not today')")
    monkeypatch.setattr(fragmenting_child, "__file__", str(program))
    with contextlib.closing(fragments.Fragments()) as kept, pytest.raises(CheckError, match="Not today"):
        kept.renew()


def test_it_ends_with_whoever_started_it_also_at_work():
    command = [sys.executable, "-I", "-S", fragmenting_child.__file__, "4", "60"]
    done = subprocess.run(command, input=b"f", capture_output=True, timeout=20, check=True)
    assert done.stdout == b""


def test_hugetlb_pages_and_large_machines_are_refused(monkeypatch):
    assert "come from their pool" in workloads.why_not(replace(CASE, page_kind="2MiB"))
    fragments.no_fragments.cache_clear()
    reason = fragments.no_fragments()
    fragments.no_fragments.cache_clear()
    assert reason.startswith("memory=fragmented is for up to 0 GiB of available memory; here are ")
