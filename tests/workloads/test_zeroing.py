"""Zeroing: each kind of store, shared memory, and the node that memory lies on."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit
from test_workloads import set_up

import ktask
from ktask import workloads
from ktask.engine import run as engine
from ktask.host import available_memory, kernel_files, node_memory, topology
from ktask.lab.sweep.cells import why_not
from ktask.memory import region as memory
from ktask.memory.region import GIB, MIB
from ktask.workloads import Case, CheckError, nodes
from ktask.workloads.zeroing import resident, stores


@pytest.mark.parametrize("kind", stores.STORES)
def test_every_kind_of_store_zeroes_exactly_its_range(kind):
    if kind not in stores.available():
        pytest.skip(f"this CPU has no {kind}")
    buffer = np.full(4096 + 8, 7, dtype=np.uint64)
    start = -(-buffer.ctypes.data // 64) * 64
    first = (start - buffer.ctypes.data) // 8
    stores.zero_range(start + 64, start + 64 * 9, stores.STORES.index(kind))
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
        state.ctl = replace(state.ctl, max_threads=2)
        # A page takes 0.2 ms; on a busy machine the helper comes too late for it now and then.
        assert any(_threads_at_work(state) == 2 for _ in range(100))
    finally:
        state.close()


def _threads_at_work(state):
    state.before()
    result = engine.run(0, state.size, state.ctl, nice=0)
    state.check()
    return np.count_nonzero(result.chunks_per_thread)


@pytest.fixture
def scripted(monkeypatch):
    """Kinds take scripted times, by themselves and by several threads; returns what was tried."""
    tried = []

    def run(start, end, ctl, *_):
        kind = stores.STORES[ctl.args[-1]]
        tried.append((kind, ctl.max_threads))
        faster = "memset" if ctl.max_threads == 1 else "stores"
        return SimpleNamespace(wall_s=1.0 if kind == faster else 1.5)

    monkeypatch.setattr(resident, "_fastest", {})
    monkeypatch.setattr(resident.engine, "run", run)
    monkeypatch.setattr(resident.topology, "cpu_count", lambda: 8)
    return tried


def kinds_of(size, page_kind="4KiB"):
    state = set_up(Case("zeroing", "auto", page_kind, size))
    state.close()
    return [stores.STORES[kind] for kind in state.ctl.args[-2:]]


def test_auto_takes_the_fastest_kind_of_one_thread_and_of_all(scripted):
    assert kinds_of(MIB) == ["memset", "stores"]
    assert {threads for _, threads in scripted} == {1, 8}
    assert {kind for kind, _ in scripted} == set(stores.available())


def test_kinds_are_tried_once_per_size_class_and_page_kind(scripted):
    kinds_of(MIB)
    once = len(scripted)
    kinds_of(MIB + 64 * 1024)
    assert len(scripted) == once
    kinds_of(2 * MIB)
    kinds_of(2 * MIB, "THP")
    assert len(scripted) == 3 * once


@pytest.mark.parametrize("threads", [1, 2])
def test_auto_zeroes_and_a_store_that_does_not_is_noticed(threads):
    state = set_up(Case("zeroing", "auto", "4KiB", 8 * MIB + 4096))
    ctl = replace(state.ctl, max_threads=threads)
    state.before()
    assert engine.run(0, state.size, ctl).error == 0
    state.check()
    state.before()
    with pytest.raises(CheckError, match="pages still hold data"):
        state.check()
    state.close()


@pytest.mark.parametrize(("flags", "has"), [("fpu clzero sse", True), ("fpu clzeroed", False)])
def test_clzero_is_tried_where_the_cpu_has_it(flags, has, monkeypatch, tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(kernel_files, "ROOT", tmp_path)
    monkeypatch.setattr(stores, "IS_X86", True)
    assert ("clzero" in stores.available()) is has


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
        monkeypatch.setattr(kernel_files, "read_text", lambda _, text=text: text)
        assert words in memory.why_not("THP", 2 * MIB, shared=True)
    monkeypatch.setattr(kernel_files, "read_text", lambda _: "[always] never")
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
    state.nodes = nodes.Nodes((nid + 1,), (nid,))
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
    monkeypatch.setattr(node_memory, "usable_nodes", lambda *_: (0, 1))
    monkeypatch.setattr(memory, "syscall", lambda name, *args: asked.append((name, args[2])))
    state = set_up(Case("zeroing", "populate", "4KiB", 4 * MIB, options=(("node", "spread"),)))
    assert asked == [("mbind", memory._MPOL_INTERLEAVE)]
    monkeypatch.setattr(state.region, "nodes", lambda: np.array(placed))
    assert [part.nid for part in state.parts] == [0, 1]
    monkeypatch.setattr(type(state), "parts", (ktask.Node(0, state.size),))
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
    assert set(state.region.nodes().tolist()) == set(node_memory.usable_nodes())
    state.close()


def test_a_node_that_is_not_there_is_a_reason(monkeypatch):
    case = Case("zeroing", "populate", "4KiB", MIB, options=(("node", "3"),))
    monkeypatch.setattr(node_memory, "usable_nodes", lambda *_: (0, 1))
    assert workloads.why_not(case) == "this process may use no memory on node 3, only on [0, 1]"
    monkeypatch.setattr(node_memory, "usable_nodes", lambda *_: (3,))
    assert workloads.why_not(case) is None


@pytest.mark.parametrize(
    ("node", "page_kind", "message"),
    [
        ("1", "4KiB", r"needs 0.38 GiB of node 1, but the budget there is 0.25 GiB \(half of what the node"),
        ("spread", "4KiB", None),  # 192 MiB on each
        ("0", "4KiB", None),
        ("1", "2MiB", r"needs 192 pages of 2MiB on node 1, whose pool has 100 of its 128 left"),
        ("spread", "2MiB", None),
    ],
)
def test_what_does_not_fit_on_a_node_is_refused_with_its_numbers(node, page_kind, message, monkeypatch):
    """The OOM killer would come otherwise: what is bound to a node gets nothing elsewhere."""
    monkeypatch.setattr(node_memory, "usable_nodes", lambda *_: (0, 1))
    monkeypatch.setattr(node_memory, "node_room_bytes", lambda nid, *_: [GIB, 512 * MIB][nid])
    monkeypatch.setattr(node_memory, "node_pool", lambda nid, _: {"total": 128, "free": [256, 100][nid]})
    monkeypatch.setattr(
        available_memory, "hugetlb_pools", lambda: {2 * MIB: {"total": 400, "free": 356, "reserved": 0}}
    )
    case = Case("zeroing", "populate", page_kind, 384 * MIB, options=(("node", node),))
    monkeypatch.setattr(available_memory, "available_memory_bytes", lambda *_: 8 * GIB)
    if message is None:
        workloads.require_memory(case)
        return
    with pytest.raises(memory.BudgetError, match=message):
        workloads.require_memory(case)
    assert "node 1" in why_not(case)  # a sweep skips it


def test_a_region_on_a_node_that_is_full_is_refused(monkeypatch):
    monkeypatch.setattr(node_memory, "node_room_bytes", lambda *_: 6 * MIB)
    with (
        memory.Region(4 * MIB) as region,
        pytest.raises(memory.BudgetError, match="budget there is"),
    ):
        region.place([0])


def test_nodes_of_memory_are_read_and_else_taken_from_all_nodes(tmp_path):
    folder = tmp_path / topology.NODE_DIR
    for nid in (0, 1, 2):
        (folder / f"node{nid}").mkdir(parents=True)
    assert topology.memory_nodes(tmp_path) == (0, 1, 2)
    (folder / "has_memory").write_text("0,2\n")
    assert topology.memory_nodes(tmp_path) == (0, 2)


def test_a_machine_without_rep_stosb_is_a_reason(monkeypatch):
    monkeypatch.setattr(stores, "IS_X86", False)
    reason = workloads.why_not(Case("zeroing", "rep_stosb", "4KiB", MIB))
    assert reason.startswith("rep stosb is an instruction of x86-64; this is ")


@pytest.mark.skipif(not stores.IS_X86, reason="an instruction of x86-64")
def test_clzero_is_compiled_and_fenced():
    compiled = njit(stores.zero_range.py_func)
    compiled(0, 0, 0)
    (assembly,) = compiled.inspect_asm().values()
    after = assembly.split(".byte\t15", 1)[1]
    assert after.splitlines()[1:3] == ["\t.byte\t1", "\t.byte\t252"]
    assert re.search(r"mfence|lock", after)
