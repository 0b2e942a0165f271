"""Where the thread time goes: parts, locks and the speedup stack, from looks whose answer is known."""

import pytest

from ktask.engine.task import Result
from ktask.host.kernel_counters import RUN_QUEUE
from ktask.host.perf import CLOCK, CYCLES, LOCKS, SAMPLES_PER_S, Event
from ktask.lab.evidence import functions
from ktask.lab.evidence.collect import Look, Repetition, summary
from ktask.lab.evidence.functions import USER, function_of, part_of
from ktask.lab.evidence.locks import SAMPLED, Wait, name_of, spun, waits
from ktask.lab.evidence.stack import speedup_stack

ENTRY = ("do_syscall_64", "entry_SYSCALL_64_after_hwframe")
MMAP_LOCK = (
    "rwsem_down_write_slowpath",
    "down_write_killable",
    "do_mprotect_pkey",
    "__x64_sys_mprotect",
    *ENTRY,
)


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        (("?", "__pv_queued_spin_lock_slowpath", "_raw_spin_lock", "zap_pte_range"), "spinning"),
        (("rwsem_spin_on_owner", "rwsem_down_write_slowpath", "down_write_killable"), "spinning"),
        (("clear_page_erms", "get_page_from_freelist"), "memory"),
        (("folio_zero_user", "do_huge_pmd_anonymous_page"), "memory"),
        (("smp_call_function_many_cond", "on_each_cpu_cond_mask"), "page tables and TLB"),
        (("native_flush_tlb_one_user",), "page tables and TLB"),
        (("change_pte_range", "change_protection_range"), "page tables and TLB"),
        (("try_charge_memcg", "charge_memcg"), None),
        ((), None),
    ],
)
def test_a_function_belongs_to_a_part(frames, part):
    assert part_of(frames) == part


def test_what_no_row_knows_keeps_its_name():
    assert function_of(("?", "charge_memcg", *ENTRY)) == "charge_memcg"
    assert function_of(("PyEval", "main")) == USER


# Names of functions of Linux 6.1 and 6.18, and of arm64, by the part they belong to.
OF_KERNELS = {
    "spinning": """
        native_queued_spin_lock_slowpath __pv_queued_spin_lock_slowpath queued_spin_lock_slowpath
        kvm_wait resilient_queued_spin_lock_slowpath queued_write_lock_slowpath
        queued_read_lock_slowpath _raw_spin_lock _raw_spin_lock_irqsave _raw_read_lock
        rwsem_spin_on_owner mutex_spin_on_owner rtmutex_spin_on_owner osq_lock rwsem_optimistic_spin
        rwsem_down_write_slowpath _raw_spin_unlock __pv_queued_spin_unlock_slowpath
    """,
    "memory": """
        clear_page_erms clear_page_rep clear_page_orig clear_page clear_huge_page clear_subpage
        clear_user_highpage clear_gigantic_page clear_user_erms clear_user_rep_good folio_zero_user
        __clear_user __arch_clear_user read_zero iov_iter_zero rep_stos_alternative
        rep_movs_alternative memset_erms memcpy_erms memset_orig __memcpy __memmove memcpy copy_page
        copy_user_huge_page copy_user_large_folio copy_user_enhanced_fast_string
        copy_user_generic_unrolled _copy_to_iter _copy_from_user copy_page_to_iter
        copy_folio_from_iter_atomic copy_mc_to_kernel copy_mc_user_highpage folio_copy
        copy_user_highpage __arch_copy_from_user
    """,
    "page tables and TLB": """
        flush_tlb_func flush_tlb_mm_range native_flush_tlb_one_user native_flush_tlb_multi
        kvm_flush_tlb_multi hyperv_flush_tlb_multi arch_tlbbatch_flush smp_call_function_many_cond
        on_each_cpu_cond_mask __flush_smp_call_function_queue flush_smp_call_function_queue
        native_send_call_func_ipi kvm_smp_send_call_func_ipi asm_sysvec_call_function
        tlb_flush_mmu_tlbonly tlb_remove_table change_pte_range change_protection_range
        change_pmd_range change_huge_pmd zap_pte_range unmap_page_range zap_page_range_single
        __ptep_modify_prot_start ptep_clear_flush pmdp_invalidate set_ptes native_set_pte
        free_pgd_range free_pgtables __pte_alloc pte_alloc_one __pmd_alloc copy_pte_range
        copy_page_range copy_huge_pmd move_page_tables walk_pgd_range __walk_page_range
        walk_hugetlb_range __pte_offset_map_lock
    """,
    None: """
        clear_page_dirty_for_io clear_page_mlock clear_folio_extent_mapped memcg_charge_kernel_stack
        memcmp memchr copy_user_policy copy_process copy_mm copy_files copy_page_pool
        native_write_msr x2apic_send_IPI native_smp_send_reschedule set_pgdat_percpu_threshold
        damon_ptep_mkold release_pages folios_put_refs free_unref_page_list
        free_pages_and_swap_cache tlb_finish_mmu get_page_from_freelist _raw_spin_unlock_irqrestore
        _raw_spin_unlock_irq _raw_spin_unlock_bh mutex_lock down_write rwsem_wake up_read schedule
        try_to_wake_up hugetlb_fault handle_mm_fault do_user_addr_fault cpu_idle_wait
    """,
}


