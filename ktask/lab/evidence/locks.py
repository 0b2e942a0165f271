"""Which locks threads waited for, and where in the kernel: one table of names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ktask.host.perf import LOCKS, Event
from ktask.lab.evidence.functions import DEPTH

TRACED = "lock:contention_begin and contention_end"
SAMPLED = "samples of cpu-clock"
# Spinning on the owner of a semaphore comes before the tracepoint that says a thread waits for it.
_UNTRACED = re.compile("rwsem_(spin_on_owner|optimistic_spin)")
_SPINS_ITSELF = re.compile("rwsem_down_(read|write)_slowpath")  # where the compiler has put that into it
# What is inside of a lock, and no site.
_INSIDE = re.compile(
    r"""\?|.*slowpath.* | _raw_\w*lock.* | (do_raw_)?spin_lock.* | down_\w+ | __?down_\w+ | rwsem_\w+ |
    (__)?mutex_lock.* | ww_mutex.* | percpu_(down|rwsem)\w* | __percpu_\w+ | \w*rt_mutex\w* |
    __raw_callee_save\w+ | \w+_return_thunk | trace_contention\w+ | __traceiter\w+ | (perf|bpf)_trace\w+ |
    perf_\w*event\w*""",
    re.VERBOSE,
)
SPINNING = "semaphore, spinning"
KINDS = {"MUTEX": "mutex", "WRITE": "semaphore, to write", "READ": "semaphore, to read", "SPIN": "spinlock"}
# The name by the kind and by a function that takes it, from the source of Linux 6.1 to 6.18.
NAMES: list[tuple[str, str, str]] = [
    (
        "semaphore",
        r"do_mprotect_pkey|(__)?(do_)?vm_munmap.*|do_munmap|vm_mmap_pgoff|.*madvise.*|(lock_)?mm_\w+|dup_mm\w*|"
        r"do_user_addr_fault|do_mlock|__mm_populate|apply_\w*mlock\w*|exit_mmap|\w*get_user_pages\w*|userfaultfd_\w+|"
        r"mwriteprotect_range|pagemap_\w+|walk_page_range|do_pagemap_scan|mmap_(read|write)\w+|.*mremap.*|hpage_collapse\w+",
        "mmap_lock",
    ),
    (
        "semaphore",
        r"shmem_\w+|vfs_\w*truncate|do_truncate|vfs_fallocate|hugetlbfs_\w+|.*_inode.*",
        "inode lock",
    ),
    ("mutex", r"hugetlb_(no_page|fault)|hugetlbfs_\w+", "hugetlb fault mutex"),
    ("spinlock", r".*vmap_area\w*|vm_map_ram|vmap", "vmap lock"),
    ("mutex", r".*io_uring.*|io_\w+", "lock of the ring"),
    ("spinlock", r"folio_lruvec_lock\w*|\w*lru\w*|release_pages|folios_put\w*", "LRU lock"),
    (
        "spinlock",
        r"rmqueue\w*|free_pcppages_bulk|free_one_page|\w*buddy\w*|__rmqueue\w*|free_frozen_page\w*",
        "zone lock",
    ),
    ("spinlock", r"__remove_mapping|__?filemap_\w+", "page-cache lock"),
    (
        "spinlock",
        r"\w*pte_offset\w*|\w*pmd_lock\w*|\w*(zap|change|copy|unmap)_p\w+range|\w*pmd\w*",
        "page-table lock",
    ),
    ("spinlock", r".*hugetlb.*", "hugetlb_lock"),
    ("spinlock", r"try_to_wake_up|\w*rq_lock\w*|__schedule|raw_spin_rq\w*", "run queue"),
]


@dataclass(frozen=True)
class Wait:
    """How long all threads together waited for one lock at one place in the kernel.

    `count` is how often in all repetitions, 0 where only samples tell of it, and `source` how it was seen.
    """

    lock: str
    kind: str
    site: str
    wait_s: float
    count: int
    source: str = TRACED

    @property
    def spins(self) -> bool:
        """Whether a thread stays on its CPU while it waits."""
        return self.kind == KINDS["SPIN"]


def kind_of(detail: str) -> str:
    """Return the kind of lock that a tracepoint speaks of."""
    return next((kind for flag, kind in KINDS.items() if flag in detail), "lock")


def name_of(kind: str, frames: Sequence[str]) -> tuple[str, str]:
    """Return the name of a lock, or else its kind, and the function that takes it."""
    outside = [frame for frame in frames if not _INSIDE.fullmatch(frame)] or ["?"]
    for start, pattern, name in NAMES:
        if kind.startswith(start) and any(re.fullmatch(pattern, frame) for frame in outside[:3]):
            return name, outside[0]
    return kind, outside[0]


def spun(stacks: Mapping[tuple[str, ...], float]) -> list[Wait]:
    """Return who spun for which semaphore, by the CPU seconds of each stack, the longest first."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for frames, seconds in stacks.items():
        if (frames and _SPINS_ITSELF.fullmatch(frames[0])) or any(map(_UNTRACED.fullmatch, frames[:DEPTH])):
            found[name_of(SPINNING, frames)] += seconds
    all_waits = [Wait(lock, SPINNING, site, seconds, 0, SAMPLED) for (lock, site), seconds in found.items()]
    return sorted(all_waits, key=lambda wait: -wait.wait_s)


def waits(repetitions: Iterable[Sequence[Event]]) -> list[Wait]:
    """Return who waited for what in the events of each repetition, the longest first.

    Each begin is paired with the next end of its thread in the same repetition.
    """
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for events in repetitions:
        begun: dict[int, Event] = {}
        for event in sorted(events, key=lambda event: event.at_s):
            if event.name == LOCKS[0]:
                begun[event.tid] = event
            elif event.name == LOCKS[1] and (start := begun.pop(event.tid, None)):
                kind = kind_of(start.detail)
                lock, site = name_of(kind, start.frames)
                found[lock, kind, site].append(event.at_s - start.at_s)
    all_waits = [Wait(*which, sum(times), len(times)) for which, times in found.items()]
    return sorted(all_waits, key=lambda wait: -wait.wait_s)
