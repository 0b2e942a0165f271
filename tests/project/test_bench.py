"""The benchmark runs in its short form, so that it cannot rot."""

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
