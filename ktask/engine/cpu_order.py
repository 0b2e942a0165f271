"""The order in which a task takes CPUs: the caller the first, its helpers the next ones.

Nothing here looks at a machine or takes anything: a topology in, CPUs out. Who uses a CPU already is a matter
of `slots`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby, zip_longest
from typing import Any

from ktask.host.cpus import Cpu, Topology

ANYWHERE = -1  # no node
PLACEMENTS = {
    "cores": "cores before their siblings, on the node of the memory first, caches in turn",
    "siblings": "as cores, but all threads of a core before the next core",
    "node": "as cores, on the node of the memory only: fewer threads where it has fewer CPUs",
    "spread": "cores before their siblings, nodes in turn",
    "compact": "one last-level cache after the other, its cores before their siblings",
}
DEFAULT = "cores"

Key = Callable[[Cpu], Any]
Groups = Iterable[Sequence[Cpu]]


def _in_turn(groups: Groups) -> list[Cpu]:
    """Return the first CPU of each group, then the second of each, and so on."""
    return [cpu for row in zip_longest(*groups) for cpu in row if cpu is not None]


def _one_by_one(groups: Groups) -> list[Cpu]:
    return [*chain.from_iterable(groups)]


def _arranged(cpus: Iterable[Cpu], *steps: tuple[Key, Callable[[Groups], list[Cpu]]]) -> list[Cpu]:
    """Group CPUs by the key of the first step, arrange each group by the others, and join the groups."""
    if not steps:
        return [*cpus]
    (key, join), *others = steps
    groups = groupby(sorted(cpus, key=key), key)
    return join([_arranged(group, *others) for _, group in groups])


@lru_cache(maxsize=1024)
def order(
    topo: Topology, placement: str = DEFAULT, memory_nid: int = ANYWHERE, caller_nid: int = ANYWHERE
) -> tuple[int, ...]:
    """Return the CPUs in the order in which one task takes them.

    Parameters
    ----------
    topo
        The CPUs there are.
    placement
        One of `PLACEMENTS`.
    memory_nid
        The node of the task's memory. Where it is not known, `cores` uses every core of the machine before
        any sibling, so that no count of threads could share fewer cores.
    caller_nid
        Where to begin if the node of the memory is not known; the first node with memory if left out.

    Returns
    -------
    tuple of int
        Every CPU once; with `node` those of one node. A node without CPUs stands for the nearest with some.
    """
    known = memory_nid != ANYWHERE
    distance_rank = {nid: k for k, nid in enumerate(topo.nodes_from(_start(topo, memory_nid, caller_nid)))}
    level = _levels(topo.each)
    node = (lambda cpu: distance_rank[cpu.nid]), _one_by_one
    cores_first = (lambda cpu: level[cpu.number]), _one_by_one
    cache = (lambda cpu: cpu.cache), _one_by_one
    caches_in_turn = cache[0], _in_turn
    near_first = node, cores_first, caches_in_turn
    usual = near_first if known else (cores_first, node, caches_in_turn)
    steps = {
        "cores": usual,
        "siblings": usual,
        "node": near_first,
        "spread": (cores_first, (node[0], _in_turn), caches_in_turn),
        "compact": (node, cache, cores_first),
    }
    nearest = (cpu for cpu in topo.each if distance_rank[cpu.nid] == 0)
    found = _arranged(nearest if placement == "node" else topo.each, *steps[placement])
    if placement == "siblings":
        core_rank = {cpu.core: -k for k, cpu in enumerate(reversed(found))}
        found.sort(key=lambda cpu: core_rank[cpu.core])
    return tuple(cpu.number for cpu in found)


def _start(topo: Topology, memory_nid: int, caller_nid: int) -> int:
    """Return the node to begin with."""
    if memory_nid != ANYWHERE:
        return memory_nid
    with_memory = (node.nid for node in topo.nodes if node.nid in topo.memory_nids)
    return caller_nid if caller_nid != ANYWHERE else next(with_memory, topo.nodes[0].nid)


def _levels(cpus: Iterable[Cpu]) -> dict[int, tuple[int, int]]:
    """Return for each CPU which thread of its core it is, and how small that core is."""
    seen: dict[int, int] = {}
    found = {}
    for cpu in cpus:
        found[cpu.number] = seen.setdefault(cpu.core, 0), cpu.tier
        seen[cpu.core] += 1
    return found


def seats(
    topo: Topology, placement: str, memory_nids: Iterable[int], caller_nid: int = ANYWHERE
) -> tuple[int, ...]:
    """Return the CPU of each thread, the caller first, if nobody else uses any.

    `memory_nids` has one entry per thread: the node of the memory that it begins with. Threads beyond the
    CPUs get none.
    """
    orders: dict[int, Iterator[int]] = {}
    taken: dict[int, None] = {}
    for nid in memory_nids:
        if nid not in orders:
            orders[nid] = iter(order(topo, placement, nid, caller_nid))
        cpu = next((cpu for cpu in orders[nid] if cpu not in taken), None)
        taken |= {} if cpu is None else {cpu: None}
    return tuple(taken)


def most_threads(
    topo: Topology, placement: str, memory_nids: Iterable[int] = (ANYWHERE,), caller_nid: int = ANYWHERE
) -> int:
    """Return how many threads can have a CPU of their own."""
    orders = (order(topo, placement, nid, caller_nid) for nid in {*memory_nids})
    return len({*chain.from_iterable(orders)})


def shared_cores(topo: Topology, cpus: Iterable[int]) -> int:
    """Return how many cores have more than one of `cpus`."""
    return sum(count > 1 for count in Counter(topo.by_number[cpu].core for cpu in cpus).values())


@lru_cache(maxsize=64)
def possible(topo: Topology) -> tuple[str, ...]:
    """Return the placements that this machine can have: those that are not `cores` by another name."""
    usual = order(topo, DEFAULT)
    return tuple(name for name in PLACEMENTS if name == DEFAULT or order(topo, name) != usual)


def require(topo: Topology, placement: str) -> None:
    """Raise ValueError, with what is allowed, for a placement that does not exist or not on this machine."""
    if placement in (allowed := possible(topo)):
        return
    why = (
        "puts threads on the CPUs that cores does, on this machine"
        if placement in PLACEMENTS
        else "is unknown"
    )
    raise ValueError(f"placement {placement!r} {why}; use {' or '.join(allowed)}")


SHARED = {  # what threads have in common, and what tells whether they still do
    "one cache": "cache",
    "one node": "nid",
    "one socket": "socket",
    "the fastest cores": "tier",
}


def borders(topo: Topology, placement: str = DEFAULT, memory_nid: int = ANYWHERE) -> dict[str, int]:
    """Return up to which thread count something holds that does not hold for all, by what that is.

    "one cache", "one node" and "one socket": all threads are in it. "the fastest cores": none is on a smaller
    one. "one thread per core": no two share a core.
    """
    cpus = [topo.by_number[number] for number in order(topo, placement, memory_nid)]
    found = {name: _up_to(cpus, field) for name, field in SHARED.items()}
    cores = [cpu.core for cpu in cpus]
    again = (n for n, core in enumerate(cores) if core in cores[:n])
    found["one thread per core"] = next(again, len(cpus))
    return {name: count for name, count in found.items() if 1 < count < len(cpus)}


def _up_to(cpus: Sequence[Cpu], field: str) -> int:
    """Return how many CPUs, from the first on, have the same as the first."""
    first = getattr(cpus[0], field)
    return next((n for n, cpu in enumerate(cpus) if getattr(cpu, field) != first), len(cpus))
