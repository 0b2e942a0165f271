"""CPU quotas of control groups, on trees of foreign machines."""

import pytest
from machines import write

from ktask.host import control_groups, topology


@pytest.mark.parametrize(
    ("name", "quota", "cpus", "count"),
    [
        ("container_v2", 1.5, range(8), 1),  # an ancestor's quota is smaller than its own of 4
        ("container_v1", 2.5, range(4), 2),
        ("container_v1", 2.5, [3], 1),
        ("xeon_two_sockets", None, range(160), 160),
        ("xeon_two_sockets", None, [0, 5], 2),
        ("one_cpu", None, [], 1),
    ],
)
def test_cpu_count_is_affinity_cut_by_quota(machine, name, quota, cpus, count):
    root = machine(name)
    assert control_groups.quota_cpus(root) == quota
    assert topology.cpu_count(root, cpus) == count


def test_quota_below_one_cpu_still_counts_one(machine):
    root = machine("container_v2")
    write(root, "sys/fs/cgroup/kubepods.slice/pod42/cpu.max", "20000 100000\n")
    assert control_groups.quota_cpus(root) == pytest.approx(0.2)
    assert topology.cpu_count(root, range(8)) == 1


@pytest.mark.parametrize("text", ["", "max 100000", "100000 0", "-5 100000", "1e5 100000", "9" * 5000])
def test_damaged_quota_is_no_quota(machine, text):
    root = machine("container_v2")
    write(root, "sys/fs/cgroup/kubepods.slice/pod42/cpu.max", text)
    assert control_groups.quota_cpus(root) == 4  # that of the process's own group


@pytest.mark.parametrize("period", ["0", "-1", ""])
def test_v1_without_quota(machine, period):
    root = machine("container_v1")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", period)
    assert control_groups.quota_cpus(root) is None


def test_group_outside_of_the_namespace_ends_at_the_mount_point(machine):
    root = machine("container_v2")
    write(root, "proc/self/cgroup", "0::/../../kubepods.slice/pod42\n")
    write(root, "sys/fs/cgroup/cpu.max", "300000 100000\n")
    write(root, "sys/kubepods.slice/pod42/cpu.max", "100000 100000\n")  # where the dots would lead
    assert control_groups.quota_cpus(root) == 3
