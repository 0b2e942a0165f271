"""Sweeps on a Dask cluster: a real scheduler and real workers on loopback give the cells of a local run."""

import concurrent.futures
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from conftest import is_gone, wait_for
from test_sweep import CONTENT, WALK, WALKS, swept  # noqa: F401

from ktask.engine import slots as limits
from ktask.lab.records import load_run
from ktask.lab.sweep import cluster, looks, scheduler, sweep

ROOT = Path(__file__).parents[2]

# Makes a worker believe that it runs on another machine.
ELSEWHERE = """
import os
from ktask.lab.sweep import sweep
if sweep.machine_facts.__name__ != "elsewhere":  # Dask loads this twice
    here = sweep.machine_facts
    def elsewhere():
        return here() | {"host_id": "0123456789ab", "host_name": "../else where"}
    sweep.machine_facts = elsewhere
"""


def documented(program):
    """Return the options that docs/cluster.md gives to a Dask program for loopback, without ports."""
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8").partition("## TLS")[0]
    found = re.search(rf"\.venv/bin/dask {program} (.*?)['\n]+```", page, re.DOTALL)[1]
    words = shlex.split(found.replace("\\\n", " "))
    ports = [at for at, word in enumerate(words) if word in ("--port", "--worker-port")]
    return [word for at, word in enumerate(words) if at not in ports and at - 1 not in ports]


def dask(*words, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, words)],
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker(folder, *words, **env):
    """Start one as documented, with a port of its own, where the scheduler is."""
    address = json.loads((folder / "scheduler.json").read_text())["address"]
    options = [address if word.startswith("tcp:") else word for word in documented("worker")]
    return dask("worker", *options, "--local-directory", folder, *words, **env)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A scheduler and two workers on loopback."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    started = dask("scheduler", *documented("scheduler"), "--port", 0, "--scheduler-file", file)
    wait_for(file.exists, "the start of the scheduler")
    workers = [worker(folder), worker(folder)]
    address = json.loads(file.read_text())["address"]
    yield SimpleNamespace(address=address, folder=folder, workers=workers, scheduler=started)
    for process in (*workers, started):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "tiny.yaml"
    path.write_text(json.dumps(CONTENT))
    return str(path)


@pytest.fixture(scope="module")
def spread(running, grid, tmp_path_factory):
    """A finished run on the cluster."""
    root = tmp_path_factory.mktemp("spread")
    (path,) = cluster.sweep_cluster(running.address, grid, "done", root=root, quiet=True, bystanders=False)
    return path


def shape(path):
    """Return what two runs of one grid have in common."""
    run = load_run(path)
    rows = run.records.query("not warmup")
    columns = ["cell_id", "round", "threads_requested", "threads", "chunk_size", "n_chunks", "baseline"]
    cells = rows[columns].value_counts().sort_index().to_dict()
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    return cells, files, sorted(run.skipped["cell_id"]), list(run.records.columns), run.grid


# --- the same as a local run ------------------------------------------------------------------------------


def test_two_workers_of_one_host_give_the_cells_of_a_local_run(spread, swept):  # noqa: F811
    assert spread.name == "done"
    assert shape(spread) == shape(swept)
    facts = load_run(spread).machine
    assert facts.keys() == load_run(swept).machine.keys()
    assert set(load_run(spread).records["host_id"]) == {facts["host_id"]}


def test_a_finished_run_is_resumed_without_measuring(running, grid, spread):
    before = {p: p.stat().st_mtime_ns for p in spread.glob("*/*")}
    cluster.sweep_cluster(running.address, grid, "done", resume=True, root=spread.parent, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in spread.glob("*/*")} == before


