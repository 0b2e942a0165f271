"""The same grid on many machines: every host of a Dask cluster measures all of it, one cell at a time."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktask.common.files import atomic_write
from ktask.common.version import __version__
from ktask.lab import run_files
from ktask.lab.sweep import remote
from ktask.lab.sweep.cells import FOLDERS, CellTask, keep_reason
from ktask.lab.sweep.grid import Grid, parse_grid, read_grid
from ktask.lab.sweep.scheduler import (
    ANSWER_S,
    CLOSE_S,
    GO_ON,
    TRANSFER_S,
    ClusterError,
    connect,
    wait_for_result,
    wait_for_workers,
    warn_of_exposure,
    within,
)
from ktask.lab.sweep.sweep import Done, Executor, new_run_name, run_path, sweep

if TYPE_CHECKING:
    from distributed import Client, Future


@dataclass(frozen=True)
class Host:
    """A machine of the cluster.

    Attributes
    ----------
    addresses
        As the scheduler knows it; a machine with two network cards may have two.
    machine
        Its facts and what the doctor finds.
    grid
        The grid as it is there.
    """

    addresses: tuple[str, ...]
    machine: dict[str, Any]
    grid: Grid

    @property
    def host_id(self) -> str:
        """What tells the host from others, as in the records; the address if it has no such thing."""
        return str(self.machine.get("host_id") or self.addresses[0])

    @property
    def label(self) -> str:
        """The host's name, fit for the name of a run."""
        name = str(self.machine.get("host_name") or self.addresses[0])
        return re.sub("[^A-Za-z0-9]+", "-", name).strip("-")[:30] or "host"


def sweep_cluster(
    address: str,
    grid: str,
    run: str | None = None,
    *,
    passes: int | None = None,
    resume: bool = False,
    retry: bool = False,
    root: Path | None = None,
    quiet: bool = False,
    evidence: bool = True,
    bystanders: bool = True,
) -> list[Path]:
    """Measure a grid on every host of a Dask cluster at once and return the directories of the runs.

    Parameters
    ----------
    address
        Of the scheduler: "tcp://host:8786", or "tls://host:8786" with the certificates in Dask's own
        configuration.
    grid
        Name or file, see `ktask.lab.sweep.grid.load_grid`; thread counts follow from the CPUs of each host.
    run, passes, resume, retry, root, quiet, evidence, bystanders
        See `ktask.lab.sweep.sweep.sweep`. With several hosts each has a run of its own, called `run` and the
        host's name.

    Raises
    ------
    ClusterError
        If Dask is not installed, the scheduler does not answer, no host can measure, or one is lost on the
        way; what is measured is kept.
    ValueError, OSError
        As from `sweep`.
    """
    data, name = read_grid(grid)
    parsed = parse_grid(data, name)
    run = run or new_run_name(parsed)
    run_path(run, root)
    with connect(address) as client:
        hosts = find_hosts(client, address, data, name)
        warn_of_exposure(client)
        names = run_names(run, hosts, root)
        options = {"passes": passes, "resume": resume, "retry": retry, "root": root, "quiet": quiet}
        options |= {"evidence": evidence, "bystanders": bystanders}
        try:
            return _sweep_all(client, hosts, names, options)
        finally:
            with contextlib.suppress(Exception):  # a worker that is gone has nothing to finish
                finish = functools.partial(client.run, remote.finish, on_error="ignore")
                within(CLOSE_S, "the workers to finish", finish)


def _sweep_all(client: Client, hosts: list[Host], names: list[str], options: dict[str, Any]) -> list[Path]:
    """Sweep all hosts at once, each in a thread that waits for it; one that fails stops no other."""
    stop = threading.Event()

    def one(host: Host, name: str) -> Path:
        title = host.label if len(hosts) > 1 else "measuring"
        executor = on_host(client, host, stop)
        return sweep(host.grid, name, **options, executor=executor, machine=host.machine, title=title)

    with ThreadPoolExecutor(len(hosts)) as pool:
        try:
            runs = [pool.submit(one, *pair) for pair in zip(hosts, names, strict=True)]
            errors = [run.exception() for run in runs]
        except BaseException:
            stop.set()
            raise
    if failed := [error for error in errors if error]:
        raise failed[0]
    return [run.result() for run in runs]


