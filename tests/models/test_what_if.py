"""Questions to the simulator, calibration, and validation against the engine and published tables."""

import dataclasses
import json
import math

import pandas as pd
import published_machines
import pytest
from msgspec.structs import replace

from ktask.lab import traces
from ktask.lab.records import SCHEMA, Run
from ktask.models.simulation import calibrate, contention, machines, validation, what_if
from ktask.models.simulation.machines import Load, Machine, load_machine
from ktask.models.simulation.simulator import simulate, simulations
from ktask.workloads import Case

MIB, GIB = 1 << 20, 1 << 30
QUIET = Machine("quiet", nodes=2, cores_per_node=8, core_bandwidth=float(GIB), node_bandwidth=4.0 * GIB)


# --- questions -----------------------------------------------------------------------------------------


def test_scaling_up_to_the_limit_of_helpers():
    table = what_if.scaling(QUIET, what_if.spread(64 * GIB, QUIET))
    assert table.threads_requested.tolist() == [1, 2, 4, 8, 13]
    assert table.threads.tolist() == [1, 2, 4, 8, 13]  # 4/5 of 16 CPUs, and the caller
    assert table.speedup.tolist()[:4] == pytest.approx([1, 2, 4, 8], rel=0.01)
    assert table.speedup.max() <= 8.01  # two nodes of 4 GiB/s


def test_noise_gives_an_interval_and_costs_balance():
    table = what_if.scaling(replace(QUIET, noise=0.3), 64 * GIB, [4])
    assert table.low_s[0] < table.wall_s[0] < table.high_s[0]
    assert table.wall_s[0] > what_if.scaling(QUIET, 64 * GIB, [4]).wall_s[0]


def test_finer_chunks_balance_better_until_their_cost_shows():
    table = what_if.chunk_balance(replace(QUIET, noise=0.3, chunk_cost_s=1e-3), 8 * GIB, 4)
    dynamic = table[table.policy == "dynamic"]
    assert dynamic.idle_pct.is_monotonic_decreasing
    assert 0 < dynamic.wall_s.to_numpy().argmin() < len(dynamic) - 1
    chosen = table[table.policy == "ktask-v4"].iloc[0]
    assert chosen.n_chunks == 16
    assert chosen.loss_pct < 30


def test_neighbours_lose_what_helpers_take():
    """Sixteen threads of load on sixteen CPUs: every worker takes half a CPU from one of them."""
    table = what_if.cap_and_neighbours(replace(QUIET, node_bandwidth=math.inf), 32 * GIB, 16, [1, 2, 8])
    assert table.load_loss_pct.tolist() == pytest.approx([100 * n / 32 for n in (1, 2, 8)], rel=0.02)
    assert table.taken_s.tolist() == pytest.approx([32, 32, 32], rel=0.02)
    polite = what_if.cap_and_neighbours(QUIET, 32 * GIB, 16, [8], low_priority=True)
    assert polite.load_loss_pct[0] < 5


def test_one_node_is_flooded_where_two_are_not():
    table = what_if.one_node_or_all(replace(QUIET, remote_penalty=1.5), 32 * GIB, [1, 4, 13])
    best = table[table.threads == 13].set_index("memory").wall_s
    assert best["one-node"] == pytest.approx(8, rel=0.01)  # 4 GiB/s
    assert best["parts"] == pytest.approx(4, rel=0.2)
    assert table[(table.threads == 1) & (table.memory == "interleaved")].wall_s.item() == pytest.approx(40)


def test_hand_over_ends_starvation_and_spares_the_load():
    table = what_if.under_load(QUIET, 8 * GIB, [0, 16], 8).set_index(["load_threads", "helpers"])
    full = table.loc[16]
    assert full.wall_s["helpers at low priority"] > 1.2 * full.wall_s["low priority, handed over"]
    assert full.wall_s["low priority, handed over"] < full.wall_s["one thread"]
    assert (
        full.load_loss_pct["low priority, handed over"]
        < full.load_loss_pct["helpers at the caller's priority"]
    )
    idle = table.loc[0]
    assert idle.wall_s["low priority, handed over"] == idle.wall_s["helpers at the caller's priority"]


