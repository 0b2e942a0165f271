"""Migrate: between nodes where there are two, and what can be seen of it with one."""

import contextlib
import errno
from types import SimpleNamespace

import numpy as np
import pytest
from topologies import machine

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory import region as memory
from ktask.memory.region import MIB
from ktask.workloads import Case, CheckError, migrate

CASE = Case("migrate", "move_pages", "4KiB", 2 * MIB, options=(("batch", "100"),))


@pytest.fixture
def in_place(monkeypatch):
    """A case that moves memory to where it is: the calls are real, and each page says where it lies."""
    (nid, *_) = migrate.node_memory.usable_nodes()
    monkeypatch.setattr(migrate, "ends", lambda: (nid, nid))
    with contextlib.closing(migrate.Migrate(CASE)) as state:
        state.before()
        yield state


def test_all_pages_are_moved_in_batches(in_place):
    assert engine.run(0, in_place.size, in_place.ctl).error == 0
    in_place.check()


def test_a_page_that_was_not_moved_is_found(in_place):
    engine.run(0, in_place.size - 1, in_place.ctl)
    with pytest.raises(CheckError, match="1 of 512 pages were not moved"):
        in_place.check()


def test_a_page_that_lies_elsewhere_or_has_changed_is_found(in_place, monkeypatch):
    engine.run(0, in_place.size, in_place.ctl)
    in_place.region.one_word_per_page()[3] = 0
    with pytest.raises(CheckError, match="1 places of 4 KiB have lost their content"):
        in_place.check()
    monkeypatch.setattr(memory.Region, "nodes", lambda region: np.full(512, 7))
    with pytest.raises(CheckError, match="512 of 512 pages are not on node"):
        in_place.check()


def test_a_node_that_is_not_there_is_an_error(in_place):
    in_place._targets[:] = 1023
    assert engine.run(0, in_place.size, in_place.ctl).error in (errno.ENODEV, errno.EACCES)


def test_memory_goes_to_the_farthest_node(monkeypatch):
    far = {0: {0: 10, 1: 12, 2: 32}, 1: {0: 12, 1: 10, 2: 32}, 2: {0: 32, 1: 32, 2: 10}}
    topo = machine(3, 4, distances=far)
    monkeypatch.setattr(migrate.placement, "site", lambda: SimpleNamespace(topo=topo))
    monkeypatch.setattr(migrate.node_memory, "usable_nodes", lambda *_: (0, 1, 2))
    assert migrate.ends() == (0, 2)


def test_one_node_is_not_enough(monkeypatch):
    monkeypatch.setattr(migrate.node_memory, "usable_nodes", lambda *_: (3,))
    migrate.no_second_node.cache_clear()
    try:
        assert workloads.why_not(CASE) == (
            "moving memory needs two nodes; this process may use that of node 3 alone. "
            "`make vm` tries it on an emulated machine with two"
        )
    finally:
        migrate.no_second_node.cache_clear()
