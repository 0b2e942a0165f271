"""The arithmetic of the policies: the worked cases, hand-made examples, and what must hold for any input."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import run_python
from hypothesis import given
from hypothesis import strategies as st

from ktask.engine.conformance.vectors import COLUMNS, check_vectors, migrate
from ktask.engine.policy import POLICIES, Machine, Part, Plan, Usage, make_plan
from ktask.engine.undo import undo_ranges

VECTORS = Path(__file__).parents[1] / "data" / "ktask-vectors.csv"
KTASK = [name for name in POLICIES if name.startswith("ktask-")]
PADATA = [name for name in POLICIES if name.startswith("padata-")]


def plan_of(name="ktask-v4", size=1000, min_chunk=10, max_threads=0, start=0, nid=0, cpus=16, **more):
    """Plan a task of one part on a machine of one node."""
    return make_plan(name, [Part(start, size, nid)], min_chunk, max_threads, machine=Machine(cpus), **more)


# --- the worked cases ---------------------------------------------------------------------------------


def test_every_worked_case_holds():
    assert check_vectors(VECTORS) == {"rows": 60, "passed": 60, "mismatches": []}


def test_010_chunks_are_a_multiple_of_the_least_chunk():
    plan = plan_of(size=1000, min_chunk=7)
    assert (plan.threads, plan.chunk_size, plan.n_chunks) == (4, 56, 18)
    assert plan.chunk_bounds(0, 17) == (952, 1000)


def test_021_limit_of_the_machine_leaves_9_of_10_threads():
    plan = plan_of(max_threads=64, cpus=10)
    assert Machine(10).limit == 8
    assert (plan.want, plan.threads, plan.chunk_size, plan.n_chunks) == (10, 9, 20, 50)


def test_022_to_025_four_tasks_in_turn_share_the_helpers():
    usage, seen = Usage(), []
    for _ in range(4):
        plan = plan_of(max_threads=4, cpus=10, usage=usage)
        usage = plan.usage_during
        seen.append((plan.threads, plan.chunk_size))
    assert seen == [(4, 60), (4, 60), (3, 80), (1, 1000)]
    assert usage.total == 8


def test_026_helpers_spill_to_any_node_when_theirs_is_full():
    machine = Machine(16, {0: 8, 1: 8})
    plan = make_plan("ktask-v4", [Part(0, 1600, 0)], 10, 16, machine=machine)
    assert (machine.limit, machine.node_limits[0]) == (12, 6)
    assert plan.helper_queue_nid == (0,) * 6 + (-1,) * 6
    assert (plan.threads, plan.chunk_size, plan.n_chunks) == (13, 30, 54)


def test_051_deferred_init_of_a_large_node():
    machine = Machine(88, {0: 44, 1: 44})
    plan = make_plan("ktask-v4", [Part(16777216, 65536000, 1)], 32768, 11, machine=machine)
    assert (plan.threads, plan.chunk_size, plan.n_chunks) == (11, 1474560, 45)


def test_055_absolute_boundaries_split_a_single_thread_in_two():
    assert plan_of("ktask-uek", size=10, start=5, max_threads=4).chunks() == [[(5, 10), (10, 15)]]


def test_078_padata_boundaries_are_absolute_multiples():
    plan = plan_of("padata-cur", size=95, start=5, max_threads=4, align=8)
    ends = [end for _, end in plan.chunks_of(0)]
    assert (plan.threads, plan.chunk_size, ends) == (4, 16, [16, 32, 48, 64, 80, 96, 100])


def test_077_padata_can_have_fewer_chunks_than_threads():
    plan = plan_of("padata-cur", size=64, min_chunk=17, max_threads=64, align=16, cpus=64)
    assert (plan.threads, plan.chunk_size, plan.n_chunks) == (3, 32, 2)


def test_058_undo_merges_what_lies_between_failed_chunks():
    plan = Plan("ktask-v4", (Part(0, 100, 0),), threads=4, chunk_size=10)
    assert undo_ranges(plan, [10], {(0, 3)}) == [(0, 30), (40, 100)]


def test_migration_tests_the_new_node():
    machine = Machine(16, {0: 8, 1: 8})
    full = Usage(9, {0: 3, 1: 6})
    assert migrate(0, 1, machine, full) == (-1, Usage(9, {0: 2, 1: 6}))
    assert migrate(-1, 0, machine, full) == (0, Usage(9, {0: 4, 1: 6}))
    with pytest.raises(ValueError, match=r"per_node\[0\]=0 is not allowed"):
        migrate(0, 1, machine, Usage())


# --- corners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_an_empty_task_has_no_threads_and_no_chunks(name):
    for parts in ([Part(7, 0, 0)], []):
        plan = make_plan(name, parts, 10, 4, machine=Machine(16), usage=Usage(3))
        assert (plan.threads, plan.want, plan.n_chunks, plan.helpers) == (0, 0, 0, ())
        assert plan.usage_during == Usage(3)


@pytest.mark.parametrize("name", POLICIES)
def test_closed_forms_hold_for_huge_tasks(name):
    plan = plan_of(name, size=2**50, start=3, max_threads=8, min_chunk=1)
    assert plan.chunk_bounds(0, plan.part_chunks(0) - 1)[1] == 2**50 + 3
    assert plan.n_chunks == (2**50 if name == "dynamic" else plan.n_chunks)


def test_empty_parts_among_others_still_count_for_the_start_of_helpers():
    machine = Machine(16, {0: 8, 1: 8})
    plan = make_plan("ktask-v4", [Part(0, 100, 0), Part(5, 0, 1), Part(200, 50, 1)], 10, machine=machine)
    assert plan.helper_start_index == (1, 2, 0)
    assert [plan.part_chunks(k) for k in range(3)] == [10, 0, 5]


def test_numbers_of_numpy_are_taken_as_plain_integers():
    plan = make_plan("ktask-v4", [Part(np.int32(0), np.int32(2**31 - 1))], np.uint8(200), machine=Machine(4))
    assert plan == make_plan("ktask-v4", [Part(0, 2**31 - 1)], 200, machine=Machine(4))
    assert type(plan.chunk_size) is int


def test_v1_knows_no_cap_of_a_task():
    assert plan_of("ktask-v1", max_threads=12).threads == 4
    assert plan_of("ktask-v2", max_threads=12).threads == 12
    assert plan_of("ktask-v1", max_threads=12, default_max_threads=6).threads == 6


def test_v1_and_v2_put_any_node_work_on_the_node_of_the_caller():
    machine = Machine(4, {0: 2, 1: 2}, caller_nid=1)
    for name, nid in (("ktask-v1", 1), ("ktask-v2", 1), ("ktask-v3", -1)):
        assert make_plan(name, [Part(0, 100)], 10, machine=machine).helper_queue_nid == (nid,) * 3


def test_padata_calls_directly_only_if_one_thread_is_wanted():
    direct = plan_of("padata-cur", size=95, start=5, max_threads=1, align=8)
    assert direct.direct and direct.chunks() == [[(5, 100)]]
    no_pool = make_plan("padata-cur", [Part(0, 96)], 8, 4, machine=Machine(4, pool=0))
    assert not no_pool.direct and (no_pool.threads, no_pool.n_chunks) == (1, 4)
    no_cap = plan_of("padata-cur", size=96, max_threads=0)
    assert not no_cap.direct and (no_cap.threads, no_cap.n_chunks) == (1, 4)


def test_rfc2022_caps_by_mask_and_quota_and_counts_the_caller():
    parts = [Part(0, 1000)]
    for machine, usage, threads, in_use in (
        (Machine(8, cpus_allowed=3), Usage(), 3, 3),
        (Machine(8, quota_us=250_000), Usage(), 2, 2),
        (Machine(8, cpus_allowed=3, quota_us=700_000), Usage(), 3, 3),
        (Machine(8), Usage(5), 3, 8),
        (Machine(8), Usage(8), 1, 9),
        (Machine(8, cpus_allowed=1), Usage(5), 1, 5),  # a direct call is not counted
    ):
        plan = make_plan("padata-rfc2022", parts, 10, 16, machine=machine, usage=usage)
        assert (plan.threads, plan.usage_during.total) == (threads, in_use)


def test_numa_aware_padata_goes_round_the_nodes_with_cpus_and_remembers():
    machine, parts = Machine(6, {0: 2, 1: 0, 2: 2, 5: 2}), [Part(0, 1000)]
    first = make_plan("padata-cur", parts, 10, 4, machine=machine, numa_aware=True)
    assert first.helper_queue_nid == (2, 5, 0)
    second = make_plan("padata-cur", parts, 10, 3, machine=machine, usage=first.usage_during, numa_aware=True)
    assert second.helper_queue_nid == (2, 5)
    assert second.usage_during.last_nid == 5


def test_schedules_for_comparison():
    assert plan_of("static", size=100, max_threads=3).chunks() == [[(0, 34), (34, 68), (68, 100)]]
    assert plan_of("dynamic", size=35, max_threads=2).chunks() == [[(0, 10), (10, 20), (20, 30), (30, 35)]]
    sizes = [end - start for start, end in plan_of("guided", size=100, max_threads=2).chunks_of(0)]
    assert sizes == [50, 25, 13, 10, 2]
    assert plan_of("static").threads == 16  # every CPU, no limit


def test_helpers_really_granted_take_the_place_of_the_arithmetic():
    plan = plan_of(max_threads=4, helpers=1, usage=Usage(12))
    assert (plan.want, plan.threads, plan.chunk_size) == (4, 2, 120)
    assert plan.helpers == ((0, 0),)
    with pytest.raises(ValueError, match=r"helpers=4 is not allowed; .* at most 3"):
        plan_of(max_threads=4, helpers=4)


def test_given_limits_replace_those_of_the_cpus():
    machine = Machine(16, {0: 8, 1: 8}, limit=3, node_limits={0: 1})
    plan = make_plan("ktask-v4", [Part(0, 1000, 0)], 10, 8, machine=machine)
    assert plan.helper_queue_nid == (0, -1, -1)
    assert machine.node_limits == {0: 1, 1: 6}


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: plan_of("ktask-v5"), "policy 'ktask-v5' is not known; use one of ktask-v1, .*guided"),
        (lambda: plan_of(["ktask-v4"]), "policy .* is not known"),
        (lambda: plan_of(size=-1), "size=-1 is not allowed; use a whole number of at least 0"),
        (lambda: plan_of(start=-1), "start=-1 is not allowed"),
        (lambda: plan_of(nid=-2), "nid=-2 is not allowed; use a whole number of at least -1"),
        (lambda: plan_of(nid=3), "nid=3 is not a node of this machine; use one of 0, or -1"),
        (lambda: plan_of(nid=3, size=0), "nid=3 is not a node of this machine"),
        (lambda: plan_of(min_chunk=0), "min_chunk of ktask-v4=0 is not allowed; .* at least 1"),
        (lambda: plan_of("padata-5.8", min_chunk=0), "min_chunk of padata-5.8=0"),
        (lambda: plan_of("padata-cur", min_chunk=-1), "min_chunk of padata-cur=-1 .* at least 0"),
        (lambda: plan_of("padata-cur", align=0), "align=0 is not allowed; .* at least 1"),
        (lambda: plan_of(align=8), "align=8 is not allowed with ktask-v4; use 1, or one of padata-5.8"),
        (lambda: plan_of(max_threads=-1), "max_threads=-1 is not allowed"),
        (lambda: plan_of(default_max_threads=0), "default_max_threads=0 is not allowed"),
        (lambda: plan_of(numa_aware=True), "numa_aware=True is not allowed with ktask-v4; .* padata-cur"),
        (lambda: plan_of(cpus=0), "cpus=0 is not allowed; .* at least 1 and at most 65536"),
        (lambda: Machine(2, {0: 0}), "has no CPU"),
        (lambda: Machine(2, period_us=0), "period_us=0 is not allowed"),
        (lambda: Machine(2, pool=-1), "pool=-1 is not allowed"),
        (lambda: Usage(-1), "total=-1 is not allowed"),
        (lambda: Usage(0, {0: -1}), r"per_node\[0\]=-1 is not allowed"),
        (lambda: undo_ranges(plan_of(), [1, 1], set()), r"claimed_per_part=\[1, 1\] does not fit 1 parts"),
        (lambda: undo_ranges(plan_of(), [999], set()), r"claimed_per_part\[0\]=999 .* at most 17"),
        (lambda: undo_ranges(plan_of(), [3], {(0, 3)}), "failed chunk 0#3 was never handed out"),
        (lambda: undo_ranges(plan_of(), [3], {(1, 0)}), "failed chunk 1#0 was never handed out"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: plan_of(size=1e9), "size=1000000000.0 is not a whole number"),
        (lambda: plan_of(min_chunk="10"), "min_chunk of ktask-v4='10' is not a whole number"),
        (lambda: plan_of(max_threads=None), "max_threads=None is not a whole number"),
        (lambda: plan_of(cpus=2.0), "cpus=2.0 is not a whole number"),
    ],
)
def test_numbers_must_be_whole(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_chunk_that_does_not_exist_is_refused():
    for i in (-1, 17):
        with pytest.raises(IndexError, match=f"chunk {i} of part 0 does not exist; the part has 17"):
            plan_of(max_threads=4).chunk_bounds(0, i)


def test_the_module_is_plain_standard_library():
    code = "import sys, ktask.engine.policy, ktask.engine.conformance.vectors as v"
    code += "; print(*{'numpy', 'numba', 'pandas'} & set(sys.modules))"
    assert run_python(code, check=True).stdout.strip() == ""


# --- what must hold for any input -----------------------------------------------------------------------

MACHINES = st.builds(
    lambda per_node, **more: Machine(sum(per_node), dict(enumerate(per_node)), **more),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    pool=st.none() | st.integers(0, 12),
    cpus_allowed=st.none() | st.integers(1, 12),
    quota_us=st.none() | st.integers(0, 1_000_000),
)


def parts_on(machine):
    """Draw one to four parts, some of them empty, on nodes of `machine`."""
    nids = st.integers(-1, len(machine.cpus_per_node) - 1)
    return st.lists(st.builds(Part, st.integers(0, 200), st.integers(0, 700), nids), min_size=1, max_size=4)


@st.composite
def plans(draw, names=tuple(POLICIES)):
    """Draw a machine, what is taken of it, and the plan of a task on it."""
    name, machine = draw(st.sampled_from(names)), draw(MACHINES)
    parts = draw(parts_on(machine))
    usage = Usage(draw(st.integers(0, 20)), {0: draw(st.integers(0, 5))})
    align = draw(st.integers(1, 20)) if name in PADATA else 1
    min_chunk = draw(st.integers(1, 60))
    plan = make_plan(
        name, parts, min_chunk, draw(st.integers(0, 20)), machine=machine, usage=usage, align=align
    )
    return machine, usage, plan


@given(plans())
def test_chunks_are_disjoint_ascending_and_cover_each_part(drawn):
    *_, plan = drawn
    for k, part in enumerate(plan.parts):
        edges = [part.start, *(end for _, end in plan.chunks_of(k))]
        assert list(plan.chunks_of(k)) == list(itertools.pairwise(edges))
        assert edges[-1] == part.end
        assert all(start < end for start, end in plan.chunks_of(k))


def chunk_one_by_one(plan, part):
    """Return the chunks as a worker takes them: from the front, one after the other."""
    chunks, position = [], part.start
    while position < part.end:
        if plan.shrinking:
            end = position + max(-((position - part.end) // plan.threads), plan.min_chunk)
        elif plan.absolute:
            end = (position // plan.chunk_size + 1) * plan.chunk_size
        else:
            end = position + plan.chunk_size
        chunks.append((position, min(end, part.end)))
        position = chunks[-1][1]
    return chunks


@given(plans())
def test_closed_form_equals_chunking_one_by_one(drawn):
    *_, plan = drawn
    assert plan.chunks() == [chunk_one_by_one(plan, part) for part in plan.parts]
    assert [plan.part_chunks(k) for k in range(len(plan.parts))] == [len(c) for c in plan.chunks()]


@given(plans(KTASK))
def test_ktask_has_a_chunk_for_every_thread(drawn):
    *_, plan = drawn
    assert plan.n_chunks >= plan.threads
    assert plan.threads == 1 or plan.chunk_size % plan.min_chunk == 0


@given(plans(PADATA))
def test_padata_ends_chunks_at_multiples_of_the_chunk_size(drawn):
    *_, plan = drawn
    inner = [end for k, part in enumerate(plan.parts) for _, end in plan.chunks_of(k) if end != part.end]
    assert plan.direct or all(end % plan.chunk_size == 0 for end in inner)


def places_left(name, machine, usage):
    """Return the helpers that may still be started under `name`, by the words of its rule."""
    limit = POLICIES[name].limit
    if limit == "four-fifths":
        return machine.cpus * 4 // 5 - usage.total
    if limit == "pool":
        return machine.pool - usage.total
    return machine.cpus - 1 - usage.total if limit == "in-use" else 10**9


@given(plans())
def test_no_grant_exceeds_a_limit_or_the_request(drawn):
    machine, usage, plan = drawn
    granted = len(plan.helpers)
    assert granted <= max(plan.want - 1, 0)
    assert granted <= max(places_left(plan.policy, machine, usage), 0)
    assert plan.threads == (granted + 1 if any(part.size for part in plan.parts) else 0)
    if POLICIES[plan.policy].limit == "four-fifths":
        assert plan.usage_during.total == usage.total + granted
        for nid, cpus in machine.cpus_per_node.items():
            before, during = usage.per_node.get(nid, 0), plan.usage_during.per_node.get(nid, 0)
            assert during == before + plan.helper_queue_nid.count(nid)
            assert during <= max(before, cpus * 4 // 5)


@given(plans(), st.data())
def test_a_migration_keeps_the_number_of_helpers_and_the_limits(drawn, data):
    machine, _, plan = drawn
    usage = plan.usage_during
    old = data.draw(st.sampled_from([-1, *(nid for nid, taken in usage.per_node.items() if taken)]))
    new = data.draw(st.sampled_from([-1, *machine.cpus_per_node]))
    queue_nid, after = migrate(old, new, machine, usage)
    assert after.total == usage.total
    assert sum(after.per_node.values()) == sum(usage.per_node.values()) - (old >= 0) + (queue_nid >= 0)
    assert queue_nid in (new, -1)
    if queue_nid >= 0:
        assert after.per_node[queue_nid] <= machine.node_limits[queue_nid]


@given(plans(), st.data())
def test_failed_undone_and_never_handed_out_partition_the_task(drawn, data):
    *_, plan = drawn
    claimed = [data.draw(st.integers(0, plan.part_chunks(k))) for k in range(len(plan.parts))]
    handed_out = [(k, i) for k, n in enumerate(claimed) for i in range(n)]
    failed = set(data.draw(st.lists(st.sampled_from(handed_out), max_size=5))) if handed_out else set()
    undone = undo_ranges(plan, claimed, failed)
    never = [plan.chunk_bounds(k, i) for k, n in enumerate(claimed) for i in range(n, plan.part_chunks(k))]
    pieces = undone + [plan.chunk_bounds(k, i) for k, i in failed] + never
    units = sorted(unit for start, end in pieces for unit in range(start, end))
    assert units == sorted(unit for part in plan.parts for unit in range(part.start, part.end))
    assert len(undone) <= len(failed) + sum(n > 0 for n in claimed)  # merged, not chunk by chunk


# --- files of worked cases ------------------------------------------------------------------------------


def table(tmp_path, case, drop=None, **changes):
    """Write one case of the worked cases with some cells changed, or a column left out."""
    with VECTORS.open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["case_id"] == case]
    row.update(changes)
    row.pop(drop, None)
    path = tmp_path / "cases.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


OUTPUT_EDITS = [
    ("010", "threads", "5", "4"),
    ("010", "helpers", "4", "3"),
    ("010", "task_size", "999", "1000"),
    ("030", "helper_start_index", "0|1|0", "1|0|1"),
    ("026", "helper_queue_nid", "0|0", "0|0|0|0|0|0|-1|-1|-1|-1|-1|-1"),
    ("026", "rlim_max", "13", "12"),
    ("026", "rlim_node_max", "0:6|1:7", "0:6|1:6"),
    ("026", "rlim_cur_during", "13", "12"),
    ("026", "rlim_node_cur_during", "0:7|1:0", "0:6|1:0"),
    ("084", "pool_free_during", "1", "0"),
    ("010", "chunk_size", "62", "56"),
    ("021", "n_chunks", "49", "50"),
    (
        "078",
        "chunks",
        "5-16|16-32|32-48|48-64|64-80|80-97|97-100",
        "5-16|16-32|32-48|48-64|64-80|80-96|96-100",
    ),
    ("078", "chunks", "5-16|16-32", "7 chunks"),
    ("021", "first_chunk", "0-21", "0-20"),
    ("021", "last_chunk", "990-1000", "980-1000"),
    ("089", "extra_out", "last_used_nid=0", "last_used_nid=1"),
    ("099", "extra_out", "inuse_during=7", "inuse_during=8"),
    ("089", "extra_out", "direct call", "no direct call"),
    ("089", "extra_out", "colour", "not a known output of a plan"),
    ("060", "extra_out", "undo_calls=0-10; returned=-5", "undo_calls="),
    ("058", "extra_out", "undo_calls=0-30|40-100; returned=-5", "returned=-12"),
    ("058", "n_chunks", "9", "10"),
    ("068", "extra_out", "intended=1 (0:2|1:7)", "intended=-1 (0:2|1:6)"),
]


@pytest.mark.parametrize("case_id, column, cell, got", OUTPUT_EDITS)
def test_an_edited_output_is_a_mismatch(tmp_path, case_id, column, cell, got):
    result = check_vectors(table(tmp_path, case_id, **{column: cell}))
    assert (result["rows"], result["passed"]) == (1, 0)
    (mismatch,) = result["mismatches"]
    assert (mismatch["case_id"], mismatch["column"], mismatch["got"]) == (case_id, column, got)
    assert mismatch["expected"] in cell


def test_an_edited_input_is_a_mismatch_too(tmp_path):
    result = check_vectors(table(tmp_path, "010", min_chunk="9"))
    assert {m["column"] for m in result["mismatches"]} >= {"chunks", "last_chunk"}


def test_empty_cells_are_not_compared(tmp_path):
    outputs = dict.fromkeys(COLUMNS[COLUMNS.index("threads") :], "")
    assert check_vectors(table(tmp_path, "010", **outputs))["passed"] == 1


BROKEN_CELLS = [
    ("010", "kind", "", "'' is not known; use one of plan, undo, migrate"),
    ("010", "kind", "walk", "'walk' is not known"),
    ("010", "policy", "ktask-v9", "'ktask-v9' is not known; use one of ktask-v1"),
    ("058", "policy", "", "'' is not known"),
    ("067", "policy", "ktask-v3/v9", "'ktask-v9' is not known"),
    ("010", "threads", "four", "'four' is not a whole number"),
    ("010", "threads", "4.0", "'4.0' is not a whole number"),
    ("010", "min_chunk", "", "'' is empty; this row needs a value here"),
    ("010", "min_chunk", "-7", "'-7' is not a whole number of at least 0"),
    ("010", "min_chunk", "0", "min_chunk of ktask-v4=0 is not allowed"),
    ("010", "default_max_threads", "0", "default_max_threads=0 is not allowed"),
    ("010", "align", "8", "align=8 is not allowed with ktask-v4"),
    ("010", "numa_aware", "yes", "'yes' is not allowed; use 0 or 1"),
    ("010", "numa_aware", "1", "numa_aware=True is not allowed with ktask-v4"),
    ("010", "cpus_online", "", "'' is empty"),
    ("010", "cpus_online", "0", "cpus=0 is not allowed"),
    ("010", "cpus_online", "9" * 25, "cpus=9+ is not allowed; .* at most 65536"),
    ("010", "cpus_per_node", "0:8|0:8", "'0:8|0:8' names a node twice"),
    ("010", "cpus_per_node", "0", "'0' is not of the form node:count"),
    ("010", "rlim_cur_before", "x", "'x' is not a whole number"),
    ("010", "nodes", "0:0", "'0:0' is not of the form node:start:size"),
    ("010", "nodes", "0:0:-5", "'-5' is not a whole number of at least 0"),
    ("010", "nodes", "7:0:1000", "nid=7 is not a node of this machine"),
    ("010", "nodes", "-3:0:1000", "nid=-3 is not allowed"),
    ("010", "chunks", "0-56|56", "'56' is not of the form start-end"),
    ("077", "max_threads", "", "'' is empty"),
    ("084", "pool_free_before", "", "'' is empty"),
    ("097", "extra_in.quota_us", "quota_us=lots", "'lots' is not a whole number"),
    ("089", "extra_out.last_used_nid", "last_used_nid=?", r"'\?' is not a whole number"),
    ("058", "chunk_size", "0", "0 is not allowed; use at least 1"),
    ("058", "extra_in.claimed_per_node", "failed=0#3", "'' is empty"),
    ("058", "extra_in.failed", "claimed_per_node=10; failed=3", "'3' is not of the form part#chunk"),
    ("058", "extra_in", "claimed_per_node=2; failed=0#3", "failed chunk 0#3 was never handed out"),
    ("058", "extra_in", "claimed_per_node=11; failed=0#3", r"claimed_per_part\[0\]=11 is not allowed"),
    ("058", "extra_out", "returned=-12", "'returned=-12' has no undo_calls="),
    ("067", "extra_in.new_kn_nid", "old_queue_nid=0", "'' is empty"),
    ("067", "extra_in", "old_queue_nid=0; new_kn_nid=5", "nid=5 is not a node"),
    ("067", "rlim_node_max", "", "'' is empty"),
    ("067", "extra_out.intended", "intended=1", "'1' is not of the form queue_nid"),
]


@pytest.mark.parametrize("case_id, column, cell, problem", BROKEN_CELLS)
def test_a_broken_cell_is_named_with_its_place(tmp_path, case_id, column, cell, problem):
    path = table(tmp_path, case_id, **{column.partition(".")[0]: cell})
    place = f"{path}, line 2, case '{case_id}', column '{column}': "
    with pytest.raises(ValueError, match=problem) as caught:
        check_vectors(path)
    assert str(caught.value).startswith(place)


def test_a_case_without_a_name_is_known_by_its_line(tmp_path):
    (mismatch,) = check_vectors(table(tmp_path, "010", case_id="", threads="5"))["mismatches"]
    assert mismatch["case_id"] == "line 2"


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    with pytest.raises(ValueError, match=rf"cases.csv: column '{column}' is missing"):
        check_vectors(table(tmp_path, "010", drop=column))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "column 'case_id' is missing"),
        ((",".join(COLUMNS) + "\n").encode(), "no rows below the header"),
        ((",".join(COLUMNS) + ",threads\n").encode(), "column 'threads' appears twice"),
        ((",".join(COLUMNS) + "\n1,plan\n").encode(), "line 2: fewer cells than the header"),
        ((",".join(COLUMNS) + "\n" + "," * 50 + "\n").encode(), "line 2: more cells than the header"),
        (b"case_id,\xff\n", "not a CSV file in UTF-8"),
        ((",".join(COLUMNS) + '\n"x"y,\n').encode(), "not a CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        check_vectors(path)
    assert str(caught.value).startswith(str(path))


def test_an_engine_is_asked_for_its_chunks_and_its_undo():
    asked = []

    def run_undo(parts, chunk_size, claimed, failed, first_error):
        asked.append("undo")
        plan = Plan("ktask-v4", parts, threads=4, chunk_size=chunk_size)
        return undo_ranges(plan, claimed, failed), first_error

    def run_plan(plan):
        asked.append("plan")
        return [list(reversed(part)) for part in plan.chunks()]  # any order of workers is right

    assert check_vectors(VECTORS, run_undo, run_plan)["mismatches"] == []
    assert (asked.count("plan"), asked.count("undo")) == (49, 7)


def test_an_engine_that_errs_is_caught(tmp_path):
    plan_case = table(tmp_path, "003")
    (mismatch,) = check_vectors(plan_case, run_plan=lambda plan: [[(0, 10), (0, 10), *plan.chunks()[0][2:]]])[
        "mismatches"
    ]
    assert mismatch["column"] == "chunks run of part 0"
    assert (mismatch["expected"], mismatch["got"]) == ("missing: 10-20", "surplus: 0-10")
    undo_case = table(tmp_path, "058")
    found = check_vectors(undo_case, run_undo=lambda *_: ([(0, 100)], 0))["mismatches"]
    assert [m["got"] for m in found] == ["undo_calls=0-100", "returned=0"]


def test_a_plan_with_very_many_chunks_is_not_run(tmp_path):
    case = table(
        tmp_path, "010", policy="dynamic", nodes="0:0:1000000", task_size="", min_chunk="1", threads="",
        helpers="", helper_start_index="", helper_queue_nid="", rlim_cur_during="", rlim_node_cur_during="",
        chunk_size="", n_chunks="1000000", chunks="", first_chunk="", last_chunk="",
    )  # fmt: skip
    assert check_vectors(case, run_plan=lambda plan: pytest.fail("ran"))["passed"] == 1


def test_an_engine_is_not_asked_to_undo_between_absolute_boundaries(tmp_path):
    chunks = dict.fromkeys(("chunks", "n_chunks", "task_size"), "")
    outcome = "undo_calls=5-10|20-25; returned=-12"
    inputs = {"nodes": "0:5:20", "extra_in": "claimed_per_node=3; failed=0#1; first_error=-12"}
    case = table(tmp_path, "058", policy="ktask-uek", extra_out=outcome, **inputs, **chunks)
    assert check_vectors(case, run_undo=lambda *_: pytest.fail("asked"))["mismatches"] == []
