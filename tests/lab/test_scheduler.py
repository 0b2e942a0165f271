"""Peers on the network that are silent, stopped, strangers or open to strangers: one line, in time."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import run_python

from ktask.lab.sweep import scheduler


@contextlib.contextmanager
def listener(answer):
    """Give the address of a service that says `answer` to everybody, and then nothing."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for one in kept:
            one.close()


def test_a_scheduler_that_says_nothing_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "CONNECT_S", 0.3)
    monkeypatch.setattr(scheduler, "AWARE_S", 0.1)
    began = time.monotonic()
    with (
        listener(b"") as address,
        pytest.raises(scheduler.ClusterError, match=r"says nothing for 0\.3 s; it is stopped, or no Dask"),
        scheduler.connect(address),
    ):
        pass
    assert time.monotonic() - began < 10
    assert f"waiting up to 1.3 s for scheduler {address} to answer ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x09" + bytes(7) + b"\xff" * 9],
)
def test_another_service_on_the_port_is_told_as_that(answer):
    with (
        listener(answer) as address,
        pytest.raises(scheduler.ClusterError, match=f"what listens on {address} is no Dask scheduler"),
        scheduler.connect(address),
    ):
        pass


def test_a_client_that_did_not_come_about_is_not_waited_for():
    """Dask's own waits 40 s at the end of the process, and ends with a traceback."""
    code = """
        import sys
        from ktask.lab.sweep import scheduler
        try:
            with scheduler.connect(sys.argv[1]):
                pass
        except scheduler.ClusterError as error:
            print(error)
    """
    began = time.monotonic()
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        done = run_python(code, address)
    assert "is no Dask scheduler" in done.stdout
    assert done.stderr == ""
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("port", [65536, 99999])
def test_a_port_that_cannot_be_is_refused(port):
    with (
        pytest.raises(ValueError, match="is not allowed; use tcp://host:8786"),
        scheduler.connect(f"tcp://a:{port}"),
    ):
        pass


def silent():
    """Return a client whose scheduler has stopped answering."""
    return SimpleNamespace(status="running", scheduler_info=lambda n_workers: threading.Event().wait(5))


def test_a_scheduler_that_stops_in_the_middle_is_given_up(monkeypatch):
    monkeypatch.setattr(scheduler, "ANSWER_S", 0.2)
    monkeypatch.setattr(scheduler, "LOOK_S", 0.0)
    future = SimpleNamespace(done=lambda: False)
    with pytest.raises(scheduler.SilentError, match=r"waited 0\.2 s for the scheduler to say which workers"):
        scheduler.wait_for_result(silent(), future, ["127.0.0.1"], "here", threading.Event())


def test_a_worker_without_heartbeats_is_given_up(monkeypatch):
    monkeypatch.setattr(scheduler, "GATHER_S", 0.3)
    monkeypatch.setattr(scheduler, "LOOK_S", 0.0)
    info = {"workers": {"tcp://127.0.0.1:1": {"last_seen": 5.0}}}
    client = SimpleNamespace(status="running", scheduler_info=lambda n_workers: info)
    future = SimpleNamespace(done=lambda: False)
    with pytest.raises(scheduler.ClusterError, match=r"here has had no worker that answers for 0\.3 s"):
        scheduler.wait_for_result(client, future, ["127.0.0.1"], "here", threading.Event())


def test_what_an_answer_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        scheduler.within(5, "it", lambda: 1 / 0)


@pytest.mark.parametrize(
    ("host", "port", "address", "safe"),
    [
        ("127.0.0.1", 1, "tcp://127.0.0.1:1", True),
        ("::1", 1, "tcp://[::1]:1", True),
        ("::ffff:127.0.0.1", 1, "tcp://127.0.0.1:1", True),
        ("0.0.0.0", 1, "tcp://10.0.0.1:1", False),
        ("::", 2, "tcp://127.0.0.1:1", False),
        ("10.0.0.1", 1, "tls://10.0.0.1:1", True),
        ("10.0.0.1", 2, "tls://10.0.0.1:1", False),  # its HTTP server has no password
        ("node7", 1, "tcp://node7:1", False),
    ],
)
def test_what_strangers_can_reach(host, port, address, safe):
    assert scheduler._is_safe(host, port, address) is safe


def test_sockets_beyond_loopback_are_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert address in scheduler.listening()
    assert address not in scheduler.listening()


def test_a_scheduler_that_cannot_be_asked_counts_by_its_address(monkeypatch):
    info = {"address": "tcp://10.0.0.1:8786", "workers": {"tcp://127.0.0.1:5": {"nanny": "tcp://10.0.0.1:7"}}}
    monkeypatch.setattr(scheduler, "_sockets", lambda _: {})
    client = SimpleNamespace(status="running", scheduler_info=lambda n_workers: info)
    assert scheduler.exposed(client) == ["scheduler on 10.0.0.1:8786", "nanny tcp://10.0.0.1:7"]
