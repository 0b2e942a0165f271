"""The connection to a Dask scheduler: nothing waits for ever, and what strangers could reach is said.

Peers may be silent, stopped or something else altogether, so every question runs in a thread of its own and
is given up after a while.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Submitted

CONNECT_S = 20.0  # for the scheduler to answer the first time
ANSWER_S = 60.0  # for any later answer
GATHER_S = 60.0  # for the first worker to appear, and for a host's worker to come back
TRANSFER_S = 600.0  # for the files of a cell, by a slow line perhaps
CLOSE_S = 5.0
AWARE_S = 3.0  # until a wait is said
LOOK_S = 2.0  # between two looks at the workers
# What goes wrong is said in one line instead. Those with a dot have a level of their own.
SILENT_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application")
GO_ON = "the cells done so far are kept, go on with --resume"
START = "`dask scheduler --host 127.0.0.1 --dashboard-address 127.0.0.1:0`"
_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:(\d{1,5})")
T = TypeVar("T")


class ClusterError(ValueError):
    """The cluster cannot do it; the message says what to do."""


class SilentError(ClusterError):
    """There was no answer in time."""


def within(limit_s: float, what: str, ask: Callable[[], T]) -> T:
    """Return what `ask` returns; SilentError if that takes longer than `limit_s`.

    Parameters
    ----------
    limit_s
        Seconds. A thread that still waits then is left behind; it ends with the process.
    what
        What is waited for; the terminal says so, and for how long, when it takes more than a moment.
    ask
        Called in a thread of its own.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    moment = min(AWARE_S, limit_s)
    if not wait([answer], moment).done:
        sys.stderr.write(f"waiting up to {limit_s:g} s for {what} ...\n")
        wait([answer], limit_s - moment)
    if not answer.done():
        raise SilentError(
            f"waited {limit_s:g} s for {what} and got no answer; see whether it runs, and go on with --resume"
        )
    return answer.result()


@contextlib.contextmanager
def connect(address: str) -> Iterator[Client]:
    """Give a client of the scheduler at `address`."""
    found = _ADDRESS.fullmatch(address)
    if not found or int(found[2]) > 0xFFFF:
        raise ClusterError(f"scheduler {address!r} is not allowed; use tcp://host:8786 or tls://host:8786")
    try:
        from distributed import Security  # noqa: PLC0415  (an extra)
    except ImportError:
        raise ClusterError(
            "--scheduler needs Dask, which is not installed; pip install 'ktask[cluster]'"
        ) from None
    for name in SILENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address.startswith("tls:") and not Security().get_connection_args("client").get("ssl_context"):
        raise ClusterError(f"scheduler {address} needs certificates; name them for Dask, see docs/cluster.md")
    client = _client(address)
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # of a scheduler that is gone; what came before counts
            client.close(timeout=CLOSE_S)


def _client(address: str) -> Client:
    from distributed import Client  # noqa: PLC0415

    class Closed(Client):
        """Closed by `connect`; one that did not come about would wait 40 s more for its peer."""

        def __del__(self) -> None:
            pass

    def start() -> Client:
        return Closed(address, timeout=CONNECT_S, set_as_default=False)

    try:
        return within(CONNECT_S + 1, f"scheduler {address} to answer", start)
    except SilentError:
        raise ClusterError(
            f"scheduler {address} takes the connection and says nothing for {CONNECT_S:g} s; it is stopped, "
            f"or no Dask scheduler listens there; start one with {START}"
        ) from None
    except OSError as error:
        raise ClusterError(
            f"scheduler {address} does not answer ({_in_one_line(error)}); start one with {START}, or see "
            "docs/cluster.md"
        ) from None
    except ImportError as error:  # of Dask itself, when versions differ
        raise ClusterError(f"scheduler {address} refuses this client: {_in_one_line(error)}") from None
    except Exception as error:  # what a foreign peer says may be anything: as a length, more than all memory
        raise ClusterError(
            f"what listens on {address} is no Dask scheduler: its answer makes no sense "
            f"({type(error).__name__}); give the address of one, or start it with {START}"
        ) from None


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# --- workers ----------------------------------------------------------------------------------------------


def heartbeats(client: Client) -> dict[str, float]:
    """Return when each host of a worker was heard of last, by the clock of the scheduler."""
    found: dict[str, float] = {}
    for address, worker in _identity(client)["workers"].items():
        host = str(urlsplit(address).hostname)
        found[host] = max(found.get(host, 0.0), float(worker.get("last_seen", 0.0)))
    return found


