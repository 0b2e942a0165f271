"""Topologies of real machines, and odd ones, by name."""

from collections.abc import Iterable

from ktask.host.cpus import Cpu, Topology


def machine(
    sockets: int = 1,
    cores: int = 1,
    smt: int = 1,
    *,
    adjacent: bool = False,
    nodes: int = 1,
    cores_per_cache: int = 0,
    distances: dict[int, dict[int, int]] | None = None,
) -> Topology:
    """Return a machine of equal sockets with `cores` cores and `nodes` nodes each.

    The second threads of all cores come after all first ones (as Linux numbers most x86 machines), or each
    `adjacent` to the first one.
    """
    n_cores, found = sockets * cores, []
    for core in range(n_cores):
        first = core * smt if adjacent else core
        cache = core // (cores_per_cache or cores) * (cores_per_cache or cores)
        for thread in range(smt):
            number = first + (thread if adjacent else thread * n_cores)
            nid = core * nodes // cores
            found.append(Cpu(number, nid, core // cores, cache * smt if adjacent else cache, first))
    return Topology(tuple(sorted(found)), distances or {}, tuple(range(sockets * nodes)))


def hybrid() -> Topology:
    """Return 8 large cores with two threads, siblings adjacent, and 16 small ones, all behind one cache."""
    large = [Cpu(2 * core + thread, 0, 0, 0, 2 * core) for core in range(8) for thread in range(2)]
    small = [Cpu(16 + core, 0, 0, 0, 16 + core, tier=2) for core in range(16)]
    return Topology((*large, *small), memory_nids=(0,))


def little_first() -> Topology:
    """Return 4 small cores, which have the first numbers, and 4 large ones, all behind one cache."""
    return Topology(tuple(Cpu(n, 0, 0, 0, n, tier=2 if n < 4 else 0) for n in range(8)), memory_nids=(0,))


def without(topo: Topology, cpus: Iterable[int], memory_nids: Iterable[int] | None = None) -> Topology:
    """Return a topology without some CPUs: offline or isolated ones, or those of a node."""
    gone = set(cpus)
    left = tuple(cpu for cpu in topo.each if cpu.number not in gone)
    return Topology(left, topo.distances, topo.memory_nids if memory_nids is None else tuple(memory_nids))


def ring(n_nodes: int) -> dict[int, dict[int, int]]:
    """Return the distances of nodes in a ring: one hop is 16, two are 22, and so on."""
    hops = {(a, b): min((a - b) % n_nodes, (b - a) % n_nodes) for a in range(n_nodes) for b in range(n_nodes)}
    return {a: {b: 10 + 6 * hops[a, b] for b in range(n_nodes)} for a in range(n_nodes)}


XEON = machine(2, 24, 2)
EPYC_NPS4 = machine(2, 64, 2, nodes=4, cores_per_cache=8)
TOPOLOGIES = {
    "xeon 2x24x2": XEON,
    "xeon 2x24x2, siblings adjacent": machine(2, 24, 2, adjacent=True),
    "epyc 2x64x2 nps1": machine(2, 64, 2, cores_per_cache=8),
    "epyc 2x64x2 nps4": EPYC_NPS4,
    "8 sockets, 288 CPUs": machine(8, 18, 2, distances=ring(8)),
    "arm 128": machine(1, 128),
    "hybrid 8Px2+16E": hybrid(),
    "arm 4 small + 4 large": little_first(),
    "2x2x2": machine(2, 2, 2, adjacent=True),
    "2 CPUs": machine(1, 2),
    "1 CPU": machine(),
    "1 core, 2 threads": machine(1, 1, 2),
    "node 1 without memory": without(XEON, (), memory_nids=(0,)),
    "node 1 without CPUs": without(XEON, XEON.cpus_of(1)),
    "offline siblings of 5 cores, one core, and half of a cache": without(
        EPYC_NPS4, (*range(128, 133), 40, 168, *range(8, 12))
    ),
    "odd: 17 CPUs of one node, 3 of the other": without(XEON, (*range(6, 24), *range(50, 93))),
}
