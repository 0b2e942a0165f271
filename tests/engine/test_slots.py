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

from ktask.engine import slots
from ktask.engine.slots import CPUS, ENVIRONMENT, Slots
from ktask.host.topology import allowed_cpus, cpu_count

HOLD = """
    import sys, time
    from pathlib import Path
    from ktask.engine.slots import Slots
    slots = Slots(Path(sys.argv[1]))
    grant = slots.take([range(8)] * int(sys.argv[2]), 8)
    print(len(grant), *grant.cpus, flush=True)
    time.sleep(60)
"""


def holder(path, count):
    """Start a process that takes slots; return it and how many it got."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(path), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline().split()[0])


ANY = (0, 1, 2, 3, 4, 5, 6, 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slots"


def test_grants_stop_at_the_limit(path):
    slots = Slots(path)
    first = slots.take([ANY] * 3, 4)
    second = slots.take([ANY] * 3, 4)
    assert (len(first), len(second)) == (3, 1)
    assert sorted(first.slots + second.slots) == [0, 1, 2, 3]
    slots.give_back(first)
    assert len(slots.take([ANY] * 9, 4)) == 3


def test_every_helper_gets_the_best_cpu_that_is_free(path):
    slots = Slots(path)
    near, far = (4, 5, 0, 1), (0, 1, 4, 5)
    grant = slots.take([near, near, near, far], 8)
    assert grant.cpus == [4, 5, 0, 1]
    slots.give_back(grant)
    slots.give_back(grant)
    assert slots.take([near, far, near], 8).cpus == [4, 0, 5]


def test_helpers_share_cpus_only_when_all_are_held(path):
    slots = Slots(path)
    assert sorted(slots.take([(0, 1)] * 4, 8).cpus) == [0, 0, 1, 1]
    assert slots.take([(0, 1, 2)] * 2, 8).cpus[0] == 2


def test_a_held_cpu_is_no_choice_for_others_until_it_is_given_back(path):
    slots = Slots(path)
    with slots.cpu((3, 2)) as first, slots.cpu((3, 2)) as second, slots.cpu((3, 2)) as third:
        assert (first, second, third) == (3, 2, 3)
        assert slots.take([(2, 3, 6)], 8).cpus == [6]
    assert slots.take([(2, 3, 6)] * 2, 8).cpus == [2, 3]


def test_processes_with_other_orders_do_not_choose_the_same_cpus(path):
    process, got = holder(path, 5)
    mine = Slots(path).take([tuple(reversed(ANY))] * 3, 8)
    assert (got, mine.cpus) == (5, [7, 6, 5])
    assert len(Slots(path).take([ANY], 8)) == 0
    process.kill()
    process.communicate()


def test_processes_share_the_limit_and_death_gives_back(path):
    process, got = holder(path, 6)
    slots = Slots(path)
    assert got == 6
    mine = slots.take([ANY] * 8, 8)
    assert len(mine) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(slots.take([ANY] * 8, 8)) == 6
    process.stdout.close()


def test_a_forked_child_holds_nothing_of_its_parent(path):
    slots = Slots(path)
    slots.take([ANY], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(len(slots.take([ANY], 1)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(slots.take([ANY], 2)) == 1


def test_child_that_outlives_a_killed_parent_does_not_keep_its_slots(path):
    code = HOLD.replace("time.sleep(60)", "import os\n    os.fork()\n    time.sleep(60)")
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(path), "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline().startswith("8 ")
        time.sleep(0.3)
        process.kill()
        process.wait()
        try:
            assert len(Slots(path).take([ANY] * 8, 8)) == 8
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
        first = slots.take([ANY] * 3, 2)
    assert len(first) == 2
    assert len(slots.take([ANY], 2)) == 0
    assert not (tmp_path / "elsewhere").exists()


def test_file_of_another_user_is_not_trusted(path, monkeypatch):
    path.touch()
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="not a regular file of this user"):
        Slots(path).take([ANY], 1)


def test_agreed_file_of_the_administrator_is_used(path, monkeypatch):
    path.touch(mode=0o666)
    monkeypatch.setenv(ENVIRONMENT, str(path))
    process, got = holder(path, 8)
    assert got == 8
    assert len(Slots().take([ANY], 8)) == 0
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
                grant = slots.take([range(8), range(7, -1, -1), range(4)], 8)
                if len(grant) > 3 or not {*grant.slots, *grant.cpus} <= set(range(8)):
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
    grant = Slots(Path(sys.argv[1])).take([range(8)] * 10, 8)
    print(len(grant), sorted(grant.held_cpus))
"""


@pytest.mark.parametrize("processes", ["200", pytest.param("1000", marks=pytest.mark.long)])
def test_processes_killed_at_random_leave_every_slot_free(path, processes):
    done = run_python(KILLS, str(path), processes)
    assert done.stdout == "8 [0, 1, 2, 3, 4, 5, 6, 7]\n", done.stderr


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
    cpus = {CPUS + cpu for cpu in allowed_cpus()}
    assert all(held - cpus <= set(range(limit)) for held in samples)
    assert all(len(held & cpus) <= limit for held in samples)
    assert any(samples) == (limit > 0)
    assert locked_bytes(path) == set()


def test_a_runtime_directory_is_taken_only_if_it_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert slots.default_path().parent == tmp_path
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert slots.default_path().parent == tmp_path / "t"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert slots.default_path().parent == tmp_path / "t"
