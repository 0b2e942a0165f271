"""Memory and huge pages, and how much of them a process may take, on trees of foreign machines."""

import pytest
from machines import write

from ktask.host import available_memory, topology

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "available_bytes"),
    [
        ("xeon_two_sockets", 514830120 << 10),
        ("container_v2", 256 * MIB),  # 512 limit - 384 used + 128 reclaimable, of an ancestor
        ("container_v1", 768 * MIB),  # 2048 limit - 1536 used + 256 reclaimable
        ("one_cpu", 200 * MIB),
    ],
)
def test_available_memory(machine, name, available_bytes):
    assert available_memory.available_memory_bytes(machine(name)) == available_bytes


def test_soft_limit_counts_too(machine):
    root = machine("container_v2")
    write(root, "sys/fs/cgroup/kubepods.slice/pod42/memory.high", str(300 * MIB))
    assert available_memory.available_memory_bytes(root) == 44 * MIB


def test_group_above_its_limit_has_no_room(machine):
    root = machine("container_v1")
    write(root, "sys/fs/cgroup/memory here/memory.limit_in_bytes", "4096")
    assert available_memory.available_memory_bytes(root) == 0


def test_nothing_to_read(tmp_path):
    assert available_memory.available_memory_bytes(tmp_path) == 0
    assert available_memory.memory_room_bytes(tmp_path) == []
    assert topology.online_cpus(tmp_path) == ()
    assert available_memory.thp_mode(tmp_path) is None
    assert available_memory.hugetlb_pools(tmp_path) == {}
    assert topology.recorded_affinity(tmp_path) == ()


def test_hugetlb_pools(machine):
    pools = available_memory.hugetlb_pools(machine("xeon_two_sockets"))
    assert list(pools) == [2 * MIB, GIB]
    assert pools[2 * MIB] == {"total": 64, "free": 60, "reserved": 10}
    assert list(available_memory.hugetlb_pools(machine("arm_server"))) == [512 * MIB]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("xeon_two_sockets", "always"),
        ("arm_server", "madvise"),
        ("laptop", "never"),
        ("one_cpu", None),
    ],
)
def test_thp(machine, name, mode):
    assert available_memory.thp_mode(machine(name)) == mode
