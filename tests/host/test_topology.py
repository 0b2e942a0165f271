"""Readers of CPUs, nodes and caches, on trees of foreign machines."""

import os

import pytest
from conftest import run_python
from hypothesis import given
from hypothesis import strategies as st
from machines import write

from ktask.host import available_memory
from ktask.host import topology as tp

GIB = 1 << 30
MIB = 1 << 20


# --- CPU lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("", ()), ("\n", ()), ("5", (5,)), (" 2-3 , 0", (0, 2, 3)), ("1,1", (1,))],
)
def test_cpu_list(text, cpus):
    assert tp.parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0-99999999", "0-3:2/4", "1;2", "²"])
def test_damaged_cpu_list_names_the_item(text):
    with pytest.raises(ValueError, match=r"is not allowed; write numbers up to 65535"):
        tp.parse_cpu_list(text)


@given(st.sets(st.integers(0, 300)))
def test_cpu_list_round_trip(cpus):
    assert tp.parse_cpu_list(tp.format_cpu_list(cpus)) == tuple(sorted(cpus))


def test_cpu_list_is_short():
    assert tp.format_cpu_list([8, 1, 0, 2, 3]) == "0-3,8"


# --- nodes ---------------------------------------------------------------------------------------------


def test_two_sockets_are_two_nodes(machine):
    root = machine("xeon_two_sockets")
    topology = tp.read_topology(root, tp.online_cpus(root))
    assert [node.nid for node in topology.nodes] == [0, 1]
    assert topology.node_of(0) == topology.node_of(119) == 0
    assert topology.node_of(40) == topology.node_of(159) == 1
    assert topology.cpus == tuple(range(160))


def test_nps4_is_eight_nodes(machine):
    root = machine("epyc_nps4")
    topology = tp.read_topology(root, tp.online_cpus(root))
    assert len(topology.nodes) == 8
    assert {len(node.cpus) for node in topology.nodes} == {32}
    assert topology.cpus_of(7) == (*range(112, 128), *range(240, 256))


def test_topology_keeps_allowed_cpus_only(machine):
    topology = tp.read_topology(machine("epyc_nps4"), cpus=[1, 130, 250])
    assert topology.nodes == tp.Topology.by_hand({0: [130, 1], 7: [250]}).nodes


def test_without_node_files_there_is_one_node(machine):
    assert tp.read_topology(machine("one_cpu"), cpus=[3, 2]).nodes == tp.Topology.by_hand({0: [2, 3]}).nodes


def test_cpu_in_no_node_goes_to_node_0(machine):
    assert tp.read_topology(machine("laptop"), cpus=[7, 9]).nodes == tp.Topology.by_hand({0: [7, 9]}).nodes


def test_node_of_memory_only_is_no_place_for_helpers(machine):
    root = machine("laptop")
    write(root, "sys/devices/system/node/node1/cpulist", "\n")
    assert tp.node_cpus(root) == {0: tuple(range(8)), 1: ()}
    assert [node.nid for node in tp.read_topology(root, range(8)).nodes] == [0]


def test_unknown_cpu_and_node_are_named():
    topology = tp.Topology.by_hand({0: [0], 1: [1]})
    with pytest.raises(ValueError, match="CPU 2 is in no node; use one of 0-1"):
        topology.node_of(2)
    with pytest.raises(ValueError, match=r"node 3 has no usable CPU; use one of \[0, 1\]"):
        topology.cpus_of(3)


def test_cores_caches_and_sockets(machine):
    root = machine("epyc_nps4")
    topology = tp.read_topology(root, tp.online_cpus(root))
    assert topology.by_number[137] == tp.Cpu(137, 0, 0, 8, 9)
    assert topology.distance(0, 0) < topology.distance(0, 1) < topology.distance(0, 7)
    assert len({cpu.core for cpu in topology.each}) == 128
    assert len({cpu.cache for cpu in topology.each}) == 16
    assert topology.memory_nids == tuple(range(8))


