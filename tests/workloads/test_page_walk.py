"""Page walk: every method finds the same in every layout, and what goes wrong is told."""

import contextlib
import errno
import mmap
import os
import re
import resource
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_for

import ktask
from ktask import workloads
from ktask.engine import placement
from ktask.engine import run as engine
from ktask.host import topology
from ktask.host.kernel_files import read_text
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.memory import address_space, layouts, walkers
from ktask.memory import inspect as answers
from ktask.memory import region as memory
from ktask.memory.filled_space import FilledSpace, MemorySpace, ZeroSpace
from ktask.memory.region import BASE_PAGE, GIB, KIB, MIB, UnavailableError
from ktask.workloads import Case, CheckError
from ktask.workloads.page_walk import page_walk, radix
from ktask.workloads.page_walk import spaces as walk_space

COUNTING = [m.name for m in page_walk.WORKLOAD.methods if m.name in page_walk.FUNCTIONS]

NO_SCAN = workloads.why_not(Case("page_walk", "pagemap_scan", "4KiB", MIB))
needs_scan = pytest.mark.skipif(NO_SCAN is not None, reason=str(NO_SCAN))


@pytest.fixture(autouse=True)
def only_methods_of_this_kernel(request):
    """Skip a parameter that the kernel lacks."""
    if NO_SCAN and "pagemap_scan" in request.node.name:
        pytest.skip(NO_SCAN)


def walk_case(method="pagemap_scan", size=4 * MIB, **options):
    chosen = workloads.get("page_walk").method(method).parse_options(options)
    return Case("page_walk", method, "4KiB", size, 64 * KIB, options=chosen)


def measured(case, threads=1):
    return measure_case(case, [threads], Protocol(least=1, most=1), chunked=False).as_dict(threads)


def set_up(case):
    if reason := workloads.why_not(case):
        pytest.skip(reason)
    return workloads.get("page_walk").setup(case)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def space(request):
    """A small address space of the layout that the test asks for."""
    with layouts.AliasedSpace(8 * MIB, request.param) as made:
        yield made


# --- layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("size", [BASE_PAGE, 4 * MIB, 300 * MIB + BASE_PAGE])
def test_pieces_hold_what_was_asked_for_and_do_not_overlap(layout, size):
    pieces = layouts.pieces_of(layout, size, np.random.default_rng(3))
    assert (np.diff(pieces.at) >= pieces.size[:-1]).all()
    assert (pieces.size % BASE_PAGE == 0).all()
    assert (pieces.size > 0).all()
    populated = pieces.size[pieces.populated].sum()
    assert populated == size if layout != "sparse" else size <= populated < size + layouts.PIECE_BYTES
    assert layouts.memory_need(layout, size) > populated // 512


def test_pieces_of_a_tebibyte_stay_within_the_limit_on_mappings():
    for layout in layouts.LAYOUTS:
        pieces = layouts.pieces_of(layout, 1 << 40, np.random.default_rng(3))
        assert pieces.at.size <= layouts.MOST_PIECES
        assert layouts.memory_need(layout, 1 << 40) < 8 * GIB


def test_an_unknown_layout_lists_the_others():
    with pytest.raises(ValueError, match="layout 'round' is unknown; use one of dense, sparse"):
        layouts.pieces_of("round", MIB, np.random.default_rng(1))


@pytest.mark.parametrize("space", layouts.LAYOUTS, indirect=True)
def test_a_space_is_as_described(space):
    entries = memory.pagemap(space.address, space.end - space.address)
    assert np.count_nonzero(entries >> np.uint64(63)) == space.present
    assert 0 < space.present < space.size_bytes // BASE_PAGE  # one page is left out, at least
    assert memory.huge_bytes(space.address, space.end) == space.huge_bytes
    assert (space.huge_bytes > 0) == (space.layout == "mixed")


def test_too_many_mappings_are_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(layouts.kernel_files, "read_text", lambda path: "1001\n")
    with pytest.raises(UnavailableError, match=r"needs 2 mappings, vm.max_map_count allows 1001"):
        layouts.AliasedSpace(MIB)


