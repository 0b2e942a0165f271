"""CPUs as data: lists of them, and how they and the memory nodes lie to each other.

Nothing here reads a file. `topology.read_topology` makes a `Topology` of what the kernel says; tests describe
machines by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

# The kernel's largest NR_CPUS is 8192; the bound keeps a damaged list such as "0-99999999999" harmless.
MAX_CPU = 65_535
LOCAL, REMOTE = 10, 20  # distances (ACPI SLIT) where the kernel names none


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the CPUs of a kernel list, sorted.

    Raises
    ------
    ValueError
        If an item is neither a number nor a range of numbers up to `MAX_CPU`.

    Examples
    --------
    >>> parse_cpu_list("0-3,8")
    (0, 1, 2, 3, 8)
    """
    cpus: set[int] = set()
    for item in filter(None, (part.strip() for part in text.strip().split(","))):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_CPU:
            raise ValueError(f"CPU list item {item!r} is not allowed; write numbers up to {MAX_CPU}: 0-3,8")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Return CPUs as a kernel list, the inverse of `parse_cpu_list`.

    Examples
    --------
    >>> format_cpu_list([0, 1, 2, 8])
    '0-2,8'
    """
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


class Cpu(NamedTuple):
    """One CPU, that is one hardware thread, and what it shares with others.

    Attributes
    ----------
    number
        As the kernel counts CPUs.
    nid
        Its memory node.
    socket
        Its package.
    cache, core
        The first of the CPUs that share its last-level cache, and its core.
    tier
        0 for the fastest cores of the machine, more for smaller ones.
    """

    number: int
    nid: int
    socket: int
    cache: int
    core: int
    tier: int = 0


@dataclass(frozen=True)
class Node:
    """One memory node and the CPUs next to it."""

    nid: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The CPUs that this process may use, and how they and the memory nodes lie to each other.

    Attributes
    ----------
    each
        Every CPU, by number.
    distances
        From node to node, as the firmware says; `LOCAL` and `REMOTE` where it does not.
    memory_nids
        The nodes that have memory, with CPUs or without.

    Examples
    --------
    >>> Topology.by_hand({0: [0, 1], 1: [2, 3]}).node_of(3)
    1
    """

    each: tuple[Cpu, ...]
    distances: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    memory_nids: tuple[int, ...] = ()

    def __hash__(self) -> int:
        """Return a hash of the CPUs, worked out once: topologies are keys of caches."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.each)

    @classmethod
    def by_hand(cls, cpus_by_node: Mapping[int, Iterable[int]]) -> Topology:
        """Return a topology of sockets with one node and one cache each, and of cores with one CPU."""
        nodes = [(nid, sorted(cpus)) for nid, cpus in cpus_by_node.items()]
        return cls(
            tuple(sorted(Cpu(cpu, nid, nid, cpus[0], cpu) for nid, cpus in nodes for cpu in cpus)),
            memory_nids=tuple(sorted(cpus_by_node)),
        )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes with CPUs that this process may use, in the order of their numbers."""
        nids = sorted({cpu.nid for cpu in self.each})
        return tuple(Node(nid, tuple(cpu.number for cpu in self.each if cpu.nid == nid)) for nid in nids)

    @cached_property
    def cpus(self) -> tuple[int, ...]:
        """All CPUs, sorted."""
        return tuple(cpu.number for cpu in self.each)

    @cached_property
    def by_number(self) -> dict[int, Cpu]:
        """Every CPU by its number."""
        return {cpu.number: cpu for cpu in self.each}

    def node_of(self, cpu: int) -> int:
        """Return the number of the node that `cpu` belongs to; ValueError if it is in none."""
        if cpu not in self.by_number:
            raise ValueError(f"CPU {cpu} is in no node; use one of {format_cpu_list(self.cpus)}")
        return self.by_number[cpu].nid

    def cpus_of(self, nid: int) -> tuple[int, ...]:
        """Return the CPUs of node `nid`; ValueError if there is no such node."""
        for node in self.nodes:
            if node.nid == nid:
                return node.cpus
        raise ValueError(f"node {nid} has no usable CPU; use one of {[node.nid for node in self.nodes]}")

    def distance(self, nid: int, other: int) -> int:
        """Return how far two nodes are from each other."""
        return self.distances.get(nid, {}).get(other, LOCAL if nid == other else REMOTE)

    def nodes_from(self, nid: int) -> tuple[int, ...]:
        """Return the nodes with CPUs, the nearest to node `nid` first; `nid` itself need not have any."""
        return tuple(
            sorted((n.nid for n in self.nodes), key=lambda other: (self.distance(nid, other), other))
        )