def test_what_two_cpus_share_is_named_by_the_first_one_kept(machine):
    topology = tp.read_topology(machine("epyc_nps4"), cpus=[130, 2, 131, 133])
    assert [(cpu.number, cpu.core, cpu.cache) for cpu in topology.each] == [
        (2, 2, 2),
        (130, 2, 2),
        (131, 131, 2),
        (133, 133, 2),
    ]


def test_a_machine_that_names_no_core_and_no_cache(machine):
    root = machine("one_cpu")
    assert tp.read_topology(root, [0, 1]).each == (tp.Cpu(0, 0, 0, 0, 0), tp.Cpu(1, 0, 0, 0, 1))


def test_instruction_caches_are_no_last_level_cache(machine):
    root = machine("one_cpu")
    for index, (kind, level, shared) in enumerate(
        [("Data", 1, "0"), ("Instruction", 3, "0"), ("Unified", 2, "0-1")]
    ):
        for name, text in (("type", kind), ("level", str(level)), ("shared_cpu_list", shared)):
            write(root, f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}", text)
    assert [cpu.cache for cpu in tp.read_topology(root, [0, 1, 2]).each] == [0, 0, 2]


def test_small_cores_by_capacity_and_by_event_source(machine):
    root = machine("laptop")
    write(root, "sys/devices/cpu_atom/cpus", "4-7\n")
    assert [cpu.tier for cpu in tp.read_topology(root, range(8)).each] == [0, 0, 0, 0, 2, 2, 2, 2]
    for cpu, capacity in ((0, 1024), (1, 1000), (2, 700), (3, 250)):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity", f"{capacity}\n")
    assert [cpu.tier for cpu in tp.read_topology(root, range(4)).each] == [0, 0, 1, 3]


def test_offline_nodes_leave_no_gap_in_the_rows_of_distances(machine):
    root = machine("one_cpu")
    for nid, row in ((0, "10 12 40"), (2, "12 10 41"), (9, "40 41 10")):
        write(root, f"sys/devices/system/node/node{nid}/cpulist", f"{nid}\n")
        write(root, f"sys/devices/system/node/node{nid}/distance", f"{row}\n")
    topology = tp.read_topology(root, [0, 2, 9])
    assert (topology.distance(0, 2), topology.distance(9, 0), topology.distance(0, 1)) == (12, 40, 20)
    assert topology.nodes_from(9) == (9, 0, 2)


def test_offline_cpus_are_no_siblings(machine):
    root = machine("laptop")
    write(root, "sys/devices/system/cpu/online", "0-4,6-7\n")
    write(root, "sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1\n")
    topology = tp.read_topology(root, tp.online_cpus(root))
    assert topology.cpus == (0, 1, 2, 3, 4, 6, 7)
    assert len({cpu.core for cpu in topology.each}) == 4


def test_topologies_are_equal_if_all_is_and_keep_their_hash(machine):
    one, same = (tp.read_topology(machine("laptop"), range(8)) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != tp.read_topology(machine("laptop"), range(7))


# --- CPUs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [("xeon_two_sockets", 160), ("epyc_nps4", 256), ("arm_server", 80), ("laptop", 8), ("one_cpu", 1)],
)
def test_online_cpus(machine, name, count):
    assert tp.online_cpus(machine(name)) == tuple(range(count))


def test_smt_siblings(machine):
    assert tp.smt_siblings(machine("laptop"))[5] == (1, 5)
    assert tp.smt_siblings(machine("arm_server"))[79] == (79,)
    assert tp.smt_siblings(machine("one_cpu")) == {}


def test_caches_are_listed_once(machine):
    found = tp.caches(machine("xeon_two_sockets"))
    last = [cache for cache in found if cache["level"] == 3]
    assert len([cache for cache in found if cache["level"] == 1]) == 80
    assert last[1] == {
        "level": 3,
        "type": "unified",
        "size_bytes": 60 * MIB,
        "shared_cpus": (*range(40, 80), *range(120, 160)),
    }
    assert len(last) == 2
    assert tp.caches(machine("arm_server")) == []  # tells no size


