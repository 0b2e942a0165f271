"""The benchmark runs in its short form, so that it cannot rot."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "benchmarks/bench.py"


@pytest.mark.long
def test_short_form_prints_a_table_and_writes_json(tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, str(BENCH), "--short", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["short"] is True
    names = [contest["name"] for contest in result["contests"]]
    assert names[0] == "one empty chunk, 1 thread"
    for contest in result["contests"]:
        assert contest["name"] in done.stdout
        assert contest["reference"] in contest["rows"]
        for row in contest["rows"].values():
            assert row["median"]["low"] <= row["median"]["median"] <= row["median"]["high"]
            assert row["median"]["median"] > 0


@pytest.mark.long
def test_the_cost_of_threads_has_a_line_per_count(tmp_path):
    out = tmp_path / "threads.json"
    command = [sys.executable, str(BENCH.with_name("threads.py")), "--short", "--json", str(out)]
    done = subprocess.run(
        [*command, "--threads", "1", "5"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["threads"]
    assert list(found) == ["1", "5"]
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "5"]
    for figures in found.values():
        assert figures["region_us"]["low"] <= figures["region_us"]["ratio"] <= figures["region_us"]["high"]
    assert found["5"]["memory_kib"]["ratio"] > 0


def test_what_stands_beside_c_is_a_mean_over_processes(monkeypatch):
    monkeypatch.syspath_prepend(BENCH.parent)
    bench = importlib.import_module("bench")

    def found(ratio):
        one = {name: {"median": ratio} for name in ("speedup_ratio", "serial_ratio")}
        speedup = {"ktask": {"median": 2 * ratio}, "C": {"median": 2.0}}
        return [
            {"name": "a", "other_load": ratio / 100, "beside_c": one | {"speedup": speedup}},
            {"name": "b"},
        ]

    (name, one), *others = bench.summary([found(0.98), found(1.02)]).items()
    assert (name, others) == ("a", [])
    assert one["speedup_ratio"]["ratio"] == pytest.approx((0.98 * 1.02) ** 0.5)
    assert one["speedup_ratio"]["low"] < 0.98 < 1.02 < one["speedup_ratio"]["high"]
    assert (one["speedup_in_c"]["ratio"], one["processes"], one["other_load"]) == (2.0, 2, 0.0102)
    assert bench.render_summary(name, one).endswith("n=2   1%  a")
