"""Surroundings of the tests: nothing of the user's is read, and nothing is left to the user.

Markers: `pool(page_kind, pages)` skips a test where the machine has no such hugetlb pages free, and `cpus(n)`
where this process may use fewer CPUs. A test marked `alone` has the machine to itself, however many workers
pytest has.
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from machines import plant

from ktask.cli import app
from ktask.common.resources import SAMPLE
from ktask.host import topology
from ktask.memory import region as memory

FOREIGN = (
    "KTASK_LIMITS_FILE",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "IPYTHONDIR",
    "MPLCONFIGDIR",
)
PATIENCE_S = 60


def runs_alone(item) -> bool:
    """Return whether no other test may run beside this one."""
    return any(item.iter_markers("alone"))


def takes_pool(item) -> bool:
    """Return whether a test takes hugetlb pages, by its marker or by a page kind among its parameters."""
    return any(item.iter_markers("pool")) or re.search(r"\b(2MiB|1GiB)\b", item.name) is not None


def pytest_collection_modifyitems(items):
    """Put what runs alone last: until then no worker waits for another."""
    items.sort(key=runs_alone)


@contextlib.contextmanager
def locked(path, how=fcntl.LOCK_EX):
    """Hold a lock among the workers of pytest."""
    with path.open("w") as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a forked child may have the file still open


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Let workers share the machine, but for tests that need it alone, and one at a time take hugetlb pages.

    Whoever wants the machine holds the door meanwhile: one that waits for the others is not overtaken.
    """
    if not hasattr(item.config, "workerinput"):  # of pytest-xdist
        return (yield)
    folder = item.config.cache.mkdir("locks")
    with contextlib.ExitStack() as held:
        with locked(folder / "door"):
            how = fcntl.LOCK_EX if runs_alone(item) else fcntl.LOCK_SH
            held.enter_context(locked(folder / "machine", how))
        if takes_pool(item):
            held.enter_context(locked(folder / "pool"))
        return (yield)


def pytest_runtest_setup(item):
    for marker in item.iter_markers("pool"):
        page_kind, pages = marker.args
        if reason := memory.why_not(page_kind, pages * memory.PAGE_KINDS[page_kind]):
            pytest.skip(reason)
    for marker in item.iter_markers("cpus"):
        if topology.cpu_count() < marker.args[0]:
            pytest.skip(f"needs {marker.args[0]} CPUs, this process may use {topology.cpu_count()}")


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory):
    """An empty home, helper slots of our own and not the user's, and Ctrl-C as in a terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    with pytest.MonkeyPatch.context() as patch:
        for name in [*FOREIGN, *(n for n in os.environ if n.startswith("JUPYTER_"))]:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`; fail if there is none for a minute."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {PATIENCE_S} s")


@pytest.fixture
def typed(monkeypatch, capsys):
    """Return a function that runs `ktask` in this process: words in; exit code, stdout and stderr out."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["ktask", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code, *capsys.readouterr()

    return call


def run_python(code: str, *words: str, check: bool = False, **how) -> subprocess.CompletedProcess:
    """Run a program of a few lines in a Python of its own; return what came of it."""
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=check, **how)


@dataclass
class Commands:
    """Runs `ktask` as a user does, in an empty directory and with an empty place for temporary files."""

    cwd: Path
    temporary: Path
    started: list[subprocess.Popen] = field(default_factory=list)

    def start(self, line: str, *, program: tuple[str, ...] = ("-m", "ktask")) -> subprocess.Popen:
        """Start `ktask` with the words of `line`, in a session of its own, as a terminal does."""
        process = subprocess.Popen(
            [sys.executable, *program, *line.split()],
            cwd=self.cwd,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, line: str) -> subprocess.CompletedProcess:
        """Run `ktask` with the words of `line` to its end."""
        process = self.start(line)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def files(self) -> list[str]:
        """Return what lies in both directories."""
        return sorted(p.name for folder in (self.cwd, self.temporary) for p in folder.rglob("*"))


@pytest.fixture
def commands(tmp_path, tmp_path_factory):
    """Commands to run; whatever they started is ended with the test."""
    found = Commands(tmp_path, tmp_path_factory.mktemp("t"))
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> list[psutil.Process]:
    """Return the processes that a process has started, and those started by them."""
    return psutil.Process(pid).children(recursive=True)


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def part_of_sample(folder, *patterns):
    """Return a run with the cells of the sample that have these names: it is read in a moment."""
    (folder / "records").mkdir(parents=True)
    for file in ("machine.json", "grid.yaml", "datapackage.json"):
        shutil.copy(SAMPLE / file, folder)
    for file in itertools.chain.from_iterable(map((SAMPLE / "records").glob, patterns)):
        shutil.copy(file, folder / "records")
    return folder


def written(folder, *sources):
    """Write a notebook with these cells."""
    cells = [nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path = folder / "made.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def printed(notebook):
    """Return what an executed notebook has printed."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """An empty place for temporary files."""
    path = tmp_path_factory.mktemp("t")
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def machine(tmp_path):
    """Return a function that plants a foreign machine's `proc` and `sys` and gives their root."""
    return lambda name: plant(name, tmp_path / name)