# --- this machine --------------------------------------------------------------------------------------


def test_this_machine_agrees_with_itself():
    assert tp.allowed_cpus() == tuple(sorted(os.sched_getaffinity(0)))
    assert tp.read_topology().cpus == tp.allowed_cpus()
    assert set(tp.allowed_cpus()) <= set(tp.online_cpus())
    assert 1 <= tp.cpu_count() <= len(tp.allowed_cpus())
    assert 0 < available_memory.available_memory_bytes() <= available_memory.meminfo()["MemTotal"]


def test_a_thread_kept_to_a_cpu_still_knows_the_others():
    before, cpus = os.sched_getaffinity(0), tp.allowed_cpus()
    with pytest.raises(RuntimeError), tp.kept_to(cpus[-1]), tp.kept_to(cpus[0]):
        assert os.sched_getaffinity(0) == {cpus[0]}
        assert tp.allowed_cpus() == cpus
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    assert tp.allowed_cpus() == cpus


def narrow(cpus):
    with tp.narrowed_to(cpus):
        pass


def test_narrowing_holds_for_a_block():
    before = os.sched_getaffinity(0)
    with tp.narrowed_to([min(before)]):
        assert tp.allowed_cpus() == (min(before),)
        assert tp.cpu_count() == 1
    with tp.narrowed_to(str(min(before))):
        assert os.sched_getaffinity(0) == {min(before)}
    with tp.narrowed_to(None):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("cpus", "words"), [([9999], "CPUs 9999 cannot be used here"), ([], "no CPU")])
def test_cpus_that_cannot_be_had_are_named(cpus, words):
    allowed = tp.format_cpu_list(tp.allowed_cpus())
    with pytest.raises(ValueError, match=f"{words}.*; use some of {allowed}"):
        narrow(cpus)
    with pytest.raises(ValueError, match=f"CPUs 9998 .*{allowed}"):
        narrow([tp.allowed_cpus()[0], 9998])
    assert tp.format_cpu_list(os.sched_getaffinity(0)) == allowed


def test_isolated_cpus_are_used_where_they_are_named(monkeypatch):
    taken = []
    monkeypatch.setattr(tp, "isolated_cpus", lambda: (5, 7))
    monkeypatch.setattr(tp, "online_cpus", lambda: (0, 1, 5))
    monkeypatch.setattr(tp.os, "sched_setaffinity", lambda _, cpus: taken.append(cpus))
    monkeypatch.setattr(tp.os, "sched_getaffinity", lambda _: taken[-1] if taken else {0, 1})
    narrow([1, 5])
    assert taken[0] == {1, 5}
    taken.clear()
    with pytest.raises(ValueError, match="CPUs 7 cannot be used here; use some of 0-1,5"):
        narrow([7])


def test_a_cpuset_that_leaves_out_what_was_named_is_said(monkeypatch):
    masks = [{0, 1, 2, 3}]
    monkeypatch.setattr(tp.os, "sched_setaffinity", lambda _, cpus: masks.append(set(cpus) & {0, 1}))
    monkeypatch.setattr(tp.os, "sched_getaffinity", lambda _: masks[-1])
    monkeypatch.setattr(tp, "isolated_cpus", lambda: (4,))
    monkeypatch.setattr(tp, "online_cpus", lambda: (0, 1, 2, 3, 4))
    with pytest.raises(ValueError, match="CPUs 4 cannot be used here"):
        narrow([1, 4])


def test_affinity_of_the_process_counts():
    code = "import os; from ktask.host import topology as tp; "
    code += "os.sched_setaffinity(0, {tp.allowed_cpus()[0]});"
    code += "print(tp.cpu_count(), len(tp.read_topology().cpus), len(tp.recorded_affinity()))"
    assert run_python(code).stdout.split() == ["1", "1", "1"]