def test_passes_are_added_on_a_cluster_and_look_there(running, grid, spread, tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "may_look", lambda *_: True)
    shutil.copytree(spread, tmp_path / "done")
    options = {"passes": 2, "resume": True, "root": tmp_path, "quiet": True}
    (path,) = cluster.sweep_cluster(running.address, grid, "done", **options)
    found = load_run(path).records
    assert (found.groupby("cell_id")["pass"].unique().map(sorted) == [[1, 2]] * 2).all()
    assert (path / "cells" / f"{WALKS[0]}.pass2.ipynb").exists()
    reasons = [one.skipped for one in load_run(path).evidence.values()]
    assert len(reasons) == len(WALKS)
    assert looks.NO_TIME not in reasons


def test_every_host_measures_the_whole_grid(running, grid, tmp_path):
    preload = tmp_path / "elsewhere.py"
    preload.write_text(ELSEWHERE)
    own = {"KTASK_LIMITS_FILE": str(tmp_path / "slots")}
    other = worker(running.folder, "--preload", preload, "--host", "127.0.0.2", **own)
    try:
        with cluster.connect(running.address) as client:
            wait_for(lambda: "127.0.0.2" in scheduler.heartbeats(client), "the start of the other host")
        paths = cluster.sweep_cluster(running.address, grid, "r", root=tmp_path, quiet=True)
    finally:
        other.kill()
        other.wait()
    assert len(paths) == 2
    hosts = {load_run(path).machine["host_id"]: path for path in paths}
    assert hosts["0123456789ab"].name == "r-else-where"
    for host_id, path in hosts.items():
        cells, *_ = shape(path)
        assert {cell for cell, *_ in cells} == {cell for cell, *_ in shape(paths[0])[0]}
        assert set(load_run(path).records["host_id"]) == {host_id}


# --- on the network ---------------------------------------------------------------------------------------


def test_scheduler_and_workers_as_documented_listen_on_loopback_only(running):
    assert "--host" in documented("scheduler") and "--nthreads" in documented("worker")
    pids = [running.scheduler.pid, *(one.pid for one in running.workers)]
    with scheduler.connect(running.address) as client:
        wait_for(lambda: len(client.nthreads()) >= 2, "the start of the workers")
        assert scheduler.exposed(client) == []
    for pid in pids:
        found = [one for one in psutil.Process(pid).net_connections("inet") if one.status == "LISTEN"]
        assert found
        assert {one.laddr.ip.split(".")[0] for one in found} == {"127"}


def test_a_cluster_that_strangers_can_reach_is_said(running, capsys, monkeypatch):
    with scheduler.connect(running.address) as client:
        wait_for(lambda: len(client.nthreads()) >= 2, "the start of the workers")
        found = scheduler._sockets(client)
        assert len(found) >= 3  # each was asked, the scheduler too
        found["scheduler"].append(("0.0.0.0", 8787))
        monkeypatch.setattr(scheduler, "_sockets", lambda _: found)
        scheduler.warn_of_exposure(client)
    said = capsys.readouterr().err
    assert said.startswith("WARNING: ")
    assert "without TLS: scheduler on 0.0.0.0:8787; docs/cluster.md" in said


# --- robust -----------------------------------------------------------------------------------------------


def measuring(workers):
    """Return a worker that has a cell running, and the processes that it has started."""
    for one in workers:
        started = psutil.Process(one.pid).children(recursive=True)
        if len(started) > 1:  # the warm one, and what is forked from it
            return one, started
    return None


def test_a_worker_that_dies_loses_nothing(running, tmp_path):
    slow = CONTENT | {"protocol": {"least": 2, "most": 10**6, "budget_s": 0.5, "precision": 1e-9}}
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(slow | {"work": [WALK]}))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(cluster.sweep_cluster, running.address, str(path), "r", root=tmp_path, quiet=True)
        victim, busy = wait_for(lambda: measuring(running.workers), "the start of a cell")
        victim.kill()
        victim.wait()
        running.workers[running.workers.index(victim)] = worker(running.folder)
        (done,) = run.result(timeout=60)
    found = load_run(done)
    assert found.skipped.empty
    assert found.records["cell_id"].nunique() == 2
    assert not found.records.duplicated(["cell_id", "round", "order"]).any()
    wait_for(lambda: all(map(is_gone, busy)), "the end of the processes of the dead worker")


