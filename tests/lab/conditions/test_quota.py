"""A quota: a control group of the suite's own, entered and left, and removed."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machines import write

from ktask.host.control_groups import Room, room_for_quota
from ktask.lab.conditions.quota import QuotaGroup, remove_leftovers
from ktask.memory.region import UnavailableError

V1 = "24 22 0:20 / {at} rw - cgroup cgroup rw,cpu\n"
V2 = "24 22 0:20 / {at} rw - cgroup2 cgroup2 rw\n"


def foreign(root, mount, own, **files):
    """A machine whose control groups are mounted at /cg, and the process in one of them."""
    write(root, "proc/self/mountinfo", mount.format(at="/cg"))
    write(root, "proc/self/cgroup", own)
    for name, text in files.items():
        write(root, f"cg/{name.replace('__', '/').replace('_', '.')}", text)
    return root


def test_version_1_has_room_inside_the_own_group(tmp_path):
    root = foreign(tmp_path, V1, "3:cpu:/a\n", a__cgroup_procs="")
    assert room_for_quota(root) == Room(root / "cg/a", root / "cg/a", 1)


def test_version_2_has_room_beside_the_own_group(tmp_path):
    root = foreign(tmp_path, V2, "0::/a/b\n", a__b__cgroup_procs="", a__cgroup_procs="")
    assert "systemd-run" in room_for_quota(root)
    write(root, "cg/a/cgroup.subtree_control", "memory\n")
    assert "cannot limit CPU time" in room_for_quota(root)
    write(root, "cg/a/cgroup.subtree_control", "cpu memory\n")
    assert room_for_quota(root) == Room(root / "cg/a", root / "cg/a/b", 2)


def test_where_nothing_is_mounted_there_is_a_reason(tmp_path):
    assert room_for_quota(tmp_path) == "no control groups are mounted"
    with pytest.raises(UnavailableError, match="no control groups are mounted"):
        QuotaGroup(0.5, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_group_that_may_not_be_written_to_is_a_reason(tmp_path):
    root = foreign(tmp_path, V1, "3:cpu:/\n", cgroup_procs="")
    (root / "cg").chmod(0o500)
    assert "may not be written to" in room_for_quota(root)


@pytest.mark.parametrize(
    ("mount", "own", "limit", "stat"),
    [
        (V1, "3:cpu:/\n", ("cpu.cfs_quota_us", "150000"), "nr_throttled 2\nthrottled_time 2500000000\n"),
        (V2, "0::/\n", ("cpu.max", "150000 100000"), "nr_throttled 2\nthrottled_usec 2500000\n"),
    ],
)
def test_both_versions_are_told_the_quota_and_tell_the_throttling(tmp_path, mount, own, limit, stat):
    root = foreign(tmp_path, mount, own, cgroup_procs="")
    write(root, "cg/cgroup.subtree_control", "cpu")
    with contextlib.closing(QuotaGroup(1.5, root)) as group:
        assert (group.path / limit[0]).read_text() == limit[1]
        write(root, f"cg/{group.path.name}/cpu.stat", stat)
        assert group.throttled_s == 2.5
        with group.entered():
            assert (group.path / "cgroup.procs").read_text() == str(os.getpid())
    assert (root / "cg/cgroup.procs").read_text() == str(os.getpid())


def test_what_a_killed_run_has_left_is_removed_and_nothing_else(tmp_path):
    code = "import os; print(os.getpid())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    names = [f"ktask-{int(done.stdout)}", "ktask-1", "ktask-x", "other-3"]
    for name in names:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(names[1:])


real = pytest.mark.skipif(isinstance(room_for_quota(), str), reason=str(room_for_quota()))


def _own_groups():
    return Path("/proc/self/cgroup").read_text()


@real
def test_a_process_in_the_group_is_throttled_and_then_back_where_it_was():
    before = _own_groups()
    try:
        group = QuotaGroup(0.03)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    try:
        with group.entered():
            inside, end = _own_groups(), time.monotonic() + 30
            while not group.throttled_s and time.monotonic() < end:
                pass
        assert (group.path.name in inside, _own_groups()) == (True, before)
        assert group.throttled_s > 0
    finally:
        group.close()
    assert not group.path.exists()


@real
@pytest.mark.parametrize("inside", [False, True])
def test_nothing_is_left_of_a_process_that_was_killed(inside):
    enter = "group.entered().__enter__();" if inside else ""
    code = "from ktask.lab.conditions.quota import QuotaGroup; group = QuotaGroup(0.5); "
    code += f"{enter} print(group.path, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        group = Path(process.stdout.readline().decode().strip())
        if not group.is_dir():
            pytest.skip("this process may not have a quota of a half")
        process.kill()
    end = time.monotonic() + 10
    while group.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not group.exists()
