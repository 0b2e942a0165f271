"""Bystanders: what neighbours find is right, comes back from files, and nothing of them stays behind."""

import math
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import is_gone, run_python, wait_for

from ktask.lab import records
from ktask.lab.bystanders import Bystanders, collect, neighbours, probes, store
from ktask.lab.bystanders.collect import Window, corrected, quantiles, summary
from ktask.lab.bystanders.summary import Beside, over_processes
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.workloads import Case, CheckError

CASE = {"workload": "zeroing", "backend": "kernel", "method": "populate", "page_kind": "THP", "options": ""}
CASE |= {"policy": "ktask-v4", "size_bytes": 1 << 40, "boot_id": "b", "threads_most": 2}
LABELS = {"run_id": "r", "host_id": "h", "cell_id": "c", "pass": 3}
ROW = {"probe": "page fault", "process": "same", "place": "helper", "cpu": 1, "way": "threads", "threads": 2}
ROW |= {
    "phase": "during",
    "n": 500,
    "p50_s": 1e-6,
    "p99_s": 4e-6,
    "max_s": 1e-3,
    "repetitions": 3,
    "wall_s": 0.1,
}


# --- what samples say -----------------------------------------------------------------------------------


def test_what_a_long_wait_kept_from_being_taken_counts():
    """Ten waits of a hundred intervals among ten thousand short ones: half of that time was spent waiting."""
    took_s = np.concatenate([np.full(1000, 0.01), np.full(10, 100.0)])
    assert np.quantile(took_s, 0.5) == 0.01
    assert 0.4 < np.mean(corrected(took_s, 1.0) > 0.01) < 0.6
    assert corrected(np.empty(0), 1.0).size == 0


def test_few_samples_have_no_99th_percentile():
    assert math.isnan(quantiles(np.ones(99))["p99_s"])
    assert quantiles(np.ones(100))["p99_s"] == 1
    assert math.isnan(quantiles(np.empty(0))["p50_s"])


def test_samples_belong_to_the_way_in_whose_window_they_began():
    ms = 1_000_000
    windows = [
        Window("threads", 0, 10 * ms),
        Window("serial", 20 * ms, 30 * ms),
        Window("idle", 40 * ms, 41 * ms),
    ]
    at = [(probes.CACHE, 5, 7), (probes.CACHE, 11, 9), (probes.CACHE, 18, 1), (probes.CACHE, 25, 8)]
    at += [(probes.CACHE, 42, 1), (probes.WAKEUP, 40, 6)]
    samples = np.array([(kind, when * ms, took) for kind, when, took in at])
    rows = {(row["probe"], row["way"], row["phase"]): row for row in summary(samples, windows, 2, "another")}
    assert {key: (row["n"], round(row["max_s"] * 1e9)) for key, row in rows.items() if row["n"]} == {
        ("cache", "threads", "during"): (1, 7),
        ("cache", "threads", "after"): (1, 9),
        ("cache", "serial", "during"): (1, 8),
        ("wake-up", "idle", "during"): (1, 6),
    }


def of_passes(**waits):
    """Return rows of three processes in which p99 beside threads is 10 times that beside the serial call."""
    found = {
        k: Bystanders([ROW | {"way": way, "p99_s": p99_s * k} for way, p99_s in waits.items()])
        for k in (1, 2, 3)
    }
    tables = [store.table_of(one, CASE, LABELS | {"pass": k}) for k, one in found.items()]
    return pa.concat_tables(tables).to_pandas()


def test_over_processes_the_ratio_is_of_the_same_process():
    (row,) = over_processes(of_passes(idle=1e-6, serial=2e-6, threads=2e-5)).to_dict("records")
    assert (row["p99_ratio"], row["p99_ratio_low"], row["processes"]) == (
        pytest.approx(10),
        pytest.approx(10),
        3,
    )
    assert row["p99_threads_s"] == pytest.approx(2e-5 * 6 ** (1 / 3))
    assert row["p99_threads_s_low"] < row["p99_threads_s"]
    assert (row["max_threads_s"], row["n_threads"]) == (1e-3, 1500)
    assert math.isnan(over_processes(of_passes(threads=2e-5))["p99_ratio"].iloc[0])