@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for part, names in OF_KERNELS.items() for name in names.split()]
)
def test_functions_of_real_kernels_are_in_the_table(name, part):
    assert part_of((name, *ENTRY)) == part
    assert sum(bool(pattern.fullmatch(name)) for pattern in functions._PARTS.values()) == (part is not None)


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        # What is freed from inside of page-table work, a wake-up, and a timer are no page-table work.
        (("free_unref_folios", "folios_put_refs", "free_pages_and_swap_cache", "zap_pte_range"), None),
        (("release_pages", "tlb_batch_pages_flush", "tlb_flush_mmu", "zap_pte_range"), None),
        (("native_write_msr", "x2apic_send_IPI", "native_smp_send_reschedule", "try_to_wake_up"), None),
        (("native_write_msr", "lapic_next_deadline", "clockevents_program_event"), None),
        (("try_charge_memcg", "charge_memcg", "__mem_cgroup_charge", "do_anonymous_page"), None),
        # The innermost function that is known decides.
        (("clear_page_erms", "get_page_from_freelist", "pte_alloc_one", "__pte_alloc"), "memory"),
        (("_raw_spin_lock", "__pte_offset_map_lock", "zap_pte_range"), "spinning"),
        (("pv_native_safe_halt", "kvm_wait", "__pv_queued_spin_lock_slowpath"), "spinning"),
        (("vm_normal_page", "change_pte_range"), "page tables and TLB"),
        (
            (
                "native_write_msr",
                "__x2apic_send_IPI_mask",
                "x2apic_send_IPI_mask",
                "native_send_call_func_ipi",
            ),
            "page tables and TLB",
        ),
    ],
)
def test_the_innermost_function_that_is_known_decides(frames, part):
    assert part_of((*frames, *ENTRY)) == part


def _look(threads: int, wall_s: float, stacks: dict, **other) -> Look:
    blank = {"idle_s": 0.0, "waits": [], "sees_locks": True, "counters": {}, "repetitions": 3}
    return Look(threads=threads, wall_s=wall_s, stacks=stacks, **(blank | other))


def test_every_loss_is_where_it_was_put():
    """Four threads for 1 s: 2 s of work, 0.4 idle, 0.6 asleep, 0.5 spinning, 0.3 flushing, 0.2 in chunks."""
    work, flush = ("clear_page_erms", *ENTRY), ("flush_tlb_func", *ENTRY)
    spin = ("native_queued_spin_lock_slowpath", *ENTRY)
    serial, alone = _look(1, 2.0, {work: 2.0}), _look(1, 2.2, {work: 2.2})
    many = _look(4, 1.0, {work: 2.2, spin: 0.5, flush: 0.3}, idle_s=0.4)
    found = speedup_stack(serial, many, alone)
    assert sum(found.values()) == pytest.approx(1)
    wanted = {"ideal": 2.0, "chunking overhead": 0.2, "imbalance": 0.4, "waiting": 0.6, "spinning": 0.5}
    wanted |= {"page tables and TLB": 0.3, "unexplained": 0.0}
    for name, seconds in wanted.items():
        assert found[name] == pytest.approx(seconds / 4, abs=1e-9), name


def test_memory_that_got_slower_is_the_same_function_with_more_time():
    work = ("clear_page_erms", *ENTRY)
    found = speedup_stack(_look(1, 1.0, {work: 1.0}), _look(2, 0.75, {work: 1.5}))
    assert found["memory"] == pytest.approx(1 / 3)