def test_a_space_that_fails_half_way_leaves_nothing(monkeypatch):
    files = open_files()
    monkeypatch.setattr(layouts.AliasedSpace, "_advise", lambda self, which, advice: 12)
    with pytest.raises(UnavailableError, match="Cannot allocate memory"):
        layouts.AliasedSpace(MIB)
    assert open_files() == files


@needs_scan
@pytest.mark.parametrize("has_huge", [True, False])
@pytest.mark.parametrize(("size", "left_out"), [(1, 0), (2 * BASE_PAGE, 1), (8 * MIB, 4), (3 * MIB + 1, 2)])
@pytest.mark.parametrize(("kind", "is_zero"), [(ZeroSpace, True), (MemorySpace, False)])
def test_a_filled_space_has_all_pages_but_one_of_each_table(
    kind, is_zero, size, left_out, has_huge, monkeypatch
):
    if not has_huge:  # advice that the kernel refuses
        monkeypatch.setattr(kind, "_PAGES", 9999)
    with kind(size) as space, address_space.Process() as process:
        assert space.size_bytes == -(-size // BASE_PAGE) * BASE_PAGE == space.end - space.address
        assert space.present == space.size_bytes // BASE_PAGE - left_out
        present = memory.scan_regions(process.fd, space.address, space.end, walkers.SCAN_PRESENT, 0x7F)
        assert sum(end - start for start, end, _ in present) == space.present * BASE_PAGE
        seen = {seen & (walkers.SCAN_ZERO | walkers.SCAN_HUGE) for *_, seen in present}
        assert seen == {walkers.SCAN_ZERO if is_zero else 0}
        address = space.address
    assert not memory.is_mapped(address)


def test_a_filled_space_takes_what_it_says(monkeypatch):
    assert MemorySpace.memory_need(GIB) - ZeroSpace.memory_need(GIB) == GIB
    monkeypatch.setattr(memory, "budget_bytes", lambda: 8 * MIB)
    with pytest.raises(memory.BudgetError, match=r"a walk over 0\.01 GiB needs 0\.01 GiB"):
        MemorySpace(8 * MIB)
    ZeroSpace(8 * MIB).unmap()


def test_a_filled_space_that_fails_half_way_leaves_nothing(monkeypatch):
    made, reserve = [], memory.Reservation
    monkeypatch.setattr(ZeroSpace, "_POPULATE", 9999)
    monkeypatch.setattr(memory, "Reservation", lambda size: made.append(reserve(size)) or made[0])
    with pytest.raises(memory.UnavailableError, match="Invalid argument"):
        ZeroSpace(MIB)
    assert not memory.is_mapped(made[0].address)


# --- counting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
@pytest.mark.parametrize("method", [*COUNTING, "smaps"])
def test_each_method_counts_each_layout_and_agrees_with_the_others(method, layout):
    state = set_up(walk_case(method, 8 * MIB, layout=layout))
    try:
        state.before()
        result = engine.run(0, state.size, state.ctl)
        assert result.error == 0
        state.check()
        assert method == "smaps" or state.have_agreed
    finally:
        state.close()


@pytest.mark.parametrize("method", COUNTING)
@pytest.mark.parametrize(
    ("pages", "kind"), [("zero", ZeroSpace), ("file", layouts.AliasedSpace), ("memory", MemorySpace)]
)
def test_pages_of_every_kind_are_counted(method, pages, kind):
    state = set_up(walk_case(method, 8 * MIB, pages=pages))
    try:
        assert type(state.space) is kind
        state.before()
        assert engine.run(0, state.size, state.ctl).error == 0
        state.check()
        assert state.have_agreed
    finally:
        state.close()


def test_what_the_pages_are_depends_on_layout_and_not_on_the_method_that_counts():
    for method in COUNTING:
        made = {k: walk_space.made_of(walk_case(method, layout=k)) for k in ("dense", "mixed")}
        assert made == {"dense": "zero", "mixed": "file"}
    assert walk_space.made_of(walk_case("smaps")) == "file"  # which counts no zeros
    reason = workloads.why_not(walk_case("pagemap", pages="zero", layout="sparse"))
    assert reason == "pages=zero is for layout=dense, not for sparse; use pages=file"
    assert page_walk.memory_need(walk_case("pagemap_scan", 1 << 40)) < 2.1 * GIB
    assert page_walk.memory_need(walk_case("pagemap", GIB, pages="memory")) > GIB


def test_methods_that_disagree_are_an_error(monkeypatch):
    state = set_up(walk_case("pagemap", pages="file"))
    monkeypatch.setattr(state, "counted_by", lambda method: state.space.present - (method == "mincore"))
    state.before()
    engine.run(0, state.size, state.ctl)
    with pytest.raises(CheckError, match="mincore finds 1022 pages, not 1023"):
        state.check()
    state.close()


@needs_scan
def test_many_regions_are_counted_once_in_every_chunk():
    """PAGEMAP_SCAN names an earlier end of its walk when it fills more than 512 regions."""
    region = memory.Region(16 * MIB)
    region.words[:: 2 * BASE_PAGE // 8] = 1  # every other page: 2048 regions
    with address_space.Process() as process:
        count = np.zeros(1, np.int64)
        extents = address_space.extents_of(
            np.array([[region.address, region.address + region.size_bytes, 12]]),
            region.address,
            region.address + region.size_bytes,
        )
        for chunks in ([0, 4096], [0, 1700, 4096]):
            count[0] = 0
            for start, end in pairwise(chunks):
                args = (*extents.args, process.fd, count.ctypes.data)
                assert walkers.count_scan(start, end, *args) == 0
            assert count[0] == 2048
    region.unmap()


# --- cutting by entries ---------------------------------------------------------------------------------


def entries_per_chunk(state, threads=2):
    plan = ktask.plan(
        ktask.Node(0, state.size, -1), page_walk.Ctl(state.ctl.thread_func, state.ctl.args, 16, threads)
    )
    counts = []
    for start, end in plan.chunks_of(0):
        state.count[0] = 0
        assert state.ctl.thread_func(start, end, *state.ctl.args) == 0
        counts.append(int(state.count[0]))
    return counts


def test_chunks_of_a_sparse_space_have_equal_work():
    """A range of 1280 MiB whose pages lie in one tenth: no chunk is empty."""
    state = set_up(walk_case("pagemap_scan", 128 * MIB, layout="sparse"))
    counts = entries_per_chunk(state)
    assert len(counts) >= 8
    assert sum(counts) == state.space.present
    assert max(counts) <= 1.01 * min(c for c in counts[:-1])
    state.close()


def test_a_huge_page_is_one_entry_for_the_scan_and_512_for_pagemap():
    for method, units in {"pagemap_scan": 64 + 64 * 512, "pagemap": 128 * 512}.items():
        state = set_up(walk_case(method, 256 * MIB, layout="mixed"))
        assert state.size == units
        state.close()


def test_extents_translate_units_to_addresses():
    pieces = np.array([[4096, 3 * 4096, 12], [3 * 4096, 4 * 4096, 12], [4 << 21, 6 << 21, 21]])
    made = address_space.extents_of(pieces, 0, 1 << 30)
    assert made.n_units == 5
    at = [walkers._address(made.rows.ctypes.data, 2, unit) for unit in range(6)]
    assert at == [4096, 8192, 12288, 4 << 21, 5 << 21, 1 << 30]


# --- answers --------------------------------------------------------------------------------------------


@needs_scan
@pytest.mark.parametrize("space", layouts.LAYOUTS, indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_of_all_methods_are_equal(space, threads):
    tables = {
        method: ktask.walk("self", space.address, space.end, method=method, threads=threads)
        for method in answers.UNKNOWN_TO
    }
    scan = tables["pagemap_scan"]
    assert scan["present"].sum() == scan["file"].sum() == space.present * BASE_PAGE
    assert scan["huge"].sum() == space.huge_bytes
    assert scan["size"].sum() == space.end - space.address
    for name, table in tables.items():
        assert table.attrs["method"] == name
        for column in answers.COLUMNS:
            if column in answers.UNKNOWN_TO[name]:
                assert table[column].isna().all()
            else:
                assert table[column].tolist() == scan[column].tolist(), (name, column)


@needs_scan
def test_answers_tell_kinds_of_pages_apart():
    region = memory.Region(32 * BASE_PAGE)
    region.one_word_per_page()[:8] = 1  # written
    assert not region.one_word_per_page()[8:12].any()  # read: the zero page
    table = ktask.walk("self", region.address, region.address + region.size_bytes)
    row = table.iloc[0]
    assert [row[c] // BASE_PAGE for c in ("size", "present", "zero", "file", "huge", "swapped")] == [
        32,
        12,
        4,
        0,
        0,
        0,
    ]
    region.unmap()


@needs_scan
def test_a_huge_page_is_huge_in_every_answer():
    region = memory.Region(4 * MIB, "THP")
    region.advise(memory.MADV_POPULATE_WRITE)
    for method in ("pagemap_scan", "smaps"):
        table = ktask.walk("self", region.address, region.address + region.size_bytes, method=method)
        assert table["huge"].sum() == 4 * MIB
    region.unmap()


def test_all_of_this_process_is_found():
    table = ktask.walk()
    assert set(table["path"]) >= {"[heap]", "[stack]"}
    assert table["present"].sum() == pytest.approx(ktask.walk(method="smaps")["present"].sum(), rel=0.05)
    assert (table["present"] <= table["size"]).all()
    assert {"method", "threads", "entries", "survey_s", "wall_s"} <= set(table.attrs)


def test_a_range_that_cuts_a_mapping_is_cut():
    with layouts.AliasedSpace(MIB) as space:
        table = ktask.walk("self", space.address + BASE_PAGE, space.address + 3 * BASE_PAGE, method="pagemap")
        assert table[["start", "size"]].to_numpy().tolist() == [[space.address + BASE_PAGE, 2 * BASE_PAGE]]
    assert ktask.walk("self", 0, BASE_PAGE).empty


def test_guard_pages_are_not_swapped_pages():
    region = memory.Region(8 * BASE_PAGE)
    region.one_word_per_page()[:4] = 1
    try:
        region.advise(102)  # MADV_GUARD_INSTALL, Linux 6.13
    except OSError:
        pytest.skip("this kernel has no guard pages")
    for method in ("pagemap_scan", "pagemap"):
        table = ktask.walk("self", region.address, region.address + region.size_bytes, method=method)
        assert table[["present", "swapped"]].sum().sum() == 0
    region.unmap()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "nope"}, "'nope' is unknown; use one of pagemap_scan, pagemap, smaps"),
        ({"pid": "x"}, "pid='x' is not allowed; use self, or the number of a process"),
        ({"pid": 0}, "pid=0 is not allowed"),
        ({"start": 4096, "end": 4096}, "is no range; use start < end"),
    ],
)
def test_bad_questions_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ktask.walk(**arguments)