def test_load_that_nothing_disturbs_loses_nothing():
    machine = replace(QUIET, load=(Load(3, start_s=-1.0), Load(2, cpu_time_s=0.5)))
    assert what_if.load_loss_pct(simulate(machine, GIB, GIB, 1)) == 0.0


# --- calibration ---------------------------------------------------------------------------------------


def run_of(machine, tmp_path, cases):
    """Return a run whose times a machine gave, one repetition per case."""
    rows = []
    for size, threads in cases:
        one = simulate(machine, size, max_threads=threads, low_priority=False)
        row = dict.fromkeys(SCHEMA.names) | {
            "workload": "zeroing",
            "method": "populate",
            "page_kind": "THP",
            "options": "",
            "cell_id": f"cell-{size}",
            "size_bytes": size,
            "policy": "ktask-v4",
            "min_chunk_size": 2 * MIB,
            "baseline": threads == 1,
            "threads": one.plan.threads,
            "threads_requested": threads,
            "chunk_size": one.plan.chunk_size,
            "n_chunks": one.plan.n_chunks,
            "wall_s": one.wall_s,
            "warmup": False,
            "flags": [],
        }
        rows += [
            row,
            row | {"warmup": True, "wall_s": 99.0},
            row | {"flags": ["cold_memory"], "wall_s": 99.0},
        ]
    facts = {"nodes": [{"nid": 0, "cpus": list(range(16))}], "threads": 16, "cores": 8}
    return Run("made", tmp_path, pd.DataFrame(rows), facts, {}, pd.DataFrame())


def test_calibration_finds_the_machine_again(tmp_path):
    known = Machine("known", cores_per_node=8, smt=2, core_bandwidth=8e9, contention=0.03, task_start_s=1e-3)
    cases = [(size, n) for size in (64 * MIB, 256 * MIB, GIB) for n in (1, 2, 4)]
    found = calibrate.calibrate(run_of(known, tmp_path, cases))
    assert (found.nodes, found.cores_per_node, found.smt) == (1, 8, 2)
    work = found.for_work("zeroing-populate-THP")
    assert work.core_bandwidth == pytest.approx(8e9, rel=1e-6)
    assert work.task_start_s == pytest.approx(1e-3, rel=1e-6)
    assert work.contention == pytest.approx(0.03, rel=1e-3)
    machines.write_machine(found, tmp_path / "found.yaml")
    assert load_machine(tmp_path / "found.yaml") == found


def test_what_fits_a_cache_says_nothing_about_memory():
    """The small size is five times as fast, the middle one has a start of 1 ms."""
    start_s, bandwidth = calibrate.fit_line(
        [MIB, 256 * MIB, GIB], [MIB / 40e9, 1e-3 + 256 * MIB / 8e9, 1e-3 + GIB / 8e9]
    )
    assert bandwidth == pytest.approx(8e9, rel=0.01)
    assert 0 <= start_s < 1e-3
    assert calibrate.fit_line([GIB, GIB], [0.1, 0.1]) == pytest.approx((0, GIB / 0.1))


def test_seeds_of_a_layout_give_the_times_of_whole_simulations():
    noisy = replace(QUIET, noise=0.2, contention=0.05, helper_queue_s=1e-4)
    whole = [simulate(noisy, GIB, max_threads=6, seed=seed).wall_s for seed in range(3)]
    assert [one.wall_s for one in simulations(noisy, GIB, max_threads=6, seeds=range(3))] == whole
    assert len(set(whole)) == 3
    assert [one.wall_s for one in simulations(noisy, 0)] == [0.0]


def test_a_superlinear_start_makes_one_thread_slow(tmp_path):
    known = Machine("known", cores_per_node=8, core_bandwidth=8e9, slow_start=1.2)
    work = calibrate.calibrate(run_of(known, tmp_path, [(GIB, n) for n in (1, 2, 4)])).for_work(
        "zeroing-populate-THP"
    )
    assert (work.core_bandwidth, work.slow_start) == pytest.approx((8e9, 1.2), rel=1e-6)
    assert work.contention == 0


