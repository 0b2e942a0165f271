"""Thread functions that walk a page table through the kernel, and count or sort what they see.

The units of a task are page-table entries, counted one after the other over the extents of an address
space that have any. So equal chunks are equal work, wherever the pages lie. An extent is four words: address,
first unit, log2 of the bytes per unit, and a spare one; a last row, where the range ends, carries the number
of units.
"""

from __future__ import annotations

import errno

from numba import njit

from ktask.engine import native
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory

EXTENT_WORDS = 4
PAGEMAP_SCAN, _ARG_WORDS = memory.PAGEMAP_SCAN, memory.SCAN_ARG_WORDS
# What a page can be, <linux/fs.h>: PAGE_IS_FILE and so on.
SCAN_FILE, SCAN_PRESENT, SCAN_SWAPPED, SCAN_ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
SCAN_HUGE, SCAN_SOFT_DIRTY, SCAN_GUARD = 1 << 6, 1 << 7, 1 << 8
_REGIONS = 2048  # that the 64 KiB on the stack have room for
_PIECE_PAGES = 8192  # the same for pagemap; mincore has eight times as many
_ESRCH, _ENOSPC = errno.ESRCH, errno.ENOSPC
_ONES = 0x0101010101010101

# Columns of an answer, pages of 4 KiB each.
(PRESENT, SWAPPED, FILE, SOFT_DIRTY, HUGE, ZERO) = range(6)
ANSWER_WORDS = 8


@njit(cache=True, nogil=True)
def _row_of(rows, n_rows, stride, column, value):
    """Return the last of the sorted rows whose word in `column` is at most `value`."""
    low, high = 0, n_rows
    while high - low > 1:
        middle = (low + high) // 2
        if native.load_plain(rows + 8 * (stride * middle + column)) <= value:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _address(extents, n_extents, unit):
    """Return where a unit lies, and for the number of units where the range ends."""
    row = extents + 8 * EXTENT_WORDS * _row_of(extents, n_extents + 1, EXTENT_WORDS, 1, unit)
    return native.load_plain(row) + ((unit - native.load_plain(row + 8)) << native.load_plain(row + 16))


@njit(cache=True, nogil=True)
def _scan(fd, arg, at, last, any_of, wanted, room, most_pages):
    """Call PAGEMAP_SCAN for pages in any of some categories; return the regions found, or minus an errno."""
    for k in range(_ARG_WORDS):
        native.store(arg + 8 * k, 0)
    native.store(arg, 8 * _ARG_WORDS)  # size of the argument
    native.store(arg + 16, at)
    native.store(arg + 24, last)
    native.store(arg + 40, arg + 8 * _ARG_WORDS)  # regions go behind it
    native.store(arg + 48, room)
    native.store(arg + 56, most_pages)  # 0: no limit
    native.store(arg + 80, any_of)
    native.store(arg + 88, wanted)
    while True:
        n_regions = native.ioctl(fd, PAGEMAP_SCAN, arg)
        if n_regions >= 0:
            return n_regions
        code = native.last_errno()
        if code != native.EINTR:
            return -code


@njit(cache=True, nogil=True)
def _walk_end(arg, n_regions):
    """Return where to go on after a scan.

    The kernel fills the caller's regions in batches of 512, and after a walk that came to its end in a later
    batch `walk_end` is still that of the batch before (seen on Linux 6.18): going on there counts twice.
    """
    end = native.load(arg + 32)
    if n_regions > 0:
        end = max(end, native.load_plain(arg + 8 * _ARG_WORDS + 24 * (n_regions - 1) + 8))
    return end