def _identity(client: Client) -> Any:
    """Return what the scheduler says about itself and its workers."""
    if client.status == "running":
        asked = "the scheduler to say which workers it has"
        found = within(ANSWER_S, asked, lambda: client.scheduler_info(n_workers=-1))
        if "workers" in found:
            return found
    raise ClusterError(f"the scheduler is gone; {GO_ON}")


def wait_for_workers(client: Client, scheduler: str) -> list[str]:
    """Return the hosts of all workers, once there is one."""
    end = time.monotonic() + GATHER_S
    if not heartbeats(client):
        sys.stderr.write(f"waiting up to {GATHER_S:g} s for the first worker ...\n")
    while not (hosts := heartbeats(client)):
        if time.monotonic() > end:
            raise ClusterError(
                f"scheduler {scheduler} has had no workers for {GATHER_S:g} s; start one on each host, see "
                "docs/cluster.md"
            )
        time.sleep(0.5)
    return sorted(hosts)


def wait_for_result(
    client: Client,
    future: Submitted,
    hosts: Collection[str],
    label: str,
    stop: threading.Event,
    what: str = "",
) -> None:
    """Wait until a worker on one of `hosts` is done; give up when they have been silent for `GATHER_S`.

    After a moment the terminal says so, if `what` is given.

    Raises
    ------
    ClusterError
        When asked to stop, when no worker there sends a heartbeat, and when the scheduler is gone.
    """
    last: list[float | None] = []
    heard = looked = began = time.monotonic()
    while not future.done():
        if stop.wait(0.05):
            raise ClusterError("stopped")
        if time.monotonic() - looked < LOOK_S:
            continue
        found = heartbeats(client)
        beats = [found.get(host) for host in hosts]
        looked = time.monotonic()
        if what and looked - began > AWARE_S:
            sys.stderr.write(f"waiting for {label} {what} ...\n")
            what = ""
        if beats != last and any(beats):
            last, heard = beats, looked
        if looked - heard > GATHER_S:
            raise ClusterError(f"{label} has had no worker that answers for {GATHER_S:g} s; {GO_ON}")
    if future.status in ("cancelled", "lost"):
        raise ClusterError(f"the scheduler is gone; {GO_ON}")


# --- who can reach them -----------------------------------------------------------------------------------


def warn_of_exposure(client: Client) -> None:
    """Say aloud which ports can be reached from outside without TLS: anybody may run code there."""
    if found := exposed(client):
        sys.stderr.write(
            "WARNING: anybody who reaches these ports can run code as you, or watch: they listen beyond "
            f"loopback, without TLS: {', '.join(found)}; docs/cluster.md has commands that do not\n"
        )


def exposed(client: Client) -> list[str]:
    """Return which process of the cluster listens beyond loopback, and where.

    Each is asked for its sockets. One that cannot be asked, without ktask perhaps, counts by its address.
    """
    identity = _identity(client)
    addresses = {"scheduler": str(identity["address"])}
    addresses |= {f"worker {address}": address for address in identity["workers"]}
    sockets = _sockets(client)
    found = []
    for name, address in addresses.items():
        open_here = sockets.get(name.removeprefix("worker "), [_host_and_port(address)])
        found += [f"{name} on {host}:{port}" for host, port in open_here if not _is_safe(host, port, address)]
    for worker in identity["workers"].values():
        if (nanny := worker.get("nanny")) and not _is_safe(*_host_and_port(nanny), nanny):
            found.append(f"nanny {nanny}")
    return found


def _sockets(client: Client) -> dict[str, list[tuple[str, int]]]:
    """Return the addresses that each process listens on, by "scheduler" and the addresses of the workers."""

    def ask() -> dict[str, Any]:
        found = client.run(listening, on_error="return")
        with contextlib.suppress(Exception):  # it may be without ktask
            found["scheduler"] = client.run_on_scheduler(listening)
        return found

    answers = within(ANSWER_S, "scheduler and workers to say where they listen", ask)
    return {name: answer for name, answer in answers.items() if isinstance(answer, list)}


def listening() -> list[tuple[str, int]]:
    """Return the addresses and ports that this process listens on."""
    import psutil  # noqa: PLC0415  (comes with Dask)

    found = psutil.Process().net_connections("inet")
    return [(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN]


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return str(parts.hostname), parts.port or 0


def _is_safe(host: str, port: int, address: str) -> bool:
    """Return whether strangers get nothing from a port of the process that Dask knows by `address`."""
    if address.startswith("tls://") and port == _host_and_port(address)[1]:
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
