"""More threads than CPUs, fewer than helpers, and CPUs that come and go while a task runs."""

import contextlib
import json
import os
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from conftest import run_python

import ktask
from ktask.engine import native
from ktask.engine import run as engine
from ktask.engine.placement import site
from ktask.host.cpus import format_cpu_list
from ktask.host.topology import allowed_cpus

CHILD = """
    import json, os, sys, time
    import numpy as np
    import ktask
    from ktask.engine import policy, run as engine
    from ktask.host.kernel_files import status_bytes

    @ktask.thread_func
    def mark(start, end, seen):
        seen[start:end] += 1
        return 0

    threads = int(sys.argv[1])
    seen = np.zeros(4 * threads, np.int64)
    ctl = ktask.Ctl(mark, (seen,), 1)
    part, machine = policy.Part(0, seen.size, 0), policy.Machine(cpus=2 * threads)
    plan = policy.make_plan("dynamic", [part], 1, threads, machine=machine)
    ktask.run(0, 1, ctl)
    seen[:] = 0
    before, walls = status_bytes("VmRSS"), []
    for _ in range(10):
        start = time.monotonic()
        engine.carry_out(plan, ctl)
        walls.append(time.monotonic() - start)
    grown, used = status_bytes("VmRSS") - before, time.process_time()
    time.sleep(0.5)
    spun_s = time.process_time() - used
    print(json.dumps({"right": bool((seen == 10).all()), "walls": walls, "spun_s": spun_s,
                      "grown": grown, "threads": len(os.listdir("/proc/self/task"))}))
"""


@pytest.mark.timing
@pytest.mark.parametrize("threads", [16, 64, 288])
def test_more_threads_than_cpus_neither_hang_nor_spin(threads):
    done = run_python(CHILD, str(threads), check=True, env=os.environ | {"NUMBA_NUM_THREADS": str(threads)})
    found = json.loads(done.stdout)
    assert found["right"]
    assert found["threads"] >= threads
    assert max(found["walls"]) < 3
    assert found["spun_s"] < 0.2
    assert found["grown"] < 128 << 20


@pytest.mark.parametrize(("most", "threads"), [(1, 1), (64, None)])
def test_a_task_has_as_many_threads_as_numba(most, threads):
    code = """
        import numpy as np, ktask
        @ktask.thread_func
        def mark(start, end, seen):
            seen[start:end] += 1
            return 0
        seen = np.zeros(1000, np.int64)
        ctl = ktask.Ctl(mark, (seen,), 1, 64)
        result = ktask.run(0, 1000, ctl)
        assert (seen == 1).all()
        print(result.threads, sum(n > 0 for n in result.chunks_per_thread), result.run_mode)
    """
    done = run_python(code, check=True, env=os.environ | {"NUMBA_NUM_THREADS": str(most)})
    granted = int(done.stdout.split()[0])
    assert granted == (threads or 4 * len(allowed_cpus()) // 5 + 1)


# --- CPUs that come and go -------------------------------------------------------------------------------


@ktask.thread_func
def take_steps(start, end, seen, steps):
    for unit in range(start, end):
        native.spend(steps)
        seen[unit] += 1
    return 0


@pytest.fixture
def cpuset():
    """Return a function that limits this process to CPUs, by a control group, as root can."""
    mask, group, home = os.sched_getaffinity(0), *group_of_cpus()
    (group / "cpuset.cpus").write_text(format_cpu_list(mask))
    nodes = group.parent / "cpuset.mems"
    if nodes.exists() and nodes.read_text().strip():  # version 1 wants them
        (group / "cpuset.mems").write_text(nodes.read_text())
    (group / "cgroup.procs").write_text(str(os.getpid()))
    yield lambda cpus: (group / "cpuset.cpus").write_text(format_cpu_list(cpus))
    (home / "cgroup.procs").write_text(str(os.getpid()))
    os.sched_setaffinity(0, mask)
    group.rmdir()


def group_of_cpus():
    """Make a control group of CPUs; return it and the one that this process is in, or skip."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    for parent, key in (("/sys/fs/cgroup/cpuset", ":cpuset:"), ("/sys/fs/cgroup", "::")):
        group = Path(parent) / f"ktask-test-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / "cpuset.cpus").exists():
                (own,) = (line.split(key)[1] for line in lines if key in line)
                return group, Path(parent) / own.lstrip("/")
            group.rmdir()
    pytest.skip("a control group of CPUs cannot be made here")


def run_while(change, size=400, steps=500_000, **how):
    """Run a task of some hundred milliseconds with a change in the middle; return result and seconds."""
    seen = np.zeros(size, np.int64)
    ctl = ktask.Ctl(take_steps, (seen, steps), 1)
    ktask.run(0, 1, ctl)
    timer, start = threading.Timer(0.05, change), time.monotonic()
    timer.start()
    result = ktask.run(0, size, ctl, policy="dynamic", **how)
    timer.join()
    assert result.done == size
    assert seen[1:].tolist() == [1] * (size - 1)
    return result, time.monotonic() - start


@pytest.mark.cpus(2)
@pytest.mark.parametrize("nice", [19, 0])
def test_a_cpuset_that_shrinks_while_a_task_runs(cpuset, nice):
    cpus = allowed_cpus()
    _, seconds = run_while(lambda: cpuset(cpus[:1]), nice=nice)
    assert seconds < 60
    assert allowed_cpus() == cpus[:1]
    assert site().cpus == cpus[:1]
    seen = np.zeros(100, np.int64)
    assert ktask.run(0, 100, ktask.Ctl(take_steps, (seen, 10), 1), "dynamic").threads == 1
    cpuset(cpus)


@pytest.mark.cpus(2)
def test_a_process_follows_a_cpuset_that_grows_after_a_task(cpuset):
    cpus = allowed_cpus()
    cpuset(cpus[:1])
    seen = np.zeros(100, np.int64)
    ctl = ktask.Ctl(take_steps, (seen, 10), 1)
    assert ktask.run(0, 100, ctl, "dynamic").threads == 1
    cpuset(cpus)
    assert allowed_cpus() == cpus
    assert (
        ktask.run(0, 100, ctl, "dynamic").threads == engine.plan(ktask.Node(0, 100), ctl, "dynamic").threads
    )
    run_while(lambda: cpuset(cpus[:1]))
    cpuset(cpus)
    assert allowed_cpus() == cpus