def test_what_was_found_shows_as_text_and_json():
    found = Beside(of_passes(idle=1e-6, serial=2e-6, threads=2e-5))
    assert "page fault, same process, CPU of a helper" in str(found)
    (one,) = found.as_dict()["probes"]
    assert one["p99_ratio"]["median"] == pytest.approx(10)
    assert one["beside_threads"] == {
        "p50_s": pytest.approx(1e-6),
        "p99_s": pytest.approx(3.63e-5, rel=0.01),
    } | {
        "max_s": 1e-3,
        "n": 1500,
    }
    none = Beside(store.table_of(Bystanders(skipped="no <CPU>"), CASE, LABELS).to_pandas())
    assert (none.as_dict(), none._repr_html_()) == (
        {"probes": [], "skipped": "no <CPU>"},
        "<p>no bystanders: no &lt;CPU&gt;</p>",
    )


# --- files ----------------------------------------------------------------------------------------------


def kept(run, found=Bystanders([ROW], took_s=0.5)):  # noqa: B008
    (run / "bystanders").mkdir(exist_ok=True)
    store.save(run / "bystanders/c.pass3.parquet", found, CASE, LABELS)
    return run / "bystanders/c.pass3.parquet"


@pytest.mark.parametrize("found", [Bystanders([ROW, ROW | {"p99_s": math.nan}]), Bystanders(skipped="it's")])
def test_a_run_has_what_its_neighbours_found(tmp_path, found):
    for name in ("grid.yaml", "machine.json"):
        (tmp_path / name).write_text("{}")
    assert records.load_run(tmp_path).bystanders.empty
    kept(tmp_path, found)
    rows = records.load_run(tmp_path).bystanders
    assert set(rows["skipped"]) == {found.skipped or ""}
    assert (set(rows["pass"]), set(rows["cell_id"])) == ({3}, {"c"})
    np.testing.assert_equal([*rows["p99_s"]], [row["p99_s"] for row in found.rows] or [0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"p99_s": -1.0}, "p99_s -1"),
        ({"p50_s": math.inf}, "p50_s inf"),
        ({"n": -1}, "n -1"),
        ({"way": "both"}, "way 'both'"),
        ({"probe": "x" * 99}, f"probe '{'x' * 40}'"),
        ({"process": None}, "no process"),
        ({"size_bytes": 0}, "size_bytes 0"),
        ({"took_s": math.nan}, "took_s nan"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path, changes, reason):
    path = kept(tmp_path)
    rows = [row | changes for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=store.SCHEMA), path)
    with pytest.raises(ValueError, match=rf"c\.pass3\.parquet is not readable \(row 0 has {reason}"):
        store.load(tmp_path)


def test_a_file_that_is_no_table_is_named(tmp_path, monkeypatch):
    path = kept(tmp_path)
    monkeypatch.setattr(store, "MOST_ROWS", 0)
    with pytest.raises(ValueError, match="more than 0 rows"):
        store.load(tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="is not readable"):
        store.load(tmp_path)


# --- neighbours -----------------------------------------------------------------------------------------


@pytest.mark.cpus(2)
def test_beside_a_case_every_probe_has_samples_and_nothing_stays(tmp_path):
    case = Case.of("zeroing", "populate", size="16MiB", page_kind="4KiB", min_chunk="1MiB")
    protocol = Protocol(least=2, most=2, warmup_s=0.1)
    timed = []
    found = measure_case(case, [2], protocol, bystanders=0.3, on_measured=lambda m: timed.append(len(m.rows)))
    assert found.beside[1].skipped is None
    assert timed == [len(found.rows)]  # no repetition with probes is among them
    rows = found.beside[1].rows
    during = {(row["probe"], row["process"]) for row in rows if row["place"] == "helper" and row["n"] > 10}
    assert during == {
        *((probe, "same") for probe in ("page fault", "mmap and munmap")),
        *((probe, "another") for probe in ("page fault", "wake-up", "cache")),
    }
    assert all(0 < row["p50_s"] <= row["max_s"] < 10 for row in rows if row["n"])
    assert "page fault, same process" in str(found.bystanders())
    found.save_bystanders(tmp_path, {"run_id": "r", "host_id": "h", "cell_id": "c"})
    assert len(store.read(tmp_path / "c.parquet")) == len(rows)
    assert psutil.Process().children() == []


