"""Which stores zero memory: chosen by size, measured once, remembered, and never trusted blindly."""

import json

import pytest

from ktask import store_choice
from ktask.memory import GIB, KIB, MIB
from ktask.workloads.zeroing import STORES, zero_bytes

TABLE = {"one": ["memset"] * 6 + ["nontemporal"] * 2, "all": ["rep_stosb"] * 7 + ["nontemporal"]}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a calibration that only counts how often it is asked for."""
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store_choice, "measure", lambda *_: asked.append(1) or TABLE)
    store_choice.calibration.cache_clear()
    yield asked
    store_choice.calibration.cache_clear()


@pytest.mark.parametrize(
    ("size", "one", "all_threads"),
    [
        (0, "memset", "rep_stosb"),
        (100 * KIB, "memset", "rep_stosb"),
        (127 * MIB, "memset", "rep_stosb"),  # nearer to 64 MiB than to 256 MiB, by ratio
        (129 * MIB, "nontemporal", "rep_stosb"),
        (64 * GIB, "nontemporal", "nontemporal"),
    ],
)
def test_the_nearest_measured_size_decides(size, one, all_threads):
    assert store_choice.choose(size, "one", TABLE) == one
    assert store_choice.choose(size, "all", TABLE) == all_threads


def test_a_machine_is_measured_once(cache):
    for _ in range(2):
        assert store_choice.calibration(STORES, zero_bytes) == TABLE
        store_choice.calibration.cache_clear()
    assert cache == [1]
    assert json.loads(store_choice.cache_path(STORES).read_text()) == TABLE


WRONG = [{"one": [], "all": []}, {"one": 3}, TABLE | {"all": ["x"] * 8}, TABLE | {"one": [["memset"]] * 8}]


@pytest.mark.parametrize("text", ["", "[]", "{", *map(json.dumps, WRONG)])
def test_a_damaged_file_is_measured_anew_and_replaced(cache, text):
    path = store_choice.cache_path(STORES)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert store_choice.calibration(STORES, zero_bytes) == TABLE
    assert json.loads(path.read_text()) == TABLE


def test_a_cache_that_cannot_be_written_does_not_matter(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert store_choice.calibration(STORES, zero_bytes) == TABLE


def test_another_cpu_or_another_list_of_kinds_is_another_file(cache, monkeypatch):
    paths = {store_choice.cache_path(STORES), store_choice.cache_path(STORES[:2])}
    monkeypatch.setattr(store_choice.topology, "read_text", lambda _: "model name : another")
    paths.add(store_choice.cache_path(STORES))
    assert len(paths) == 3


def test_every_size_gets_a_kind_that_was_measured(monkeypatch):
    monkeypatch.setattr(store_choice, "SIZES", (64 * KIB, MIB))
    table = store_choice.measure(STORES, zero_bytes)
    assert sorted(table) == ["all", "one"]
    assert all(len(row) == 2 and set(row) <= set(STORES) for row in table.values())


def test_sizes_beyond_the_memory_take_the_largest_that_fits(monkeypatch):
    monkeypatch.setattr(store_choice, "SIZES", (64 * KIB, 8 * GIB))
    monkeypatch.setattr(store_choice.memory, "budget_bytes", lambda: MIB)
    monkeypatch.setattr(store_choice.memory, "require_budget", lambda *_: None)
    table = store_choice.measure(STORES, zero_bytes)
    assert all(len(row) == 2 and row[0] == row[1] for row in table.values())
