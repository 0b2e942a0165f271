"""Address spaces of any size and shape that need little memory: one small file mapped over and over.

Their page tables are as real as any other, 8 bytes per 4 KiB, so a walk can be measured far beyond the memory
of the machine: 1 TiB costs 2 GiB. The engine populates them and takes them apart, on all CPUs.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

import numpy as np

from ktask.engine import run as engine
from ktask.engine.task import Ctl
from ktask.host import kernel_files
from ktask.memory import region as memory
from ktask.memory.calls import advise_ranges
from ktask.memory.region import (
    BASE_PAGE,
    GIB,
    MADV_COLLAPSE,
    MADV_DONTNEED,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MIB,
    THP_SIZE,
)

LAYOUTS = {
    "dense": "every page of one range",
    "sparse": "a range that is mapped all over, with its pages in one tenth",
    "fragmented": "many mappings of random length with random gaps, one in eight of them empty",
    "mixed": "half by 2 MiB entries, and then half by 4 KiB entries",
}
SPARSE_FACTOR = 10
PIECE_BYTES = 64 * MIB
MOST_PIECES = 16384  # with as many gaps, half of the mappings that the kernel allows by default
_PIECE_COST_BYTES = 1024  # two mappings in the kernel, tree nodes included; generous

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Pieces(NamedTuple):
    """The mappings of a layout, one row each; bytes."""

    at: np.ndarray  # from the start of the range
    size: np.ndarray
    offset: np.ndarray  # in the file
    huge: np.ndarray  # by entries of 2 MiB
    populated: np.ndarray


def pieces_of(layout: str, size_bytes: int, random: np.random.Generator) -> Pieces:
    """Return the mappings of a layout with `size_bytes` of pages, rounded up to whole pages.

    Raises
    ------
    ValueError
        If there is no such layout.
    """
    n_pages = max(1, -(-size_bytes // BASE_PAGE))
    if layout in ("dense", "mixed"):
        return _even(n_pages, n_pages // 2 if layout == "mixed" else 0)
    if layout == "sparse":
        return _sparse(n_pages, random)
    if layout == "fragmented":
        return _fragmented(n_pages, random)
    raise ValueError(f"layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")


def _even(n_pages: int, huge_pages: int = 0, repeat: int = 1) -> Pieces:
    """Return pieces of one size, the first `huge_pages` of the range by huge entries."""
    total = n_pages * BASE_PAGE * repeat
    piece = PIECE_BYTES
    while total > piece * MOST_PIECES:
        piece *= 2
    border = huge_pages * BASE_PAGE // THP_SIZE * THP_SIZE
    at = np.concatenate([np.arange(0, border, piece), np.arange(border, total, piece)])
    size = np.diff(np.append(at, total))
    huge = at < border
    # Entries of 4 KiB: the offset in the file is not that of the address.
    return Pieces(at, size, np.where(huge, 0, BASE_PAGE), huge, np.ones(at.size, bool))


def _sparse(n_pages: int, random: np.random.Generator) -> Pieces:
    """Return pieces all over ten times the range; those of one tenth, somewhere, are populated."""
    pieces = _even(n_pages, repeat=SPARSE_FACTOR)
    if pieces.at.size < SPARSE_FACTOR:  # one piece per tenth
        at = np.arange(SPARSE_FACTOR) * n_pages * BASE_PAGE
        shape = np.full(at.size, n_pages * BASE_PAGE), np.full(at.size, BASE_PAGE), np.zeros(at.size, bool)
        pieces = Pieces(at, *shape, np.ones(at.size, bool))
    per_tenth = -(-n_pages * BASE_PAGE // int(pieces.size[0]))
    first = int(random.integers(pieces.at.size - per_tenth + 1))
    index = np.arange(pieces.at.size)
    return pieces._replace(populated=(index >= first) & (index < first + per_tenth))


def _fragmented(n_pages: int, random: np.random.Generator) -> Pieces:
    """Return pieces of random length, 64 pages in the mean if that is not too many, and gaps alike."""
    n_full = max(1, min(n_pages // 64, MOST_PIECES * 7 // 8))
    cuts = np.unique(random.integers(1, max(n_pages, 2), n_full - 1))
    lengths = np.diff(np.concatenate([[0], cuts, [n_pages]]))
    empty = random.choice(lengths, lengths.size // 7)
    populated = random.permutation(np.repeat([True, False], [lengths.size, empty.size]))
    size = np.empty(populated.size, np.int64)
    size[populated], size[~populated] = lengths, empty
    gaps = random.integers(1, 2 * max(1, n_pages // n_full) + 1, size.size)
    at = np.cumsum(size + gaps) - size - gaps
    # Never at the offset of the address, so that no piece gets a huge entry.
    offset = (at + random.integers(1, 512, size.size)) % 512
    return Pieces(at * BASE_PAGE, size * BASE_PAGE, offset * BASE_PAGE, np.zeros(size.size, bool), populated)


def _alias_file(size_bytes: int, hole: int | None) -> tuple[int, memory.Reservation]:
    """Return a memfd (its descriptor) with all pages there, and the mapping that holds them there.

    They lie on huge folios where the kernel makes them: references are counted per folio, so populating and
    zapping is faster. The one with the page `hole` in it stays small: a huge folio cannot lose one page.

    They are locked where that is allowed. Else a kernel that looks for idle memory (DAMON's `pageout`) may
    empty the entries of a folio, and a walk finds fewer pages than there were.
    """
    fd = os.memfd_create("ktask-alias", os.MFD_CLOEXEC)
    reserved = memory.Reservation(size_bytes)
    try:
        os.ftruncate(fd, size_bytes)
        reserved.map_file(fd, 0, size_bytes, 0)
        reserved.advise(0, size_bytes, MADV_POPULATE_WRITE)
        with suppress(OSError):  # without huge folios all of this only takes longer
            for at in range(0, size_bytes, THP_SIZE):
                if hole is None or not at <= hole < at + THP_SIZE:
                    reserved.advise(at, THP_SIZE, MADV_COLLAPSE)
        with suppress(OSError):
            reserved.lock()
    except BaseException:
        os.close(fd)
        reserved.unmap()
        raise
    return fd, reserved


def _require_mappings(wanted: int) -> None:
    """Raise UnavailableError if a process may not have so many mappings."""
    text = kernel_files.read_text(kernel_files.ROOT / "proc/sys/vm/max_map_count") or "65530"
    if wanted + 1000 > int(text):
        raise memory.UnavailableError(
            f"needs {wanted} mappings, vm.max_map_count allows {text.strip()}; use a smaller size"
        )


def memory_need(layout: str, size_bytes: int) -> int:
    """Return what such an address space takes: the files, the page tables and the mappings."""
    return _need(pieces_of(layout, size_bytes, np.random.default_rng(1)))


def _need(pieces: Pieces) -> int:
    tables = (pieces.size + 2 * THP_SIZE)[pieces.populated & ~pieces.huge].sum() // 512
    files = pieces.size.max() + 2 * THP_SIZE
    return int(tables + files * (2 if pieces.huge.any() else 1) + pieces.at.size * _PIECE_COST_BYTES)


class AliasedSpace(AbstractContextManager):
    """An address space of a layout, populated; one page of the file is left out: a count proves a walk.

    The left-out page is missing from the file as well, hence to mincore, which looks there.

    Parameters
    ----------
    size_bytes
        How much of it has pages, rounded up to whole pages.
    layout
        One of `LAYOUTS`.

    Attributes
    ----------
    address, end
        The range.
    size_bytes
    present
        Pages of 4 KiB that are there.
    huge_bytes
        How much is mapped by entries of 2 MiB.

    Raises
    ------
    ktask.memory.region.BudgetError, ktask.memory.region.UnavailableError
        If it does not fit the memory, or the limits of a process.
    """

    def __init__(self, size_bytes: int, layout: str = "dense", seed: int = 1):
        random = np.random.default_rng(seed)
        self.pieces = pieces_of(layout, size_bytes, random)
        _require_mappings(2 * self.pieces.at.size)
        what = f"the page table of {size_bytes / GIB:.2f} GiB ({layout})"
        memory.require_budget(_need(self.pieces), what)
        self.layout = layout
        self._files: dict[bool, tuple[int, memory.Reservation]] = {}
        self._reserved = memory.Reservation(int((self.pieces.at + self.pieces.size).max()))
        self.address, self.end = self._reserved.address, self._reserved.address + self._reserved.size_bytes
        self._hole = self._choose_hole(random)
        try:
            self._map()
            self._populate()
            self._punch()
        except BaseException:
            self.unmap()
            raise
        self.size_bytes = int(self.pieces.size[self.pieces.populated].sum())
        self.huge_bytes = int(self.pieces.size[self.pieces.huge].sum())
        self.present = self.size_bytes // BASE_PAGE - self._left_out()

    def _choose_hole(self, random: np.random.Generator) -> int | None:
        """Return where in the file the left-out page lies: inside a 4 KiB piece, not at its ends."""
        p = self.pieces
        fitting = np.flatnonzero(p.populated & ~p.huge & (p.size > 2 * BASE_PAGE))
        if not fitting.size:
            return None
        k = random.choice(fitting)
        page = random.integers(1, p.size[k] // BASE_PAGE - 1)
        return int(p.offset[k] + page * BASE_PAGE)

    def _left_out(self) -> int:
        """Return how many entries the hole in the file leaves empty."""
        if self._hole is None:
            return 0
        p = self.pieces
        covers = (p.offset <= self._hole) & (self._hole < p.offset + p.size)
        return int(np.count_nonzero(covers & p.populated & ~p.huge))

    def _map(self) -> None:
        p = self.pieces
        for huge in sorted(set(p.huge.tolist())):
            mine = p.populated & (p.huge == huge)
            file_bytes = -(-int((p.offset + p.size)[mine].max()) // THP_SIZE) * THP_SIZE
            self._files[huge] = _alias_file(file_bytes, None if huge else self._hole)
            for at, size, offset in zip(p.at[mine], p.size[mine], p.offset[mine], strict=True):
                self._reserved.map_file(self._files[huge][0], int(offset), int(size), int(at))
        # The empty ones are no mappings of the file: mincore tells of a file what is in the page cache.
        for at, size in zip(p.at[~p.populated], p.size[~p.populated], strict=True):
            self._reserved.make_accessible(int(at), int(size))

    def _populate(self) -> None:
        if code := self._advise(self.pieces.populated, MADV_POPULATE_READ):
            raise memory.UnavailableError(f"populating the address space failed: {os.strerror(code)}")
        want = int(self.pieces.size[self.pieces.huge].sum())
        if want and memory.huge_bytes(self.address, self.end) != want:
            raise memory.UnavailableError("this kernel makes no 2 MiB entries for a file (MADV_COLLAPSE)")

    def _advise(self, which: np.ndarray, advice: int) -> int:
        """Call madvise over pieces on all CPUs; return 0 or the errno."""
        rows = np.column_stack([self.address + self.pieces.at[which], self.pieces.size[which]])
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        ctl = Ctl(advise_ranges, (rows.ctypes.data, advice), max_threads=1 << 16)
        return engine.run(0, len(rows), ctl, "dynamic").error

    def _punch(self) -> None:
        """Take the left-out page away from the file, and so from all its mappings."""
        if self._hole is not None and _libc.fallocate(
            self._files[False][0], memory.PUNCH_HOLE, self._hole, BASE_PAGE
        ):
            raise memory.UnavailableError(f"punching a hole failed: {os.strerror(ctypes.get_errno())}")

    def unmap(self) -> None:
        """Give everything back; harmless if that has happened already."""
        if self._files:
            self._advise(self.pieces.populated, MADV_DONTNEED)  # on all CPUs, which munmap is not
        self._reserved.unmap()
        for fd, held in self._files.values():
            held.unmap()
            os.close(fd)
        self._files = {}

    def __exit__(self, *_: object) -> None:
        self.unmap()
