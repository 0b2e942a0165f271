"""Where helpers are put, and what is left to the caller."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topologies import TOPOLOGIES

import ktask
from ktask.engine import cpu_order
from ktask.engine import placement as helpers
from ktask.engine import run as engine
from ktask.engine.policy import Machine
from ktask.engine.slots import SLOTS, Slots
from ktask.host import topology


@ktask.thread_func
def nothing(start, end, arg):
    return 0


def somewhere(topo, placement="cores", caller=-1, caller_nid=0):
    """Return where a caller is on a machine that is not here."""
    per_node = {node.nid: len(node.cpus) for node in topo.nodes}
    return helpers.Site(
        topo.cpus, topo, Machine(len(topo.cpus), per_node, caller_nid=caller_nid), placement, caller=caller
    )


XEON = TOPOLOGIES["xeon 2x24x2"]


def test_helpers_come_after_the_cpu_of_the_caller():
    orders = helpers.helper_orders(somewhere(XEON), (1, 1, 0))
    assert [order[:3] for order in orders] == [(25, 26, 27), (0, 1, 2)]
    assert all(24 not in order for order in orders)
    (order,) = helpers.helper_orders(somewhere(XEON, caller=3), (-1, -1))
    assert order[:4] == (0, 1, 2, 4)
    assert helpers.helper_orders(somewhere(XEON, caller_nid=1), (-1, -1))[0][:2] == (25, 26)


@pytest.mark.parametrize("topo", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_a_free_caller_stays_off_the_cores_of_its_helpers_while_there_are_others(topo):
    taken = cpu_order.order(topo)
    n_cores = len({cpu.core for cpu in topo.each})
    for count in range(1, len(taken)):
        busy = taken[1 : count + 1]
        left = helpers.left_to_caller(topo, busy)
        assert left
        assert not set(left) & set(busy)
        assert taken[0] in left or count >= n_cores
        assert count >= n_cores or cpu_order.shared_cores(topo, (*left[:1], *busy)) == 0
    assert helpers.left_to_caller(topo, taken) == topo.cpus


@settings(deadline=None)  # files
@given(
    st.sampled_from([*TOPOLOGIES.values()]), st.lists(st.integers(-1, 7), min_size=1, max_size=60), st.data()
)
def test_no_two_helpers_of_any_task_share_a_cpu(topo, wishes, data):
    nids = [nid if nid in topo.memory_nids else -1 for nid in wishes][: len(topo.cpus)]
    where = somewhere(topo, data.draw(st.sampled_from(cpu_order.possible(topo))))
    orders = helpers.helper_orders(where, tuple(nids))
    with tempfile.TemporaryDirectory() as folder:
        slots = Slots(Path(folder) / "slots")
        split = data.draw(st.integers(0, len(orders)))
        grants = slots.take(orders[:split], 1000), slots.take(orders[split:], 1000)
    held = [cpu for grant in grants for cpu in grant.held_cpus]
    assert len(set(held)) == len(held)
    if where.placement != "node":
        assert held == [cpu for grant in grants for cpu in grant.cpus]
    assert set(held) <= set(topo.cpus)


def test_masks_of_a_caller_that_is_free_and_of_one_that_is_kept():
    bits = lambda array: tuple(np.flatnonzero(np.unpackbits(array, bitorder="little")))  # noqa: E731
    free = helpers.masks(somewhere(XEON), (1, 49, 2))
    each, caller, own, after = free.arrays
    assert [bits(mask) for mask in each] == [(1,), (49,), (2,)]
    assert set(bits(caller)) == set(XEON.cpus) - {1, 2, 49, 50}
    assert bits(own) == bits(after) == XEON.cpus
    assert free.after == free.own  # so that no system call is made for it
    kept = helpers.masks(somewhere(XEON, caller=5), (1,))
    assert bits(kept.arrays[1]) == bits(kept.arrays[3]) == (5,)
    assert bits(kept.arrays[2]) == XEON.cpus


def test_within_placed_the_caller_stays_on_its_cpu_and_others_see_all():
    before, cpus = os.sched_getaffinity(0), topology.allowed_cpus()
    with pytest.raises(KeyboardInterrupt), helpers.placed() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
        assert topology.allowed_cpus() == cpus
        assert helpers.site().caller == cpu
        where = helpers.site()
        ktask.run(0, 64, ktask.Ctl(nothing, (1,), 1, max_threads=2))
        assert os.sched_getaffinity(0) == {cpu}
        assert helpers.site() is where
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == before
    assert helpers.site().caller == -1
    assert not SLOTS._held


@pytest.mark.cpus(2)
def test_within_placed_a_task_has_its_threads_where_the_placement_says():
    expected = cpu_order.order(helpers.site().topo)
    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=2)
    for _ in range(3):
        with helpers.placed():
            alone, both = ktask.run(0, 64, replace(ctl, max_threads=1)), ktask.run(0, 64, ctl)
        assert alone.cpu_of_thread == expected[:1]
        assert both.cpu_of_thread == expected[:2]
        assert alone.run_mode == "caller alone, pinned, signals watched"
        assert both.run_mode.startswith("all pinned, ")
    assert ktask.run(0, 64, ctl).run_mode.startswith("pinned, ")


@pytest.mark.cpus(2)
def test_helpers_are_free_to_move_after_a_task_of_a_caller_that_is_kept():
    ctl = ktask.Ctl(nothing, (1,), 1, max_threads=2)
    with helpers.placed():
        ktask.run(0, 64, ctl)
        mine = threading.get_native_id()
        others = [int(path.name) for path in Path("/proc/self/task").iterdir() if int(path.name) != mine]
        assert all(os.sched_getaffinity(tid) == set(topology.allowed_cpus()) for tid in others)


def test_a_placement_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="placement 'near' is unknown; use cores"):
        ktask.run(0, 64, ktask.Ctl(nothing, (1,)), placement="near")


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


PINNED_AFTER_OPENMP = """
import os
from pathlib import Path
from ktask.engine import placement

pin, found = os.sched_setaffinity, []

def seen(pid, cpus):
    found.append("libgomp" in Path("/proc/self/maps").read_text())
    pin(pid, cpus)

os.sched_setaffinity = seen
with placement.placed():
    pass
assert found and all(found), found
"""


def test_libgomp_counts_the_cpus_before_the_caller_is_kept_to_one():
    """Loaded later it sees one CPU, lets no thread spin, and a short task takes twice as long."""
    done = subprocess.run(
        [sys.executable, "-c", PINNED_AFTER_OPENMP], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
