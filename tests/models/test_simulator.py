"""The simulator: closed forms, the engine's own chunks, and conservation."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ktask.engine import policy
from ktask.engine import run as engine
from ktask.engine.conformance import vectors
from ktask.engine.conformance.check import _nothing
from ktask.engine.policy import Part
from ktask.engine.task import Ctl
from ktask.models.simulation.machines import Load, Machine, nice_weight
from ktask.models.simulation.simulator import run_plan, simulate, simulations

MIB, GIB = 1 << 20, 1 << 30
VECTORS = Path(__file__).parents[1] / "data" / "ktask-vectors.csv"
QUIET = Machine("quiet", cores_per_node=64, core_bandwidth=float(GIB))


def closed_form_s(plan, machine):
    """Return the makespan of equal workers that start together, if only the last chunk is short."""
    chunks = [end - start for start, end in plan.chunks_of(0)]
    per_chunk = Fraction(max(chunks)) / Fraction(machine.core_bandwidth) + Fraction(machine.chunk_cost_s)
    last = Fraction(chunks[-1]) / Fraction(machine.core_bandwidth) + Fraction(machine.chunk_cost_s)
    before = len(chunks) - 1
    return max(-(-before // plan.threads) * per_chunk, before // plan.threads * per_chunk + last)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 1 << 20),
    min_chunk=st.integers(1, 1 << 12),
    threads=st.integers(1, 64),
    policy_name=st.sampled_from(["ktask-v4", "ktask-v2", "dynamic", "static"]),
    cost=st.sampled_from([0.0, 2.0**-20]),
)
def test_one_node_without_noise_and_locks_meets_the_closed_form(size, min_chunk, threads, policy_name, cost):
    """To the last bit: bandwidth, costs and sizes are chosen so that floats hold every sum."""
    machine = replace(QUIET, chunk_cost_s=cost)
    simulation = simulate(machine, size, min_chunk, threads, policy_name)
    assert Fraction(simulation.wall_s) == closed_form_s(simulation.plan, machine)


def test_engine_and_simulator_run_the_same_chunks_for_every_vector():
    def simulated(plan):
        if plan.threads == 0:
            return [[] for _ in plan.parts]
        nodes = 1 + max(0, *(part.nid for part in plan.parts), *plan.helper_queue_nid)
        trace = run_plan(Machine("any", nodes=nodes, cores_per_node=8), plan, trace=True).trace
        ran = [list(zip(t.start, t.end, strict=True)) for _, t in trace.groupby("part")]
        found = dict(zip(sorted(trace.part.unique()), ran, strict=True))
        by_engine = engine.carry_out(plan, Ctl(_nothing), trace=True).trace_rows
        for k in range(len(plan.parts)):  # in the order of their handing out, too
            assert found.get(k, []) == [(row[3], row[4]) for row in by_engine if row[0] == k]
        return [found.get(k, []) for k in range(len(plan.parts))]

    result = vectors.check_vectors(VECTORS, run_plan=simulated)
    assert result["mismatches"] == []
    assert result["rows"] == result["passed"] > 50


def test_a_lone_worker_goes_through_the_parts_in_the_engines_order():
    parts = [Part(100 * k, 40 + k, 0) for k in range(9)]
    plan = policy.Plan("ktask-v4", tuple(parts), threads=1, chunk_size=7)
    simulated = run_plan(QUIET, plan, trace=True).trace
    real = engine.carry_out(plan, Ctl(_nothing), trace=True).trace.sort_values("t0_s", kind="stable")
    assert simulated.start.tolist() == real.start.tolist()
    assert simulated.part.nunique() == 9


def test_memory_of_a_node_is_shared_by_all_who_use_it():
    machine = replace(QUIET, node_bandwidth=4.0 * GIB)
    walls = [simulate(machine, 64 * GIB, MIB, n, "static").wall_s for n in (1, 2, 4, 8, 16)]
    assert walls == pytest.approx([64, 32, 16, 16, 16])


def test_far_memory_takes_longer():
    machine = replace(QUIET, nodes=2, cores_per_node=1, remote_penalty=2.0)
    parts = [Part(0, 12 * GIB, 0)]
    assert simulate(machine, parts, GIB, 2).wall_s == 8.0  # 8 chunks at home, 4 from afar
    spread = [Part(0, 6 * GIB, 0), Part(6 * GIB, 6 * GIB, 1)]
    assert simulate(machine, spread, GIB, 2, "dynamic").wall_s == 6.0


def test_memory_spread_over_all_nodes_is_far_in_part():
    machine = replace(QUIET, nodes=4, remote_penalty=2.0)
    assert simulate(machine, [Part(0, GIB, -1)], GIB, 1).wall_s == pytest.approx(1.75)


@pytest.mark.parametrize(("threads", "expected_s"), [(1, 64.0), (2, 32.0), (4, 16.0), (8, 8.0), (16, 8.0)])
def test_a_lock_is_the_floor(threads, expected_s):
    """An eighth of the work is serial, so more than eight threads gain nothing."""
    wall_s = simulate(replace(QUIET, lock_share=0.125), 64 * GIB, 64 * MIB, threads, "dynamic").wall_s
    assert expected_s <= wall_s < expected_s * 1.02


def test_siblings_share_their_core():
    machine = replace(QUIET, cores_per_node=2, smt=2, smt_gain=1.5)
    walls = [simulate(machine, 12 * GIB, MIB, n, "static").wall_s for n in (1, 2, 4)]
    assert walls == pytest.approx([12, 6, 4])


def test_one_thread_alone_may_be_slower_than_its_share():
    walls = [simulate(replace(QUIET, slow_start=1.25), 8 * GIB, GIB, n, "static").wall_s for n in (1, 2, 4)]
    assert walls == [10, 4, 2]


def test_contention_slows_everybody():
    machine = replace(QUIET, contention=0.1)
    assert simulate(machine, 8 * GIB, GIB, 2, "static").wall_s == pytest.approx(4 * 1.1)


def test_neighbours_meet_in_small_chunks():
    machine = replace(QUIET, neighbour_contention=0.4, neighbour_span=float(8 * GIB))
    for chunk, share in ((4 * GIB, 0.5), (2 * GIB, 0.75), (8 * GIB, 0.0)):
        wall_s = simulate(machine, 2 * chunk, chunk, 2, "static").wall_s
        assert wall_s == pytest.approx(chunk / GIB * (1 + 0.4 * share))
    three = simulate(machine, 12 * GIB, 4 * GIB, 3, "static").wall_s  # two pairs of three are 4 GiB apart
    assert three == pytest.approx(4 * (1 + 2 * 0.4 * (0.5 + 0.5 + 0) / 3))


def test_a_flush_is_for_those_that_run():
    machine = replace(QUIET, chunk_flush_s=0.25)
    assert simulate(machine, 8 * GIB, GIB, 1, "dynamic").wall_s == 8
    assert simulate(machine, 8 * GIB, GIB, 2, "dynamic").wall_s == pytest.approx(4 * 1.25)
    assert simulate(machine, 3 * GIB, GIB, 2, "dynamic").wall_s == pytest.approx(1.25 + 1)


def test_helpers_cost_time_to_queue_and_to_start():
    machine = replace(QUIET, task_start_s=1.0, helper_queue_s=0.25, helper_start_s=0.5)
    simulation = simulate(machine, 3 * GIB, GIB, 3, "static", trace=True)
    assert simulation.trace.t0_s.tolist() == [1.5, 1.75, 2.0]  # the caller, once both are queued; 1; 2
    assert simulate(machine, GIB, GIB, 1).wall_s == 2.0


def test_taking_a_chunk_is_serial():
    machine = replace(QUIET, claim_s=1.0)
    assert simulate(machine, 64 * MIB, MIB, 16, "dynamic").wall_s == pytest.approx(64 + 1 / 1024)


@pytest.mark.parametrize("run_queue", ["cpu", "node"])
def test_cpu_time_is_shared_by_weight(run_queue):
    """One CPU: the caller at nice 0 beside load at nice 0, and at nice 19."""
    machine = replace(QUIET, cores_per_node=1, run_queue=run_queue)
    for nice in (0, 19):
        loaded = replace(machine, load=(Load(1, nice=nice),))
        simulation = simulate(loaded, GIB)
        share = 1024 / (1024 + nice_weight(nice))
        assert simulation.wall_s == pytest.approx(1 / share)
        assert simulation.loads.done_s[0] == pytest.approx(1 / share - 1)


def test_perfect_balance_gives_all_threads_of_a_node_the_same():
    machine = replace(QUIET, cores_per_node=2, run_queue="node", load=(Load(2),))
    assert simulate(machine, 2 * GIB, GIB, 1).wall_s == pytest.approx(3.0)  # three threads, two CPUs
    apart = replace(machine, run_queue="cpu")
    assert simulate(apart, 2 * GIB, GIB, 1).wall_s == pytest.approx(4.0)  # it shares one CPU all the time


def test_load_ends_and_leaves_its_cpu():
    machine = replace(QUIET, cores_per_node=1, load=(Load(1, cpu_time_s=1.0, start_s=-0.5),))
    simulation = simulate(machine, 2 * GIB)
    assert simulation.loads.end_s[0] == pytest.approx(1.0)
    assert simulation.wall_s == pytest.approx(2.5)


def test_memory_that_load_takes_is_missing():
    machine = replace(QUIET, node_bandwidth=1.5 * GIB, load=(Load(2, bandwidth=1.0 * GIB),))
    assert simulate(machine, GIB, GIB, 1).wall_s == pytest.approx(2.0)  # three ask for 3 of 1.5 GiB/s


def test_a_caller_out_of_chunks_lends_its_priority():
    """Two CPUs full of load: a helper at nice 19 holds the last chunk until it gets the caller's priority."""
    machine = replace(QUIET, cores_per_node=3, load=(Load(3),))
    walls = {
        hand_over: simulate(machine, 8 * GIB, GIB, 2, "ktask-v4", hand_over=hand_over).wall_s
        for hand_over in (True, False)
    }
    starved = (1024 + 15) / 15
    assert walls[False] == pytest.approx(starved)
    assert walls[True] == pytest.approx(14 + (1 - 14 / starved) * 2)
    equal = simulate(machine, 8 * GIB, GIB, 2, "ktask-v4", low_priority=False).wall_s
    assert equal == pytest.approx(8.0)