def test_a_lock_waited_for_with_interrupts_off_is_moved_to_spinning():
    work, on = ("zap_pte_range", *ENTRY), ("_raw_spin_unlock_irqrestore", "folio_batch_move_lru", *ENTRY)
    lru = Wait("LRU lock", "spinlock", "folio_lruvec_lock_irqsave", 0.3, 10)
    serial = _look(1, 1.0, {work: 0.9, on: 0.1})
    found = speedup_stack(serial, _look(2, 0.7, {work: 0.9, on: 0.5}, waits=[lru]))
    assert found["spinning"] == pytest.approx(0.3 / 1.4)
    assert found["_raw_spin_unlock_irqrestore"] == pytest.approx(0.1 / 1.4)


def test_time_that_the_host_took_is_not_waiting():
    work = ("clear_page_erms", *ENTRY)
    many = _look(2, 1.0, {work: 1.0}, counters={"steal_s": 0.4})
    found = speedup_stack(_look(1, 1.0, {work: 1.0}), many)
    assert (found["steal"], found["waiting"]) == (pytest.approx(0.2), pytest.approx(0.3))


def test_a_small_growth_is_unexplained():
    stacks = {("obscure_function", *ENTRY): 0.01, ("clear_page_erms", *ENTRY): 1.0}
    found = speedup_stack(_look(1, 1.0, {("clear_page_erms", *ENTRY): 1.0}), _look(2, 0.505, stacks))
    assert "obscure_function" not in found
    assert found["unexplained"] == pytest.approx(0.01 / 1.01)


def _result(started_s: float, wall_s: float, ended_s: tuple[float, ...]) -> Result:
    return Result(threads=2, wall_s=wall_s, started_s=started_s, ended_s=ended_s, cpu_of_thread=(0, 1))


def test_samples_outside_of_the_clock_or_after_the_last_chunk_are_left_out():
    results = [_result(10.0, 1.0, (1.0, 0.5)), _result(20.0, 1.0, (1.0, 1.0))]
    times = [(0, 9.9), (0, 10.1), (1, 10.4), (1, 10.6), (0, 11.5), (1, 20.9)]
    events = [Event(cpu, cpu, at_s, CLOCK, "", ("f", *ENTRY)) for cpu, at_s in times]
    found = summary(events, [Repetition(one, {"pgfault": 5.0}) for one in results], {}, sees_locks=True)
    assert found.cpu_s == pytest.approx(3 / SAMPLES_PER_S / 2)
    assert found.idle_s == pytest.approx(0.25)
    assert found.counters == {"pgfault": 5.0}


def test_where_cycles_are_sampled_they_say_which_functions_and_the_clock_how_long():
    """Half of the time was spent with interrupts off, where only samples by cycles see the function."""
    clock = [Event(0, 0, 10 + k / 10, CLOCK, "", ("_raw_spin_unlock_irqrestore",)) for k in range(8)]
    names = ("free_pcppages_bulk", "zap_pte_range")
    cycles = [Event(0, 0, 10 + k / 10, CYCLES, "", (names[k % 2],)) for k in range(6)]
    found = summary([*clock, *cycles], [Repetition(_result(10.0, 1.0, (1.0, 1.0)), {})], {}, sees_locks=True)
    assert found.stacks == {(name,): pytest.approx(4 / SAMPLES_PER_S) for name in names}


def test_repetitions_that_others_disturbed_are_left_out():
    """Half of the thread time of the last was waiting for a CPU; its samples and counters are gone."""
    results = [_result(start_s, 1.0, (1.0, 1.0)) for start_s in (10.0, 12.0, 14.0)]
    results.append(_result(20.0, 2.0, (2.0, 2.0)))
    grown = [{RUN_QUEUE: 0.01, "pgfault": 1.0}] * 3 + [{RUN_QUEUE: 2.0, "pgfault": 9.0}]
    times = (10.5, 12.5, 14.5, 20.5, 21.5)
    events = [Event(cpu, cpu, at_s, CLOCK, "", ("f", *ENTRY)) for cpu in (0, 1) for at_s in times]
    found = summary(events, [*map(Repetition, results, grown)], {}, sees_locks=True)
    assert (found.repetitions, found.wall_s, found.counters["pgfault"]) == (3, 1.0, 1.0)
    assert found.cpu_s == pytest.approx(2 / SAMPLES_PER_S)


def test_repetitions_that_got_fewer_threads_are_left_out():
    """Other tasks had the CPUs meanwhile."""
    results = [_result(10.0, 1.0, (1.0, 1.0)), Result(threads=1, wall_s=2.0, started_s=12.0, ended_s=(2.0,))]
    found = summary([], [Repetition(one, {}) for one in results], {}, sees_locks=True)
    assert (found.repetitions, found.threads, found.wall_s) == (1, 2, 1.0)