# --- other processes ------------------------------------------------------------------------------------

HOLDER = """
import contextlib, mmap, sys
m = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with contextlib.suppress(OSError):  # a kernel without huge pages
    m.madvise(mmap.MADV_NOHUGEPAGE)
for k in range(0, 8 << 20, 8192):
    m[k] = 1
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Another process, which holds every other page of 8 MiB."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "its wait: it maps no more")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("method", answers.UNKNOWN_TO)
def test_another_process_is_walked(holder, method):
    table = ktask.walk(holder.pid, method=method)
    assert (table["present"] == 4 * MIB).sum() == 1


@pytest.mark.parametrize("method", ["pagemap_scan", "pagemap", "smaps", "smaps_rollup"])
def test_another_process_is_measured(holder, method):
    result = measured(walk_case(method, pid=holder.pid), 2)
    assert result["verified"]
    assert result["options"] == {"pid": str(holder.pid)}


def test_zero_pages_that_a_walk_cannot_tell_are_no_part_of_the_rollup(monkeypatch):
    """As before Linux 6.7: the walk counts them as present, and Rss does not."""
    walk = answers.walk
    monkeypatch.setattr(answers, "walk", lambda pid, method="pagemap": walk(pid, method=method))
    with mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE) as untouched:
        untouched.madvise(mmap.MADV_NOHUGEPAGE)
        assert not any(untouched[::BASE_PAGE])  # reads them
        state = set_up(walk_case("smaps_rollup"))
        state.before()
        engine.run(0, state.size, state.ctl)
        state.check()


@needs_scan
def test_a_range_of_another_process_is_measured(holder):
    table = ktask.walk(holder.pid)
    row = table[table["present"] == 4 * MIB].iloc[0]
    state = set_up(walk_case(pid=holder.pid, range=f"{row['start']:x}-{row['end']:x}"))
    state.before()
    engine.run(0, state.size, state.ctl)
    state.check()
    assert state.count[0] == 1024
    state.close()


@pytest.mark.parametrize("method", ["pagemap_scan", "pagemap"])
def test_a_process_that_ends_in_the_middle_is_told(holder, method):
    state = set_up(walk_case(method, pid=holder.pid))
    state.before()
    holder.kill()
    holder.wait()
    result = engine.run(0, state.size, state.ctl)
    with pytest.raises(UnavailableError, match=f"process {holder.pid} has ended"):
        state.check()
    # Linux 6.12 scans the empty page table of a process that has ended without an error.
    assert result.error in ((errno.ESRCH,) if method == "pagemap" else (errno.ESRCH, 0))
    state.close()


@pytest.fixture
def ended():
    """The number of a process that has ended and is not reaped."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child.pid
    child.wait()


