"""Processes of cells: forked from a warm one, as fresh as any, and gone with whoever asked for them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
from conftest import is_gone, printed, wait_for, written

from ktask.common import private_folders as private
from ktask.lab.sweep import kernels as module
from ktask.lab.sweep import notebooks
from ktask.lab.sweep.kernels import Kernels, kernels_for_cells

ABOUT_ME = """
import json, mmap, os, random, sys, threading
import numpy as np
fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{fd}")}
hole = mmap.mmap(-1, 1 << 20)
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(), "session": os.getsid(0),
    "random": [random.random(), np.random.random()],
    "address": np.frombuffer(hole, np.uint8).ctypes.data,
    "kinds": sorted({path.partition(":")[0] for path in fds.values()}), "stdin": fds["0"],
    "threads": sorted(t.name.partition("-")[0] for t in threading.enumerate()),
    "tasks": len(os.listdir("/proc/self/task")),
    "is_fork": "with_a_thread" in sys.modules,
    "cwd": os.getcwd(), "seen": os.environ.get("SEEN"), "foreign": sorted(
        {"OPENBLAS_NUM_THREADS", "JE_ARROW_MALLOC_CONF", "JPY_PARENT_PID"} & set(os.environ)),
    "signals": open("/proc/self/status").read().split("SigBlk:")[1].split()[0],
}))
"""


@pytest.fixture(scope="module")
def kernels():
    with Kernels(["numpy.random"]) as found:
        yield found


def told(tmp_path, kernels, source=ABOUT_ME):
    """Return what a notebook of one cell prints as JSON."""
    done = notebooks.execute(written(tmp_path, source), tmp_path / "out.ipynb", {}, 60, kernels)
    return json.loads(printed(done))


# --- as fresh as any other process ------------------------------------------------------------------------


def test_each_cell_is_a_process_of_its_own(tmp_path, kernels, monkeypatch):
    monkeypatch.setenv("SEEN", "yes")
    one, two = told(tmp_path, kernels), told(tmp_path, kernels)
    assert one["parent"] == two["parent"] != os.getpid()
    assert one["pid"] != two["pid"]
    for cell in (one, two):
        assert cell["pid"] == cell["group"] == cell["session"]
        assert (cell["cwd"], cell["stdin"], cell["seen"]) == (str(tmp_path), "/dev/null", "yes")
        assert (cell["foreign"], cell["signals"]) == ([], "0" * 16)
    assert all(a != b for a, b in zip(one["random"], two["random"], strict=True))
    assert one["address"] != two["address"]


def test_a_forked_cell_has_what_a_started_one_has(tmp_path, kernels, monkeypatch):
    (tmp_path / "with_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Kernels(["with_a_thread"]) as unfit:  # that thread may hold a lock, so no cell may be a mere fork
        started = told(tmp_path, unfit)
    forked = told(tmp_path, kernels)
    assert not started["is_fork"]
    for key in ("kinds", "threads"):
        assert forked[key] == started[key]
    assert forked["tasks"] <= started["tasks"]  # started ones have the threads of numpy's library as well


def test_nothing_passes_from_one_cell_to_the_next(tmp_path, kernels):
    source = """
    import json, os, sys, numpy
    print(json.dumps([hasattr(numpy, "mark"), "MARK" in os.environ, "a mark" in sys.path, os.nice(0)]))
    numpy.mark = os.environ["MARK"] = "1"
    sys.path.append("a mark")
    os.nice(1)
    """
    first, second = (told(tmp_path, kernels, textwrap.dedent(source)) for _ in range(2))
    assert first == second


def test_all_ways_to_print_arrive(tmp_path, kernels, capfd, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # ipykernel looks for it, and then leaves descriptors alone
    source = "import os, sys\nprint('a', flush=True)\nos.write(1, b'b\\n')\nos.system('echo c')"
    done = notebooks.execute(written(tmp_path, source), tmp_path / "out.ipynb", {}, 60, kernels)
    assert sorted(printed(done).split()) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


def test_what_cells_are_forked_from_has_one_thread_and_no_parallel_region(tmp_path):
    source = """
    import json, os, psutil, sys
    ready = {"pandas", "pyarrow.parquet", "ktask.lab.measure.cell"} <= set(sys.modules)
    from numba.np.ufunc import parallel
    import ktask
    warm = psutil.Process(os.getppid())
    before = [ready, warm.num_threads(), parallel._is_initialized]
    @ktask.thread_func
    def touch(start, end, buf):
        buf[start:end] += 1
        return 0
    import numpy as np
    buf = np.zeros(1000)
    result = ktask.run(0, 1000, ktask.Ctl(touch, (buf,), min_chunk_size=10, max_threads=2))
    print(json.dumps([*before, parallel._is_initialized, bool((buf == 1).all())]))
    """
    with kernels_for_cells() as ready:
        assert told(tmp_path, ready, textwrap.dedent(source)) == [True, 1, False, True, True]


def test_a_users_startup_files_do_not_run_in_a_cell(tmp_path, kernels, monkeypatch):
    startup = tmp_path / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("mine = 1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert told(tmp_path, kernels, "print('mine' in globals() and 1 or 0)") == 0


# --- and gone ---------------------------------------------------------------------------------------------

ENDS = {
    "killed": ("os.kill(os.getpid(), 9)", "the process of the cell died (killed, or out of memory)"),
    "crashed": ("os.kill(os.getpid(), 11)", "the process of the cell died of SIGSEGV"),
    "left": ("os._exit(3)", "the process of the cell ended itself with exit code 3"),
}


@pytest.mark.parametrize(("source", "reason"), ENDS.values(), ids=ENDS)
def test_the_end_of_a_process_is_told(source, reason, tmp_path, kernels):
    with pytest.raises(notebooks.NotebookError) as caught:
        notebooks.execute(written(tmp_path, f"import os; {source}"), tmp_path / "o.ipynb", {}, 60, kernels)
    assert str(caught.value) == reason


def test_what_a_cell_has_started_ends_with_it(tmp_path, kernels):
    source = "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid)"
    pid = told(tmp_path, kernels, source)
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the process that the cell had started")


def test_when_the_warm_process_dies_the_cell_dies_and_the_next_one_gets_another(tmp_path):
    with Kernels() as mortal:
        with pytest.raises(notebooks.NotebookError, match="the process of the cell died"):
            told(tmp_path, mortal, "import os; os.kill(os.getppid(), 9)\nwhile True: pass")
        first = mortal._warm.pid
        assert told(tmp_path, mortal, "import os; print(os.getppid())") == mortal._warm.pid != first
        os.kill(mortal._warm.pid, signal.SIGKILL)
        assert told(tmp_path, mortal, "print(1)") == 1
        last = mortal._warm.pid
    assert not psutil.pid_exists(last)


def test_an_asker_that_goes_before_the_answer_is_no_traceback(tmp_path, temporary, capfd):
    """As on Ctrl-C at the start of a cell: the answer has nowhere to go, and the kernel must not stay."""
    kernels = Kernels()
    kernels.begin()
    warm = psutil.Process(kernels._warm.pid)
    request = {"connection_file": str(tmp_path / "k.json"), "env": dict(os.environ), "cwd": str(tmp_path)}
    kernels._socket.sendall(json.dumps(request).encode() + b"\n")
    kernels.close()
    assert not warm.is_running()
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_before_the_answer_ends_the_kernel_before_its_directory(tmp_path, temporary, monkeypatch):
    offspring = []
    with Kernels() as kernels:

        def interrupted(*_):
            warm = psutil.Process(kernels._warm.pid)
            offspring.extend(wait_for(warm.children, "the start of the kernel"))
            raise KeyboardInterrupt

        monkeypatch.setattr(module.socket, "recv_fds", interrupted)
        with pytest.raises(KeyboardInterrupt):
            told(tmp_path, kernels)
        assert all(map(is_gone, offspring))
        assert list(temporary.iterdir()) == []


def test_an_interrupt_at_the_start_of_a_kernel_is_no_traceback(tmp_path, temporary, capfd):
    ready = tmp_path / "k.json"
    with Kernels() as kernels:
        request = {"connection_file": str(ready), "env": dict(os.environ), "cwd": str(tmp_path)}
        pid, pidfd = kernels.start(request)
        os.close(pidfd)
        wait_for(lambda: os.getsid(pid) == pid, "a session of its own")
        wait_for(lambda: ready.exists() or os.killpg(pid, signal.SIGINT), "the start of the kernel")
        assert kernels.end(pid) == -signal.SIGKILL
    assert "Traceback" not in capfd.readouterr().err


def test_a_kill_of_the_asker_takes_all_down_and_the_next_tidies_up(tmp_path, temporary):
    program = f"""
    from pathlib import Path
    from ktask.lab.sweep import notebooks
    here = Path({str(tmp_path)!r})
    notebooks.execute(here / "made.ipynb", here / "out.ipynb", {{}})
    """
    written(tmp_path, f"open({str(tmp_path / 'up')!r}, 'w').close()\nwhile True: pass")
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)}) as asker:
        wait_for((tmp_path / "up").exists, "the start of the cell")
        offspring = psutil.Process(asker.pid).children(recursive=True)
        assert len(offspring) == 2
        asker.kill()
    wait_for(lambda: all(map(is_gone, offspring)), "the end of the warm process and of the cell")
    assert len(list(temporary.iterdir())) == 1
    private.remove_stale(private.private_of(temporary))
    assert list(temporary.iterdir()) == []


# --- private directories ----------------------------------------------------------------------------------


def test_a_directory_in_use_is_left_alone(temporary):
    (temporary / f"{private.PREFIX}dead").mkdir()
    (temporary / "other").mkdir()
    (temporary / f"{private.PREFIX}link").symlink_to(temporary / "other")
    with private.private_directory() as one, private.private_directory() as two:
        assert one != two
        assert {p.name for p in temporary.iterdir()} == {one.name, two.name, "other", f"{private.PREFIX}link"}
        assert one.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in temporary.iterdir()} == {"other", f"{private.PREFIX}link"}


def test_one_that_is_tidied_away_before_it_is_locked_is_made_again(temporary, monkeypatch):
    made = private.tempfile.mkdtemp

    def made_and_taken(**options):
        monkeypatch.setattr(private.tempfile, "mkdtemp", made)
        path = made(**options)
        private.remove_stale(private.private_of(temporary))
        return path

    monkeypatch.setattr(private.tempfile, "mkdtemp", made_and_taken)
    with private.private_directory() as path, contextlib.suppress(OSError):
        assert path.is_dir()
    assert list(temporary.iterdir()) == []