def test_where_all_were_disturbed_the_least_disturbed_ones_stay():
    results = [_result(10.0, 1.0, (1.0, 1.0)), _result(20.0, 1.0, (1.0, 1.0))]
    both = [Repetition(one, {RUN_QUEUE: 0.8}) for one in results]
    assert summary([], both, {}, sees_locks=True).repetitions == 2


def test_waiting_for_a_cpu_is_not_waiting_for_a_lock():
    work = ("clear_page_erms", *ENTRY)
    serial = _look(1, 1.0, {work: 0.9}, counters={RUN_QUEUE: 0.1})
    found = speedup_stack(serial, _look(2, 1.0, {work: 0.9}, counters={RUN_QUEUE: 0.5}))
    assert found["ideal"] == pytest.approx(0.9 / 2)  # others took 0.1 s of the serial call
    assert found["waiting for a CPU"] == pytest.approx(0.5 / 2)
    assert found["waiting"] == pytest.approx((1.1 - 0.5) / 2)


def _lock(tid: int, at_s: float, flags: str, frames: tuple[str, ...]) -> list[Event]:
    """Return the begin and the end of a wait of 10 ms."""
    return [
        Event(tid, 0, at_s, LOCKS[0], f"0xff (flags={flags})", frames),
        Event(tid, 0, at_s + 0.01, LOCKS[1], "0xff (ret=0)", frames),
    ]


@pytest.mark.parametrize(
    ("flags", "frames", "name", "site"),
    [
        ("WRITE", MMAP_LOCK, "mmap_lock", "do_mprotect_pkey"),
        (
            "WRITE",
            ("rwsem_down_write_slowpath", "down_write_killable", "__vm_munmap", "__x64_sys_munmap"),
            "mmap_lock",
            "__vm_munmap",
        ),
        (
            "MUTEX",
            ("__mutex_lock", "mutex_lock", "hugetlb_fault", "handle_mm_fault"),
            "hugetlb fault mutex",
            "hugetlb_fault",
        ),
        (
            "SPIN",
            ("__pv_queued_spin_lock_slowpath", "_raw_spin_lock_irqsave", "folio_lruvec_lock_irqsave"),
            "LRU lock",
            "folio_lruvec_lock_irqsave",
        ),
        (
            "SPIN",
            ("?", "native_queued_spin_lock_slowpath", "_raw_spin_lock", "rmqueue_bulk"),
            "zone lock",
            "rmqueue_bulk",
        ),
        ("MUTEX", ("__mutex_lock", "something_new"), "mutex", "something_new"),
    ],
)
def test_a_lock_has_its_name_by_who_takes_it(flags, frames, name, site):
    (found,) = waits([_lock(1, 5.0, flags, frames)])
    assert (found.lock, found.site, found.count) == (name, site, 1)
    assert found.wait_s == pytest.approx(0.01)


def test_a_wait_without_its_end_lasts_no_longer_than_its_repetition():
    begin, _ = _lock(1, 5.0, "WRITE", MMAP_LOCK)
    _, end = _lock(1, 9.0, "WRITE", MMAP_LOCK)
    assert waits([[begin], [end]]) == []


def test_waits_of_several_threads_add_up():
    (found,) = waits([_lock(1, 5.0, "WRITE", MMAP_LOCK) + _lock(2, 5.005, "WRITE", MMAP_LOCK)])
    assert (found.count, found.wait_s) == (2, pytest.approx(0.02))


def test_spinning_for_a_semaphore_is_seen_in_samples_alone():
    """The tracepoint comes after it: a lock that is spun for would look free."""
    spin = ("__raw_callee_save___kvm_vcpu_is_preempted", "rwsem_spin_on_owner", *MMAP_LOCK)
    asleep = ("finish_task_switch", "__schedule", *MMAP_LOCK)
    (found,) = spun({spin: 0.2, MMAP_LOCK: 0.3, asleep: 0.4, ("change_pte_range", *ENTRY): 1.0})
    assert (found.lock, found.site, found.source) == ("mmap_lock", "do_mprotect_pkey", SAMPLED)
    assert (found.wait_s, found.count) == (pytest.approx(0.5), 0)


def test_what_perf_does_for_a_tracepoint_is_no_site():
    frames = ("perf_swevent_event", "perf_tp_event", "perf_trace_contention_begin", "__pte_offset_map_lock")
    assert name_of("spinlock", frames) == ("page-table lock", "__pte_offset_map_lock")