def test_neighbours_leave_neither_a_process_nor_a_file():
    before = psutil.Process().children(), psutil.Process().num_fds()
    with neighbours.standing_by():
        pass
    assert (psutil.Process().children(), psutil.Process().num_fds()) == before


@pytest.mark.parametrize(
    ("used", "places"),
    [
        ((0, 2), {"helper": 2, "elsewhere": 5}),  # 4 and 5 share a core of their own
        ((0, 2, 4), {"helper": 2, "elsewhere": 5}),  # a sibling, as there is no core left
        ((0, 2, 4, 1, 3, 5), {"helper": 2}),
    ],
)
def test_neighbours_are_beside_a_helper_and_on_a_core_of_their_own(monkeypatch, used, places):
    cpus = {number: SimpleNamespace(core=number // 2) for number in range(6)}
    monkeypatch.setattr(
        collect.placement, "site", lambda: SimpleNamespace(topo=SimpleNamespace(by_number=cpus))
    )
    monkeypatch.setattr(collect.placement, "cpus_in_order", lambda: (0, 2, 4, 1, 3, 5))
    assert collect.places_beside(used) == places


def test_one_thread_has_no_bystanders():
    found = measure_case(Case.of("zeroing", size="1MiB"), [1], Protocol(least=1, most=1), bystanders=True)
    assert found.beside[1].skipped == collect.ONE_THREAD


def test_probes_that_do_nothing_are_an_error():
    room = neighbours.Room()
    room.put(probes.COUNT, 1)
    room.samples[0] = probes.FAULT, 1, 1
    with pytest.raises(CheckError, match="had 0 page faults, not 1"):
        room.require_work()
    room.put(probes.FAULTS, 1)
    room.require_work()
    room.put(probes.FAILED, 2)
    with pytest.raises(CheckError, match="2 calls of a probe failed"):
        room.require_work()


def test_a_neighbour_that_dies_is_a_reason(monkeypatch):
    with neighbours.standing_by() as found:
        if not found:
            pytest.skip("one CPU")
        os.kill(found[0].pid, signal.SIGKILL)
        monkeypatch.setattr(neighbours, "PATIENCE_S", 0.1)
        state = SimpleNamespace()
        seen = collect.gather(state, found, 2, "ktask-v4", neighbours.topology.allowed_cpus()[:2])
    assert seen.skipped.startswith("probing failed: ")


KILLED = """
import os, signal, sys, time
from ktask.host import topology
from ktask.lab.bystanders import neighbours
with neighbours.standing_by() as found:
    found[0].begin(topology.allowed_cpus()[0])
    found[0].room.put(neighbours.probes.ON, 1)
    while not found[0].room.word(neighbours.probes.COUNT):
        time.sleep(0.001)
    sys.stdout.write(str(found[0].pid))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.cpus(2)
def test_neighbours_end_with_a_process_that_is_killed():
    done = run_python(KILLED)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(
        lambda: not psutil.pid_exists(int(done.stdout)) or is_gone(psutil.Process(int(done.stdout))), "an end"
    )


def test_a_ring_visits_every_line_once():
    lines = probes.ring(64 * 100)
    at, seen = probes.address_of(lines), set()
    for _ in range(100):
        seen.add(at)
        at = int(lines[(at - probes.address_of(lines)) // 8])
    assert (len(seen), at) == (100, probes.address_of(lines))


def test_a_sleeping_probe_sleeps_until_the_time_comes():
    until = time.monotonic_ns() + 3_000_000
    probes.native.sleep_until(until)
    assert time.monotonic_ns() >= until
