"""Peers on the network that are silent, garbage, half-open, slow, stopped or killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import faults
import trials
import yaml
from trials import Kind, require

LIMIT_S = 180.0
LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
OF_A_WORKER = (*LOOPBACK, "--nthreads", "1", "--no-nanny")


@contextlib.contextmanager
def service(say: Callable[[socket.socket], None] | None) -> Iterator[str]:
    """Give the address of a service that does `say` with each connection; None: it takes none of them."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    threading.Thread(target=_quietly, args=(say, kept[-1]), daemon=True).start()

        if say is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        for one in kept:
            one.close()


def _quietly(say: Callable[[socket.socket], None], peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        say(peer)


def _garbage(chance: Random) -> Callable[[socket.socket], None]:
    data = chance.randbytes(chance.choice((1, 8, 9, 100, 10_000)))
    return lambda peer: peer.sendall(data)


def _slow(chance: Random) -> Callable[[socket.socket], None]:
    def say(peer: socket.socket) -> None:
        for byte in chance.randbytes(1000):
            peer.sendall(bytes([byte if chance.random() < 0.5 else 0]))
            time.sleep(0.5)

    return say


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


SERVICES: dict[str, Callable[[Random], Callable[[socket.socket], None] | None]] = {
    "silent": lambda _: lambda _: None,
    "half-open": lambda _: None,
    "garbage": _garbage,
    "slow": _slow,
    "reset": lambda _: _reset,
    "closed": lambda _: lambda peer: peer.shutdown(socket.SHUT_RDWR),
    "HTTP": lambda _: lambda peer: peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
}
CLUSTERS = ("scheduler stopped", "scheduler killed", "worker stopped", "worker killed", "no worker")
NAMES = ("garbage", *(name for name in SERVICES if name != "garbage"), *CLUSTERS)


def attempt(seed: int, folder: Path) -> int:
    """Let a sweep meet such a peer: it ends in time, with one line."""
    chance, name = Random(seed), NAMES[seed % len(NAMES)]
    (folder / "grid.yaml").write_text(yaml.safe_dump(faults.GRID))
    if name in CLUSTERS:
        _with_cluster(name, chance, folder)
    else:
        with service(SERVICES[name](chance)) as address:
            ended = trials.run(_words(address), folder, LIMIT_S)
        require(ended.code == 2, f"{name}: exit {ended.code}")
    return 1


def _words(address: str) -> list[str]:
    return ["sweep", "grid.yaml", "--run", "far", "--scheduler", address]


def _with_cluster(name: str, chance: Random, folder: Path) -> None:
    """Start a real scheduler and a worker, and do to one of them what `name` says in the middle."""
    file = folder / "scheduler.json"
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(
            _dask(folder, "scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", str(file))
        )
        _wait_for(file.exists)
        processes = {"scheduler": scheduler}
        if name != "no worker":
            words = ("--scheduler-file", str(file), "--local-directory", str(folder / "dask"), *OF_A_WORKER)
            processes["worker"] = stack.enter_context(_dask(folder, "worker", *words))
        address = yaml.safe_load(file.read_text())["address"]
        sweep = trials.start(_words(address), folder)
        if name != "no worker":
            time.sleep(chance.uniform(0.5, 6))
            who, _, what = name.partition(" ")
            processes[who].send_signal(signal.SIGKILL if what == "killed" else signal.SIGSTOP)
        trials.judge(trials.finish(sweep, folder, LIMIT_S))


@contextlib.contextmanager
def _dask(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"TMPDIR": str(folder), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}
    process = subprocess.Popen([sys.executable, "-m", "dask", *words], env=environment, **quiet)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        require(time.monotonic() < end, "Dask did not start")
        time.sleep(0.05)


KIND = Kind("peers", "sweeps that meet such a scheduler or worker", attempt, 3 * len(NAMES), 1)
