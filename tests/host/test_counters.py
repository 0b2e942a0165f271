"""The counters read around a repetition, and the flags that come of them."""

import dataclasses
import subprocess
import sys
import time

import pytest

from ktask.host import counters
from ktask.host.counters import State, sample_state, state_flags

CALM = State(
    at_s=100.0,
    cpus=2,
    busy_s=50.0,
    steal_s=1.0,
    cpu_user_s=10.0,
    cpu_system_s=5.0,
    ctx_involuntary=7,
    faults_minor=3,
)


def later(wall_s=1.0, own_s=0.0, other_s=0.0, steal_s=0.0, switches=0):
    return dataclasses.replace(
        CALM,
        at_s=CALM.at_s + wall_s,
        busy_s=CALM.busy_s + own_s + other_s,
        cpu_system_s=CALM.cpu_system_s + own_s,
        steal_s=CALM.steal_s + steal_s,
        ctx_involuntary=CALM.ctx_involuntary + switches,
    )


@pytest.mark.parametrize(
    ("after", "flags"),
    [
        (later(own_s=2.0), []),
        (later(wall_s=4.0, steal_s=0.07), []),
        (later(wall_s=4.0, steal_s=0.09), ["steal"]),
        (later(other_s=0.09), []),
        (later(other_s=0.11, own_s=1.5), ["other_load"]),
        (later(wall_s=0.01, other_s=0.02, steal_s=0.02), []),  # a tick or two are no evidence
        (later(own_s=1.0, switches=99), []),
        (later(own_s=1.0, switches=101), ["preempted"]),
        (later(own_s=0.001, switches=20), []),
        (later(other_s=1.0, steal_s=1.0), ["steal", "other_load"]),
    ],
)
def test_state_flags(after, flags):
    assert state_flags(CALM, after) == flags


def test_state_change():
    change = counters.state_change(CALM, later(wall_s=2.0, own_s=1.0, other_s=0.5, steal_s=0.25, switches=3))
    assert change == pytest.approx(
        {
            "wall_s": 2.0,
            "capacity_s": 4.0,
            "steal_s": 0.25,
            "other_s": 0.5,
            "cpu_user_s": 0.0,
            "cpu_system_s": 1.0,
            "ctx_involuntary": 3,
            "faults_minor": 0,
        }
    )


def test_sample_reads_the_first_line_of_stat(tmp_path):
    (tmp_path / "proc").mkdir()
    ticks = counters.TICKS_PER_S
    counts = [part * ticks for part in (1, 2, 4, 8, 16, 32, 64, 128, 1, 0)]
    (tmp_path / "proc/stat").write_text(f"cpu  {' '.join(map(str, counts))}\ncpu0 1 1\ncpu1 1 1\nintr 5\n")
    state = sample_state(tmp_path)
    assert (state.cpus, state.busy_s, state.steal_s) == (2, 1 + 2 + 4 + 32 + 64, 128)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3\n", "cpu  a b c d e f g h\n", "junk"])
def test_damaged_stat_raises_no_flag(tmp_path, text):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    before = sample_state(tmp_path)
    assert (before.busy_s, before.steal_s) == (0, 0)
    assert not {"steal", "other_load"} & set(state_flags(before, sample_state(tmp_path)))


def test_sample_counts_own_work():
    before = sample_state()
    end_s = time.process_time() + 0.05
    while time.process_time() < end_s:
        pass
    change = counters.state_change(before, sample_state())
    assert change["cpu_user_s"] + change["cpu_system_s"] >= 0.04
    assert change["wall_s"] >= 0.04


SPIN = "import time\nwhile time.process_time() < {}: pass"


@pytest.mark.timing
def test_what_a_child_does_is_no_other_load():
    """Children alive before and reaped after, as those of `exit`; alive at both; started and reaped."""
    spin = [sys.executable, "-I", "-S", "-c"]
    idle = subprocess.Popen([*spin, "import time; time.sleep(9)"])
    with subprocess.Popen([*spin, SPIN.format(0.3)]) as child:
        time.sleep(0.1)
        before = sample_state()
        child.wait()
        subprocess.run([*spin, SPIN.format(0.1)], check=True)
        after = sample_state()
    idle.kill()
    idle.wait()
    own_s = after.children_s - before.children_s
    assert 0.2 < own_s < 0.45  # 0.3 less what ran before the first sample, then 0.1 and two starts
    loaded = dataclasses.replace(CALM, busy_s=CALM.busy_s + own_s, at_s=CALM.at_s + 1, children_s=own_s)
    assert state_flags(CALM, loaded) == []
    assert state_flags(CALM, dataclasses.replace(loaded, children_s=0.0)) == ["other_load"]


@pytest.mark.timing
def test_sample_is_cheap():
    costs_s = []
    for _ in range(50):
        start_s = time.perf_counter()
        sample_state()
        costs_s.append(time.perf_counter() - start_s)
    assert min(costs_s) < 2e-4