@pytest.mark.long
def test_two_sweeps_of_one_host_take_turns(running, grid, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(cluster.sweep_cluster, running.address, grid, name, root=tmp_path, quiet=True)
            for name in ("a", "b")
        ]
        paths = [path for run in runs for path in run.result(timeout=60)]
    assert [path.name for path in paths] == ["a", "b"]
    spans = []
    for path in paths:
        for _, rows in load_run(path).records.groupby("cell_id"):
            spans.append((rows["started_at"].min(), rows["started_at"].max()))
    spans.sort()
    assert len(spans) == 4
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_turn_waits_for_the_one_before(capsys):
    order, inside = [], threading.Event()

    def second():
        with limits.turn():
            order.append("second")

    thread = threading.Thread(target=second)
    with limits.turn():
        thread.start()
        inside.wait(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "another sweep is measuring on this machine; waiting" in capsys.readouterr().err


# --- refused ----------------------------------------------------------------------------------------------


def test_without_dask_the_extra_is_named(grid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"--scheduler needs Dask, .*pip install 'ktask\[cluster\]'"):
        cluster.sweep_cluster("tcp://127.0.0.1:1", grid, root=tmp_path)


@pytest.mark.parametrize("address", ["host:8786", "http://host:8786", "tcp://host", "tcp://a b:1", ""])
def test_an_address_that_is_none_is_refused(address, grid, tmp_path):
    with pytest.raises(ValueError, match="is not allowed; use tcp://host:8786 or tls://host:8786"):
        cluster.sweep_cluster(address, grid, root=tmp_path)


def test_a_scheduler_that_does_not_answer_is_told(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CONNECT_S", 0.5)
    with pytest.raises(
        ValueError, match=r"scheduler tcp://127\.0\.0\.1:1 does not answer .*docs/cluster\.md"
    ):
        cluster.sweep_cluster("tcp://127.0.0.1:1", grid, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    loud = [one.name for one in loggers if one.isEnabledFor(logging.ERROR)]
    assert not [name for name in loud if name.startswith(("distributed", "tornado"))]


def test_tls_without_certificates_is_refused(grid, tmp_path):
    with pytest.raises(
        ValueError, match=r"^scheduler tls://127\.0\.0\.1:1 needs certificates; .*docs/cluster\.md"
    ):
        cluster.sweep_cluster("tls://127.0.0.1:1", grid, root=tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../up", "records/../../up", "/etc/passwd", "records/.hidden", "machine.json", "cells/a/b", "x/y"],
)
def test_a_file_outside_its_place_is_refused(name, tmp_path):
    (tmp_path / "records").mkdir()
    with pytest.raises(ValueError, match="which has no place in a run"):
        cluster.keep({name: b""}, tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["records"]


def test_runs_are_named_after_their_hosts(tmp_path):
    def host(name, host_id, address="a"):
        return cluster.Host((address,), {"host_name": name, "host_id": host_id}, None)

    one, twin, other = host("n1", "aaaaaaaa"), host("n1", "bbbbbbbb"), host("n/2 ", "cccccccc")
    assert cluster.run_names("r", [one], tmp_path) == ["r"]
    assert cluster.run_names("r", [one, other], tmp_path) == ["r-n1", "r-n-2"]
    assert cluster.run_names("r", [one, twin], tmp_path) == ["r-n1-aaaaaa", "r-n1-bbbbbb"]
    for name in cluster.run_names("r" * 80, [one, other], tmp_path):
        sweep.run_path(name, tmp_path)
    (tmp_path / "r").mkdir()  # begun when the cluster had one host
    (tmp_path / "r" / "machine.json").write_text(json.dumps(one.machine))
    assert cluster.run_names("r", [one, other], tmp_path) == ["r", "r-n-2"]
