"""Each workload does its work, and its check notices when it did not."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

import ktask
from ktask import workloads
from ktask.engine import run as engine
from ktask.host import available_memory
from ktask.lab.evidence import locks
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.memory import address_space
from ktask.memory import region as memory
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError
from ktask.workloads.page_walk import page_walk

SMALL = {"4KiB": 4 * MIB, "THP": 8 * MIB, "2MiB": 8 * MIB, "1GiB": 1024 * MIB}


def all_cases():
    """Every workload, method and page kind at a small size; skipped where the machine lacks something."""
    for workload in workloads.registry().values():
        for method in workload.methods:
            for kind in method.page_kinds:
                case = Case(workload.name, method.name, kind, SMALL[kind], 64 * KIB)
                yield pytest.param(case, id=f"{workload.name}-{method.name}-{kind}")


def set_up(case):
    """Return the state of a case, or skip with the reason why this machine cannot have it."""
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    return workloads.get(case.workload).setup(case)


@ktask.thread_func
def do_nothing(start, end, *args):
    return 0


@pytest.mark.parametrize("case", list(all_cases()))
@pytest.mark.parametrize("threads", [1, 2])
def test_work_is_done_and_verified(case, threads):
    state = set_up(case)
    try:
        for _ in range(2):
            state.ctl = replace(state.ctl, max_threads=threads)
            state.before()
            assert engine.run(0, state.size, state.ctl).error == 0
            state.check()
    finally:
        state.close()


@pytest.mark.parametrize("case", list(all_cases()))
def test_work_that_did_not_happen_is_an_error(case):
    state = set_up(case)
    try:
        state.before()
        engine.run(0, state.size, state.ctl)
        state.check()
        state.before()
        engine.run(0, state.size, replace(state.ctl, thread_func=do_nothing))
        with pytest.raises(CheckError):
            state.check()
    finally:
        state.close()


@pytest.mark.parametrize("case", list(all_cases()))
def test_one_forgotten_unit_is_an_error(case):
    state = set_up(case)
    try:
        if state.size < 2:
            pytest.skip("a single unit cannot be left out")
        state.before()
        engine.run(0, state.size, state.ctl)
        state.before()
        engine.run(0, state.size - 1, state.ctl)
        with pytest.raises(CheckError):
            state.check()
    finally:
        state.close()


def mapped_kib():
    return int(Path("/proc/self/statm").read_text().split()[0]) * memory.BASE_PAGE // KIB


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("case", list(all_cases()))
def test_closing_leaves_no_mapping_and_no_file(case):
    def cycle():
        state = set_up(case)
        state.before()
        engine.run(0, state.size, state.ctl)
        state.close()

    def growth_kib():
        mapped = mapped_kib()
        cycle()
        return mapped_kib() - mapped

    cycle()  # compiled code and what it needs is mapped at the first use, and stays
    files = open_files()
    # Python takes its own memory by the MiB, now and then, but not in two more cycles.
    assert growth_kib() < 1024 or max(growth_kib(), growth_kib()) < 1024
    assert open_files() == files


@pytest.mark.parametrize("method", ["populate", "stores"])
def test_the_least_chunk_is_a_unit_even_if_nothing_is_asked_for(method):
    state = set_up(Case("zeroing", method, "4KiB", 64 * KIB, 0))
    assert state.ctl.min_chunk_size == 1
    state.close()


@pytest.mark.parametrize("name", [("zeroing", "stores"), ("protect", "mprotect"), ("pin", "mlock")])
def test_a_region_that_cannot_be_filled_is_given_back(name, monkeypatch):
    made, unmap = [], memory.Region.unmap

    def refuse(region, advice):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(memory.Region, "unmap", lambda region: made.append(region.address) or unmap(region))
    case = Case(*name, "4KiB", 2 * MIB)
    workloads.why_not(case)  # which tries a page
    monkeypatch.setattr(memory.Region, "advise", refuse)
    made.clear()
    with pytest.raises(OSError, match="no memory"):
        workloads.get(case.workload).setup(case)
    (address,) = made
    assert not memory.is_mapped(address)


@pytest.mark.pool("2MiB", 4)
def test_hugetlb_pages_go_back_to_their_pool():
    case = Case("zeroing", "populate", "2MiB", 8 * MIB, 2 * MIB)
    state = set_up(case)
    free = available_memory.hugetlb_pools()[2 * MIB]["free"]
    state.before()
    engine.run(0, state.size, state.ctl)
    assert available_memory.hugetlb_pools()[2 * MIB]["free"] == free - 4
    state.close()
    assert available_memory.hugetlb_pools()[2 * MIB]["free"] == free


def test_populating_counts_from_the_first_page_to_the_last():
    state = set_up(Case("zeroing", "populate", "4KiB", 4 * MIB, 64 * KIB))
    state.before()
    assert not state.region.present().any()
    engine.run(0, state.size, state.ctl)
    assert state.region.present().all()
    assert state.operations == 4 * MIB
    state.close()


def test_huge_pages_are_really_huge():
    state = set_up(Case("zeroing", "populate", "THP", 8 * MIB, 2 * MIB))
    state.before()
    engine.run(0, state.size, state.ctl)
    start, end = state.region.address, state.region.address + state.region.size_bytes
    assert memory.huge_bytes(start, end) == memory._huge_bytes_by_smaps(start, end) == 8 * MIB
    state.close()


def test_small_pages_are_really_small():
    state = set_up(Case("zeroing", "populate", "4KiB", 8 * MIB, 2 * MIB))
    state.before()
    engine.run(0, state.size, state.ctl)
    assert state.region.huge_bytes() == 0
    state.close()


def test_error_of_the_kernel_is_reported_not_measured():
    state = set_up(Case("zeroing", "populate", "4KiB", 1 * MIB, 64 * KIB))
    state.region.unmap()
    result = engine.run(0, state.size, state.ctl)
    assert result.error == errno.ENOMEM
    state.close()


def test_failed_check_means_no_numbers(monkeypatch):
    monkeypatch.setitem(page_walk.FUNCTIONS, "pagemap", do_nothing)
    with pytest.raises(CheckError, match="the walk found 0 present pages in 4096 entries; 4088 are there"):
        measure_case(Case("page_walk", "pagemap", "4KiB", 16 * MIB), [1], Protocol(least=1, most=1))


def test_kernel_without_pagemap_scan_is_a_reason(monkeypatch):
    def no_such_ioctl(*_):
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(memory.fcntl, "ioctl", no_such_ioctl)
    address_space.no_scan.cache_clear()
    try:
        reason = workloads.why_not(Case("page_walk", "pagemap_scan", "4KiB", MIB))
        assert reason == "this kernel has no PAGEMAP_SCAN (Linux 6.7)"
        assert workloads.why_not(Case("page_walk", "pagemap", "4KiB", MIB)) is None
    finally:
        address_space.no_scan.cache_clear()


@pytest.mark.parametrize(("mode", "words"), [(None, "absent"), ("never", r"off \(never\)")])
def test_machine_without_thp_is_a_reason(monkeypatch, mode, words):
    monkeypatch.setattr(available_memory, "thp_mode", lambda: mode)
    reason = workloads.why_not(Case("zeroing", "populate", "THP", 2 * MIB))
    assert reason.startswith("transparent huge pages are")
    with pytest.raises(memory.UnavailableError, match=words):
        memory.Region(2 * MIB, "THP")


@pytest.mark.parametrize(
    ("pools", "size", "words"),
    [
        ({}, 2 * MIB, "no pool of 2MiB"),
        ({2 * MIB: {"total": 0, "free": 0, "reserved": 0}}, 2 * MIB, "no pool of 2MiB"),
        ({2 * MIB: {"total": 4, "free": 4, "reserved": 3}}, 4 * MIB, "needs 2 pages of 2MiB, the pool has 1"),
        ({2 * MIB: {"total": 4, "free": 4, "reserved": 0}}, 3 * MIB, "no multiple of 2MiB"),
    ],
)
def test_hugetlb_pool_that_does_not_do_is_a_reason(monkeypatch, pools, size, words):
    monkeypatch.setattr(available_memory, "hugetlb_pools", lambda: pools)
    assert words in workloads.why_not(Case("zeroing", "populate", "2MiB", size))


def test_more_than_half_of_the_memory_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(available_memory, "available_memory_bytes", lambda *_: 64 * MIB)
    with pytest.raises(memory.BudgetError, match=r"needs 0.06 GiB, but the budget is 0.03 GiB"):
        workloads.require_memory(Case("zeroing", "populate", "4KiB", 64 * MIB))
    with pytest.raises(memory.BudgetError):
        memory.Region(64 * MIB)
    workloads.require_memory(Case("page_walk", "pagemap", "4KiB", 16 * MIB))


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="'nope' is unknown; use one of zeroing, page_walk, free"):
        workloads.get("nope")
    with pytest.raises(ValueError, match="no method 'nope'; use one of populate"):
        workloads.get("zeroing").method("nope")
    with pytest.raises(ValueError, match="page kind '3KiB' is unknown"):
        workloads.why_not(Case("zeroing", "populate", "3KiB", MIB))
    assert "works on 4KiB pages, not on THP" in workloads.why_not(Case("page_walk", "pagemap", "THP", MIB))


def test_every_path_of_the_kernel_says_what_its_source_says():
    methods = [(name, one) for name, known in workloads.registry().items() for one in known.methods]
    assert [(name, m.name) for name, m in methods if m.backend == "kernel" and not m.by_source] == []
    known = {name for _, _, name in locks.NAMES}
    assert {lock for _, m in methods for lock in m.locks} <= known
