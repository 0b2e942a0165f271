"""Where helpers are put, and what is left to the caller."""

import os
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import ktask
from ktask.engine import placement as helpers
from ktask.engine import run as engine
from ktask.host.topology import Topology


@ktask.thread_func
def nothing(start, end, arg):
    return 0


TWO_NODES = Topology.by_hand({0: range(4), 1: range(4, 8)})


@pytest.mark.parametrize(
    ("slots", "nids", "cpus"),
    [
        ((0,), (0,), (3,)),
        ((0,), (1,), (7,)),
        ((0, 1), (1, 1), (7, 6)),
        ((0, 1, 2), (1, 0, 1), (7, 2, 5)),
        ((0, 1), (-1, -1), (7, 6)),
        ((4,), (0,), (3,)),  # other tasks hold slots 0 to 3
    ],
)
def test_helpers_sit_on_their_node_from_the_last_cpu_downwards(slots, nids, cpus):
    found = helpers.place(TWO_NODES, slots, nids)
    assert found.helpers == cpus
    assert found.caller == tuple(cpu for cpu in range(8) if cpu not in cpus)


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    wishes=st.lists(st.integers(-1, 3), max_size=40),
    first=st.integers(0, 5),
)
def test_no_two_helpers_of_a_task_share_a_cpu(sizes, wishes, first):
    starts = np.cumsum([0, *sizes]).tolist()
    topo = Topology.by_hand({k: range(a, b) for k, (a, b) in enumerate(pairwise(starts))})
    room = {k: 4 * n // 5 for k, n in enumerate(sizes)}
    nids = []
    for nid in wishes[: 4 * sum(sizes) // 5]:
        taken = sum(n == nid for n in nids)
        nids.append(nid if nid in room and taken < room[nid] else -1)
    assume(-1 not in nids)  # a helper for any node may take the last CPU of one
    found = helpers.place(topo, tuple(range(first, first + len(nids))), tuple(nids))
    assert len(set(found.helpers)) == len(nids)
    assert all(cpu in topo.cpus_of(nid) for cpu, nid in zip(found.helpers, nids, strict=True))
    assert set(found.caller) == set(topo.cpus) - set(found.helpers)
    assert found.caller


@pytest.mark.parametrize("cpus", [(0,), (63,), (64,), (0, 1, 130)])
def test_masks_have_one_bit_per_cpu(cpus):
    mask = helpers.mask_of(cpus, helpers.mask_bytes(cpus))
    assert mask.size % 8 == 0
    assert tuple(np.flatnonzero(np.unpackbits(mask, bitorder="little"))) == cpus


def test_the_probe_for_priorities_leaves_the_priority_alone():
    before = os.getpriority(os.PRIO_PROCESS, 0)
    helpers.may_renice.cache_clear()
    assert helpers.may_renice() in (True, False)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.cpus(2)
@pytest.mark.timing
def test_helpers_that_spin_after_a_task_are_waited_for():
    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=2)
    found = []
    for _ in range(5):
        engine.run(0, 64, ctl)
        spun = helpers._others_run()
        helpers.wait_for_helpers()
        found.append((spun, helpers._others_run()))
    assert (True, False) in found
    assert all(not runs for _, runs in found)


@pytest.mark.timing
def test_a_thread_that_goes_on_is_not_waited_for_without_end():
    stop = threading.Event()
    thread = threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)])
    thread.start()
    try:
        start = time.monotonic()
        helpers.wait_for_helpers(0.05)
        assert 0.04 < time.monotonic() - start < 1
    finally:
        stop.set()
        thread.join()
