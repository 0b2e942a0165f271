"""Regions of memory whose page kind is chosen, and read back."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np

from ktask.common.units import GIB, KIB, MIB
from ktask.host import available_memory, kernel_files, node_memory, topology

BASE_PAGE = os.sysconf("SC_PAGE_SIZE")
THP_SIZE = 2 * MIB
PAGE_KINDS = {"4KiB": BASE_PAGE, "THP": THP_SIZE, "2MiB": 2 * MIB, "1GiB": GIB}
HUGETLB_KINDS = ("2MiB", "1GiB")

MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 8, 9, 14, 15
MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_COLLAPSE = 22, 23, 25
PUNCH_HOLE = 0x3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PROT_RW, _MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED = 3, 0x1, 0x2, 0x10
_MAP_ANONYMOUS, _MAP_NORESERVE = 0x20, 0x4000
_MAP_HUGETLB, _MAP_FIXED_NOREPLACE, _HUGE_SHIFT = 0x40000, 0x100000, 26
_PRESENT, _SWAPPED = np.uint64(1 << 63), np.uint64(1 << 62)
_LOOKS = 5  # at pages that the kernel is moving (compaction): until they have arrived, they look swapped out
_MPOL_BIND, _MPOL_INTERLEAVE = 2, 3
_NODE_MASK_WORDS = 17  # the kernel's largest MAX_NUMNODES is 1024, and it counts one less
# The kernel maps from the top of the address space downwards; here it would be 16 TiB from the bottom.
APART, APART_STEP = 1 << 44, 1 << 40
MEMORY_SHARE = 0.5  # of what is available: the neighbours, and the page cache, keep the other half

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.syscall.restype = ctypes.c_long
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class BudgetError(ValueError):
    """More memory was asked for than this process may use."""


class UnavailableError(RuntimeError):
    """The machine cannot do it; the message is the reason."""


def _anonymous(
    size_bytes: int, protection: int = 3, flags: int = 0, address: int = 0, shared: bool = False
) -> int:
    """Map anonymous memory and return its address; UnavailableError tells why not."""
    flags |= (_MAP_SHARED if shared else _MAP_PRIVATE) | _MAP_ANONYMOUS
    got = _libc.mmap(address or None, size_bytes, protection, flags, -1, 0)
    if got in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        step = "; raise `ulimit -v` or `ulimit -d`, or use a smaller size" if code == errno.ENOMEM else ""
        raise UnavailableError(f"mapping {size_bytes / MIB:.2f} MiB is refused: {os.strerror(code)}{step}")
    return got


def _advise(address: int, size_bytes: int, advice: int) -> None:
    if _libc.madvise(address, size_bytes, advice):
        raise _os_error(f"madvise({advice}) over {size_bytes} bytes")


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


# Numbers of system calls without a wrapper in every libc: x86-64, and the table that newer machines share.
_CALLS = {"userfaultfd": (323, 282), "clone": (56, 220), "mbind": (237, 235), "move_pages": (279, 239)}
_CALLS |= {"io_uring_setup": (425, 425), "io_uring_register": (427, 427)}
_CALLS |= {"process_mrelease": (448, 448), "setsockopt": (54, 208)}


def call_number(name: str) -> int:
    """Return the number of a system call on this kind of machine."""
    return _CALLS[name][platform.machine() != "x86_64"]


def syscall(name: str, *args: int) -> int:
    """Make a system call; OSError if it fails."""
    result = _libc.syscall(*[ctypes.c_long(value) for value in (call_number(name), *args)])
    if result < 0:
        raise _os_error(name)
    return result


def protect(address: int, size_bytes: int, *, writable: bool) -> None:
    """Make a range readable, and writable or not."""
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), _PROT_RW if writable else 1):
        raise _os_error(f"mprotect of {size_bytes} bytes")


def lock(address: int, size_bytes: int) -> None:
    """Have the pages of a range stay in memory (mlock); OSError if this process may not ask for so many."""
    if _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes)):
        raise _os_error(f"mlock of {size_bytes} bytes")


def unlock(address: int, size_bytes: int) -> None:
    """Undo mlock over a range."""
    if _libc.munlock(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes)):
        raise _os_error(f"munlock of {size_bytes} bytes")


def budget_bytes() -> int:
    """Return how much memory a case may take: half of what is available, cgroup limits counted."""
    return int(node_memory.available_bytes() * MEMORY_SHARE)


def require_budget(need_bytes: int, what: str) -> None:
    """Raise BudgetError if `need_bytes` exceed the budget."""
    budget = budget_bytes()
    if need_bytes > budget:
        raise BudgetError(
            f"{what} needs {need_bytes / GIB:.2f} GiB, but the budget is {budget / GIB:.2f} GiB "
            f"(half of the available memory, cgroup limits counted); use a smaller size"
        )


def require_pool(size_bytes: int, page_kind: str, what: str) -> None:
    """Raise BudgetError if there is a hugetlb pool for `page_kind` and it has not so many pages left."""
    pool = available_memory.hugetlb_pools().get(PAGE_KINDS[page_kind]) if page_kind in HUGETLB_KINDS else None
    if not pool or not pool["total"]:
        return  # that is no matter of size: `why_not` has the reason
    pages, left = -(-size_bytes // PAGE_KINDS[page_kind]), pool["free"] - pool.get("reserved", 0)
    if pages > left:
        raise BudgetError(
            f"{what} needs {pages} pages of {page_kind}, but the pool has {left} of its {pool['total']} "
            "left; use a smaller size, or see `ktask doctor` for a larger pool"
        )


def require_room_on(nids: Sequence[int], size_bytes: int, page_kind: str, what: str) -> None:
    """Raise BudgetError unless each node has room for its share of pages: in its memory, or in its pool.

    What is bound to a node gets nothing elsewhere: without room the kernel kills a process, this one perhaps.
    """
    if not nids:
        return
    page_size = PAGE_KINDS[page_kind]
    pages = -(-size_bytes // page_size // len(nids))
    for nid in nids:
        if page_kind in HUGETLB_KINDS:
            _require_pool_on(nid, pages, page_kind, what)
        else:
            _require_memory_on(nid, pages * page_size, what)


def _require_memory_on(nid: int, need_bytes: int, what: str) -> None:
    room = node_memory.node_room_bytes(nid)
    if room is not None and need_bytes > room * MEMORY_SHARE:
        raise BudgetError(
            f"{what} needs {need_bytes / GIB:.2f} GiB of node {nid}, but the budget there is "
            f"{room * MEMORY_SHARE / GIB:.2f} GiB (half of what the node has available); use a smaller size, "
            "or another node"
        )


def _require_pool_on(nid: int, pages: int, page_kind: str, what: str) -> None:
    pool = node_memory.node_pool(nid, PAGE_KINDS[page_kind])
    if pool and pages > pool["free"]:
        kib = PAGE_KINDS[page_kind] // KIB
        path = f"/sys/devices/system/node/node{nid}/hugepages/hugepages-{kib}kB/nr_hugepages"
        raise BudgetError(
            f"{what} needs {pages} pages of {page_kind} on node {nid}, whose pool has {pool['free']} of its "
            f"{pool['total']} left; use a smaller size, or write a larger number to {path}"
        )


def region_need(size_bytes: int, page_kind: str) -> int:
    """Return what a region takes from general memory: pages and page tables; nothing of hugetlb pages."""
    return 0 if page_kind in HUGETLB_KINDS else size_bytes + size_bytes // 512


def why_not(page_kind: str, size_bytes: int, shared: bool = False) -> str | None:
    """Return why `size_bytes` of `page_kind` cannot be had here, or None if they can."""
    if page_kind == "THP" and shared:
        return _why_no_shared_thp()
    if page_kind == "THP":
        mode = available_memory.thp_mode()
        if mode in (None, "never"):
            return f"transparent huge pages are {'absent' if mode is None else 'off (never)'}"
    if page_kind in HUGETLB_KINDS:
        return _why_no_hugetlb(page_kind, size_bytes)
    return None


def _why_no_shared_thp() -> str | None:
    path = kernel_files.ROOT / "sys/kernel/mm/transparent_hugepage/shmem_enabled"
    mode = re.search(r"\[(\w+)\]", kernel_files.read_text(path) or "[absent]")
    if mode and mode[1] in ("never", "deny", "absent"):
        return f"transparent huge pages in shared memory are off (shmem_enabled is {mode[1]})"
    return None


def _why_no_hugetlb(page_kind: str, size_bytes: int) -> str | None:
    page_size = PAGE_KINDS[page_kind]
    pool = available_memory.hugetlb_pools().get(page_size)
    if not pool or not pool["total"]:
        return f"the machine has no pool of {page_kind} hugetlb pages"
    free = pool["free"] - pool.get("reserved", 0)
    if size_bytes % page_size:
        return f"{size_bytes / MIB:g} MiB are no multiple of {page_kind}; use one"
    if size_bytes // page_size > free:
        return f"needs {size_bytes // page_size} pages of {page_kind}, the pool has {free} free"
    return None


def hugetlb_flags(page_kind: str) -> int:
    """Return what mmap has to be told for hugetlb pages of a kind; 0 for the other kinds."""
    if page_kind not in HUGETLB_KINDS:
        return 0
    return _MAP_HUGETLB | (PAGE_KINDS[page_kind].bit_length() - 1) << _HUGE_SHIFT


def thp_advice(page_kind: str) -> int:
    """Return the madvise that makes a mapping have pages of a kind; 0 for hugetlb pages."""
    if page_kind in HUGETLB_KINDS:
        return 0
    return MADV_HUGEPAGE if page_kind == "THP" else MADV_NOHUGEPAGE


def free_pool_pages(page_kind: str) -> int:
    """Return how many pages of a kind are free in their hugetlb pool; 0 for kinds without a pool."""
    if page_kind not in HUGETLB_KINDS:
        return 0
    return available_memory.hugetlb_pools().get(PAGE_KINDS[page_kind], {"free": 0})["free"]


class Region(AbstractContextManager):
    """An anonymous mapping of one page kind; a context manager that unmaps it.

    Parameters
    ----------
    size_bytes
        Rounded up to whole pages of the kind.
    page_kind
        One of `PAGE_KINDS`.
    shared
        Shared memory (tmpfs or hugetlbfs behind it) instead of private memory.
    in_folios
        Have 4 KiB pages come in larger folios, as far as these are enabled.

    Attributes
    ----------
    address, size_bytes, page_kind, page_size

    Raises
    ------
    UnavailableError
        If the machine does not have such pages.
    BudgetError
        If the region would not fit the budget (hugetlb pages are budgeted by their pool).
    """

    def __init__(
        self, size_bytes: int, page_kind: str = "4KiB", *, shared: bool = False, in_folios: bool = False
    ):
        if page_kind not in PAGE_KINDS:
            raise ValueError(f"page kind {page_kind!r} is unknown; use one of {', '.join(PAGE_KINDS)}")
        self.page_kind = page_kind
        self.page_size = PAGE_KINDS[page_kind]
        self.size_bytes = -(-size_bytes // self.page_size) * self.page_size
        require_budget(region_need(self.size_bytes, page_kind), f"a region of {page_kind} pages")
        if reason := why_not(page_kind, self.size_bytes, shared):
            raise UnavailableError(reason)
        self.shared = shared
        self._advice = MADV_HUGEPAGE if in_folios else thp_advice(page_kind)
        self.address = 0
        self.map()

    def map(self) -> None:
        """Map the region, at its former address if it had one."""
        if self.page_kind in HUGETLB_KINDS:
            self.address = self._mmap(self.size_bytes, hugetlb_flags(self.page_kind))
            return
        if self.address:
            self._mmap(self.size_bytes, _MAP_NORESERVE)
        else:
            self.address = self._mmap_aligned()
        with suppress(OSError):  # a kernel built without THP has only 4 KiB pages anyway
            self.advise(self._advice)

    def _mmap_aligned(self) -> int:
        """Map so that the region starts on a 2 MiB border, and trim what sticks out."""
        size = self.size_bytes + THP_SIZE
        raw = self._mmap(size, _MAP_NORESERVE)
        start = -(-raw // THP_SIZE) * THP_SIZE
        end = start + self.size_bytes
        if self.shared:  # a file of its own, which starts on the border, too; else no huge page would fit
            _anonymous(self.size_bytes, flags=_MAP_NORESERVE | _MAP_FIXED, address=start, shared=True)
        if start > raw:
            _libc.munmap(raw, start - raw)
        if raw + size > end:
            _libc.munmap(end, raw + size - end)
        return start

    def _mmap(self, size: int, extra_flags: int) -> int:
        fixed = _MAP_FIXED_NOREPLACE if self.address else 0
        try:
            return _anonymous(size, flags=extra_flags | fixed, address=self.address, shared=self.shared)
        except UnavailableError as error:  # of a pool, the numbers say more than the error does
            raise UnavailableError(why_not(self.page_kind, size, self.shared) or str(error)) from error

    def move_apart(self) -> None:
        """Move, without its pages, to where the kernel maps nothing by itself.

        Else what the process maps next, a heap of malloc for example, may lie in the place that `unmap` left.
        """
        self.unmap()
        step = max(APART_STEP, self.size_bytes)
        for address in range(APART, APART + 16 * step, step):
            self.address = address
            with suppress(UnavailableError):  # taken, or beyond the addresses of this machine
                self.map()
                return
        self.address = 0
        self.map()

    def advise(self, advice: int) -> None:
        """Call madvise over the whole region."""
        _advise(self.address, self.size_bytes, advice)

    def populate(self) -> None:
        """Fault every page in for writing; a region that cannot be filled is unmapped again."""
        try:
            self.advise(MADV_POPULATE_WRITE)
        except BaseException:
            self.unmap()
            raise

    def zap(self) -> None:
        """Give every page back and keep the mapping."""
        self.advise(MADV_REMOVE if self.shared else MADV_DONTNEED)

    def unmap(self) -> None:
        """Remove the mapping; harmless if it is gone already."""
        _libc.munmap(self.address, self.size_bytes)

    def hold(self) -> bool:
        """Set the addresses of the region aside; return whether nothing was mapped there.

        For a region that was unmapped: whatever else the process maps would else be found in its place, and
        removed with it. `unmap` and `map` take the place back.
        """
        try:
            _anonymous(self.size_bytes, 0, _MAP_NORESERVE | _MAP_FIXED_NOREPLACE, self.address)
        except UnavailableError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self.unmap()

    def place(self, nids: Sequence[int], start_bytes: int = 0, size_bytes: int | None = None) -> None:
        """Have the pages to come lie on one node and nowhere else, or on several in turn (mbind).

        Those of the region, or of a part of it.

        Raises
        ------
        BudgetError
            If one of the nodes does not have so much left.
        """
        start, size = self.address + start_bytes, self.size_bytes if size_bytes is None else size_bytes
        require_room_on(nids, size, self.page_kind, f"a region of {self.page_kind} pages")
        mask = (ctypes.c_ulong * _NODE_MASK_WORDS)()
        for nid in nids:
            mask[nid // 64] |= 1 << nid % 64
        mode = _MPOL_BIND if len(nids) == 1 else _MPOL_INTERLEAVE
        bits = 64 * _NODE_MASK_WORDS
        syscall("mbind", start, size, mode, ctypes.addressof(mask), bits, 0)

    def nodes(self) -> np.ndarray:
        """Return the node of every page (move_pages), or minus an errno."""
        end = self.address + self.size_bytes
        pages = np.arange(self.address, end, self.page_size, dtype=np.uint64)
        status = np.full(pages.size, -1, dtype=np.int32)
        syscall("move_pages", 0, pages.size, pages.ctypes.data, 0, status.ctypes.data, 0)
        return status

    @property
    def words(self) -> np.ndarray:
        """The region as an array of uint64 (no copy; valid while mapped)."""
        pointer = ctypes.cast(self.address, ctypes.POINTER(ctypes.c_uint64))
        return np.ctypeslib.as_array(pointer, shape=(self.size_bytes // 8,))

    def one_word_per_page(self, offset_bytes: int = 0) -> np.ndarray:
        """Return a view with the word at `offset_bytes` of every 4 KiB of the region."""
        return self.words[offset_bytes // 8 :: BASE_PAGE // 8]

    def present(self, start_bytes: int = 0, size_bytes: int | None = None) -> np.ndarray:
        """Return for every 4 KiB of the region, or a part of it, whether a page is there (by pagemap)."""
        size_bytes = self.size_bytes - start_bytes if size_bytes is None else size_bytes
        for look in range(_LOOKS):
            entries = pagemap(self.address + start_bytes, size_bytes)
            if look + 1 == _LOOKS or not (entries & _SWAPPED).any():
                break
            time.sleep(0.002)
        return (entries & _PRESENT) != 0

    def resident(self) -> np.ndarray:
        """Return for every 4 KiB whether it is in memory, mapped or in the page cache (by mincore)."""
        seen = np.zeros(self.size_bytes // BASE_PAGE, dtype=np.uint8)
        size, room = ctypes.c_size_t(self.size_bytes), ctypes.c_void_p(seen.ctypes.data)
        if _libc.mincore(ctypes.c_void_p(self.address), size, room):
            raise _os_error(f"mincore of {self.size_bytes} bytes")
        return (seen & 1) != 0

    def huge_bytes(self) -> int:
        """Return how much of the region is mapped by huge pages."""
        return huge_bytes(self.address, self.address + self.size_bytes)

    def lazy_free_bytes(self) -> int:
        """Return how much of the region is marked by MADV_FREE, and neither reclaimed nor written since."""
        drain_lru_batches()
        return _smaps_bytes_of_huge(self.address, self.address + self.size_bytes, "LazyFree")


class Files(AbstractContextManager):
    """Memory files (memfd) of equal size that nobody maps; a context manager that closes them.

    Parameters
    ----------
    size_bytes
        Of all together; each file is rounded up to whole pages.
    page_kind
        "4KiB" for tmpfs, or a hugetlb kind.
    count
        How many files.

    Attributes
    ----------
    fds, file_bytes, size_bytes
    """

    def __init__(self, size_bytes: int, page_kind: str = "4KiB", count: int = 1):
        page_size = PAGE_KINDS[page_kind]
        self.file_bytes = -(-size_bytes // count // page_size) * page_size
        self.size_bytes = self.file_bytes * count
        require_budget(region_need(self.size_bytes, page_kind), f"files of {page_kind} pages")
        if reason := why_not(page_kind, self.size_bytes, shared=True):
            raise UnavailableError(reason)
        flags = os.MFD_CLOEXEC
        if page_kind in HUGETLB_KINDS:
            flags |= os.MFD_HUGETLB | (page_size.bit_length() - 1) << _HUGE_SHIFT
        self.fds = np.full(count, -1, dtype=np.int64)
        try:
            for k in range(count):
                self.fds[k] = os.memfd_create("ktask-file", flags)
            self.resize()
        except BaseException:
            self.close()
            raise

    def resize(self) -> None:
        """Give every file its full size again, without pages."""
        for fd in self.fds.tolist():
            os.ftruncate(fd, 0)
            os.ftruncate(fd, self.file_bytes)

    def allocate(self) -> None:
        """Give every file all of its pages."""
        for fd in self.fds.tolist():
            os.ftruncate(fd, self.file_bytes)
            os.posix_fallocate(fd, 0, self.file_bytes)

    @contextmanager
    def words(self, k: int) -> Iterator[np.ndarray]:
        """Give file `k` as an array of uint64, mapped inside the block only."""
        address = _libc.mmap(None, self.file_bytes, _PROT_RW, _MAP_SHARED, int(self.fds[k]), 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise _os_error(f"mapping {self.file_bytes} bytes")
        try:
            pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint64))
            yield np.ctypeslib.as_array(pointer, shape=(self.file_bytes // 8,))
        finally:
            _libc.munmap(address, self.file_bytes)

    def allocated(self) -> list[int]:
        """Return the bytes in pages of each file."""
        return [os.fstat(fd).st_blocks * 512 for fd in self.fds.tolist()]

    def sizes(self) -> list[int]:
        """Return the size of each file."""
        return [os.fstat(fd).st_size for fd in self.fds.tolist()]

    def close(self) -> None:
        """Close the files, and so give their pages back; harmless if they are closed already."""
        for k, fd in enumerate(self.fds.tolist()):
            if fd >= 0:
                os.close(fd)
                self.fds[k] = -1

    def __exit__(self, *_: object) -> None:
        self.close()


def protections(start: int, end: int) -> list[str]:
    """Return the permissions ("rw-p", ...) of the mappings that make up `[start, end)`, "" for a gap."""
    found, at = [], start
    for line in Path("/proc/self/maps").read_text().splitlines():
        lo, hi = (int(text, 16) for text in line.split()[0].split("-"))
        if hi <= at or lo >= end:
            continue
        if lo > at:
            found.append("")
        found.append(line.split()[1])
        at = hi
    return found if at >= end else [*found, ""]


def pagemap(address: int, size_bytes: int, pid: str = "self") -> np.ndarray:
    """Return the pagemap entries (uint64) of `[address, address + size_bytes)`."""
    n_bytes = size_bytes // BASE_PAGE * 8
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        file.seek(address // BASE_PAGE * 8)
        parts = []
        while n_bytes > 0:
            part = file.read(min(n_bytes, 4 * MIB))
            if not part:
                raise OSError(f"/proc/{pid}/pagemap ends early at {address:#x}")
            parts.append(part)
            n_bytes -= len(part)
    return np.frombuffer(b"".join(parts), dtype=np.uint64)


PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), <linux/fs.h>, Linux 6.7
SCAN_PRESENT, SCAN_HUGE = 1 << 3, 1 << 6  # PAGE_IS_PRESENT, PAGE_IS_HUGE
SCAN_ARG_WORDS, SCAN_REGION_WORDS = 12, 3


def scan(start: int, end: int, category: int) -> int:
    """Return how many bytes of `[start, end)` are in a category, by the PAGEMAP_SCAN ioctl.

    Raises
    ------
    OSError
        ENOTTY if the kernel does not have it.
    """
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        return sum(high - low for low, high, _ in scan_regions(file.fileno(), start, end, category, category))


def scan_regions(fd: int, start: int, end: int, category: int, wanted: int) -> list[tuple[int, ...]]:
    """Return start, end and the `wanted` categories of each region in `[start, end)` that is in a category.

    `fd` is of some process's pagemap. Raises OSError as `scan` does.
    """
    regions = (ctypes.c_uint64 * (SCAN_REGION_WORDS * 512))()
    rows: list[tuple[int, ...]] = []
    while True:
        arg = (ctypes.c_uint64 * SCAN_ARG_WORDS)(8 * SCAN_ARG_WORDS, 0, start, end)
        arg[5], arg[6], arg[9], arg[11] = ctypes.addressof(regions), 512, category, wanted
        found = fcntl.ioctl(fd, PAGEMAP_SCAN, arg)
        rows += [tuple(regions[3 * k : 3 * k + 3]) for k in range(found)]
        # Where the walk ended; the kernel may name a place before the last region (walkers._walk_end).
        start = max(arg[4], regions[3 * found - 2] if found else 0)
        if start >= end:
            return rows


def huge_bytes(start: int, end: int) -> int:
    """Return how much of `[start, end)` is mapped by huge pages."""
    try:
        return scan(start, end, SCAN_HUGE)
    except OSError:
        return _huge_bytes_by_smaps(start, end)


_VMA = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ")


def _huge_bytes_by_smaps(start: int, end: int) -> int:
    """Return how much of `[start, end)` is mapped by huge pages, the slow way of older kernels."""
    return _smaps_bytes_of_huge(start, end, "AnonHugePages", "ShmemPmdMapped")


def _smaps_bytes_of_huge(start: int, end: int, *names: str) -> int:
    """Return the sum of fields of smaps, with huge pages that NUMA balancing is watching.

    It takes access away for a while, and smaps of Linux 6.1 passes over huge pages in that state (mended in
    Linux 6.5 by commit 8b9c1cc0418a). A read gives access back.
    """
    _read_each_huge(start, end)
    return sum(smaps_bytes(start, end, name) for name in names)


def _read_each_huge(start: int, end: int) -> None:
    """Read from every 2 MiB of a range, where a page is there; a read elsewhere would bring one."""
    aligned = -(-start // THP_SIZE) * THP_SIZE
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        for at in (start, *range(aligned, end, THP_SIZE)):
            entry = np.frombuffer(os.pread(file.fileno(), 8, at // BASE_PAGE * 8), np.uint64)
            if (entry & _PRESENT).any():
                ctypes.string_at(at, 1)


def smaps_bytes(start: int, end: int, name: str) -> int:
    """Return the sum of one field over this process's mappings that overlap `[start, end)`, by smaps."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if vma := _VMA.match(line):
            inside = int(vma[1], 16) < end and start < int(vma[2], 16)
        elif inside and line.startswith(f"{name}:"):
            total += int(line.split()[1]) * KIB
    return total


