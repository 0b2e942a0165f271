"""The order in which tasks take CPUs, on tables of real machines."""

from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topologies import TOPOLOGIES, XEON, machine, ring, without

from ktask.engine import cpu_order
from ktask.engine.cpu_order import PLACEMENTS, borders, order, possible, seats, shared_cores
from ktask.host.cpus import Cpu, Topology

each_machine = pytest.mark.parametrize("topo", TOPOLOGIES.values(), ids=TOPOLOGIES)


def least_shared(cpus, count):
    """Return how few cores can be shared by `count` threads on some CPUs, in the best of ways.

    A core of `k` threads that is shared holds up to `k`: threads beyond one per core go to the largest cores.
    """
    sizes = sorted(Counter(cpu.core for cpu in cpus).values(), reverse=True)
    beyond, shared = count - len(sizes), 0
    while beyond > 0:
        beyond -= sizes[shared] - 1
        shared += 1
    return shared


def test_least_shared_is_what_trying_every_set_of_cpus_finds():
    for topo in (TOPOLOGIES["2x2x2"], without(TOPOLOGIES["2x2x2"], [1]), machine(1, 3, 3)):
        for count in range(1, len(topo.cpus) + 1):
            tried = min(shared_cores(topo, some) for some in combinations(topo.cpus, count))
            assert least_shared(topo.each, count) == tried


@each_machine
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_cpu_is_taken_once(topo, placement):
    for nid in (-1, *topo.memory_nids):
        found = order(topo, placement, nid)
        wanted = topo.cpus_of(topo.nodes_from(nid)[0]) if placement == "node" and nid >= 0 else topo.cpus
        if placement == "node" and nid < 0:
            wanted = topo.cpus_of(topo.node_of(found[0]))
        assert sorted(found) == list(wanted)


@each_machine
def test_no_count_of_threads_could_share_fewer_cores(topo):
    for placement in ("cores", "spread"):
        taken = order(topo, placement)
        for count in range(1, len(taken) + 1):
            assert shared_cores(topo, taken[:count]) == least_shared(topo.each, count)


@each_machine
def test_remote_cpus_are_taken_once_the_node_of_the_memory_is_full(topo):
    for nid in topo.memory_nids:
        near = topo.nodes_from(nid)
        by_node = [topo.node_of(cpu) for cpu in order(topo, "cores", nid)]
        assert by_node == [other for other in near for _ in topo.cpus_of(other)]
        if nid in {node.nid for node in topo.nodes}:
            assert near[0] == nid
        distances = [topo.distance(nid, other) for other in near]
        assert distances == sorted(distances)


@each_machine
def test_within_a_node_too_no_count_could_share_fewer_cores(topo):
    for nid in topo.memory_nids:
        first = topo.nodes_from(nid)[0]
        here = [topo.by_number[cpu] for cpu in topo.cpus_of(first)]
        for placement in ("cores", "node"):
            taken = order(topo, placement, nid)[: len(here)]
            for count in range(1, len(here) + 1):
                assert shared_cores(topo, taken[:count]) == least_shared(here, count)


@each_machine
def test_small_cores_come_after_the_large_ones(topo):
    taken = [topo.by_number[cpu] for cpu in order(topo)]
    firsts = [cpu.tier for n, cpu in enumerate(taken) if cpu.core not in {one.core for one in taken[:n]}]
    assert firsts == sorted(firsts)


@each_machine
def test_cores_of_a_node_are_spread_over_its_caches(topo):
    for nid in {node.nid for node in topo.nodes}:
        here = topo.cpus_of(nid)
        caches = {cpu.core: cpu.cache for cpu in map(topo.by_number.get, here) if cpu.tier == 0}
        room = Counter(caches.values())
        for count in range(1, len(caches) + 1):
            used = Counter(topo.by_number[cpu].cache for cpu in order(topo, "cores", nid)[:count])
            left = [cache for cache in room if used[cache] < room[cache]]
            assert all(used[full] <= used[cache] + 1 for full in used for cache in left)


@each_machine
def test_siblings_come_one_after_the_other(topo):
    cores = [topo.by_number[cpu].core for cpu in order(topo, "siblings")]
    changes = sum(a != b for a, b in pairwise(cores))
    assert changes == len(set(cores)) - 1


