"""Small files of the kernel: damage of any of them does no harm to any reader."""

import os

import pytest
from machines import NAMES

from ktask.host import available_memory, control_groups, kernel_files, topology

READERS = (
    topology.online_cpus,
    topology.recorded_affinity,
    control_groups.quota_cpus,
    topology.cpu_count,
    topology.read_topology,
    topology.node_cpus,
    topology.smt_siblings,
    topology.caches,
    available_memory.meminfo,
    available_memory.available_memory_bytes,
    available_memory.hugetlb_pools,
    available_memory.thp_mode,
    control_groups.quotas,
    topology.isolated_cpus,
    lambda root: topology.read_topology(root, range(8)),
)


@pytest.mark.parametrize(
    "junk", [b"", b"\xff\x00\x1b[31m", b"0-", b"-1", b"9" * 5000, b"0::/\0\n", b"1 - 2 - 3"]
)
@pytest.mark.parametrize("name", ["container_v1", "container_v2", "laptop"])
def test_junk_in_every_file_does_no_harm(machine, name, junk):
    root = machine(name)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.write_bytes(junk)
    for read in READERS:
        read(root)


@pytest.mark.parametrize("name", NAMES)
def test_directories_in_place_of_files_do_no_harm(machine, name):
    root = machine(name)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.unlink()
        path.mkdir()
    for read in READERS:
        read(root)


def test_files_below_proc_sys_can_be_read():
    # They refuse reads of 4 MiB and more, whatever their size.
    assert kernel_files.read_text(kernel_files.ROOT / "proc/sys/kernel/osrelease") == os.uname().release
