"""Flags: kernel counters around a repetition, and what flagged repetitions do to a result."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ktask.host import counters as events
from ktask.host.counters import MEANINGS, event_flags, sample_events, sample_state, state_flags
from ktask.lab.measure.flags import flag_effects, mark_cold_over_processes, superlinear
from ktask.lab.records import load_run

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
VMSTAT = """nr_free_pages 1000
pswpin 1
pswpout 2
allocstall_dma32 3
allocstall_movable 4
compact_stall 5
thp_fault_fallback 6
thp_fault_fallback_charge 100
numa_pages_migrated 7
balloon_inflate 8
balloon_deflate 9
"""
COUNTS = {"swapped": 3, "reclaim": 7, "compaction": 5, "huge_fallback": 6, "numa_moves": 7, "ballooned": 17}


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path):
    """A machine with the counters of `VMSTAT`."""
    put(tmp_path, "proc/vmstat", VMSTAT)
    return tmp_path


def test_counters_are_read_by_flag(root):
    assert sample_events(root) == COUNTS


def test_a_machine_without_counters_raises_nothing(tmp_path):
    assert sample_events(tmp_path) == {}
    assert event_flags({}, COUNTS) == event_flags(COUNTS, {}) == []


@pytest.mark.parametrize("flag", COUNTS)
def test_one_event_raises_its_flag_and_no_other(flag):
    assert event_flags(COUNTS, COUNTS | {flag: COUNTS[flag] + 1}) == [flag]
    assert event_flags(COUNTS, COUNTS) == []


def test_a_quota_that_stops_the_process_is_seen_in_its_group_and_above(root):
    put(root, "proc/self/cgroup", "0::/jobs/one\n")
    put(root, "proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    put(root, "sys/fs/cgroup/jobs/cpu.max", "50000 100000\n")
    put(root, "sys/fs/cgroup/jobs/cpu.stat", "usage_usec 10\nnr_periods 4\nnr_throttled 2\n")
    put(root, "sys/fs/cgroup/jobs/one/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/jobs/one/cpu.stat", "nr_throttled 9\n")
    before = sample_events(root)
    assert before["throttled"] == 2
    put(root, "sys/fs/cgroup/jobs/cpu.stat", "nr_throttled 3\n")
    assert event_flags(before, sample_events(root)) == ["throttled"]


def test_heat_counts_once_per_package(root):
    for cpu in range(4):
        put(root, f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count", "5\n")
        put(root, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", f"{cpu // 2}\n")
    assert sample_events(root)["thermal"] == 10


@pytest.mark.parametrize(
    ("khz", "raised"), [(2_000_000, []), (2_190_000, []), (1_700_000, ["clock_changed"])]
)
def test_a_clock_that_changes_is_flagged(khz, raised, root):
    path = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    put(root, path, "2000000\n")
    before = sample_events(root)
    put(root, path, f"{khz}\n")
    assert event_flags(before, sample_events(root)) == raised
    assert event_flags(sample_events(root), before) == raised


def test_every_flag_has_a_meaning():
    assert set(events.VMSTAT) | {"throttled", "thermal", "clock_changed"} <= set(MEANINGS)
    assert all(text and not text.endswith(".") for text in MEANINGS.values())


def test_the_state_around_a_repetition_holds_the_events(root):
    put(root, "proc/stat", "cpu 1 0 0 0 0 0 0 0\ncpu0 1 0 0 0 0 0 0 0\n")
    before = sample_state(root)
    put(root, "proc/vmstat", VMSTAT.replace("compact_stall 5", "compact_stall 6"))
    assert state_flags(before, sample_state(root)) == ["compaction"]


# --- what flags do to a result ----------------------------------------------------------------------------


def records(walls, flags, threads=1, cell="c"):
    return pd.DataFrame(
        {
            "workload": "zeroing",
            "cell_id": cell,
            "threads_requested": threads,
            "baseline": threads == 1,
            "warmup": False,
            "wall_s": walls,
            "flags": flags,
        }
    )


def test_the_effect_of_a_flag_is_how_much_slower_and_how_far_the_median_moves():
    (row,) = flag_effects(
        records([1.0, 1.0, 1.0, 2.0, 2.0], [[], ["aa"], [], ["steal"], ["steal", "aa"]])
    ).itertuples()
    assert (row.flag, row.repetitions, row.of) == ("steal", 2, 5)
    assert row.meaning == MEANINGS["steal"]
    assert (row.slower, row.slower_low, row.slower_high) == pytest.approx((2.0, 2.0, 2.0))
    assert row.shift == pytest.approx(0.0)


def test_variants_are_compared_with_their_own_kind():
    table = pd.concat(
        [records([1.0, 2.0], [[], ["steal"]]), records([10.0, 80.0], [[], ["steal"]], threads=2)],
        ignore_index=True,
    )
    (row,) = flag_effects(table).itertuples()
    assert (row.slower_low, row.slower, row.slower_high) == pytest.approx((2.0, 4.0, 8.0))
    assert row.shift == pytest.approx(3.5)


def test_a_flag_on_everything_has_no_effect_to_tell():
    (row,) = flag_effects(records([1.0, 1.0], [["short"], ["short"]])).itertuples()
    assert (row.repetitions, np.isnan(row.slower), np.isnan(row.shift)) == (2, True, True)


def test_no_flags_make_an_empty_table():
    assert flag_effects(records([1.0], [["aa"]])).empty


def test_the_sample_run_tells_its_flags():
    found = flag_effects(load_run(SAMPLE).records)
    assert (found["repetitions"] <= found["of"]).all()
    assert found["meaning"].str.len().min() > 0


@pytest.mark.parametrize(
    ("low", "threads", "above"),
    [(2.01, 2, True), (2.0, 2, False), (1.9, 2, False), (1.2, 1, False), (math.nan, 2, False)],
)
def test_a_speedup_above_the_threads_with_its_whole_interval_is_noticed(low, threads, above):
    assert superlinear(low, threads) is above


def records_of(*walls_of_passes, method="populate"):
    """Two threads, three repetitions per process, with as much CPU time as wall time."""
    rows = [
        {"pass": number, "wall_s": wall, "cpu_user_s": 0.0, "cpu_system_s": wall, "flags": []}
        for number, wall_s in enumerate(walls_of_passes, 1)
        for wall in (wall_s, 1.01 * wall_s, 1.02 * wall_s)
    ]
    same = {"workload": "zeroing", "method": method, "host_id": "h", "cell_id": "c"}
    return pd.DataFrame(rows).assign(**same, threads_requested=2, baseline=False)


def test_a_process_that_was_cold_throughout_is_found_beside_the_others():
    found = mark_cold_over_processes(records_of(1.0, 6.0, 1.1))
    assert [list(flags) for flags in found["flags"]] == [[]] * 3 + [["cold_memory"]] * 3 + [[]] * 3


@pytest.mark.parametrize(
    "table", [records_of(1.0, 1.9), records_of(1.0, 6.0, method="memset"), records_of(6.0)]
)
def test_what_cannot_be_cold_or_stands_alone_is_left(table):
    assert not any(map(list, mark_cold_over_processes(table)["flags"]))