@each_machine
def test_compact_uses_the_fewest_caches(topo):
    for nid in topo.memory_nids:
        nodes = topo.nodes_from(nid)
        for first in nodes[:1]:
            here = [topo.by_number[cpu] for cpu in topo.cpus_of(first)]
            caches = [cpu.cache for cpu in map(topo.by_number.get, order(topo, "compact", nid)[: len(here)])]
            changes = sum(a != b for a, b in pairwise(caches))
            assert changes == len(set(caches)) - 1


@each_machine
def test_spread_takes_nodes_in_turn(topo):
    taken = order(topo, "spread")
    alone = [n for n in range(1, len(taken) + 1) if shared_cores(topo, taken[:n]) == 0]
    room = {node.nid: len({topo.by_number[cpu].core for cpu in node.cpus}) for node in topo.nodes}
    for count in alone:
        used = Counter(topo.node_of(cpu) for cpu in taken[:count])
        tiers = {topo.by_number[cpu].tier for cpu in taken[:count]}
        left = [nid for nid in room if used[nid] < room[nid]]
        assert len(tiers) > 1 or all(used[full] <= used[nid] + 1 for full in used for nid in left)


@each_machine
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_parts_on_several_nodes_get_cpus_of_their_own(topo, placement):
    nids = topo.memory_nids or (-1,)
    wanted = [nids[k % len(nids)] for k in range(len(topo.cpus))]
    found = seats(topo, placement, wanted)
    assert len(set(found)) == len(found)
    if placement == "cores":
        assert sorted(found) == list(topo.cpus)
        for count in range(1, len(found) + 1):
            for nid, cpu in zip(wanted[:count], found, strict=False):
                others = set(topo.cpus_of(topo.nodes_from(nid)[0])) - set(found[:count])
                assert topo.node_of(cpu) == topo.nodes_from(nid)[0] or not others