def map_file(fd: int, file_offset: int, size_bytes: int, address: int) -> None:
    """Map a shared piece of a file in the place of what is at `address`; UnavailableError tells why not."""
    if _libc.mmap(address, size_bytes, _PROT_RW, _MAP_SHARED | _MAP_FIXED, fd, file_offset) != address:
        raise UnavailableError(str(_os_error(f"mapping {size_bytes} bytes at {address:#x}")))


def drain_lru_batches() -> None:
    """Have every CPU of this process hand its batch of pages to the LRU lists.

    MADV_FREE queues small pages in a batch of the CPU, where they do not count as LazyFree yet; unmapping
    anything empties that batch.
    """
    for cpu in topology.allowed_cpus():
        with topology.kept_to(cpu):
            page = _anonymous(BASE_PAGE)
            _advise(page, BASE_PAGE, MADV_POPULATE_WRITE)
            _libc.munmap(page, BASE_PAGE)


class Reservation:
    """Address space set aside without memory, to lay mappings of files into; given back as a whole.

    Attributes
    ----------
    address
        A multiple of 2 MiB.
    size_bytes
    """

    def __init__(self, size_bytes: int):
        self.size_bytes = size_bytes
        self._mapped = (_anonymous(size_bytes + THP_SIZE, 0, _MAP_NORESERVE), size_bytes + THP_SIZE)
        self.address = -(-self._mapped[0] // THP_SIZE) * THP_SIZE

    def map_file(self, fd: int, file_offset: int, size_bytes: int, at: int) -> None:
        """Map a shared piece of a file `at` bytes from the start; UnavailableError tells why not."""
        map_file(fd, file_offset, size_bytes, self.address + at)

    def make_accessible(self, at: int, size_bytes: int, *, writable: bool = False) -> None:
        """Make a piece an ordinary mapping without pages; UnavailableError tells why not."""
        try:
            protect(self.address + at, size_bytes, writable=writable)
        except OSError as error:
            raise UnavailableError(str(error)) from error

    def advise(self, at: int, size_bytes: int, advice: int) -> None:
        """Call madvise over a piece; OSError if the kernel refuses."""
        _advise(self.address + at, size_bytes, advice)

    def lock(self) -> None:
        """Have the kernel leave its pages in memory; OSError if this process may not ask for so many."""
        lock(self.address, self.size_bytes)

    def unmap(self) -> None:
        """Remove whatever lies in it; harmless if that has happened already."""
        _libc.munmap(*self._mapped)


def is_mapped(address: int) -> bool:
    """Return whether the page at `address` belongs to a mapping of this process (mincore)."""
    residency = ctypes.c_ubyte()
    return _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(BASE_PAGE), ctypes.byref(residency)) == 0