@needs_scan
def test_a_process_without_a_page_table_is_skipped_with_the_reason(ended):
    with pytest.raises(UnavailableError):
        measured(walk_case(pid=ended))  # the first opens the file of slots, which stays open
    files, released = open_files(), threading.Event()
    thread = threading.Thread(target=released.wait)
    thread.start()
    ending = {
        ended: "has ended and waits to be reaped; its page table is gone",
        thread.native_id: f"is a thread; use the number of its process, {os.getpid()}",
        1 << 30: "does not exist; use the number of one that does",
    }
    if read_text(Path("/proc/2/comm")) == "kthreadd":
        ending[2] = "is a thread of the kernel and has no page table of its own; use a process"
    try:
        for pid, words in ending.items():
            with pytest.raises(UnavailableError, match=f"^{re.escape(f'process {pid} {words}')}$"):
                measured(walk_case(pid=pid))
    finally:
        released.set()
    assert open_files() == files


def test_a_process_that_proc_does_not_show_is_told_apart_from_one_that_is_not_there(monkeypatch):
    """As where /proc is mounted with hidepid, and the process belongs to somebody else."""
    monkeypatch.setattr(address_space.kernel_files, "read_text", lambda _: None)
    monkeypatch.setattr(address_space.os, "open", lambda *_: Path("/proc/nowhere").stat())
    with pytest.raises(
        UnavailableError, match=r"process [0-9]+ is not shown in /proc \(hidepid\); that takes"
    ):
        ktask.walk(os.getppid())


