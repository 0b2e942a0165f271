"""Which stores zero memory: chosen by size, measured once, remembered, and never trusted blindly."""

import json

import pytest

import ktask
from ktask.engine import native
from ktask.memory.region import GIB, KIB, MIB
from ktask.workloads.zeroing import store_choice
from ktask.workloads.zeroing.resident import STORES, zero_bytes

PAIR = ("memset", "nontemporal")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """An empty cache, and the list of sizes that were measured for it."""
    sizes = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store_choice, "measure", lambda size, *_: sizes.append(size) or PAIR)
    return sizes


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(0, 64 * KIB), (127 * KIB, 64 * KIB), (129 * KIB, 256 * KIB), (45 * MIB, 32 * MIB), (64 * GIB, GIB)],
)
def test_the_nearest_size_by_ratio_decides(size, nearest):
    assert store_choice.nearest(size) == nearest


def test_a_size_is_measured_once_per_machine_and_the_others_stay(measured):
    for size in (MIB, 2 * GIB, MIB + 1, GIB):
        assert store_choice.fastest(size, STORES, zero_bytes) == PAIR
    assert measured == [MIB, GIB]
    kept = json.loads(store_choice.cache_path(STORES).read_text())
    assert kept == {str(MIB): list(PAIR), str(GIB): list(PAIR)}


WRONG = [[], {str(MIB): 3}, {str(MIB): ["memset"]}, {str(MIB): ["memset", "x"]}, {str(MIB): ["memset", []]}]


@pytest.mark.parametrize("text", ["", "{", "3", "[" * 100_000, *map(json.dumps, WRONG)], ids=range(9))
def test_a_damaged_file_is_measured_anew_and_replaced(measured, text):
    path = store_choice.cache_path(STORES)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert store_choice.fastest(MIB, STORES, zero_bytes) == PAIR
    assert json.loads(path.read_text()) == {str(MIB): list(PAIR)}
    assert measured == [MIB]


def test_a_cache_that_cannot_be_written_does_not_matter(measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert store_choice.fastest(MIB, STORES, zero_bytes) == PAIR


def test_another_cpu_or_another_list_of_kinds_is_another_file(measured, monkeypatch):
    paths = {store_choice.cache_path(STORES), store_choice.cache_path(STORES[:2])}
    monkeypatch.setattr(store_choice.topology, "read_text", lambda _: "model name : another")
    paths.add(store_choice.cache_path(STORES))
    assert len(paths) == 3


def test_the_fastest_is_what_took_the_least_time():
    @ktask.thread_func
    def slow_but_for_the_second(start, end, address, kind):
        if kind != 1:
            for _ in range(200_000):
                native.load(address)
        return 0

    assert store_choice.measure(64 * KIB, STORES, slow_but_for_the_second) == (STORES[1],) * 2


def test_a_size_beyond_the_memory_is_judged_by_one_that_fits(monkeypatch):
    seen = []
    monkeypatch.setattr(store_choice.memory, "budget_bytes", lambda: 4 * MIB)
    monkeypatch.setattr(store_choice, "_fastest", lambda address, size, *_: seen.append(size) or 0)
    assert store_choice.measure(GIB, STORES, zero_bytes) == (STORES[0],) * 2
    assert seen == [MIB, MIB]
