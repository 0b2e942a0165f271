"""The model of a buddy allocator: no page lost, none free twice, all merged as far as can be."""

import contextlib
import errno
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError
from ktask.workloads.free import buddy
from ktask.workloads.free.buddy import TOP_ORDER, Allocator, whole_blocks


def state_of(size_bytes=32 * MIB, threads=2, **options):
    chosen = workloads.get("free").method("buddy").parse_options(options)
    state = workloads.get("free").setup(Case("free", "buddy", "4KiB", size_bytes, 64 * KIB, options=chosen))
    state.ctl = replace(state.ctl, max_threads=threads)
    return contextlib.closing(state)


def run(state):
    state.before()
    return engine.run(0, state.size, state.ctl, "dynamic")


# --- the allocator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_pages", "blocks"),
    [(1, {0: 1}), (7, {0: 1, 1: 1, 2: 1}), (1024, {10: 1}), (3 * 1024 + 512, {9: 1, 10: 3})],
)
def test_blocks_that_so_many_pages_make_up(n_pages, blocks):
    assert whole_blocks(n_pages) == [blocks.get(order, 0) for order in range(TOP_ORDER + 1)]


def free_pages_of(allocator):
    seen, blocks, broken = allocator.census()
    assert broken == 0
    assert seen.max() <= 1
    assert sum(count << order for order, count in enumerate(blocks)) == seen.sum()
    return set(np.flatnonzero(seen).tolist())


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, TOP_ORDER), st.integers(0, 99)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(n_pages=st.integers(1, 5000), n_zones=st.integers(1, 3), steps=steps)
def test_any_order_of_taking_and_giving_keeps_every_page_once(n_pages, n_zones, steps):
    allocator = Allocator(n_pages, n_zones)
    everything, taken = set(range(n_pages)), []
    assert free_pages_of(allocator) == everything
    for zone, order, which in steps:
        page = allocator.allocate(zone % n_zones, order) if which % 2 else -1
        if page >= 0:
            assert page % (1 << order) == 0
            taken.append((page, order))
        elif taken:
            assert allocator.release(*taken.pop(which % len(taken)))
        in_use = [page + k for page, order in taken for k in range(1 << order)]
        assert len(set(in_use)) == len(in_use)
        assert free_pages_of(allocator) == everything - set(in_use)
    for page, order in taken:
        assert allocator.release(page, order)
    assert allocator.census()[1] == whole_blocks(n_pages)


def test_a_zone_without_a_block_of_the_size_says_so():
    allocator = Allocator(1024)
    assert allocator.allocate(0, TOP_ORDER) == 0
    assert allocator.allocate(0, 0) == -1


def test_no_two_free_buddies_are_left_apart():
    allocator = Allocator(1024)
    pages = allocator.allocate_all()
    for page in pages[pages % 2 == 0]:
        assert allocator.release(page, 0)
    assert allocator.census()[1] == [512, *[0] * TOP_ORDER]
    for page in pages[pages % 2 == 1][::-1]:
        assert allocator.release(page, 0)
    assert allocator.census()[1] == whole_blocks(1024)


def test_a_block_is_freed_once():
    allocator = Allocator(8)
    page = allocator.allocate(0, 1)
    assert allocator.release(page, 1)
    assert not allocator.release(page, 1)
    assert allocator.census()[1] == whole_blocks(8)


# --- the workload -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    pages=st.integers(1, 20_000),
    batch=st.sampled_from([1, 2, 63, 5000]),
    zones=st.integers(1, 5),
    lock=st.sampled_from(["zone", "order"]),
    merge=st.sampled_from(["now", "later"]),
    layout=st.sampled_from(["contiguous", "scattered"]),
)
def test_all_pages_are_back_whatever_is_set(pages, batch, zones, lock, merge, layout):
    options = {"batch": batch, "zones": zones, "lock": lock, "merge": merge, "layout": layout}
    with state_of(pages * 4096, **options) as state:
        for _ in range(2):
            assert run(state).error == 0
            state.check()


def test_locks_are_taken_once_per_batch():
    with state_of(threads=1, batch=64) as state:
        run(state)
        assert state.allocator.lock_counts() == {"taken": 8192 // 64 - 3, "contended": 0, "held_ns": 0}
        state.allocator.time_locks(True)
        run(state)
        assert state.allocator.lock_counts()["held_ns"] > 0


def test_a_page_freed_twice_is_an_error():
    with state_of() as state:
        state.before()
        state.pages[7] = state.pages[3]
        assert engine.run(0, state.size, state.ctl).error == errno.EEXIST


def test_a_page_on_two_lists_is_seen():
    with state_of() as state:
        run(state)
        state.allocator.settle()
        first = state.allocator.words[state.allocator._header[buddy._PAGE_ROWS] :][: buddy._PAGE_ROW]
        assert first[buddy._ORDER] > 0
        buddy._push(state.allocator.base, buddy._zone_row(state.allocator.base, 0, 3), 0, 3)
        with pytest.raises(CheckError, match="links of the free lists are broken"):
            state.check()


def test_blocks_that_were_not_merged_are_seen():
    with state_of(merge="later") as state:
        run(state)
        state.allocator._header = (*state.allocator._header[:3], True, *state.allocator._header[4:])
        with pytest.raises(CheckError, match=r"not merged as far as can be: blocks by order \[8192, 0,"):
            state.check()


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    case = Case("free", "buddy", "4KiB", 1 << 50)
    with pytest.raises(memory.BudgetError, match=r"free buddy needs [0-9.]+ GiB, but the budget is"):
        workloads.require_memory(case)
    batch = Case("free", "buddy", "4KiB", MIB, options=(("batch", str(1 << 40)),))
    with pytest.raises(memory.BudgetError):
        workloads.require_memory(batch)


def test_every_cpu_has_a_list_of_its_own():
    allocator = Allocator(1024, 2, 63)
    rows = {buddy._cpu_row(allocator.base, cpu, zone) for cpu in range(allocator.n_cpus) for zone in range(2)}
    assert len(rows) == 2 * allocator.n_cpus >= 2 * len(os.sched_getaffinity(0))
    assert all(row % 128 == 0 for row in rows)
