"""On which nodes the memory of a case lies, and near which ones its threads run.

Threads run near the memory. With `remote` they run where they do with `local`, and the memory lies elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

from ktask.engine import placement
from ktask.engine.cpu_order import ANYWHERE
from ktask.engine.task import Node
from ktask.host import node_memory
from ktask.memory import region as memory
from ktask.workloads.base import Case, Option

WORDS = {
    "any": "wherever the kernel puts it",
    "local": "on the first node with CPUs, where the threads run, too",
    "remote": "on the node farthest from there",
    "spread": "pages on all nodes in turn",
    "split": "a part on each node",
}
ALLOWED = f"the number of a node, or {', '.join(WORDS)}"


def _check(text: str) -> None:
    """Raise ValueError unless a text says where memory may lie."""
    if text not in WORDS and not (text.isdecimal() and len(text) < 6):
        raise ValueError(f"node={text!r} is not allowed; use {ALLOWED}")


def _why_not(word: str) -> str | None:
    """Return why memory cannot lie so on this machine, or None."""
    have = node_memory.usable_nodes()
    if word.isdecimal() and int(word) not in have:
        return f"this process may use no memory on node {word}, only on {list(have)}"
    if word in ("local", "remote", "split") and len(have) == 1:
        return f"node={word} needs memory on two nodes; this process may use that of node {have[0]} alone"
    return None


NODE = Option(
    "node",
    "the NUMA node that the memory is bound to, by number; local to the threads, or remote; pages spread "
    "over all nodes in turn, or the memory split into a part for each",
    "any",
    form=_check,
    why_not=_why_not,
)


class Nodes(NamedTuple):
    """The nodes that memory is bound to, none for anywhere; those that threads run near; whether in parts."""

    memory: tuple[int, ...]
    threads: tuple[int, ...]
    is_split: bool = False


def nodes_of(case: Case) -> Nodes:
    """Return where the memory of a case lies on this machine, and where its threads run."""
    word = dict(case.options).get("node", "any")
    if word == "any":
        return Nodes((), (ANYWHERE,))
    have = node_memory.usable_nodes()
    if word in ("spread", "split"):
        return Nodes(have, have, word == "split")
    if word.isdecimal():
        return Nodes((int(word),), (int(word),))
    topo = placement.site().topo
    home = next((node.nid for node in topo.nodes if node.nid in have), have[0])
    farthest = max(have, key=lambda nid: (topo.distance(home, nid), -nid))
    return Nodes((home if word == "local" else farthest,), (home,))


def bind(region: memory.Region, nodes: Nodes) -> None:
    """Have the pages to come of a region lie on their nodes and nowhere else."""
    if nodes.is_split:
        for part in parts(nodes, region.size_bytes, region.page_size):
            region.place((part.nid,), part.start, part.size)
    elif nodes.memory:
        region.place(nodes.memory)


def parts(nodes: Nodes, size: int, units_per_page: int) -> tuple[Node, ...]:
    """Return a task over `size` units in a part per node that threads run near, in whole pages."""
    count, pages = len(nodes.threads), -(-size // units_per_page)
    ends = [min(pages * k // count * units_per_page, size) for k in range(count + 1)]
    found = zip(ends, ends[1:], nodes.threads, strict=False)
    return tuple(Node(start, end - start, nid) for start, end, nid in found if end > start)
