"""Evidence on a real case: what is seen of a path whose lock is known, and what is said where nothing is."""

import json

import pytest
from known import is_quiet
from seen_evidence import SEEN

import ktask
from ktask.host import perf
from ktask.host.kernel_counters import sample
from ktask.host.topology import cpu_count
from ktask.lab.evidence import Evidence, gather
from ktask.lab.measure import processes
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.workloads import Case

QUICK = Protocol(least=1, most=1)
MIB = 1 << 20

can_see = pytest.mark.skipif(
    perf.why_not() is not None or cpu_count() < 2, reason=perf.why_not() or "there is one CPU"
)


def looked(case: Case) -> Evidence:
    """Return the evidence of the first of a few measurements that were as fast when looked at, or skip."""
    for _ in range(4):
        if not (seen := measure_case(case, [2], QUICK, evidence=True).evidence()).is_unlike:
            return seen
    pytest.skip("what was looked at was never what was timed: others use the CPUs")


@can_see
def test_mprotect_by_range_waits_for_mmap_lock():
    case = Case.of("protect", "mprotect", size=256 * MIB, page_kind="4KiB")
    seen = looked(case)
    assert seen.skipped is None
    assert sum(seen.stack.values()) == pytest.approx(1)
    assert 0 < seen.stack["ideal"] < 1
    assert "change_pte_range" in {one["function"] for one in seen.functions}
    if seen.many.sees_locks:
        assert ("mmap_lock", "do_mprotect_pkey") in {(one["lock"], one["site"]) for one in seen.locks}
    json.dumps(seen.as_dict())
    assert "mmap_lock" in str(seen)
    assert "<table" in seen._repr_html_()


def test_a_look_that_took_another_time_than_what_was_timed_says_nothing():
    assert SEEN.beside({1: 0.3, 288: 0.35}) == SEEN  # both slower: sampling has its price
    for timed_s in ({1: 0.5, 288: 0.2}, {1: 1.1, 288: 0.5}, {1: 0.3, 288: 0.5}):
        found = SEEN.beside(timed_s)
        assert found.is_unlike
        assert not found.is_of_machine
        assert found.stack == {}
    assert (
        "the serial call took 1.0 and 288 threads 2.5 times as long"
        in SEEN.beside({1: 0.5, 288: 0.2}).skipped
    )


def places_waited_for(case: Case, is_right) -> set[tuple[str, str]]:
    """Return locks and sites of one of a few looks, the first that `is_right`; skip if others took CPUs."""
    was_quiet = False
    for _ in range(3):
        seen = looked(case)
        if seen.skipped is None and not seen.many.sees_locks:
            pytest.skip("locks cannot be seen here")
        found = {(one.lock, one.site) for one in seen.many.waits} if seen.many else set()
        if is_right(found):
            return found
        was_quiet = was_quiet or is_quiet(seen)
    if not was_quiet:
        pytest.skip("others used the CPUs in every try")
    return found


@can_see
@pytest.mark.alone
def test_munmap_by_range_waits_for_mmap_lock():
    case = Case.of("free", "munmap", size=64 * MIB, page_kind="4KiB", min_chunk="64KiB")

    def is_right(found):
        return any(lock == "mmap_lock" and "munmap" in site for lock, site in found)

    assert is_right(places_waited_for(case, is_right))


@can_see
@pytest.mark.alone
@pytest.mark.pool("2MiB", 64)
def test_populating_hugetlb_pages_waits_for_the_fault_mutex():
    case = Case.of("zeroing", "populate", size=128 * MIB, page_kind="2MiB")

    def is_right(found):
        return "hugetlb fault mutex" in {lock for lock, _ in found}

    assert is_right(places_waited_for(case, is_right))


@can_see
def test_looking_changes_no_row_and_opens_nothing():
    case = Case.of("zeroing", "populate", size=16 * MIB, page_kind="4KiB")
    found = measure_case(case, [2], QUICK, evidence=True)
    if found.seen.is_unlike:
        pytest.skip("the machine is too busy")
    kept, without = (
        [row for row in one.rows if not row["warmup"]] for one in (found, measure_case(case, [2], QUICK))
    )
    assert len(kept) == len(without)
    assert found.seen.many.counters["pgfault"] >= 0
    assert found.seen.many.repetitions >= 1


def test_without_permission_there_is_the_reason_and_all_else(monkeypatch):
    monkeypatch.setattr(perf, "why_not", lambda: "kernel.perf_event_paranoid is 4")
    case = Case.of("zeroing", "memset", size=4 * MIB, page_kind="4KiB")
    found = measure_case(case, [2], QUICK, evidence=True)
    assert found.rows
    assert found.seen == Evidence(skipped="kernel.perf_event_paranoid is 4")
    assert found.as_dict(2)["evidence"]["skipped"] == "kernel.perf_event_paranoid is 4"
    assert "paranoid is 4" in str(found.seen)
    assert "paranoid is 4" in found.seen._repr_html_()


def test_one_thread_needs_no_explanation():
    assert "one thread" in gather(None, 1, "ktask-v4").skipped


def test_a_notebook_looks_when_it_asks(monkeypatch):
    asked = []
    monkeypatch.setattr(processes, "look_at", lambda *which: asked.append(which) or Evidence(skipped="tried"))
    found = ktask.measure(
        "zeroing", "memset", size=4 * MIB, threads=[2], protocol={"least": 1, "most": 1}, quiet=True
    )
    assert "evidence" not in found.as_dict(2)
    assert found.evidence() is found.evidence()
    assert asked == [(found.case, 2)]


def test_a_fresh_process_looks():
    seen = processes.look_at(Case.of("zeroing", "memset", size=64 * MIB, page_kind="4KiB"), 2)
    assert seen.skipped if perf.why_not() or cpu_count() < 2 else seen.stack or seen.is_unlike


TREE = {
    "proc/vmstat": "nr_free_pages 7\npgfault 12\nnr_tlb_remote_flush 3\n",
    "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0 total=9\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 200 0 0\n",
    "proc/self/task/1/schedstat": "5 3000000000 2\n",
    "proc/self/task/1/status": "voluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t1\n",
    "proc/self/task/2/schedstat": "damaged\n",
}


def test_counters_of_the_kernel(tmp_path):
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = sample(tmp_path)
    assert found["pgfault"] == 12
    assert found["nr_tlb_remote_flush"] == 3
    assert "nr_free_pages" not in found
    assert found["pressure_cpu_s"] == 2.5
    assert found["steal_s"] > 0
    assert (found["run_queue_s"], found["switches_voluntary"], found["switches_involuntary"]) == (
        3.0,
        4.0,
        1.0,
    )


def test_counters_that_are_not_there(tmp_path):
    assert sample(tmp_path)["run_queue_s"] == 0.0
