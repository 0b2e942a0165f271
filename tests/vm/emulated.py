"""The emulated machines: how many CPUs of which kind, which nodes, which kernel, and what is run there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from ktask.host.cpus import parse_cpu_list

CHECKS = "tests/vm/checks.py"
EVERYTHING = (CHECKS, "tests/engine", "tests/workloads", "tests/host", "tests/vm/whole.py")


@dataclass(frozen=True)
class Node:
    """One memory node: its CPUs as a kernel list, and its memory; it may have none of either."""

    cpus: str
    memory_mib: int


@dataclass(frozen=True)
class Machine:
    """One emulated machine.

    Attributes
    ----------
    kernel
        How the version begins.
    tests
        What pytest runs there, in this order.
    limit_min
        Minutes until it is switched off; tests that have not run by then are counted as such.
    """

    name: str
    about: str
    kernel: str
    sockets: int
    cores: int
    threads: int
    nodes: tuple[Node, ...]
    tests: tuple[str, ...] = EVERYTHING
    limit_min: int = 90

    @property
    def cpus(self) -> int:
        """CPUs of the machine."""
        return self.sockets * self.cores * self.threads

    def arguments(self) -> Iterator[str]:
        """Yield what describes the machine to QEMU."""
        yield "-smp"
        yield f"{self.cpus},sockets={self.sockets},cores={self.cores},threads={self.threads}"
        yield "-m"
        yield f"{sum(node.memory_mib for node in self.nodes)}M"
        for nid, node in enumerate(self.nodes):
            if node.memory_mib:
                yield from ("-object", f"memory-backend-ram,id=memory{nid},size={node.memory_mib}M")
            runs = "".join(f",cpus={run}" for run in node.cpus.split(",") if run)
            memory = f",memdev=memory{nid}" if node.memory_mib else ""
            yield from ("-numa", f"node,nodeid={nid}{runs}{memory}")
        for a, b in combinations(range(len(self.nodes)), 2):
            yield from ("-numa", f"dist,src={a},dst={b},val={20 + (b - a > 1)}")

    def described(self) -> dict:
        """Return what the checks compare the machine with."""
        return {
            "cpus": self.cpus,
            "sockets": self.sockets,
            "threads": self.threads,
            "node_cpus": [list(parse_cpu_list(node.cpus)) for node in self.nodes],
            "node_mib": [node.memory_mib for node in self.nodes],
        }


TWO_NODES = (Node("0-3", 3072), Node("4-7", 3072))
MACHINES = (
    Machine("smt8", "2 sockets x 2 cores x 2 threads, 2 nodes", "6.1.", 2, 2, 2, TWO_NODES),
    Machine("smt8-new", "2 sockets x 2 cores x 2 threads, 2 nodes", "6.1[2-9].", 2, 2, 2, TWO_NODES),
    Machine(
        "odd12",
        "3 sockets x 2 cores x 2 threads; 4 nodes: 2 GiB, 512 MiB, no memory, no CPUs",
        "6.1.",
        3,
        2,
        2,
        (Node("0-3", 2048), Node("4-7", 512), Node("8-11", 0), Node("", 1024)),
        (CHECKS, "tests/host/test_topology.py", "tests/engine/test_placement.py", "tests/engine/test_run.py"),
        25,
    ),
    Machine(
        "nodes32",
        "4 sockets x 4 cores x 2 threads, 4 nodes",
        "6.1.",
        4,
        4,
        2,
        tuple(Node(f"{8 * k}-{8 * k + 7}", 1024) for k in range(4)),
        (CHECKS, "tests/host/test_topology.py", "tests/engine/test_placement.py"),
        25,
    ),
)
