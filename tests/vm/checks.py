"""What has to hold on an emulated machine; `make vm` runs this there, and pytest finds it nowhere else.

What a machine is like is read from the kernel and from its description, not by the code that is checked.
"""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import ktask
from ktask import workloads
from ktask.engine import native
from ktask.host.cpus import parse_cpu_list
from ktask.host.facts import machine_facts
from ktask.host.topology import allowed_cpus
from ktask.lab.sweep import cells
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.fragmenting_child import free_blocks

MACHINE = json.loads(os.environ.get("KTASK_EMULATED", "null"))
pytestmark = pytest.mark.skipif(not MACHINE, reason="this is no emulated machine")
CPUS = range(MACHINE["cpus"] if MACHINE else 1)
NODE_CPUS = dict(enumerate(MACHINE["node_cpus"])) if MACHINE else {}
NODE_MIB = dict(enumerate(MACHINE["node_mib"])) if MACHINE else {}
CPU = Path("/sys/devices/system/cpu")
KERNEL = tuple(map(int, os.uname().release.split(".")[:2]))
CORES = len(CPUS) // MACHINE["threads"] if MACHINE else 1
NEAR = [nid for nid in NODE_CPUS if NODE_CPUS[nid] and NODE_MIB[nid]]


def core_of(cpu):
    """Return the CPUs that share a core with `cpu`."""
    return parse_cpu_list((CPU / f"cpu{cpu}/topology/thread_siblings_list").read_text())


def measured(typed, *words):
    """Return the JSON of a case measured here, in this process."""
    options = ("--passes", "1", "--repetitions", "3", "--json")
    code, out, err = typed("run", "zeroing", "--page-size", "4KiB", *words, *options)
    assert code == 0, err
    return json.loads(out)


# --- the machine -----------------------------------------------------------------------------------------


def test_the_facts_are_those_of_the_machine():
    facts = machine_facts()
    counts = facts["sockets"], facts["cores"], facts["smt"]
    assert counts == (MACHINE["sockets"], CORES, MACHINE["threads"] > 1)
    assert allowed_cpus() == tuple(CPUS)
    nodes = {node["nid"]: node for node in facts["nodes"]}
    assert sorted(nodes) == sorted(NODE_CPUS)
    for nid, node in nodes.items():
        assert list(node.get("cpus", ())) == NODE_CPUS[nid]
        assert 0.6 * NODE_MIB[nid] <= (node.get("memory_bytes") or 0) / (1 << 20) <= NODE_MIB[nid]


def test_doctor_names_sockets_and_nodes(typed):
    code, out, _ = typed("doctor")
    assert code in (0, 1)
    assert "node" in out
    assert "socket" in out


# --- placement -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3, 4, 6, 8, 16])
def test_threads_share_no_core_while_one_is_empty(typed, threads):
    if threads > 4 * len(CPUS) // 5 + 1:
        pytest.skip("more than there are slots")
    cpus = measured(typed, "--size", "16MiB", "--min-chunk", "64KiB", "--threads", str(threads))["cpus"]
    assert len(set(cpus)) == threads
    assert len({core_of(cpu) for cpu in cpus}) == min(threads, CORES)


@pytest.mark.parametrize("nid", NEAR)
def test_helpers_run_next_to_the_memory_in_every_repetition(typed, nid):
    threads = min(4, len(NODE_CPUS[nid]))
    for _ in range(3):
        words = ("--size", "16MiB", "--min-chunk", "64KiB", "--threads", str(threads), "--set", f"node={nid}")
        cpus = measured(typed, *words)["cpus"]
        assert len(cpus) == threads
        assert set(cpus) <= set(NODE_CPUS[nid])


# --- memory ----------------------------------------------------------------------------------------------


def bound_to(nid, size_mib):
    """Return the case of zeroing memory on a node."""
    return Case.of("zeroing", "populate", size=size_mib << 20, page_kind="4KiB", options={"node": str(nid)})


