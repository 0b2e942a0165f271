"""What each memory node has left: general memory, and pages of its hugetlb pools.

A node can be full while the machine has memory enough: memory that is bound to it then ends in the kernel's
OOM killer, or in SIGBUS where it is of hugetlb pages. Every reader takes ``root`` as in `topology`; what
cannot be read is None, and bounds nothing.
"""

import re
from pathlib import Path

from ktask.host import available_memory, control_groups, kernel_files, topology
from ktask.host.kernel_files import ROOT, read_cpu_list, read_text
from ktask.host.topology import NODE_DIR

RECLAIMABLE = ("Active(file)", "Inactive(file)", "KReclaimable")


def usable_nodes(root: Path = ROOT) -> tuple[int, ...]:
    """Return the nodes with memory that this process may take: those that its control group leaves it."""
    allowed = [topology.recorded_mems(root), *_cpuset_nodes(root)]
    known = [set(nodes) for nodes in allowed if nodes]
    return tuple(nid for nid in topology.memory_nodes(root) if all(nid in nodes for nodes in known))


def _cpuset_nodes(root: Path) -> list[tuple[int, ...]]:
    """Return the nodes of each cpuset that the process is in; a file that is missing allows all."""
    files = {"": "cpuset.mems.effective", "cpuset": "cpuset.effective_mems"}  # version 2 and 1
    return [
        read_cpu_list(group / file)
        for kind, file in files.items()
        for group in control_groups.cgroup_directories(root, kind)
    ]


def node_meminfo(nid: int, root: Path = ROOT) -> dict[str, int]:
    """Return the entries of a node's ``meminfo`` in bytes."""
    text = read_text(root / NODE_DIR / f"node{nid}/meminfo") or ""
    entries = re.findall(r"^Node [0-9]+ ([\w()]+):\s+([0-9]{1,18}) kB$", text, re.MULTILINE)
    return {name: int(kib) << 10 for name, kib in entries}


def node_room_bytes(nid: int, root: Path = ROOT) -> int | None:
    """Return how much memory node `nid` can still give, None if the kernel does not say.

    That is what is free there, and half of the file pages and slabs that the kernel can reclaim: what it
    counts of them as available for the whole machine in any case.
    """
    info = node_meminfo(nid, root)
    if "MemFree" not in info:
        return None
    return info["MemFree"] + sum(info.get(name, 0) for name in RECLAIMABLE) // 2


def available_bytes(root: Path = ROOT) -> int:
    """Return how many bytes the process can still take, the nodes that it may use counted.

    As `available_memory.available_memory_bytes`, but no more than these nodes have where they are not all.
    """
    total, nodes = available_memory.available_memory_bytes(root), usable_nodes(root)
    if nodes == topology.memory_nodes(root):
        return total
    rooms = [node_room_bytes(nid, root) for nid in nodes]
    return total if None in rooms else min(total, sum(room for room in rooms if room is not None))


def node_pool(nid: int, page_size_bytes: int, root: Path = ROOT) -> dict[str, int] | None:
    """Return ``total`` and ``free`` pages of a hugetlb pool on node `nid`, None if there is no such pool."""
    folder = root / NODE_DIR / f"node{nid}/hugepages/hugepages-{page_size_bytes >> 10}kB"
    total, free = (kernel_files.read_int(folder / name) for name in ("nr_hugepages", "free_hugepages"))
    return None if total is None or free is None else {"total": total, "free": free}
