"""Room on memory nodes, on trees made by hand."""

import pytest

from ktask.host import node_memory
from ktask.host.topology import NODE_DIR

MIB = 1 << 20
CGROUPS = {
    "proc/self/cgroup": "0::/box\n",
    "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
}


@pytest.fixture
def tree(tmp_path):
    """A function that writes files by path and returns where they are."""

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


def node(nid, free_mib, **more_mib):
    """The files of a node with so much free memory."""
    entries = {"MemTotal": 4096, "MemFree": free_mib, **more_mib}
    lines = [f"Node {nid} {name}: {8 * ' '}{mib << 10} kB\n" for name, mib in entries.items()]
    return {f"{NODE_DIR}/node{nid}/meminfo": "".join(lines), f"{NODE_DIR}/node{nid}/cpulist": "0\n"}


def test_half_of_what_can_be_reclaimed_counts_as_room(tree):
    files = {
        "Active(file)": 100,
        "Inactive(file)": 200,
        "KReclaimable": 60,
        "SReclaimable": 40,
        "AnonPages": 900,
    }
    root = tree(node(3, 1000, **files))
    assert node_memory.node_room_bytes(3, root) == (1000 + 180) * MIB
    assert node_memory.node_room_bytes(4, root) is None


@pytest.mark.parametrize("text", ["", "Node 0 MemFree: lots kB\n", "MemFree: 5 kB\n", "\0"])
def test_a_damaged_meminfo_bounds_nothing(tree, text):
    root = tree({f"{NODE_DIR}/node0/meminfo": text, "proc/meminfo": "MemAvailable: 2048 kB\n"})
    assert node_memory.node_room_bytes(0, root) is None
    assert node_memory.available_bytes(root) == 2 * MIB


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, (0, 1, 2)),
        ({f"{NODE_DIR}/has_memory": "0,2\n"}, (0, 2)),  # node 1 has CPUs only
        ({"proc/self/status": "Mems_allowed_list:\t1-2\n"}, (1, 2)),
        (CGROUPS | {"sys/fs/cgroup/box/cpuset.mems.effective": "2\n"}, (2,)),
        (CGROUPS | {"sys/fs/cgroup/cpuset.mems.effective": "0-1\n"}, (0, 1)),  # of an ancestor
        (CGROUPS | {"sys/fs/cgroup/box/cpuset.mems.effective": "\n"}, (0, 1, 2)),
        (
            {"proc/self/status": "Mems_allowed_list:\t0-1\n", f"{NODE_DIR}/has_memory": "1-2\n"},
            (1,),
        ),
        (
            {
                "proc/self/cgroup": "4:cpuset:/box\n",
                "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
                "sys/fs/cgroup/cpuset/box/cpuset.effective_mems": "1\n",
            },
            (1,),
        ),
    ],
)
def test_a_node_can_be_used_if_it_has_memory_and_the_control_group_allows_it(tree, files, usable):
    root = tree({**node(0, 1), **node(1, 1), **node(2, 1), **files})
    assert node_memory.usable_nodes(root) == usable


def test_where_some_nodes_are_allowed_their_room_is_the_bound(tree):
    machine = {
        **node(0, 3000),
        **node(1, 100, **{"Inactive(file)": 40}),
        "proc/meminfo": "MemAvailable: 3145728 kB\n",
    }
    assert node_memory.available_bytes(tree(machine)) == 3072 * MIB
    root = tree({"proc/self/status": "Mems_allowed_list:\t1\n"})
    assert node_memory.available_bytes(root) == 120 * MIB


def test_a_pool_is_read_per_node(tree):
    pool = f"{NODE_DIR}/node1/hugepages/hugepages-2048kB"
    root = tree({f"{pool}/nr_hugepages": "128\n", f"{pool}/free_hugepages": "100\n"})
    assert node_memory.node_pool(1, 2 * MIB, root) == {"total": 128, "free": 100}
    assert node_memory.node_pool(1, 1 << 30, root) is None
    assert node_memory.node_pool(0, 2 * MIB, root) is None
    tree({f"{pool}/free_hugepages": "some\n"})
    assert node_memory.node_pool(1, 2 * MIB, root) is None