def find_hosts(client: Client, scheduler: str, data: Any, name: str) -> list[Host]:
    """Return the hosts that the workers of a cluster run on, described by themselves."""
    asked = {
        address: client.submit(
            remote.describe, data, name, workers=[address], key=_key("describe"), pure=False
        )
        for address in wait_for_workers(client, scheduler)
    }
    found: dict[str, Host] = {}
    for address, future in asked.items():
        what = "to describe itself; it does so while nothing is measured there"
        wait_for_result(client, future, [address], f"the host {address}", threading.Event(), what)
        described = _description(address, future)
        key = str(described.machine.get("host_id") or address)
        before = found[key].addresses if key in found else ()
        found[key] = Host((*before, address), described.machine, described.grid)
    return sorted(found.values(), key=lambda host: (host.label, host.host_id))


def _description(address: str, future: Future) -> remote.Description:
    try:
        described = within(ANSWER_S, f"the description of the host {address}", future.result)
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"the worker on {address} cannot use ktask ({error}); install this version of it there, "
            f"{__version__}, with Dask"
        ) from None
    except (remote.RemoteError, OSError) as error:
        raise ClusterError(f"the host {address} cannot be described: {error}") from None
    if described.version != __version__:
        raise ClusterError(
            f"the worker on {address} has ktask {described.version}, not {__version__}; "
            "install the same there"
        )
    return described


def run_names(run: str, hosts: list[Host], root: Path | None) -> list[str]:
    """Return the name of each host's run: `run` itself for a single host, else with the host's name.

    A run of that name which the same host has begun keeps it.
    """
    labels = [host.label for host in hosts]
    names = []
    for host in hosts:
        unique = host.label if labels.count(host.label) == 1 else f"{host.label}-{host.host_id[:6]}"
        is_plain = len(hosts) == 1 or _is_of(run_path(run, root), host)
        names.append(run if is_plain else f"{run[: 79 - len(unique)]}-{unique}")
    return names


def _is_of(path: Path, host: Host) -> bool:
    is_run = (path / "machine.json").is_file()
    return is_run and run_files.read_machine(path).get("host_id") == host.machine.get("host_id")


def on_host(client: Client, host: Host, stop: threading.Event) -> Executor:
    """Return an executor that has one worker of `host` measure one cell after the other."""

    def execute(tasks: Iterable[CellTask], path: Path) -> Done:
        for task in tasks:
            future = client.submit(
                remote.measure,
                task,
                workers=list(host.addresses),  # any worker there, also one that comes later
                key=_key(task.name),
                pure=False,
            )
            try:
                wait_for_result(client, future, host.addresses, host.label, stop)
                _collect(future, host, task, path)
                yield task
            finally:
                future.cancel()

    return execute


def _collect(future: Future, host: Host, task: CellTask, path: Path) -> None:
    """Keep the files of a cell that is done in the directory of the run."""
    from distributed.scheduler import KilledWorker  # noqa: PLC0415

    try:
        keep(within(TRANSFER_S, f"the files of {task.name} from {host.label}", future.result), path)
    except KilledWorker:
        keep_reason(task, path, "every worker that tried it died", failed=True)
    except remote.RemoteError as error:
        raise ClusterError(f"{host.label}: {error}; {GO_ON}") from None


def keep(files: dict[str, bytes], path: Path) -> None:
    """Write the files of a cell to the directory of its run: the records last, for they say that it is done.

    Raises
    ------
    ClusterError
        If one would lie elsewhere.
    """
    last = ("records", "skipped")
    for name in sorted(files, key=lambda name: name.startswith(last)):
        folder, _, rest = name.partition("/")
        if folder not in FOLDERS or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*", rest):
            raise ClusterError(f"a worker handed over a file {name!r}, which has no place in a run")
        with atomic_write(path / folder / rest) as partial:
            partial.write_bytes(files[name])


def _key(name: str) -> str:
    return f"ktask-{name}-{uuid.uuid4().hex[:12]}"
