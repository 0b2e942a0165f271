"""What the hardware counts, from what perf writes; without a PMU nothing is counted and nothing fails."""

import os

import pytest

from ktask.host import perf, perf_stat
from ktask.host.perf_stat import Counting, Nothing, counting, has_pmu, mean, parse

# Of perf 6.1 on a Xeon, with more events than counters, and of a hybrid CPU.
WRITTEN = """\
# started on Thu Nov 26 10:00:00 2026

2000000000,,instructions,400000000,80.00,1.25,insn per cycle
1600000000,,cycles,500000000,100.00,,
<not supported>,,node-load-misses,0,100.00,,
<not counted>,,LLC-load-misses,0,0.00,,
0,,dTLB-load-misses,500000000,100.00,,
"""
HYBRID = "300,,cpu_core/instructions/,5,100.00,,\n200,,cpu_atom/instructions/u,5,60.00,,\n"


def test_counts_have_their_share_of_the_time():
    found = parse(WRITTEN)
    assert found == {
        "instructions": 2e9,
        "cycles": 1.6e9,
        "dTLB-load-misses": 0.0,
        perf_stat.RUNNING: 80.0,
    }
    assert mean(found, 4) == found | {"instructions": 5e8, "cycles": 4e8}


def test_both_kinds_of_cores_are_added():
    assert parse(HYBRID) == {"instructions": 500.0, perf_stat.RUNNING: 60.0}


@pytest.mark.parametrize("text", ["", "\n,,\n", "1e99,,cycles,1,1", "\x00\xff", "12,,a;b c,1,100.00"])
def test_garbage_counts_nothing(text):
    assert parse(text) == {}


@pytest.mark.parametrize(
    ("names", "there"),
    [
        (("software", "msr"), False),
        (("cpu", "software"), True),
        (("cpu_core", "cpu_atom"), True),
        (("armv8_pmuv3_0",), True),
    ],
)
def test_a_pmu_is_a_device(tmp_path, names, there):
    for name in names:
        (tmp_path / perf_stat.DEVICES / name).mkdir(parents=True)
    assert has_pmu(tmp_path) == there


def test_without_a_pmu_nothing_is_counted(tmp_path):
    assert not has_pmu(tmp_path)
    with counting([os.getpid()], tmp_path) as found:
        found.on()
        found.off()
    assert isinstance(found, Nothing)
    assert found.counts == {}


@pytest.mark.parametrize("script", ["exit 1", "echo no such event >&2; exit 129"])
def test_a_perf_that_does_not_count_is_no_failure(tmp_path, monkeypatch, script):
    (tmp_path / perf_stat.DEVICES / "cpu").mkdir(parents=True)
    (tmp_path / "perf").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "perf").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with counting([os.getpid()], tmp_path) as found:
        assert found.counts == {}


@pytest.mark.skipif(perf.why_not() is not None, reason=perf.why_not() or "")
def test_counts_are_of_the_time_between_on_and_off():
    """Events of software, which every machine counts, in the same way."""
    with Counting([os.getpid()], ["page-faults", "task-clock"]) as found:
        _touch(100)
        found.on()
        _touch(300)
        found.off()
        _touch(500)
    assert 300 <= found.counts["page-faults"] < 500
    assert found.counts[perf_stat.RUNNING] == pytest.approx(100, abs=1)


def _touch(pages: int) -> None:
    import mmap

    with mmap.mmap(-1, pages * 4096) as room:
        room.madvise(mmap.MADV_NOHUGEPAGE)
        for k in range(pages):
            room[k * 4096] = 1
