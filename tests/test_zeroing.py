"""Zeroing: each kind of store, shared memory, and the node that memory lies on."""

import numpy as np
import pytest
from test_workloads import set_up

from ktask import engine, memory, native, topology, workloads
from ktask.memory import MIB
from ktask.workloads import Case, CheckError, zeroing


@pytest.mark.parametrize("kind", range(len(zeroing.STORES)), ids=zeroing.STORES)
def test_every_kind_of_store_zeroes_exactly_its_range(kind):
    buffer = np.full(4096 + 8, 7, dtype=np.uint64)
    start = -(-buffer.ctypes.data // 64) * 64
    first = (start - buffer.ctypes.data) // 8
    zeroing._zero(start + 64, start + 64 * 9, kind)
    assert not buffer[first + 8 : first + 72].any()
    assert (buffer[: first + 8] == 7).all()
    assert (buffer[first + 72 :] == 7).all()


@pytest.mark.parametrize("kind", ["4KiB", "2MiB"])
def test_shared_memory_is_populated_and_given_back(kind):
    state = set_up(Case("zeroing", "populate", kind, 8 * MIB, 2 * MIB, options=(("sharing", "shared"),)))
    for _ in range(2):
        state.before()
        assert not state.region.present().any()
        engine.run(0, state.size, state.ctl)
        state.check()
    at, end = state.region.address, state.region.address + state.region.size_bytes
    assert memory.protections(at, end) == ["rw-s"]
    state.close()


def test_shared_huge_pages_that_are_off_are_a_reason(monkeypatch, tmp_path):
    case = Case("zeroing", "populate", "THP", 2 * MIB, options=(("sharing", "shared"),))
    for text, words in [("always [never] deny", "is never"), ("", "is absent")]:
        monkeypatch.setattr(topology, "read_text", lambda _, text=text: text)
        assert words in memory.why_not("THP", 2 * MIB, shared=True)
    monkeypatch.setattr(topology, "read_text", lambda _: "[always] never")
    assert memory.why_not("THP", 2 * MIB, shared=True) is None
    monkeypatch.undo()
    assert workloads.why_not(case) == memory.why_not("THP", 2 * MIB, shared=True)


def test_memory_is_placed_on_the_node_asked_for_and_looked_for_there():
    nid = min(topology.node_cpus(), default=0)
    state = set_up(Case("zeroing", "populate", "4KiB", 4 * MIB, options=(("node", str(nid)),)))
    state.before()
    engine.run(0, state.size, state.ctl)
    state.check()
    assert state.region.nodes().tolist() == [nid, nid]
    state.nid = nid + 1
    with pytest.raises(CheckError, match=rf"lies on nodes \[{nid}\], not on {nid + 1} alone"):
        state.check()
    state.close()


def test_a_node_that_is_not_there_is_a_reason(monkeypatch):
    case = Case("zeroing", "populate", "4KiB", MIB, options=(("node", "3"),))
    monkeypatch.setattr(topology, "node_cpus", lambda: {0: (0,), 1: (1,)})
    assert workloads.why_not(case) == "this machine has no node 3; it has [0, 1]"
    monkeypatch.setattr(topology, "node_cpus", lambda: {3: (0,)})
    assert workloads.why_not(case) is None


def test_a_machine_without_rep_stosb_is_a_reason(monkeypatch):
    monkeypatch.setattr(native, "HAS_REP_STOSB", False)
    reason = workloads.why_not(Case("zeroing", "rep_stosb", "4KiB", MIB))
    assert reason.startswith("rep stosb is an instruction of x86-64; this is ")