@pytest.mark.parametrize("nid", [nid for nid in NODE_MIB if NODE_MIB[nid]])
def test_what_exceeds_its_node_is_skipped_with_the_numbers(nid):
    assert "needs" in cells.why_not(bound_to(nid, NODE_MIB[nid] - 12))
    assert f"of node {nid}, but the budget there is" in cells.why_not(bound_to(nid, NODE_MIB[nid] * 5 // 8))
    assert cells.why_not(bound_to(nid, 16)) is None


def test_a_node_without_memory_is_refused():
    for nid in (nid for nid in NODE_MIB if not NODE_MIB[nid]):
        assert f"no memory on node {nid}" in (workloads.why_not(bound_to(nid, 16)) or "")


# --- CPUs that go and come -------------------------------------------------------------------------------


@ktask.thread_func(cache=True)
def take_steps(start, end, seen, steps):
    for unit in range(start, end):
        native.spend(steps)
        seen[unit] += 1
    return 0


def online(cpu, is_online):
    """Switch a CPU on or off."""
    (CPU / f"cpu{cpu}/online").write_text(str(int(is_online)))


@pytest.mark.parametrize("nice", [19, 0])
def test_cpus_that_go_offline_in_the_middle_of_a_task(nice):
    gone, size = CPUS[-3:], 2000
    seen = np.zeros(size, np.int64)
    ctl = ktask.Ctl(take_steps, (seen, 100_000), 1, max_threads=len(CPUS))
    ktask.run(0, 1, ctl, "dynamic")
    seen[:] = 0
    timer = threading.Timer(0.2, lambda: [online(cpu, False) for cpu in gone])
    timer.start()
    start = time.monotonic()
    try:
        result = ktask.run(0, size, ctl, "dynamic", nice=nice)
        timer.join()
        assert result.done == size
        assert seen.tolist() == [1] * size
        assert time.monotonic() - start < 120
        assert set(allowed_cpus()) == set(CPUS) - set(gone)
        fewer = ktask.run(0, size, ctl, "dynamic")
        assert fewer.threads < result.threads
        assert not set(fewer.cpu_of_thread) & set(gone)
    finally:
        timer.join()
        for cpu in gone:
            online(cpu, True)
        back = allowed_cpus()
        os.sched_setaffinity(0, CPUS)
    assert ktask.run(0, size, ctl, "dynamic").threads == result.threads
    if KERNEL >= (6, 4):  # before, what set its mask while CPUs were offline does not get them back
        assert back == tuple(CPUS)


# --- plans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["quick", "full"])
def test_a_plan_for_this_machine(typed, grid):
    if len(CPUS) < 32:
        pytest.skip("it takes minutes, and is done where there are many CPUs")
    code, out, err = typed("sweep", grid, "--dry-run")
    assert code == 0, err
    assert "minutes" in out + err or " min" in out + err or " h" in out + err


@pytest.mark.parametrize(("kind", "size"), [("4KiB", "8MiB"), ("4KiB", "4KiB"), ("THP", "2MiB")])
def test_memory_is_moved_from_node_to_node(typed, kind, size):
    """A range, and single folios, whose time is a latency."""
    nodes = [nid for nid in NODE_MIB if NODE_MIB[nid]]
    words = ("--page-size", kind, "--size", size, "--min-chunk", "64KiB", "--threads", "2")
    code, out, err = typed("run", "migrate", *words, "--passes", "1", "--repetitions", "2", "--json")
    found = json.loads(out)
    if len(nodes) < 2:
        assert code == 1 and "needs two nodes" in found["skipped"]
    else:
        assert code == 0, err
        assert found["verified"]


def test_huge_pages_count_while_the_kernel_watches_who_uses_them():
    """NUMA balancing hides them from smaps of Linux 6.1."""
    size, end = 8 * memory.MIB, time.monotonic() + 60
    with memory.Region(size, "THP") as region:
        region.populate()
        region.advise(memory.MADV_FREE)
        place = region.address, region.address + size
        while memory.smaps_bytes(*place, "AnonHugePages") == size:
            sum(range(100_000))  # the kernel looks as CPU time goes by
            if time.monotonic() > end:
                pytest.skip("no huge page was hidden")
        assert region.lazy_free_bytes() == size
        assert memory._huge_bytes_by_smaps(*place) == size


@pytest.mark.parametrize("method", ["fused", "stages"])
def test_fragmented_memory_has_no_huge_pages_to_give_until_the_case_is_over(typed, method):
    """Not on a machine that others use: their programs get no huge pages meanwhile."""
    words = ("--page-size", "THP", "--size", "32MiB", "--min-chunk", "2MiB", "--threads", "2", "--json")
    fragmented = ("--method", method, "--set", "memory=fragmented", "--passes", "1", "--repetitions", "3")
    before = free_blocks()
    code, out, err = typed("run", "start", *words, *fragmented)
    assert code == 0, err
    found = json.loads(out)["conditions"]["huge_share"]
    assert max(found.values()) < 0.1, found
    end = time.monotonic() + 60
    while free_blocks() < before // 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert free_blocks() >= before // 2
