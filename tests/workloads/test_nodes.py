"""On which nodes the memory of a case lies, and near which ones its threads run."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from topologies import machine

import ktask
from ktask import workloads
from ktask.engine import placement
from ktask.memory import region as memory
from ktask.memory.region import MIB
from ktask.workloads import Case, nodes
from ktask.workloads.nodes import Nodes

FAR = {0: {0: 10, 1: 12, 2: 32}, 1: {0: 12, 1: 10, 2: 32}, 2: {0: 32, 1: 32, 2: 10}}


def case_with(node):
    return Case.of("free", "dontneed", size=8 * MIB, page_kind="4KiB", options={"node": node})


@pytest.fixture
def three_nodes(monkeypatch):
    """Three nodes of four cores, the third far from the others."""
    topo = machine(3, 4, distances=FAR)
    monkeypatch.setattr(nodes.placement, "site", lambda: SimpleNamespace(topo=topo))
    monkeypatch.setattr(nodes.node_memory, "usable_nodes", lambda *_: (0, 1, 2))


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("any", Nodes((), (-1,))),
        ("1", Nodes((1,), (1,))),
        ("local", Nodes((0,), (0,))),
        ("remote", Nodes((2,), (0,))),
        ("spread", Nodes((0, 1, 2), (0, 1, 2))),
        ("split", Nodes((0, 1, 2), (0, 1, 2), is_split=True)),
    ],
)
def test_what_each_word_means(three_nodes, word, found):
    assert nodes.nodes_of(case_with(word)) == found
    assert workloads.why_not(case_with(word)) is None


def test_threads_run_where_there_is_memory(three_nodes, monkeypatch):
    monkeypatch.setattr(nodes.node_memory, "usable_nodes", lambda *_: (1, 2))
    assert nodes.nodes_of(case_with("local")) == Nodes((1,), (1,))
    assert nodes.nodes_of(case_with("remote")) == Nodes((2,), (1,))


@pytest.mark.parametrize("word", ["local", "remote", "split"])
def test_what_needs_two_nodes_is_not_there_with_one(monkeypatch, word):
    monkeypatch.setattr(nodes.node_memory, "usable_nodes", lambda *_: (3,))
    assert workloads.why_not(case_with(word)) == (
        f"node={word} needs memory on two nodes; this process may use that of node 3 alone"
    )
    with pytest.raises(ValueError, match="alone"):
        workloads.require_options(case_with(word))


@pytest.mark.parametrize("word", ["", "near", "-1", "1.5", "123456", "²"])
def test_other_words_are_refused_with_those_allowed(word):
    with pytest.raises(
        ValueError, match=r"use the number of a node, or any, local, remote, spread, split|letters"
    ):
        case_with(word)


@given(st.integers(1, 9), st.integers(1, 1000), st.sampled_from([1, 2, 512]))
def test_parts_cover_the_task_in_whole_pages(count, size, units_per_page):
    parts = nodes.parts(Nodes((), tuple(range(count))), size, units_per_page)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == size
    assert all(part.start % units_per_page == 0 and part.size > 0 for part in parts)
    pages = [-(-part.size // units_per_page) for part in parts]
    assert max(pages) - min(pages) <= 1 or len(parts) < count


def test_a_part_of_the_memory_is_bound_to_each_node(three_nodes, monkeypatch):
    asked = []
    monkeypatch.setattr(
        memory, "syscall", lambda name, at, size, mode, *_: asked.append((name, at, size, mode))
    )
    with memory.Region(8 * MIB) as region:
        nodes.bind(region, nodes.nodes_of(case_with("split")))
        at, pages = region.address, [682, 683, 683]
        starts = [0, 682, 1365]
        assert asked == [
            ("mbind", at + 4096 * start, 4096 * count, memory._MPOL_BIND)
            for start, count in zip(starts, pages, strict=True)
        ]


def test_a_placement_that_this_machine_cannot_have_is_a_reason():
    case = Case.of("free", "dontneed", size=MIB, placement="siblings")
    assert case.options == (("placement", "siblings"),)
    allowed = placement.cpu_order.possible(placement.site().topo)
    reason = workloads.why_not(case)
    assert (reason is None) == ("siblings" in allowed)
    if reason:
        assert reason.endswith(f"use {' or '.join(allowed)}")
    assert Case.of("free", "dontneed", size=MIB, placement="cores").options == ()
    with pytest.raises(ValueError, match="placement='near' is not allowed; use one of cores, siblings"):
        Case.of("free", "dontneed", size=MIB, placement="near")


NODES = nodes.node_memory.usable_nodes()
several_nodes = pytest.mark.skipif(len(NODES) < 2, reason="needs two nodes with memory")
MEASURED = [
    ("zeroing", "populate", "4KiB"),
    ("zeroing", "memset", "THP"),
    ("free", "dontneed", "4KiB"),
    ("free", "munmap", "4KiB"),
    ("protect", "mprotect", "4KiB"),
    ("pin", "mlock", "4KiB"),
]


@several_nodes
@pytest.mark.parametrize(("workload", "method", "page_kind"), MEASURED)
@pytest.mark.parametrize("node", [*map(str, NODES), "local", "remote", "spread", "split"])
def test_threads_run_near_the_memory_in_every_repetition(workload, method, page_kind, node):
    from ktask.lab.measure.cell import measure_case
    from ktask.lab.measure.measurement import Protocol

    case = Case.of(
        workload,
        method,
        size=16 * MIB,
        page_kind=page_kind,
        min_chunk=MIB,
        policy="dynamic",
        options={"node": node},
    )
    topo, found = placement.site().topo, nodes.nodes_of(case)
    threads = len(topo.cpus_of(topo.nodes_from(found.threads[0])[0]))
    rows = measure_case(case, [threads], Protocol(least=3, most=3)).rows
    for row in rows:
        nids = [int(nid) for nid in row["nodes"].split(",")]
        wanted = [topo.nodes_from(found.threads[k % len(found.threads)])[0] for k in range(len(nids))]
        assert nids == wanted
    assert len({row["cpus"] for row in rows if row["threads"] == 1}) == 1
    assert len({row["cpus"] for row in rows if row["threads"] == threads}) == 1


@several_nodes
def test_helpers_leave_the_node_of_the_memory_once_it_is_full():
    topo, nid = placement.site().topo, max(n.nid for n in placement.site().topo.nodes)
    here = topo.cpus_of(nid)

    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=len(topo.cpus))
    with placement.placed("cores", nid):
        result = ktask.run(0, 4096, ctl, "dynamic")
    assert set(result.cpu_of_thread[: len(here)]) == set(here)
    assert result.threads > len(here)


@ktask.thread_func
def nothing(start, end, arg):
    return 0


@pytest.mark.cpus(4)
def test_no_two_threads_share_a_core_while_one_is_empty():
    topo = placement.site().topo
    n_cores = len({cpu.core for cpu in topo.each})
    for threads in range(2, 4 * len(topo.cpus) // 5 + 2):
        with placement.placed():
            result = ktask.run(0, 4096, ktask.Ctl(nothing, (1,), 1, max_threads=threads), "dynamic")
        assert result.threads == threads
        cores = {topo.by_number[cpu].core for cpu in result.cpu_of_thread}
        assert len(cores) == min(threads, n_cores)
        assert placement.cpu_order.shared_cores(topo, result.cpu_of_thread) == max(0, threads - n_cores)