def test_a_plateau_is_taken_for_the_roof_of_the_node(tmp_path):
    known = Machine("known", cores_per_node=16, core_bandwidth=8e9, node_bandwidth=20e9)
    found = calibrate.calibrate(run_of(known, tmp_path, [(GIB, n) for n in (1, 2, 4, 8)]))
    work = found.for_work("zeroing-populate-THP")
    assert work.node_bandwidth == pytest.approx(20e9, rel=0.02)
    assert work.contention == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "costs", [{"lock_share": 0.9}, {"lock_share": 1.0}, {"lock_share": 1.0, "contention": 0.1}]
)
def test_where_no_thread_gains_they_take_turns_at_a_lock(tmp_path, costs):
    """Their chunks wait for each other, which is no noise; two threads come out as they were measured."""
    known = Machine("known", cores_per_node=16, core_bandwidth=8e9, **costs)
    run = run_of(known, tmp_path, [(GIB, 1), (GIB, 2)])
    work = calibrate.calibrate(run).for_work("zeroing-populate-THP")
    assert work.noise == 0 and math.isinf(work.node_bandwidth)
    assert work.lock_share == pytest.approx(known.lock_share, abs=0.01)
    assert work.contention == pytest.approx(known.contention, abs=1e-3)
    case = calibrate.measured_walls(run).query("threads == 2").iloc[0]
    assert calibrate.simulated_wall_s(work, case) == pytest.approx(case.wall_s, rel=1e-3)


def test_a_run_that_only_warmed_up_cannot_be_calibrated_on(tmp_path):
    run = run_of(QUIET, tmp_path, [(GIB, 1)])
    run.records["warmup"] = True
    with pytest.raises(ValueError, match="run made has no settled repetition; measure again"):
        calibrate.calibrate(run)


@pytest.mark.parametrize(
    "facts", [{}, {"nodes": "two", "threads": "2", "cores": -1}, {"nodes": [None, {"cpus": 3}], "threads": 0}]
)
def test_threads_that_ran_had_cpus_whatever_the_facts_say(tmp_path, facts):
    known = Machine("known", cores_per_node=16, core_bandwidth=8e9, contention=0.1)
    run = dataclasses.replace(run_of(known, tmp_path, [(GIB, n) for n in (1, 2, 4)]), machine=facts)
    found = calibrate.calibrate(run)
    assert (found.nodes, found.cores_per_node, found.smt) == (1, 4, 1)
    assert found.for_work("zeroing-populate-THP").contention == pytest.approx(0.1, rel=0.01)


def test_noise_and_start_come_from_traces():
    rows = [
        ("c", w, k * 10, (k + 1) * 10, 0.01 * w, 0.01 * w + t)
        for w, t in ((0, 1.0), (1, 1.1))
        for k in (0, 1, 2)
    ]
    table = pd.DataFrame(rows, columns=["cell_id", "helper", "start_bytes", "end_bytes", "t0_s", "t1_s"])
    table["t0_s"] += 0.005
    assert calibrate.helper_starts(table, 1e-3) == pytest.approx(
        {"helper_queue_s": 0.004, "helper_start_s": 0.01}
    )
    table["t0_s"] -= 0.005
    assert calibrate.chunk_noise(table) == pytest.approx(math.log(1.1) / 2 * math.sqrt(6 / 5))
    nothing = traces.SCHEMA.empty_table().to_pandas()
    assert set(calibrate.helper_starts(nothing).values()) == {calibrate.chunk_noise(nothing)} == {0.0}


# --- validated against the engine and published tables ----------------------------------------------------


def test_trials_are_predicted_from_even_rounds_only():
    case = Case("zeroing", "populate", "4KiB", 4 * MIB, 64 << 10)
    ways = validation.trials(2)
    rows = validation.measure_trials(case, ways, rounds=2)
    assert rows.groupby("round").trial.nunique().tolist() == [len(ways)] * 2
    assert set(rows.n_chunks) >= {1, 16}
    first = validation.predicted(rows, 2)
    rows.loc[rows["round"] == 1, "wall_s"] *= 2
    second = validation.predicted(rows, 2)
    assert first.simulated_s.tolist() == second.simulated_s.tolist()
    assert (second.wall_s / first.wall_s).tolist() == pytest.approx([2] * len(first))
    assert set(first.trial) == {way.name for way in ways}