def test_a_kernel_without_pidfd_walks_its_own_process_and_says_what_others_need(monkeypatch):
    def no_such_call(_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(address_space.os, "pidfd_open", no_such_call)
    assert len(ktask.walk()) > 10
    with pytest.raises(UnavailableError, match=r"Function not implemented \(pidfd_open: Linux 5.3\)"):
        ktask.walk(os.getppid())


@needs_scan
@pytest.mark.parametrize("method", ["pagemap", "pagemap_scan"])
def test_this_process_as_it_is_has_loaded_all_code_before_its_pages_are_counted(method, monkeypatch):
    """Else the first walk of a fresh process finds hundreds of pages more than were there before it."""
    walked, run = [], engine.run
    monkeypatch.setattr(engine, "run", lambda *args: walked.append(args[2].thread_func) or run(*args))
    with contextlib.closing(set_up(walk_case(method, range="400000-7fffffffe000"))) as state:
        assert {walkers.count_pagemap, walkers.count_scan} <= set(walked)
        before = len(walked)
        state.before()
        run(0, state.size, state.ctl)
        state.check()
        assert len(walked) - before < before


@pytest.mark.parametrize("method", ["pagemap", "pagemap_scan"])
def test_a_range_where_nothing_is_mapped_is_a_reason(method):
    reason = f"^process {os.getpid()} has nothing mapped in range=1000-2000; use addresses"
    with pytest.raises(UnavailableError, match=reason):
        measured(walk_case(method, range="1000-2000"))


def test_a_process_of_somebody_else_is_skipped_with_the_reason(monkeypatch):
    def refused(path, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(address_space.os, "open", refused)
    with pytest.raises(UnavailableError, match=r"may not be looked at from here.*CAP_SYS_PTRACE"):
        ktask.walk(os.getppid())


def test_options_that_are_none_are_refused():
    method = workloads.get("page_walk").method("pagemap")
    with pytest.raises(ValueError, match="pid='x' is not allowed; use a whole number"):
        method.parse_options({"pid": "x"})
    with pytest.raises(ValueError, match="range='1-2' is not allowed; use whole, or START-END"):
        method.parse_options({"range": "1-2"})
    with pytest.raises(ValueError, match="layout='round' is not allowed; use one of dense"):
        method.parse_options({"layout": "round"})
    assert method.parse_options({"range": "7f0000000000-7f0000002000"})


def locked_kib():
    return int(re.search(r"^VmLck:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < 16 * MIB and os.geteuid() != 0,
    reason="may not lock so much",
)
@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_the_kernel_cannot_take_the_pages_of_a_space_away(layout):
    before = locked_kib()
    with layouts.AliasedSpace(8 * MIB, layout) as space:
        held = locked_kib() - before
        assert held * 1024 >= int(space.pieces.size.max())
        assert held == sum(reserved.size_bytes for _, reserved in space._files.values()) // 1024
    assert locked_kib() == before


def test_older_kernels_without_the_ioctl_still_answer(monkeypatch):
    monkeypatch.setattr(address_space, "no_scan", lambda: "none here")
    monkeypatch.setattr(answers, "no_scan", lambda: "none here")
    with layouts.AliasedSpace(256 * MIB, "sparse") as space:
        table = ktask.walk("self", space.address, space.end)
        assert table.attrs["method"] == "pagemap"
        assert table["present"].sum() == space.present * BASE_PAGE


# --- the model --------------------------------------------------------------------------------------------


def walked(table, threads=2):
    """Return present, accessed and dirty pages that the engine finds."""
    counts = np.zeros(3, np.int64)
    ctl = ktask.Ctl(radix.count_radix, (*table.args, counts.ctypes.data), 512, max_threads=threads)
    assert engine.run(0, table.extents.n_units, ctl).error == 0
    return tuple(counts.tolist())


def by_hand(table):
    """Return the same by looking every page of the runs up, one address after the other."""
    tables, found = table.tables.tolist(), [0, 0, 0]
    for start, shift, n in zip(
        *table.extents.rows[:-1, [0, 2]].T, np.diff(table.extents.rows[:, 1]), strict=True
    ):
        for at in range(start, start + (n << shift), BASE_PAGE):
            number, level = table.root, table.levels
            while True:
                entry = tables[number][(at >> (12 + 9 * (level - 1))) & 511]
                if level == 1 or entry & radix.HUGE or not entry & radix.PRESENT:
                    break
                number, level = entry >> 12, level - 1
            for k, bit in enumerate((radix.PRESENT, radix.ACCESSED, radix.DIRTY)):
                found[k] += bool(entry & bit)
    return tuple(found)


@pytest.mark.parametrize("levels", radix.LEVELS)
@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_a_described_table_is_walked_as_by_hand(layout, levels):
    table = radix.build(radix.described_runs(layout, 6 * MIB), levels, scattered=levels == 5)
    assert walked(table) == table.expected == by_hand(table)
    table.close()


@pytest.mark.parametrize("layout", ["dense", "mixed"])
def test_tables_counted_side_by_side_are_all_counted(layout):
    table = radix.build(radix.described_runs(layout, 78 * MIB), scattered=True)
    assert walked(table) == table.expected == by_hand(table)
    table.close()


@pytest.mark.parametrize("levels", radix.LEVELS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_whatever_is_in_the_entries_is_counted_as_numpy_counts_it(levels, seed):
    """Flags of entries that are not present do not count; without a seed, all bits of all entries are set."""
    table = radix.build(radix.described_runs("dense", 38 * MIB), levels, scattered=True)
    leaves = table.tables[: table.n_leaves]
    bounds = np.iinfo(np.int64)
    leaves[:] = np.random.default_rng(seed).integers(bounds.min, bounds.max, leaves.shape) if seed else -1
    flags = (radix.PRESENT, radix.PRESENT | radix.ACCESSED, radix.PRESENT | radix.DIRTY)
    assert walked(table) == tuple(np.count_nonzero(leaves & bits == bits) for bits in flags)
    table.close()


def test_shared_leaves_make_room_for_64_tebibytes(monkeypatch):
    runs = radix.described_runs("dense", 8 * GIB)
    table = radix.build(runs, 4, pool_bytes=16 * BASE_PAGE)
    assert table.n_leaves == 4096
    assert table.n_tables == 16 + 8 + 1 + 1
    assert walked(table) == table.expected == (4096 * 511, 4096 * 511, table.expected[2])
    table.close()
    assert radix.memory_need(64 << 40) < 5 * GIB


@needs_scan
def test_the_table_of_a_process_holds_its_pages(holder):
    with address_space.Process(holder.pid) as process:
        table = radix.build(radix.process_runs(process), pool_bytes=0)
    assert walked(table)[0] == table.expected[0] == ktask.walk(holder.pid)["present"].sum() // BASE_PAGE
    table.close()


@needs_scan
def test_a_model_of_a_process_is_measured(holder):
    assert measured(walk_case("radix", pid=holder.pid), 2)["verified"]


@needs_scan
def test_huge_runs_of_a_process_become_huge_entries():
    region = memory.Region(4 * MIB, "THP")
    region.advise(memory.MADV_POPULATE_WRITE)
    with address_space.Process() as process:
        runs = radix.process_runs(process, region.address, region.address + region.size_bytes)
        table = radix.build(runs, pool_bytes=0)
    assert runs.huge.all()
    assert table.n_tables == 3
    assert walked(table)[0] == 1024
    table.close()
    region.unmap()


def test_tables_that_cannot_be_are_refused():
    runs = radix.described_runs("dense", MIB)
    with pytest.raises(ValueError, match="levels=3 is not allowed; use 4 or 5"):
        radix.build(runs, 3)
    far = radix.Runs(*(np.array([x]) for x in (1 << 36, (1 << 36) + 1, False, False)))
    with pytest.raises(ValueError, match="is beyond 4 levels"):
        radix.build(far, 4)
    table = radix.build(far, 5)
    assert walked(table)[0] == 1
    table.close()


@pytest.mark.cpus(2)
@pytest.mark.parametrize("pages", ["zero", "memory"])
@pytest.mark.parametrize("fill", ["one", "each", "other"])
def test_page_tables_are_filled_by_whom_the_case_says(pages, fill, monkeypatch):
    cpus, seen = topology.allowed_cpus(), []
    made = FilledSpace.__init__

    def note(space, size_bytes):
        seen.append(topology.allowed_cpus())
        made(space, size_bytes)

    monkeypatch.setattr(FilledSpace, "__init__", note)
    case = Case.of("page_walk", "pagemap", size="16MiB", options={"pages": pages, "fill": fill})
    found = measure_case(case, [1, 2], Protocol(least=1, most=1))
    order = placement.cpus_in_order()
    assert seen == [{"one": order[:1], "each": cpus, "other": order[1:2]}[fill]]
    assert topology.allowed_cpus() == cpus
    assert {row["options"] for row in found.rows} == {
        ",".join(f"{name}={value}" for name, value in case.options)
    }


@pytest.mark.parametrize("options", [{"pages": "file"}, {"layout": "sparse"}, {"pid": 1}])
def test_only_a_space_that_is_filled_can_be_filled_by_others(options):
    case = Case.of("page_walk", "pagemap", size="16MiB", options=options | {"fill": "each"})
    assert workloads.why_not(case) == "fill is for pages=zero and pages=memory; leave it out"
