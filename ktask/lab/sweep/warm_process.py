"""The process that cells are forked from: imports done, one thread, no parallel region ever entered.

A fresh Python takes 1.3 s to import what a cell needs; a fork of this one is there at once, and is as much a
process of its own: it has its own threads, sockets, random numbers and memory layout. Nothing of what it is
forked from has run but imports. libgomp does not survive a fork once it has started threads, hence the rule.

It obeys whoever holds the other end of its socket, and ends with it, and the cells end with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ktask.common import children

# Libraries that start a thread when they are imported, and what keeps them from it.
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
_added: set[str] = set()
_LAYOUT_PAGES = 1 << 18


def keep_from_threads() -> None:
    """Have libraries that this process will import start no threads, unless the environment says so."""
    _added.update(NO_THREADS.keys() - os.environ.keys())
    for name, value in NO_THREADS.items():
        os.environ.setdefault(name, value)


def environment_as_found(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `keep_from_threads` has added to it."""
    return {name: value for name, value in environment.items() if name not in _added}


def serve(server: socket.socket) -> None:
    """Fork and end kernels on request until the other end is closed."""
    cells: set[int] = set()
    # Ctrl-C may close the other end between a request and its answer.
    with contextlib.suppress(ConnectionError), server, server.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            if "end" in request:
                cells.discard(request["end"])
                server.sendall(b"%d\n" % _end(request["end"]))
            else:
                cells.add(pid := _fork(request, server))
                _answer_start(pid, server)
    for pid in cells:
        _end(pid)


def _fork(request: dict[str, Any], server: socket.socket) -> int:
    """Fork a kernel and return its process number."""
    parent = os.getpid()
    is_safe = n_threads() == 1  # else a lock that another thread holds would stay locked in the fork for ever
    pid = os.fork()
    if pid == 0:
        try:
            server.close()
            _prepare(request, parent)
            (_run_kernel if is_safe else _start_python)(request["connection_file"])
        except BaseException as error:
            _say_in_one_line(error)
        finally:
            os._exit(1)
    return pid


def _answer_start(pid: int, server: socket.socket) -> None:
    """Send the number of a kernel and a descriptor that tells when it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(server, [b"%d\n" % pid], [pidfd])
    finally:
        os.close(pidfd)


def _end(pid: int) -> int:
    """Kill a kernel with all that it has started, and return its exit code, negative for a signal.

    The number cannot belong to anybody else yet: it is given back here.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _prepare(request: dict[str, Any], parent: int) -> None:
    """Leave the surroundings of the warm process for those that are asked for."""
    children.die_with(parent)
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    with contextlib.suppress(OSError):  # when memory runs out, the cell is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")


def _run_kernel(connection_file: str) -> NoReturn:
    _own_random_numbers()
    _own_layout()
    from ktask.lab.sweep import kernel_process  # noqa: PLC0415  (there already)

    kernel_process.run(connection_file)
    os._exit(0)


def _start_python(connection_file: str) -> NoReturn:
    os.execv(sys.executable, [*children.python(), "-m", "ktask.lab.sweep.kernel_process", connection_file])  # noqa: S606


def n_threads() -> int:
    """Return the number of threads of this process."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _own_random_numbers() -> None:
    """Python sees to its own generator at a fork; numpy does not."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _own_layout() -> None:
    """Shift what is mapped from here on by a random number of pages, as a fresh process would have it.

    The hole is never touched and lasts as long as the process.
    """
    global _hole  # noqa: PLW0603
    size = random.SystemRandom().randrange(1, _LAYOUT_PAGES) * mmap.PAGESIZE
    with contextlib.suppress(OSError):  # a limit on address space: then without
        _hole = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)


_hole: mmap.mmap | None = None


def main(fd: int, *modules: str) -> None:
    """Import `modules`, then serve on the socket `fd`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    try:
        for module in modules:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()  # the collector of a cell leaves alone what it shares with this process
        serve(socket.socket(fileno=fd))
    except Exception as error:
        _say_in_one_line(error)
        sys.exit(1)


def _say_in_one_line(error: BaseException) -> None:
    """Say why a process does not go on; whoever waits for it says what that means."""
    why = " ".join(f"{type(error).__name__}: {error}".split())
    sys.stderr.write(f"\nthe process of a notebook cannot start: {why}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