def test_load_moves_to_the_cpu_that_the_caller_leaves_idle():
    """The helper at nice 19 shares its CPU with load until the caller has done seven chunks."""
    machine = replace(QUIET, cores_per_node=2, load=(Load(1),))
    found = simulations(machine, 8 * GIB, GIB, 2, "ktask-v4", seeds=range(2), hand_over=False)
    assert [one.wall_s for one in found] == [pytest.approx(8 - 7 * 15 / (1024 + 15))] * 2


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(1, 3),
    cores=st.integers(1, 4),
    threads=st.integers(1, 16),
    loads=st.integers(0, 6),
    rounds=st.sampled_from([1, 3]),
    run_queue=st.sampled_from(["cpu", "node"]),
    lock_share=st.sampled_from([0.0, 0.1]),
    noise=st.sampled_from([0.0, 0.3]),
)
def test_work_is_conserved(nodes, cores, threads, loads, rounds, run_queue, lock_share, noise):
    """Every byte is done once, every second of load is done, and nobody uses more CPUs than there are."""
    machine = Machine(
        "any",
        nodes=nodes,
        cores_per_node=cores,
        core_bandwidth=float(GIB),
        node_bandwidth=3.0 * GIB,
        remote_penalty=1.5,
        run_queue=run_queue,
        lock_share=lock_share,
        noise=noise,
        load=(Load(loads, cpu_time_s=2.0, start_s=0.5, rounds=rounds, pause_s=0.1 * (rounds - 1)),),
    )
    parts = [Part(k * 100 * GIB, (k + 1) * GIB, k) for k in range(nodes)]
    simulation = simulate(machine, parts, 8 * MIB, threads, loads_to_end=True, trace=True)
    trace = simulation.trace
    assert (trace.end - trace.start).sum() == sum(part.size for part in parts)
    assert (trace.t1_s >= trace.t0_s).all()
    assert trace.t1_s.max() == pytest.approx(simulation.wall_s)
    assert simulation.workers.chunks.sum() == len(trace)
    assert simulation.loads.done_s.sum() == pytest.approx(2.0 * loads + (0.6 if rounds == 3 and loads else 0))
    end_s = max(simulation.wall_s, simulation.loads.end_s.max() if loads else 0)
    used_s = simulation.workers.cpu_s.sum() + simulation.loads.cpu_s.sum()
    assert used_s <= end_s * machine.cpus * (1 + 1e-9)


