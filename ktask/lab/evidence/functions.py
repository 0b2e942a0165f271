"""What a function of the kernel does, as far as the speedup is concerned: one table.

A sample belongs to the part of its innermost function that a row below knows, of the first few. What no row
knows keeps the name of its innermost function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

DEPTH = 4  # functions looked at, from the innermost one outwards

# From the source of Linux 6.1 to 6.18, x86-64 and arm64.
PARTS: dict[str, str] = {
    "spinning": r"""
        ((native|__pv|resilient)_)?queued_spin_(lock|unlock)_slowpath | queued_(read|write)_lock_slowpath |
        (kvm|xen|hv)_(qlock_)?wait | _raw_(spin|read|write)_lock(_bh|_irq|_irqsave|_nested)? |
        do_raw_(spin|read|write)_lock | _raw_(spin|read|write)_unlock |
        __raw_callee_save___(pv_queued_spin_unlock(_slowpath)?|kvm_vcpu_is_preempted) |
        (rwsem|mutex|rtmutex)_(spin_on_owner|optimistic_spin) | osq_lock |
        rwsem_down_(read|write)_slowpath | __mutex_lock(_common)?
    """,
    "memory": r"""
        clear_(page|page_(erms|rep|orig)|pages|huge_page|gigantic_page|subpage|(user_)?highpages?\w*) |
        clear_(contig_highpages|user_(page|erms|rep_good|original)) | folio_zero_(user|range) |
        zero_user_segments | (__|__arch_)clear_user | read_zero | read_iter_zero | iov_iter_zero |
        rep_(stos|movs)_alternative | (__)?mem(set|cpy|move)(_\w+)? |
        copy_(page|page_regs|subpage|huge_page|(user_|mc_user_)?highpage\w*) |
        copy_mc_(to|fragile|enhanced)\w* | copy_(page|folio)_(to|from)_iter\w* | folio_(mc_)?copy |
        copy_user_(huge_page|gigantic_page|large_folio) |
        copy_user_(generic\w*|enhanced_fast_string|nocache\w*) | __copy_user_nocache |
        _copy_(to|from)_(user|iter)\w* | __arch_copy_(to|from)_user
    """,
    "page tables and TLB": r"""
        (\w+_)?flush_tlb\w* | arch_tlbbatch_flush | try_to_unmap_flush\w* |
        tlb_(flush_mmu_tlbonly|flush_rmap\w*|remove_table\w*|gather_mmu\w*) |
        smp_call_function\w* | generic_exec_single | on_each_cpu\w* | (__)?flush_smp_call_function_queue |
        \w*send_call_func\w* | generic_smp_call_function_single_interrupt |
        (asm_|__)?sysvec_call_function\w* |
        change_(pte|pmd|pud|p4d|protection|huge_pmd|prot_numa)\w* | prot_commit_flush_ptes |
        (__|huge_)?ptep_\w+ | p[mu]dp_\w+ | \w*ptes?_clear_flush |
        (native_)?set_p(tes?|md|ud|4d|gd)(_\w+)? | set_huge_pte_at |
        (zap|unmap)_(pte|pmd|pud|p4d|page)_range\w* | zap_(huge_p[mu]d|present_\w+) |
        free_p(gd|4d|ud|md|te)_range | free_pgtables | (__)?p(te|md|ud|4d)_alloc\w* |
        copy_(pte|pmd|pud|p4d|page)_range | copy_huge_p[mu]d | copy_hugetlb_page_range |
        move_(ptes|page_tables|pgt_entry|normal_p[mu]d|huge_p[mu]d) | split_huge_p[mu]d\w* |
        (__)?walk_(p(gd|4d|ud|md|te)|page|hugetlb)_range\w* | ___?pte_offset\w*
    """,
}
# Called from the above, and no part of it: to allocate, to free and to account for pages, to change threads.
NAMED = r"""
    (release|__free\w*|alloc|__alloc\w*|free_contig\w*)_pages\w* | folios_put\w* | free_pages_and_\w+ |
    free_(unref|frozen)_\w+ | free_pcppages_bulk | free_one_page | free_huge_\w+ | update_and_free\w* |
    get_page_from_freelist | rmqueue\w* | \w*(mem_cgroup|memcg|hugetlb_cgroup)\w* | try_charge\w* |
    (__)?schedule | try_to_wake_up | wake_up_q | call_rcu\w*
"""
_PARTS = {part: re.compile(pattern, re.VERBOSE) for part, pattern in PARTS.items()}
_NAMED = re.compile(NAMED, re.VERBOSE)


def part_of(frames: Sequence[str]) -> str | None:
    """Return the part that a stack of functions, the innermost first, belongs to; None if no row knows it."""
    for frame in frames[:DEPTH]:
        if _NAMED.fullmatch(frame):
            return None
        for part, pattern in _PARTS.items():
            if pattern.fullmatch(frame):
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