def test_cold_repetitions_of_a_trial_are_left_out_if_there_are_enough_to_tell():
    wall_s = [1.0] * 7 + [5.0] + [1.0, 9.0] + [5.0] * 8
    names = ["many"] * 8 + ["few"] * 2 + ["long"] * 8
    rows = pd.DataFrame({"trial": names, "wall_s": wall_s, "cpu_s": wall_s})
    kept = validation.warm(rows)
    assert kept.groupby("trial").wall_s.apply(list).to_dict() == {
        "few": [1.0, 9.0],
        "long": [5.0] * 8,
        "many": [1.0] * 7,
    }


def test_ways_of_chunking_show_each_cost():
    """Huge pages: one lock per GiB, a flush per chunk, helpers that start late, a slow lone thread."""
    costs = {"slow_start": 1.1, "contention": 0.2, "neighbour_contention": 0.3, "neighbour_span": float(GIB)}
    late = {"helper_queue_s": 4e-5, "helper_start_s": 2e-5}
    known = Machine("known", cores_per_node=2, core_bandwidth=4e11, chunk_flush_s=1e-5, **costs, **late)
    rows = []
    for way in validation.trials(2):
        chunk = math.ceil(2 * GIB * way.chunk_share) or 2 * MIB
        one = simulate(known, 2 * GIB, chunk, way.threads, way.policy, low_priority=False, trace=True)
        first = one.trace.groupby("worker").t0_s.min()
        row = {"trial": way.name, "fit": way.fit, "threads": way.threads, "policy": way.policy}
        row |= {"min_chunk_size": chunk, "size_bytes": 2 * GIB, "span_bytes": GIB, "baseline": False}
        row |= {"n_chunks": one.plan.n_chunks, "wall_s": one.wall_s, "caller_s": first[0]}
        rows += [{"round": k, "helper_s": first.get(1, math.nan), **row} for k in (0, 1)]
    table = validation.predicted(pd.DataFrame(rows), 2)
    assert (~table.fit).sum() == 6
    assert table.error_pct.abs().max() < 1
    assert table.again_pct.abs().max() == 0
    found = validation.calibrated(pd.DataFrame(rows), 2)
    for name in ("helper_queue_s", "helper_start_s", "contention", "neighbour_contention"):
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=0.2), name


def test_published_contention_comes_out_of_the_simulator():
    """All 32 within 15 %, 12 of which rest on uncontended rows only: see docs/simulator.md."""
    result = contention.result()
    parts = result["score"]["by_rests_on"]
    assert {name: (part["within_15_pct"], part["n"]) for name, part in parts.items()} == {
        "alone": (12, 12),
        "scaled": (10, 10),
        "stands in": (10, 10),
    }
    assert result["score"]["median_ape_pct"] < 4
    assert max(abs(row["error_pct"]) for row in result["rows"] if row["setting"] == "2/8") < 5
    handed = next(row for row in result["rows"] if row["published_s"] == 14.62)
    assert handed["spread_pct"] == pytest.approx(100 * 2.03 / 14.62)
    fit = [row for row in result["rows"] if row["calibrated_on"]]
    assert len(fit) == 9
    contended = [row for row in fit if row["kind"] == "task" and row["setting"] in ("1/7", "1/8")]
    assert len(contended) == 2  # the task of case 1 was never published alone
    json.dumps(result, allow_nan=False)


def test_memory_beyond_a_node_takes_longer():
    penalty = contention.remote_penalty()
    longer = 1 + (1 - 128 / 800) * (penalty - 1)
    assert longer == pytest.approx(434.91 / 800 / (41.13 / 100), rel=0.02)
    assert contention.far_factor(350) == 1
    assert contention.far_factor(2 * contention.NODE_GIB) == pytest.approx((1 + penalty) / 2)


def test_shipped_descriptions_are_those_of_the_published_data(tmp_path):
    written = published_machines.write_all(tmp_path)
    assert {path.stem for path in written} <= set(machines.shipped())
    for path in written:
        assert path.read_text() == machines.shipped()[path.stem].read_text(), path.stem