def test_load_sleeps_while_one_of_its_threads_ends_the_round():
    """Four seconds in two rounds, and a second of one after each, in which the task has a CPU for itself."""
    load = Load(2, cpu_time_s=4.0, start_s=-1e-9, rounds=2, pause_s=1.0)
    machine = replace(QUIET, cores_per_node=2, run_queue="node", caller_nice=19, load=(load,))
    alone = simulate(machine, 0, loads_to_end=True).loads
    assert alone.end_s.tolist() == pytest.approx([6.0, 6.0])
    assert alone.cpu_s.sum() == pytest.approx(2 * 4 + 2)
    beside = simulate(machine, 4 * GIB, 4 * GIB, 1, loads_to_end=True)
    starved = 2 * 15 / (2 * 1024 + 15)  # of a CPU, for the task
    round_s = 2 / (1 - starved / 2)
    assert beside.loads.end_s.max() == pytest.approx(2 * (round_s + 1))
    assert beside.wall_s == pytest.approx(2 * (round_s + 1) + 4 - 2 * (starved * round_s + 1))


def test_noise_is_reproducible_and_of_mean_one():
    machine = replace(QUIET, noise=0.2)
    walls = [simulate(machine, 64 * GIB, 16 * MIB, 1, "dynamic", seed=seed).wall_s for seed in range(5)]
    assert walls == [
        simulate(machine, 64 * GIB, 16 * MIB, 1, "dynamic", seed=seed).wall_s for seed in range(5)
    ]
    assert len(set(walls)) == 5
    assert sum(walls) / 5 == pytest.approx(64, rel=0.01)


def test_guided_chunks_shrink():
    simulation = simulate(QUIET, 100 * MIB, MIB, 4, "guided", trace=True)
    sizes = (simulation.trace.end - simulation.trace.start).tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 100 * MIB


def test_an_empty_task_takes_no_time():
    simulation = simulate(QUIET, 0)
    assert (simulation.wall_s, simulation.plan.threads, len(simulation.workers)) == (0.0, 0, 0)


def test_endless_load_is_not_waited_for():
    with pytest.raises(ValueError, match="loads_to_end=True needs load that ends"):
        simulate(replace(QUIET, load=(Load(1),)), GIB, loads_to_end=True)
    assert math.isnan(simulate(replace(QUIET, load=(Load(1),)), GIB).loads.end_s[0])
