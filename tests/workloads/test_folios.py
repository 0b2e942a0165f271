"""Folios of a size: what the administrator allows, in a tree of files, and what the counters say came."""

import contextlib
import re

import pytest
from test_workloads import set_up

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, folios

CASE = Case.of(
    "zeroing", "populate", size=MIB, page_kind="4KiB", min_chunk=64 * KIB, options={"folio": "64KiB"}
)


@pytest.fixture
def sizes(monkeypatch, tmp_path):
    """Set the mode of each size of folios, and how many of 64 KiB there were."""
    folder = tmp_path / "sys/kernel/mm/transparent_hugepage"

    def make(count=0, **modes):
        for name, mode in modes.items():
            own = folder / f"hugepages-{name[1:]}" if name.startswith("_") else folder
            (own / "stats").mkdir(parents=True, exist_ok=True)
            (own / "enabled").write_text(f"always [{mode}] x\n")
            (own / "stats/anon_fault_alloc").write_text(f"{count}\n")

    monkeypatch.setattr(folios.kernel_files, "ROOT", tmp_path)
    monkeypatch.setattr(folios.available_memory, "thp_mode", lambda: "madvise")
    return make


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        ({}, "this kernel has no folios of 64KiB"),
        (
            {"_64kB": "never"},
            "are off; `echo madvise > /sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled`",
        ),
        (
            {"_64kB": "madvise", "_2048kB": "inherit"},
            "`echo never > /sys/kernel/mm/.*hugepages-2048kB/enabled`",
        ),
        ({"_64kB": "always", "_128kB": "madvise", "_2048kB": "never"}, "folios of 128KiB are enabled"),
    ],
)
def test_what_is_not_enabled_is_a_reason_with_the_command(sizes, modes, words):
    sizes(**modes)
    assert re.search(words, workloads.why_not(CASE))


def test_folios_that_did_not_come_are_an_error(sizes):
    sizes(count=5, _64kB="madvise", _32kB="always", _2048kB="never")
    with contextlib.closing(set_up(CASE)) as state:
        state.before()
        engine.run(0, state.size, state.ctl)
        sizes(count=5 + 15, _64kB="madvise")
        with pytest.raises(CheckError, match="only 15 of 16 folios of 64KiB"):
            state.check()
        sizes(count=5 + 16, _64kB="madvise")
        state.check()


def test_memory_that_is_filled_before_has_to_come_in_folios_too(sizes):
    sizes(_64kB="madvise")
    for name in (("free", "dontneed"), ("pin", "io_uring"), ("protect", "mprotect")):
        case = Case.of(*name, size=MIB, page_kind="4KiB", options={"folio": "64KiB"})
        with pytest.raises(CheckError, match="only 0 of 16 folios"):  # noqa: SIM117
            with contextlib.closing(set_up(case)) as state:
                state.before()


def test_folios_are_for_small_pages_of_private_memory(sizes):
    sizes(_64kB="madvise")
    case = Case.of("free", size=2 * MIB, page_kind="THP", options={"folio": "64KiB"})
    assert workloads.why_not(case) == "folio=64KiB is for pages of 4KiB, not of THP"
    case = Case.of("zeroing", size=MIB, page_kind="4KiB", options={"folio": "64KiB", "sharing": "shared"})
    assert workloads.why_not(case) == "folio is for private memory; use sharing=private"


def test_what_collapses_begins_with_small_folios(sizes):
    case = Case.of("collapse", size=2 * MIB, options={"folio": "64KiB"})
    sizes(_64kB="never")
    assert re.search("folios of 64KiB are off", workloads.why_not(case))
    sizes(_64kB="madvise")
    assert "folio" not in (workloads.why_not(case) or "")