WORKED = [
    ("xeon 2x24x2", "cores", -1, (0, 1, 2, 3)),
    ("xeon 2x24x2", "cores", 1, (24, 25, 26, 27)),
    ("xeon 2x24x2", "siblings", -1, (0, 48, 1, 49)),
    ("xeon 2x24x2", "spread", -1, (0, 24, 1, 25)),
    ("xeon 2x24x2, siblings adjacent", "cores", 1, (48, 50, 52, 54)),
    ("epyc 2x64x2 nps1", "cores", -1, (0, 8, 16, 24)),
    ("epyc 2x64x2 nps1", "compact", -1, (0, 1, 2, 3)),
    ("epyc 2x64x2 nps4", "cores", 5, (80, 88, 81, 89)),
    ("epyc 2x64x2 nps4", "spread", -1, (0, 16, 32, 48)),
    ("8 sockets, 288 CPUs", "cores", 7, (126, 127, 128, 129)),
    ("hybrid 8Px2+16E", "cores", -1, (0, 2, 4, 6)),
    ("hybrid 8Px2+16E", "siblings", -1, (0, 1, 2, 3)),
    ("arm 4 small + 4 large", "cores", -1, (4, 5, 6, 7)),
    ("2x2x2", "cores", -1, (0, 2, 4, 6)),
    ("2x2x2", "cores", 1, (4, 6, 5, 7)),
    ("node 1 without memory", "cores", -1, (0, 1, 2, 3)),
    ("node 1 without CPUs", "cores", 1, (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("name", "placement", "nid", "first"), WORKED)
def test_worked_by_hand(name, placement, nid, first):
    assert order(TOPOLOGIES[name], placement, nid)[:4] == first


def test_nodes_come_by_distance():
    topo = TOPOLOGIES["8 sockets, 288 CPUs"]
    assert topo.nodes_from(6) == (6, 5, 7, 0, 4, 1, 3, 2)
    assert topo.nodes_from(0) == (0, 1, 7, 2, 6, 3, 5, 4)


def test_memory_without_cpus_is_served_by_the_nearest_node():
    base = machine(3, 4)
    topo = Topology(base.each, {**ring(3), 7: {0: 24, 1: 17, 2: 28}}, (0, 1, 2, 7))
    assert order(topo, "cores", 7) == (4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11)
    assert order(topo, "node", 7) == (4, 5, 6, 7)


def test_a_caller_somewhere_begins_there_if_the_memory_is_unknown():
    assert order(XEON, "cores", -1, 1)[:2] == (24, 25)
    assert order(XEON, "cores", 0, 1)[:2] == (0, 1)
    topo = without(XEON, (), memory_nids=(1,))
    assert order(topo)[0] == 24  # node 0 has no memory


def test_which_placements_a_machine_can_have():
    assert possible(XEON) == ("cores", "siblings", "node", "spread", "compact")
    assert possible(machine(1, 8, 2)) == ("cores", "siblings")
    assert possible(machine(1, 16, cores_per_cache=4)) == ("cores", "compact")
    assert possible(TOPOLOGIES["2 CPUs"]) == possible(TOPOLOGIES["1 core, 2 threads"]) == ("cores",)


def test_a_placement_that_cannot_be_had_is_refused_with_those_that_can():
    with pytest.raises(ValueError, match="placement 'near' is unknown; use cores or siblings"):
        cpu_order.require(machine(1, 4, 2), "near")
    words = "'spread' puts threads on the CPUs that cores does, on this machine; use cores$"
    with pytest.raises(ValueError, match=words):
        cpu_order.require(TOPOLOGIES["2 CPUs"], "spread")


BORDERS = [
    (
        "xeon 2x24x2",
        "cores",
        -1,
        {"one cache": 24, "one node": 24, "one socket": 24, "one thread per core": 48},
    ),
    (
        "xeon 2x24x2",
        "cores",
        1,
        {"one cache": 48, "one node": 48, "one socket": 48, "one thread per core": 24},
    ),
    ("epyc 2x64x2 nps1", "cores", -1, {"one node": 64, "one socket": 64, "one thread per core": 128}),
    ("epyc 2x64x2 nps4", "cores", 0, {"one node": 32, "one socket": 128, "one thread per core": 16}),
    ("hybrid 8Px2+16E", "cores", -1, {"the fastest cores": 8, "one thread per core": 24}),
    ("arm 128", "cores", -1, {}),
    ("2x2x2", "cores", -1, {"one cache": 2, "one node": 2, "one socket": 2, "one thread per core": 4}),
]


@pytest.mark.parametrize(("name", "placement", "nid", "found"), BORDERS)
def test_borders(name, placement, nid, found):
    assert borders(TOPOLOGIES[name], placement, nid) == found


@st.composite
def topologies(draw, most_threads=2):
    """Return machines that nobody would build: cores, caches and nodes of any size, numbered at random."""
    core = st.tuples(st.integers(1, most_threads), st.integers(0, 3), st.integers(0, 2))
    cores = draw(st.lists(core, min_size=1, max_size=12))
    numbers = iter(draw(st.permutations(range(0, 3 * sum(size for size, _, _ in cores), 3))))
    found = []
    for size, cache, tier in cores:
        here = sorted(next(numbers) for _ in range(size))
        found += [Cpu(number, cache // 2, cache // 2, cache, here[0], tier) for number in here]
    return Topology(tuple(sorted(found)), memory_nids=(0, 1, 2))


@settings(deadline=None)  # orders are kept; making the first one takes its time
@given(topologies())
def test_the_bars_hold_on_any_machine(topo):
    for nid in (-1, 0, 1, 2):
        for placement in PLACEMENTS:
            found = order(topo, placement, nid)
            assert len(set(found)) == len(found)
            assert placement == "node" or sorted(found) == list(topo.cpus)
        by_node = [topo.node_of(cpu) for cpu in order(topo, "cores", nid)]
        changes = sum(a != b for a, b in pairwise(by_node))
        assert nid < 0 or changes == len(set(by_node)) - 1
    taken = order(topo)
    for count in range(1, len(taken) + 1):
        assert shared_cores(topo, taken[:count]) == least_shared(topo.each, count)


@settings(deadline=None)
@given(topologies(most_threads=8))
def test_every_core_has_a_thread_before_one_has_two(topo):
    cores = Counter(cpu.core for cpu in topo.each)
    for placement in ("cores", "spread"):
        used: Counter[int] = Counter()
        for cpu in order(topo, placement):
            core = topo.by_number[cpu].core
            assert all(used[core] <= used[other] for other in cores if used[other] < cores[other])
            used[core] += 1
