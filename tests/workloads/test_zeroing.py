"""Zeroing: each kind of store, shared memory, and the node that memory lies on."""

import numpy as np
import pytest
from test_workloads import set_up

from ktask import workloads
from ktask.engine import native
from ktask.engine import run as engine
from ktask.host import topology
from ktask.memory import region as memory
from ktask.memory.region import MIB
from ktask.workloads import Case, CheckError
from ktask.workloads.zeroing import resident, store_learning


@pytest.mark.parametrize("kind", range(len(resident.STORES)), ids=resident.STORES)
def test_every_kind_of_store_zeroes_exactly_its_range(kind):
    buffer = np.full(4096 + 8, 7, dtype=np.uint64)
    start = -(-buffer.ctypes.data // 64) * 64
    first = (start - buffer.ctypes.data) // 8
    resident._zero(start + 64, start + 64 * 9, kind)
    assert not buffer[first + 8 : first + 72].any()
    assert (buffer[: first + 8] == 7).all()
    assert (buffer[first + 72 :] == 7).all()


@pytest.mark.parametrize(
    ("kind", "page", "unit"), [("1GiB", 1024 * MIB, 2 * MIB), ("THP", 2 * MIB, MIB // 4)]
)
def test_several_threads_zero_a_single_page(kind, page, unit, monkeypatch):
    monkeypatch.setattr(resident, "STORE_UNIT", unit)
    state = set_up(Case("zeroing", "stores", kind, page, unit + 1))
    try:
        assert (state.size, state.bytes_per_unit, state.ctl.min_chunk_size) == (page // unit, unit, 2)
        state.ctl.max_threads = 2
        state.before()
        result = engine.run(0, state.size, state.ctl)
        assert min(result.chunks_per_thread) > 0
        state.check()
    finally:
        state.close()


def chosen(costs, turns):
    """Return what is chosen in turn, given what both kinds cost (ns for 1 KiB)."""
    note, made = np.zeros(store_learning.WORDS, np.int64), []
    for turn in range(turns):
        kind = store_learning.choose(note.ctypes.data)
        store_learning.learn(note.ctypes.data, kind, 1024, costs(turn)[kind])
        made.append(kind)
    return np.array(made)


@pytest.mark.parametrize("faster", [0, 1])
def test_the_faster_kind_of_store_is_learnt_and_the_other_looked_at_again_now_and_then(faster):
    made = chosen(lambda _: (100, 150) if faster == 0 else (150, 100), 450)
    assert made[:16].tolist() == [0, 1] * 8
    assert (made[16:] != faster).sum() == 4  # every hundredth time: 50 % more, half a percent


def test_a_kind_of_store_that_becomes_faster_is_found_out():
    made = chosen(lambda turn: (200, 150 if turn < 100 else 300), 200)
    assert (made[16:100] == 1).mean() > 0.9
    assert (made[110:] == 0).mean() > 0.8


def test_stores_that_leave_nothing_to_write_back_win_when_equal():
    assert chosen(lambda _: (90, 100), 200)[16:].mean() > 0.9


def test_an_interruption_does_not_change_the_choice():
    made = chosen(lambda turn: (200, 2000 if turn == 40 else 100), 60)
    assert (made[16:] == 1).all()


@pytest.mark.parametrize(("size_mib", "largest_mib"), [(64, 480), (4, 32), (512, 32), (960, 480), (64, None)])
def test_sizes_about_that_of_the_largest_cache_are_learnt(monkeypatch, size_mib, largest_mib):
    found = [{"size_bytes": largest_mib * MIB}, {"size_bytes": MIB}] if largest_mib else []
    monkeypatch.setattr(store_learning.topology, "caches", lambda: found)
    least = (largest_mib or 128) // 8
    assert store_learning.is_learnt(size_mib * MIB)
    assert not store_learning.is_learnt(least * MIB - 4096)
    assert not store_learning.is_learnt(1025 * MIB)


@pytest.mark.parametrize("threads", [1, 2])
def test_auto_learns_from_every_piece_and_zeroes_all_of_them(monkeypatch, threads):
    monkeypatch.setattr(store_learning, "is_learnt", lambda _: True)
    state = set_up(Case("zeroing", "auto", "4KiB", 8 * MIB + 4096))
    state.ctl.max_threads = threads
    for _ in range(3):
        state.before()
        result = engine.run(0, state.size, state.ctl)
        state.check()
    note = state._notes[0 if result.threads == 1 else 1]
    assert note[store_learning.TURN] >= 3 * 9  # pieces of 1 MiB, and one of 4 KiB
    assert (note[:2] > 0).all()
    state.close()


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
    nid = min(topology.memory_nodes(), default=0)
    state = set_up(Case("zeroing", "populate", "4KiB", 4 * MIB, options=(("node", str(nid)),)))
    state.before()
    engine.run(0, state.size, state.ctl)
    state.check()
    assert state.region.nodes().tolist() == [nid] * 1024
    state.nids = (nid + 1,)
    with pytest.raises(
        CheckError, match=rf"{{{nid}: 1024}} have so many pages, not 1024 each of \[{nid + 1}\]"
    ):
        state.check()
    state.close()


@pytest.mark.parametrize(
    "placed", [[0, 1] * 512, [1, 0] * 512, [0] * 1024, [0, 0, 1, 0] * 256, [0, -2] * 512]
)
def test_memory_is_spread_over_all_nodes_and_counted_on_each(monkeypatch, placed):
    """On a machine that is made up, because this one may have a single node."""
    asked = []
    monkeypatch.setattr(topology, "memory_nodes", lambda: (0, 1))
    monkeypatch.setattr(memory, "syscall", lambda name, *args: asked.append((name, args[2])))
    state = set_up(Case("zeroing", "populate", "4KiB", 4 * MIB, options=(("node", "spread"),)))
    assert asked == [("mbind", memory._MPOL_INTERLEAVE)]
    monkeypatch.setattr(state.region, "nodes", lambda: np.array(placed))
    state.before()
    engine.run(0, state.size, state.ctl)
    if sorted(placed) == [0] * 512 + [1] * 512:
        state.check()
    else:
        with pytest.raises(CheckError, match=r"have so many pages, not 512 each of \[0, 1\]"):
            state.check()
    state.close()


def test_memory_is_spread_over_the_nodes_that_there_are():
    state = set_up(Case("zeroing", "memset", "4KiB", 4 * MIB, options=(("node", "spread"),)))
    state.before()
    engine.run(0, state.size, state.ctl)
    state.check()
    assert set(state.region.nodes().tolist()) == set(topology.memory_nodes())
    state.close()


def test_a_node_that_is_not_there_is_a_reason(monkeypatch):
    case = Case("zeroing", "populate", "4KiB", MIB, options=(("node", "3"),))
    monkeypatch.setattr(topology, "memory_nodes", lambda: (0, 1))
    assert workloads.why_not(case) == "this machine has no memory on node 3; it has some on [0, 1]"
    monkeypatch.setattr(topology, "memory_nodes", lambda: (3,))
    assert workloads.why_not(case) is None


def test_nodes_of_memory_are_read_and_else_taken_from_all_nodes(tmp_path):
    folder = tmp_path / topology.NODE_DIR
    for nid in (0, 1, 2):
        (folder / f"node{nid}").mkdir(parents=True)
    assert topology.memory_nodes(tmp_path) == (0, 1, 2)
    (folder / "has_memory").write_text("0,2\n")
    assert topology.memory_nodes(tmp_path) == (0, 2)


def test_a_machine_without_rep_stosb_is_a_reason(monkeypatch):
    monkeypatch.setattr(native, "HAS_REP_STOSB", False)
    reason = workloads.why_not(Case("zeroing", "rep_stosb", "4KiB", MIB))
    assert reason.startswith("rep stosb is an instruction of x86-64; this is ")
