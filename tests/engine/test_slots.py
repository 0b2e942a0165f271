"""Helper slots: never more than the limit, given back however a process ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
from conftest import run_python

from ktask.engine.slots import ENVIRONMENT, Slots
from ktask.host.topology import cpu_count

HOLD = """
    import sys, time
    from pathlib import Path
    from ktask.engine.slots import Slots
    slots = Slots(Path(sys.argv[1]))
    grant = slots.take([-1] * int(sys.argv[2]), 8, {})
    print(len(grant), flush=True)
    time.sleep(60)
"""


def holder(path, count):
    """Start a process that takes slots; return it and how many it got."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(path), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slots"


def test_grants_stop_at_the_limit(path):
    slots = Slots(path)
    first = slots.take([-1, -1, -1], 4, {})
    second = slots.take([-1, -1, -1], 4, {})
    assert (len(first), len(second)) == (3, 1)
    assert sorted(first.slots + second.slots) == [0, 1, 2, 3]
    slots.give_back(first)
    assert len(slots.take([-1] * 9, 4, {})) == 3


def test_full_node_spills_to_any_node(path):
    slots = Slots(path)
    grant = slots.take([0, 0, 0, 1], 4, {0: 2, 1: 2})
    assert grant.nids == [0, 0, -1, 1]
    slots.give_back(grant)
    slots.give_back(grant)
    assert slots.take([0, 0], 4, {0: 2, 1: 2}).nids == [0, 0]


def test_processes_share_the_limit_and_death_gives_back(path):
    process, got = holder(path, 6)
    slots = Slots(path)
    assert got == 6
    mine = slots.take([-1] * 8, 8, {})
    assert len(mine) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(slots.take([-1] * 8, 8, {})) == 6
    process.stdout.close()


def test_a_forked_child_holds_nothing_of_its_parent(path):
    slots = Slots(path)
    slots.take([-1], 1, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(len(slots.take([-1], 1, {})))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(slots.take([-1], 2, {})) == 1


def test_child_that_outlives_a_killed_parent_does_not_keep_its_slots(path):
    code = HOLD.replace("time.sleep(60)", "import os\n    os.fork()\n    time.sleep(60)")
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(path), "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "8\n"
        time.sleep(0.3)
        process.kill()
        process.wait()
        try:
            assert len(Slots(path).take([-1] * 8, 8, {})) == 8
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["missing folder", "directory", "link"])
def test_unusable_file_means_one_warning_and_limits_within_the_process(tmp_path, kind):
    path = tmp_path / "slots"
    if kind == "missing folder":
        path = tmp_path / "nowhere" / "slots"
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    slots = Slots(path)
    with pytest.warns(RuntimeWarning, match=f"limits hold within this process only.*{ENVIRONMENT}"):
        first = slots.take([-1] * 3, 2, {})
    assert len(first) == 2
    assert len(slots.take([-1], 2, {})) == 0
    assert not (tmp_path / "elsewhere").exists()


def test_file_of_another_user_is_not_trusted(path, monkeypatch):
    path.touch()
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="not a regular file of this user"):
        Slots(path).take([-1], 1, {})


def test_agreed_file_of_the_administrator_is_used(path, monkeypatch):
    path.touch(mode=0o666)
    monkeypatch.setenv(ENVIRONMENT, str(path))
    process, got = holder(path, 8)
    assert got == 8
    assert len(Slots().take([-1], 8, {})) == 0
    process.kill()
    process.communicate()


KILLS = """
    import os, random, signal, sys, time
    from pathlib import Path
    from ktask.engine.slots import Slots
    random.seed(1)
    alive = []
    for k in range(int(sys.argv[2])):
        pid = os.fork()
        if pid == 0:
            slots = Slots(Path(sys.argv[1]))
            while True:
                grant = slots.take([0, 1, -1], 8, {0: 4, 1: 4})
                if len(grant) > 3 or not set(grant.slots) < set(range(8)):
                    os._exit(1)
                slots.give_back(grant)
        alive.append(pid)
        if len(alive) > 4:
            victim = alive.pop(random.randrange(len(alive)))
            os.kill(victim, signal.SIGKILL)
            assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    grant = Slots(Path(sys.argv[1])).take([0] * 5 + [1] * 5, 8, {0: 4, 1: 4})
    print(len(grant), sorted(grant.nids))
"""


@pytest.mark.parametrize("processes", ["200", pytest.param("1000", marks=pytest.mark.long)])
def test_processes_killed_at_random_leave_every_slot_free(path, processes):
    done = run_python(KILLS, str(path), processes)
    assert done.stdout == "8 [-1, 0, 0, 0, 0, 1, 1, 1]\n", done.stderr


HAMMER = """
    import os, sys, time
    import numpy as np, ktask
    from ktask.workloads.zeroing.resident import STORES, zero  # compiled on disk

    def hammer():
        buffer = np.ones(64 * 64, np.uint8)
        kind = STORES.index("memset")
        ctl = ktask.Ctl(zero, (buffer.ctypes.data, 1, buffer.size, kind, kind), 64)
        ktask.run(0, buffer.size, ctl)
        runs, most, end = 0, 0, time.monotonic() + 0.5
        while time.monotonic() < end:
            most = max(most, ktask.run(0, buffer.size, ctl).threads)
            runs += 1
        assert runs and not buffer.any()
        print(most, flush=True)

    children = []
    for _ in range(16):
        if (pid := os.fork()) == 0:
            hammer()
            os._exit(0)
        children.append(pid)
    assert not any(os.waitpid(pid, 0)[1] for pid in children)
"""


def locked_bytes(path):
    """Return the bytes of the file that some process holds, seen from outside."""
    held = set()
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].rsplit(":", 1)[1] == str(inode):
            held |= set(range(int(fields[6]), int(fields[7]) + 1))
    return held


def test_sixteen_processes_that_hammer_run_never_exceed_the_limit(path, monkeypatch):
    path.touch(mode=0o600)
    monkeypatch.setenv(ENVIRONMENT, str(path))
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(HAMMER)]
    limit, samples = 4 * cpu_count() // 5, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            samples.append(locked_bytes(path))
            time.sleep(0.001)
        most = [int(threads) for threads in process.stdout.read().split()]
    assert (process.returncode, len(most)) == (0, 16)
    assert max(most) <= limit + 1
    assert all(held <= set(range(limit)) for held in samples)
    assert any(samples) == (limit > 0)
    assert locked_bytes(path) == set()