@thread_func(cache=True)
def count_scan(start, end, begin, extents, n_extents, fd, count):
    """Count present pages by PAGEMAP_SCAN: one call for a chunk, gaps included, which cost it nothing."""
    arg = native.stack_64k()
    regions = arg + 8 * _ARG_WORDS
    present = 0
    at = begin if start == 0 else _address(extents, n_extents, start)
    last = _address(extents, n_extents, end)
    while at < last:
        n_regions = _scan(fd, arg, at, last, SCAN_PRESENT, SCAN_PRESENT, _REGIONS, 0)
        if n_regions < 0:
            return -n_regions
        for k in range(n_regions):
            present += native.load_plain(regions + 24 * k + 8) - native.load_plain(regions + 24 * k)
        at = _walk_end(arg, n_regions)
    native.fetch_add(count, present // 4096)
    return 0


@njit(cache=True, nogil=True)
def _piece(extents, index, unit, end):
    """Return which extent from `index` on holds `unit`, its address, and the units left there up to `end`."""
    while native.load_plain(extents + 8 * (EXTENT_WORDS * (index + 1) + 1)) <= unit:
        index += 1
    row = extents + 8 * EXTENT_WORDS * index
    at = native.load_plain(row) + (unit - native.load_plain(row + 8)) * 4096
    return index, at, min(end, native.load_plain(row + 8 * (EXTENT_WORDS + 1))) - unit


@njit(cache=True, nogil=True)
def _read_entries(fd, buffer, address, n_pages):
    """Read pagemap into `buffer`; return how many entries came, or minus an errno."""
    while True:
        got = native.pread(fd, buffer, n_pages * 8, address // 4096 * 8)
        if got > 0:
            return got // 8
        if got == 0:
            return -_ESRCH  # the process has ended
        code = native.last_errno()
        if code != native.EINTR:
            return -code


@thread_func(cache=True)
def count_pagemap(start, end, begin, extents, n_extents, fd, count):
    """Count present pages by reading pagemap in pieces of 64 KiB."""
    buffer = native.stack_64k()
    present = 0
    unit = start
    k = _row_of(extents, n_extents + 1, EXTENT_WORDS, 1, start)
    while unit < end:
        k, at, left = _piece(extents, k, unit, end)
        got = _read_entries(fd, buffer, at, min(left, _PIECE_PAGES))
        if got < 0:
            return -got
        for i in range(got):
            present += native.load_plain(buffer + 8 * i) < 0  # bit 63: present
        unit += got
    native.fetch_add(count, present)
    return 0


@njit(cache=True, nogil=True)
def _sum_low_bits(buffer, n_bytes):
    """Return in how many bytes the lowest bit is set."""
    total = 0
    for k in range(n_bytes // 8):
        total += ((native.load_plain(buffer + 8 * k) & _ONES) * _ONES) >> 56  # the top byte is the sum of all
    for k in range(n_bytes // 8 * 8, n_bytes):
        total += native.load_byte(buffer + k) & 1
    return total


@thread_func(cache=True)
def count_mincore(start, end, begin, extents, n_extents, fd, count):
    """Count resident pages of this process by mincore, one byte per page."""
    buffer = native.stack_64k()
    present = 0
    unit = start
    k = _row_of(extents, n_extents + 1, EXTENT_WORDS, 1, start)
    while unit < end:
        k, at, left = _piece(extents, k, unit, end)
        n_pages = min(left, 8 * _PIECE_PAGES)
        if native.mincore(at, n_pages * 4096, buffer):
            return native.last_errno()
        present += _sum_low_bits(buffer, n_pages)
        unit += n_pages
    native.fetch_add(count, present)
    return 0


@thread_func(cache=True)
def survey(start, end, begin, vmas, n_vmas, block_shift, fd, found):
    """Find out which blocks of the mappings `start` to `end` have pages: look for the first page of each.

    `vmas` holds rows of start, end and first block; `found[block]` becomes 1, or 2 if the first page is huge.
    Costs one short call per block with pages, and none for those without: the walk runs over holes.
    """
    arg = native.stack_64k()
    regions = arg + 8 * _ARG_WORDS
    any_of = SCAN_PRESENT | SCAN_SWAPPED
    for v in range(start, end):
        row = vmas + 24 * v
        first, last = native.load_plain(row), native.load_plain(row + 8)
        at = first
        while at < last:
            got = _scan(fd, arg, at, last, any_of, any_of | SCAN_HUGE, 1, 1)
            if got < 0:
                return -got
            if got == 0:
                break
            block = (native.load_plain(regions) >> block_shift) - (first >> block_shift)
            is_huge = (native.load_plain(regions + 16) & SCAN_HUGE) != 0
            native.store_byte(found + native.load_plain(row + 16) + block, 1 + is_huge)
            at = ((first >> block_shift) + block + 1) << block_shift
    return 0


@njit(cache=True, nogil=True)
def _add(answers, vma, column, pages):
    if pages != 0:
        native.fetch_add(answers + 8 * (ANSWER_WORDS * vma + column), pages)


@njit(cache=True, nogil=True)
def _add_categories(answers, vma, seen, pages):
    """Add pages of some PAGEMAP_SCAN categories to the answer of a mapping; guard pages count as nothing."""
    _add(answers, vma, PRESENT, pages * ((seen & SCAN_PRESENT) != 0))
    _add(answers, vma, SWAPPED, pages * ((seen & (SCAN_SWAPPED | SCAN_GUARD)) == SCAN_SWAPPED))
    _add(answers, vma, FILE, pages * ((seen & SCAN_FILE) != 0 and (seen & SCAN_PRESENT) != 0))
    _add(answers, vma, SOFT_DIRTY, pages * ((seen & SCAN_SOFT_DIRTY) != 0))
    _add(answers, vma, HUGE, pages * ((seen & SCAN_HUGE) != 0))
    _add(answers, vma, ZERO, pages * ((seen & SCAN_ZERO) != 0))


@thread_func(cache=True)
def answer_scan(start, end, begin, extents, n_extents, fd, wanted, vmas, n_vmas, answers):
    """Sort the pages of each mapping by PAGEMAP_SCAN; `vmas` are rows of start, end and a word not used."""
    arg = native.stack_64k()
    regions = arg + 8 * _ARG_WORDS
    at = begin if start == 0 else _address(extents, n_extents, start)
    last = _address(extents, n_extents, end)
    v = _row_of(vmas, n_vmas, 3, 0, at)
    while at < last:
        n_regions = _scan(fd, arg, at, last, SCAN_PRESENT | SCAN_SWAPPED, wanted, _REGIONS, 0)
        if n_regions < 0:
            return -n_regions
        for k in range(n_regions):
            low, high = native.load_plain(regions + 24 * k), native.load_plain(regions + 24 * k + 8)
            seen = native.load_plain(regions + 24 * k + 16)
            while low < high:  # one region may run over several mappings
                while v < n_vmas - 1 and low >= native.load_plain(vmas + 24 * v + 8):
                    v += 1
                stop = min(high, max(native.load_plain(vmas + 24 * v + 8), low + 4096))
                _add_categories(answers, v, seen, (stop - low) // 4096)
                low = stop
        at = _walk_end(arg, n_regions)
    return 0


@njit(cache=True, nogil=True)
def _add_entries(answers, vma, buffer, n_pages):
    """Add pagemap entries to the answer of a mapping (bits: Documentation/admin-guide/mm/pagemap.rst)."""
    present, swapped, file, dirty = 0, 0, 0, 0
    for i in range(n_pages):
        entry = native.load_plain(buffer + 8 * i)
        is_present = (entry >> 63) & 1
        is_swapped = (entry >> 62) & ~(entry >> 58) & 1
        present += is_present
        swapped += is_swapped
        file += is_present & (entry >> 61) & 1
        dirty += (is_present | is_swapped) & (entry >> 55) & 1
    _add(answers, vma, PRESENT, present)
    _add(answers, vma, SWAPPED, swapped)
    _add(answers, vma, FILE, file)
    _add(answers, vma, SOFT_DIRTY, dirty)


@thread_func(cache=True)
def answer_pagemap(start, end, begin, extents, n_extents, fd, wanted, vmas, n_vmas, answers):
    """Sort the pages of each mapping by reading pagemap, which does not tell huge pages and zero pages."""
    buffer = native.stack_64k()
    unit = start
    k = _row_of(extents, n_extents + 1, EXTENT_WORDS, 1, start)
    while unit < end:
        k, at, left = _piece(extents, k, unit, end)
        got = _read_entries(fd, buffer, at, min(left, _PIECE_PAGES))
        if got < 0:
            return -got
        done = 0
        v = _row_of(vmas, n_vmas, 3, 0, at)
        while done < got:
            rest = (native.load_plain(vmas + 24 * v + 8) - at) // 4096 - done
            piece = max(min(rest, got - done), 1)
            _add_entries(answers, v, buffer + 8 * done, piece)
            done += piece
            v = min(v + 1, n_vmas - 1)
        unit += got
    return 0


@thread_func(cache=True)
def read_text(start, end, fd, buffer, room, length):
    """Read a file of /proc from its start to its end; how long it is goes to `length`."""
    at = 0
    while True:
        got = native.pread(fd, buffer + at, room - at, at)
        if got > 0:
            at += got
            if at == room:
                return _ENOSPC
        elif got == 0:
            break
        elif native.last_errno() != native.EINTR:
            return native.last_errno()
    native.store(length, at)
    return 0
