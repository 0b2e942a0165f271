"""Page walk: visit every page-table entry of a range, through the kernel's own walkers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ktask import address_space, answers, engine, layouts, memory, radix, walkers
from ktask.address_space import EVERY_ENTRY, EVERY_PAGE, Process, no_pagemap, no_scan, parse_range
from ktask.filled_space import FilledSpace, MemorySpace, ZeroSpace
from ktask.layouts import AliasedSpace
from ktask.memory import BASE_PAGE, MIB
from ktask.task import Ctl
from ktask.workloads import Case, Method, Option, Workload, expect

ORDER = 2

FUNCTIONS = {
    "pagemap_scan": walkers.count_scan,
    "pagemap": walkers.count_pagemap,
    "mincore": walkers.count_mincore,
}
UNITS = {"pagemap_scan": EVERY_ENTRY}  # the others look at every page of 4 KiB
TEXTS = ("smaps", "smaps_rollup")
MODEL = ("radix", "plain_read")
ROLLUP_TOLERANCE_BYTES = 2 * MIB  # what the rest of a process gains and loses meanwhile

Space = AliasedSpace | FilledSpace
FILLED = {"zero": ZeroSpace, "memory": MemorySpace}


class Walk:
    """An address space, made for the case or that of a process, and the pages that a walk must find in it."""

    bytes_per_unit = BASE_PAGE

    def __init__(self, case: Case, process: Process, space: Space | None):
        self.case, self.method = case, case.method
        self.process, self.space = process, space
        self.count = np.zeros(1, dtype=np.int64)
        self.have_agreed = False
        self.find_entries()
        self.size_bytes = self.space.size_bytes if self.space else self.size * BASE_PAGE
        self.expected = (self.space.present,) * 2 if self.space else (0, 0)
        if space is None and process.is_self:
            # What the first walks load and compile is mapped here: no pages found too many.
            for _ in range(2):
                self.before()
                engine.run(0, self.size, self.ctl)

    def find_entries(self) -> None:
        """Find out where there are entries, and cut the task by them."""
        self.mappings = self.process.maps(*bounds_of(self.case, self.space))
        unit = UNITS.get(self.method, EVERY_PAGE)
        self.stretches = address_space.find_stretches(self.process, self.mappings, unit)
        self.size = self.operations = self.stretches.n_units
        if not self.size:
            pid, where = self.process.pid, set_to(self.case, "range")
            raise memory.UnavailableError(
                f"process {pid} has nothing mapped in range={where}; use addresses of /proc/{pid}/maps"
            )
        self.ctl = self._task(self.method, self.stretches)

    def _task(self, method: str, stretches) -> Ctl:
        args = (*stretches.args, self.process.fd, self.count.ctypes.data)
        return Ctl(FUNCTIONS[method], args, self.case.min_chunk_pages)

    def before(self) -> None:
        if self.space is None:  # another process, which does not stand still
            threads = self.ctl.max_threads
            self.find_entries()
            self.ctl.max_threads = threads
            self.expected = (self.counted_by(self._reference()),) * 2
        self.count[0] = 0

    def check(self) -> None:
        self.process.require_alive()
        found = int(self.count[0])
        if self.space is None:
            again = self.counted_by(self._reference())
            self.expected = min(again, *self.expected), max(again, *self.expected)
        low, high = self.expected
        expect(
            low <= found <= high,
            f"the walk found {found} present pages in {self.operations} entries; "
            f"{_either(low, high)} are there",
        )
        if self.space and not self.have_agreed:
            self._expect_agreement()

    def counted_by(self, method: str) -> int:
        """Return how many pages another method finds."""
        if method == "smaps":
            ends = self.mappings[0].start, self.mappings[-1].end
            table = answers.walk(self.process.pid, *ends, method=method)
            return int(table["present"].sum()) // BASE_PAGE
        kept = int(self.count[0])
        stretches = address_space.find_stretches(self.process, self.mappings, UNITS.get(method, EVERY_PAGE))
        self.count[0] = 0
        result = engine.run(0, stretches.n_units, self._task(method, stretches))
        address_space.require_done(result, self.process)
        found, self.count[0] = int(self.count[0]), kept
        return found

    def _reference(self) -> str:
        """Return a method to compare with on another process."""
        return "pagemap" if self.method == "pagemap_scan" or no_scan() else "pagemap_scan"

    def _expect_agreement(self) -> None:
        """Raise CheckError unless all methods that there are find the same."""
        methods = ("pagemap_scan", "pagemap", "mincore", "smaps")
        if isinstance(self.space, ZeroSpace):  # which smaps does not count
            methods = methods[:-1]
        for method in methods:
            if method != self.method and not WORKLOAD.method(method).probe():
                found = self.counted_by(method)
                expect(found == self.expected[0], f"{method} finds {found} pages, not {self.expected[0]}")
        self.have_agreed = True

    def close(self) -> None:
        _close(self.process, self.space)


class ReadText:
    """What people do today: one thread reads smaps or smaps_rollup, for which the kernel walks everything."""

    def __init__(self, case: Case, process: Process, space: Space | None):
        self.case, self.process, self.space = case, process, space
        try:
            self.fd = os.open(f"/proc/{self.process.pid}/{case.method}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise memory.UnavailableError(f"{case.method} cannot be read: {error.strerror}") from None
        self.mappings = process.maps(*bounds_of(case, space))
        self.size = 1  # there is no way to read a part of the walk
        stretches = address_space.find_stretches(self.process, self.mappings, EVERY_PAGE)
        self.operations = stretches.n_units
        self.size_bytes = self.space.size_bytes if self.space else self.operations * BASE_PAGE
        self.bytes_per_unit = self.size_bytes
        self.text = np.zeros(1 + (len(self.process.maps()) + 100) * 2048 // 8, np.int64)
        self.length = np.zeros(1, np.int64)
        args = (self.fd, self.text.ctypes.data, self.text.nbytes, self.length.ctypes.data)
        self.ctl = Ctl(walkers.read_text, args)

    @property
    def _is_compared(self) -> bool:
        """Whether the text is about a whole process, so that a walk has to tell what is right."""
        return self.space is None or self.case.method == "smaps_rollup"

    def before(self) -> None:
        self.text[:] = 0
        self.length[0] = 0
        self._walked = self._present() if self._is_compared else 0

    def check(self) -> None:
        self.process.require_alive()
        text = bytes(memoryview(self.text).cast("B")[: int(self.length[0])]).decode(errors="replace")
        expect(bool(text), f"nothing was read of {self.case.method}")
        if not self._is_compared:
            found = self._resident_in_range(text)
            low = high = self.space.present * BASE_PAGE
        else:
            found = sum(fields["Rss"] for fields in answers.parse_smaps(text))
            walked = self._walked, self._present()
            low, high = min(walked) - ROLLUP_TOLERANCE_BYTES, max(walked) + ROLLUP_TOLERANCE_BYTES
        right = _either(low // BASE_PAGE, high // BASE_PAGE)
        expect(
            low <= found <= high,
            f"{self.case.method} found {found // BASE_PAGE} present pages; {right} are there",
        )

    def _resident_in_range(self, text: str) -> int:
        rows = zip(address_space.parse_maps(text), answers.parse_smaps(text), strict=True)
        return sum(
            fields["Rss"] for mapping, fields in rows if self.space.address <= mapping.start < self.space.end
        )

    def _present(self) -> int:
        """Return the bytes of all that is present in the process, zero pages apart, as Rss counts them."""
        table = answers.walk(self.process.pid)
        return int(table["present"].sum() - (0 if table["zero"].isna().all() else table["zero"].sum()))

    def close(self) -> None:
        os.close(self.fd)
        _close(self.process, self.space)


class WalkModel:
    """A radix table in arrays, of a layout or of a process, walked from the root down or just read."""

    bytes_per_unit = BASE_PAGE

    def __init__(self, case: Case):
        self.case = case
        pid, levels = case.option("pid"), int(case.option("levels"))
        if pid == "self":
            runs = radix.described_runs(case.option("layout"), case.size_bytes)
        else:
            with Process(pid) as process:
                runs = radix.process_runs(process)
        pool_bytes = radix.POOL_BYTES if pid == "self" else 0
        is_scattered = case.option("tables") == "scattered"
        self.table = radix.build(runs, levels, pool_bytes=pool_bytes, scattered=is_scattered)
        self.expected = self.table.expected
        self.counts = np.zeros(3, np.int64)
        self.size = self.operations = self.table.stretches.n_units
        self.size_bytes = int((runs.end - runs.start).sum()) * BASE_PAGE
        self.ctl = self._read() if case.method == "plain_read" else self._walk()

    def _walk(self) -> Ctl:
        return Ctl(radix.count_radix, (*self.table.args, self.counts.ctypes.data), self.case.min_chunk_pages)

    def _read(self) -> Ctl:
        """Read the memory of the tables from its start to its end, over and over, 8 entries a line."""
        self.size = -(-self.size // 8)
        self.bytes_per_unit = 8 * BASE_PAGE
        n_lines = self.table.n_tables * BASE_PAGE // 64
        words = self.table.tables.reshape(-1)
        times, rest = divmod(self.size, n_lines)
        total = times * int(words.sum()) + int(words[: 8 * rest].sum())
        self.expected = (int(np.uint64(total % (1 << 64)).view(np.int64)), 0, 0)
        return Ctl(radix.read_lines, (self.table.region.address, n_lines, self.counts.ctypes.data), 64)

    def before(self) -> None:
        self.counts[:] = 0

    def check(self) -> None:
        found = tuple(map(int, self.counts))
        what = "sum of all words" if self.case.method == "plain_read" else "present, accessed and dirty pages"
        expect(found == self.expected, f"the walk found {found} for {what}; {self.expected} are there")

    def close(self) -> None:
        self.table.close()


def set_to(case: Case, name: str) -> str:
    """Return what an option is set to, and its default where the method does not have it."""
    known = {option.name for option in WORKLOAD.method(case.method).options}
    return case.option(name) if name in known else {"pid": "self", "range": "whole"}[name]


def is_made(case: Case) -> bool:
    """Return whether the address space is made for the case, and not that of a process as it is."""
    return set_to(case, "pid") == "self" and set_to(case, "range") == "whole"


def open_space(case: Case) -> tuple[Process, Space | None]:
    """Return the process to look at, and the address space if it is made for the case."""
    process = Process(set_to(case, "pid"))
    try:
        return process, make_space(case) if is_made(case) else None
    except BaseException:
        process.close()
        raise


def made_of(case: Case) -> str:
    """Return what stands behind the pages of a space that is made: `file`, `zero` or `memory`."""
    wanted = case.option("pages") if case.method in PAGES_METHODS else "file"
    if wanted != "auto":
        return wanted
    return "zero" if case.option("layout") == "dense" else "file"


def make_space(case: Case) -> Space:
    """Return the address space of a case."""
    if kind := FILLED.get(made_of(case)):
        return kind(case.size_bytes)
    return AliasedSpace(case.size_bytes, case.option("layout"))


def why_not(case: Case) -> str | None:
    """Return why the options of a case do not go together, or None."""
    pages = dict(case.options).get("pages")
    if pages in FILLED and (layout := case.option("layout")) != "dense":
        return f"pages={pages} is for layout=dense, not for {layout}; use pages=file"
    return None


def bounds_of(case: Case, space: Space | None) -> tuple[int, int]:
    """Return the range of addresses to walk."""
    return (space.address, space.end) if space else parse_range(set_to(case, "range"))


def memory_need(case: Case) -> int:
    """Return what the address space of a case takes; next to nothing for one that is there already."""
    if case.method in MODEL:
        return radix.memory_need(case.size_bytes)
    if not is_made(case):
        return MIB
    if kind := FILLED.get(made_of(case)):
        return kind.memory_need(case.size_bytes)
    return layouts.memory_need(case.option("layout"), case.size_bytes)


def _either(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def setup(case: Case) -> Any:
    """Return the case set up."""
    if case.method in MODEL:
        return WalkModel(case)
    process, space = open_space(case)
    try:
        return (ReadText if case.method in TEXTS else Walk)(case, process, space)
    except BaseException:
        _close(process, space)
        raise


def _close(process: Process, space: Space | None) -> None:
    process.close()
    if space:
        space.unmap()


LAYOUT = Option("layout", "where the pages lie", "dense", tuple(layouts.LAYOUTS))
PAGES_METHODS = "pagemap_scan", "pagemap", "mincore"  # smaps does not count zeros
PAGES = Option(
    "pages",
    "what the pages are: those of one small file mapped over and over, the kernel's page of zeros, or memory "
    "for each; auto is zero for a dense space, file for others",
    "auto",
    ("auto", "file", "zero", "memory"),
)
PID = Option("pid", "number of a process whose page table is walked as it is", "self", least=1)
RANGE = Option("range", "START-END in hexadecimal: these addresses only", "whole", form=parse_range)
DEPTH = Option("levels", "levels of the table: 4 for 48 bits of address, 5 for 57", "4", ("4", "5"))
ORDER_OF_TABLES = Option("tables", "where leaf tables lie in memory", "in_order", ("in_order", "scattered"))

WORKLOAD = Workload(
    name="page_walk",
    about="Walk the page table of a large address space and count the present pages.",
    operation="PTE",
    methods=(
        Method(
            "pagemap_scan",
            "the PAGEMAP_SCAN ioctl, one call per chunk; who maps memory waits for all of it (mmap_lock)",
            "kernel",
            ("4KiB",),
            probe=no_scan,
            limit="None up to two threads, which is what was measured: mmap_lock is taken for reading only. "
            "Threads that walk one page table wait for its lock.",
            options=(LAYOUT, PAGES, PID, RANGE),
        ),
        Method(
            "pagemap",
            "reading /proc/PID/pagemap, 8 bytes copied per entry; walkers of one table wait for its lock",
            "kernel",
            ("4KiB",),
            probe=no_pagemap,
            limit="The lock of a page table, where two threads walk the same one: they gained 1.07 times "
            "there, 1.82 times on tables of their own. mmap_lock is taken for reading only. The page behind "
            "each entry is looked up: 4 GiB of memory (pages=memory) take 2.7 times as long as zeros.",
            options=(LAYOUT, PAGES, PID, RANGE),
        ),
        Method(
            "mincore",
            "mincore over this process, one byte per entry; mmap_lock taken anew every 4096 pages",
            "kernel",
            ("4KiB",),
            limit="None up to two threads, which is what was measured: mmap_lock is taken for reading only. "
            "Threads that walk one page table wait for its lock.",
            options=(LAYOUT, PAGES),
        ),
        Method(
            "smaps",
            "reading /proc/PID/smaps, as people do today: one file position, hence one thread",
            "kernel",
            ("4KiB",),
            limit="It is one text, read from its start to its end; a part of it cannot be asked for.",
            options=(LAYOUT, PID),
        ),
        Method(
            "smaps_rollup",
            "reading /proc/PID/smaps_rollup, as people do today: one sum, hence one thread",
            "kernel",
            ("4KiB",),
            limit="It is one call, which adds up the whole process; a part of it cannot be asked for.",
            options=(LAYOUT, PID),
        ),
        Method(
            "radix",
            "a radix table in arrays, walked from the root down: no lock, the bandwidth of reading ends it",
            "model",
            ("4KiB",),
            limit="The memory: there is no lock; tables in any order are walked as fast as they are read.",
            options=(LAYOUT, PID, DEPTH, ORDER_OF_TABLES),
        ),
        Method(
            "plain_read",
            "the memory of that table read from start to end: the bandwidth that a walk is held against",
            "model",
            ("4KiB",),
            limit="The memory: reading is all that is done.",
            options=(LAYOUT, PID, DEPTH, ORDER_OF_TABLES),
        ),
    ),
    setup=setup,
    memory_need=memory_need,
    why_not=why_not,
)
