"""Near and far memory in the report, on synthetic runs with known truth."""

import numpy as np
import pandas as pd
import pytest
from test_report import GIB, MIB, Truth, make_records, make_run

from ktask.report import Report, machine, tables
from ktask.report.paths import numa
from ktask.report.study import Study

CORES = 4  # of each of two nodes
NODES = [
    {"nid": 0, "cpus": [0, 1, 2, 3], "memory_bytes": 8 * GIB, "distances": [10, 21]},
    {"nid": 1, "cpus": [4, 5, 6, 7], "memory_bytes": 8 * GIB, "distances": [21, 10]},
]
FACTS = {"nodes": NODES, "sockets": 2, "cores": 8, "threads": 8}
FAR = {"node=local": 1.0, "node=spread": 1.2, "node=remote": 1.5}  # times as long, by one thread and by many
SCALING = {2: 1.9, 4: 3.5, 8: 5.0}


def nodes_of_threads(threads):
    """The node of each thread, those of the caller's node first."""
    return ",".join("0" if k < CORES else "1" for k in range(threads))


def numa_run(far=FAR, noise=0.004, **facts):
    """A run of one case in several places, and of one that says nothing about places."""
    parts = []
    for seed, (options, factor) in enumerate([*far.items(), ("", 1.0)]):
        truth = Truth("zeroing", "kernel", "populate", "THP", 8 * GIB / factor, SCALING, overhead_s=0.0)
        rows = make_records([truth], (512 * MIB,), noise=noise, seed=seed)
        nodes = [nodes_of_threads(threads) for threads in rows["threads"]]
        cell = f"zeroing-populate-THP-512MiB-{options}"
        parts.append(rows.assign(options=options, cell_id=cell, nodes=nodes))
    return make_run(pd.concat(parts, ignore_index=True), skips=(), **(FACTS | facts))


def numa_of(run):
    return numa.numa_table(tables.scaling_table(run), tables.repetitions(run), run.machine)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ("", "")),
        ("fill=each", ("fill=each", "")),
        ("placement=spread", ("placement=spread", "")),  # without a node it says nothing about distance
        ("node=1", ("", "on node 1")),
        ("fill=each,node=remote", ("fill=each", "far")),
        ("node=split,placement=spread", ("", "a part per node, threads spread")),
    ],
)
def test_the_place_is_told_apart_from_other_options(options, expected):
    assert numa.parted(options) == expected


@pytest.mark.parametrize(
    ("threads", "word", "share"),
    [
        ([0, 0], "local", 0.0),
        ([1, 1, 0, 0], "local", 0.5),  # two of four had to go to the other node
        ([0, 0], "remote", 1.0),
        ([0, 0, 0, 1], "remote", 0.75),
        ([0, 0, 1, 1], "spread", 0.5),
        ([0, 1], "split", 0.0),
        ([0, 1, 1, 1], "1", 0.25),
        ([0, 2], "spread", 0.75),  # node 2 has no memory
        ([], "local", np.nan),
        ([0, -1], "local", np.nan),
        ([0], "any", np.nan),
    ],
)
def test_the_remote_share_is_that_of_the_threads(threads, word, share):
    nodes = [*NODES, {"nid": 2, "cpus": [8]}]
    assert numa.remote_share(threads, word, {"nodes": nodes}) == pytest.approx(share, nan_ok=True)


def test_far_is_the_farthest_node_with_memory():
    distances = {0: [10, 12, 32], 1: [12, 10, 32], 2: [32, 32, 10]}
    nodes = [{"nid": nid, "memory_bytes": GIB, "distances": row} for nid, row in distances.items()]
    assert numa.memory_nodes("remote", 0, {"nodes": nodes}) == (2,)
    assert numa.memory_nodes("remote", 2, {"nodes": nodes}) == (0,)  # of equals the first
    del nodes[2]["memory_bytes"]  # CPUs only
    assert numa.memory_nodes("remote", 0, {"nodes": nodes}) == (1,)


def test_what_far_memory_costs_is_found():
    found = numa_of(numa_run(noise=0))
    costs = found.set_index(["place", "threads"])["cost"].to_dict()
    assert {place: costs[place, 1] for place in ("near", "interleaved", "far")} == pytest.approx(
        {"near": 1.0, "interleaved": 1.2, "far": 1.5}
    )
    assert set(found["threads"]) == {1, 2, 4, 8}
    assert "" not in set(found["place"])  # the case without a place is not among them
    shares = found.set_index(["place", "threads"])["share"].to_dict()
    assert (shares["near", 4], shares["far", 4], shares["interleaved", 4]) == (0, 1, 0.5)
    assert (shares["near", 8], shares["far", 8]) == (0.5, 0.5)  # the node is full


def test_the_cost_has_an_interval_over_processes():
    found = numa_of(numa_run(noise=0.01))
    far = found[(found["place"] == "far") & (found["threads"] == 4)].iloc[0]
    assert far["cost_low"] < 1.5 < far["cost_high"]
    assert far["cost_high"] / far["cost_low"] < 1.2
    near = found[found["place"] == "near"]
    assert (near[["cost", "cost_low", "cost_high"]] == 1).all(axis=None)


def test_runs_without_the_nodes_of_threads_go_by_the_place():
    run = numa_run(noise=0)
    run.records["nodes"] = ""
    found = numa_of(run)
    assert found["share"].isna().all()
    assert found.groupby("place")["cost"].first().to_dict() == pytest.approx(
        {"near": 1.0, "interleaved": 1.2, "far": 1.5}
    )


@pytest.mark.parametrize("far", [{}, {"node=local": 1.0}, {"node=local": 1.0, "node=local,fill=each": 1.0}])
def test_nothing_is_said_of_what_was_measured_in_one_place(far):
    study = Study(numa_run(far))
    assert study.numa.empty
    assert numa.numa_figure(study.numa, "k") is None
    assert numa.section(study) == ""


def test_the_page_says_what_far_memory_costs():
    study = Study(numa_run())
    text = numa.section(study)
    for cell in ("near", "interleaved", "far", "50 %"):
        assert f">{cell}</td>" in text
    figure = numa.numa_figure(study.numa, "k")
    assert str(figure.caption).startswith("The same work takes up to 1.5")
    assert "times as long with one thread (Zeroing: populate (THP), 512 MiB, memory far, 100 % of it " in (
        figure.caption
    )
    assert "memory interleaved: " in figure.alt


def test_the_section_has_its_place_and_number():
    report = Report([numa_run()])
    text = str(report.results().body)
    assert text.index("1.1 ") < text.index("1.2 Near and far memory")
    assert 'id="numa"' in text
    plain = str(Report([numa_run({})]).results().body)
    assert "Near and far memory" not in plain


def test_borders_of_a_machine_with_nodes():
    facts = {"sockets": 2, "cores": 128, "threads": 256, "nodes": [{"nid": k, "cpus": [k]} for k in range(8)]}
    assert machine.thread_borders(facts) == {16: "one node", 64: "one socket", 128: "one thread per core"}
    assert machine.thread_borders({"sockets": 1, "cores": 2, "threads": 2, "nodes": [{"nid": 0}]}) == {}
    assert machine.thread_borders({"sockets": 1, "cores": 2, "threads": 4, "nodes": "many"}) == {}
