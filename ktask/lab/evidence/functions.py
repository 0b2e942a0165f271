"""What a function of the kernel does, as far as the speedup is concerned: one table.

A sample belongs to the first of the parts below that one of its innermost functions is in. What no row knows
keeps the name of its innermost function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DEPTH = 4  # functions looked at, from the innermost one outwards

# From the source of Linux 6.1 to 6.18. The order matters: a lock taken inside of page-table code is a lock.
PARTS: dict[str, str] = {
    "spinning": r"""
        (native|__pv)_queued_spin_lock_slowpath | queued_(read|write)_lock_slowpath |
        rwsem_(spin_on_owner|optimistic_spin) | mutex_(spin_on_owner|optimistic_spin) | osq_lock
    """,
    "memory": r"""
        clear_(page|huge_page|highpage|folio|contig).* | folio_zero_user | __clear_user | rep_stos.* |
        copy_(page|mc_page|highpage|user_highpage|huge_page).* | __?mem(set|cpy|move).*
    """,
    "page tables and TLB": r"""
        (__|native_)?flush_tlb.* | arch_tlbbatch_flush | tlb_(flush|finish|gather|remove|batch).* |
        smp_call_function.* | generic_exec_single | flush_smp_call_function_queue | on_each_cpu.* |
        .*(send|self)_(call_func_)?ipi.* | x2apic_send.* | native_write_msr | kvm_(flush_tlb|send_ipi).* |
        change_(pte|pmd|pud|protection).* | .*ptep_.* | .*ptes?_clear_flush | set_pte.* | native_set_p.* |
        prot_commit_flush_ptes | (zap|unmap)_(pte|pmd|pud|p4d|page)_range.* | unmap_page_range |
        free_p(gd|4d|ud|md|te).*range | free_pgtables | (__)?p(te|md|ud|4d)_alloc.* |
        copy_(pte|pmd|pud|p4d)_range | walk_p.*_range | ___?pte_offset.*
    """,
}
_PARTS = {part: re.compile(pattern, re.VERBOSE) for part, pattern in PARTS.items()}


def part_of(frames: Sequence[str]) -> str | None:
    """Return the part that a stack of functions, the innermost first, belongs to; None if no row knows it."""
    for part, pattern in _PARTS.items():
        if any(pattern.fullmatch(frame) for frame in frames[:DEPTH]):
            return part
    return None


USER = "user code"
_KERNEL_ENTRY = re.compile(r"entry_\w+|do_syscall_64|asm_\w+|el0t?_.*|ret_from_fork.*|invoke_syscall.*")


def is_entry(frame: str) -> bool:
    """Return whether a function is the entry of the kernel: what calls it is outside."""
    return bool(_KERNEL_ENTRY.fullmatch(frame))


def function_of(frames: Sequence[str]) -> str:
    """Return the innermost named function of the kernel; `USER` for a stack that never enters it."""
    if not any(map(is_entry, frames)):
        return USER
    return next((frame for frame in frames if frame != "?"), "?")
