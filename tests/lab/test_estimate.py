"""Estimates of a sweep: exact on a scripted run, and nothing is measured."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from runs_of_passes import filled
from test_threads import MACHINES, first_counts_of

from ktask.cli.sweep import render_estimate
from ktask.cli.tables import as_text
from ktask.lab.records import write_records
from ktask.lab.sweep import estimate as module
from ktask.lab.sweep.estimate import estimate_sweep, to_json
from ktask.lab.sweep.grid import load_grid, parse_grid, read_grid

PROTOCOL = {"least": 3, "most": 10, "budget_s": 4.0, "warmup_s": 2.0}
WALK = {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB"}


@pytest.fixture
def earlier(tmp_path):
    """A run with one cell of 64 MiB, whose repetitions of 0.06 s started every 0.1 s."""
    start = pd.Timestamp("2026-01-01", tz="UTC")
    row = {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size_bytes": 64 << 20}
    row |= {
        "pass": 1,
        "cell_id": "c",
        "options": "",
        "flags": [],
        "wall_s": 0.02,
        "calls": 3,
        "threads": 1,
        "cpu_user_s": 0.1,
        "cpu_system_s": 0.0,
    }
    rows = [row | {"started_at": start + pd.Timedelta(seconds=0.1 * k)} for k in range(5)]
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records/c.parquet", map(filled, rows))
    (tmp_path / "machine.json").write_text("{}")
    (tmp_path / "grid.yaml").write_text("{}")
    return tmp_path


def grid_of(*work, **keys):
    return parse_grid(
        yaml.safe_dump({"threads": [1, 2], "protocol": PROTOCOL, "work": list(work)} | keys), "g"
    )


def seconds(size, earlier, **keys):
    (cell,) = estimate_sweep(grid_of(WALK | {"size": size}, **keys), [earlier])
    return cell.time_s - module.START_S


def test_rounds_fill_the_budget_or_reach_the_most(earlier):
    # Two serial calls, one in chunks, and two threads in 0.04 + 0.06 / 2 s: ten rounds end before 4 s.
    assert seconds("64MiB", earlier) == pytest.approx(0.57 + 10 * 0.37)
    assert seconds("256MiB", earlier) == pytest.approx(2.28 + 3 * 1.48)  # four times as long: three rounds


def test_a_larger_size_takes_longer_and_a_smaller_one_no_longer(earlier):
    assert seconds("640MiB", earlier) == pytest.approx(2.0 + 1.0 + 1.7 + 3 * 3.7)  # warm-up has its limit
    assert seconds("8MiB", earlier) == seconds("64MiB", earlier)


def test_counts_that_a_size_has_no_work_for_take_no_time(earlier):
    many = seconds("8MiB", earlier, threads=[1, 2, 4, 8, 16, 231])
    assert many == seconds("8MiB", earlier, threads=[1, 2, 4])
    assert many < seconds("64MiB", earlier, threads=[1, 2, 4, 8, 16, 231])


def test_thread_counts_that_later_passes_add_take_their_time(earlier):
    five, counts = {"passes": 5}, (1, 2, 8, 64)
    plain = replace(grid_of(WALK | {"size": "1GiB"}, **five), threads=counts)
    times = [estimate_sweep(grid, [earlier])[0].time_s for grid in (plain, replace(plain, refined=True))]
    rounds, around, work = 3, 0.64, 0.96 / 2
    one = (1 + rounds) * (around + work)
    assert times[1] - times[0] == pytest.approx((0 + 2 + 4 + 4 + 4) * one)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "most_s"), [("quick", 600), ("full", 7200)])
def test_a_shipped_grid_ends_in_time_on_every_machine(name, most_s, machine, monkeypatch):
    """Nothing is skipped here: as on a machine with hugetlb pools, several nodes and memory enough."""
    monkeypatch.setattr(module, "why_not", lambda _: None)
    grid = parse_grid(*read_grid(name), nodes=2)
    cells = estimate_sweep(replace(grid, threads=first_counts_of(machine)))
    assert all(cell.time_s > 0 for cell in cells)
    assert sum(cell.time_s for cell in cells) <= most_s


def test_each_pass_takes_its_time(earlier):
    (cell,) = estimate_sweep(grid_of(WALK | {"size": "64MiB"}, passes=5), [earlier])
    assert cell.time_s == pytest.approx(5 * (module.START_S + 4.27))


def test_a_cell_takes_no_longer_than_its_limit(earlier):
    assert seconds("640MiB", earlier, limit_s=5) == 5


def test_memory_counts_the_region_and_the_process():
    (cell,) = estimate_sweep(
        grid_of({"workload": "zeroing", "method": "memset", "page_kind": "THP", "size": "64MiB"})
    )
    assert cell.memory_bytes == (64 << 20) + (64 << 20) // 512 + module.PROCESS_BYTES


def test_what_cannot_be_measured_is_told_and_takes_no_time():
    work = {"workload": "free", "method": "lazyfree", "page_kind": "1GiB", "size": "1GiB"}
    grid = grid_of(work, WALK | {"size": "4MiB"})
    cells = estimate_sweep(grid)
    assert [cell.time_s > 0 for cell in cells] == [False, True]
    assert "works on" in cells[0].skipped
    text = as_text(render_estimate(grid, cells, to_json(grid, cells)))
    assert "1 cells would be skipped:\n  free-lazyfree-1GiB-1GiB: " in text
    assert text.splitlines()[-1].startswith("grid g: 1 cells at 1, 2 threads, 1 pass, about ")


def test_work_never_seen_is_guessed_by_its_size(earlier):
    work = {"workload": "zeroing", "method": "memset", "page_kind": "THP", "size": "2GiB"}
    (cell,) = estimate_sweep(grid_of(work), [earlier])
    assert cell.time_s == pytest.approx(module.START_S + 2.0 + 1.0 + 1.5 + 3 * 3.5)


def test_a_run_that_cannot_be_read_is_left_out(tmp_path):
    assert estimate_sweep(load_grid("tiny"), [tmp_path / "nosuch"])


def test_evidence_takes_a_share_at_most_and_nothing_where_nothing_can_be_seen(monkeypatch):
    grid = load_grid("tiny")
    cells = estimate_sweep(grid)
    monkeypatch.setattr("ktask.host.perf.why_not", lambda: None)
    found = to_json(replace(grid, threads=(1, 2)), cells, evidence=True)
    assert 0 < found["evidence_s"] <= 0.25 * found["time_s"] * (1 + 1e-9)
    assert to_json(replace(grid, threads=(1, 2)), cells)["evidence_s"] == 0
    assert to_json(replace(grid, threads=(1,)), cells, evidence=True)["evidence_s"] == 0
    monkeypatch.setattr("ktask.host.perf.why_not", lambda: "perf is not installed")
    assert to_json(replace(grid, threads=(1, 2)), cells, evidence=True)["evidence_s"] == 0


def test_the_command_measures_nothing(typed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = typed("sweep", "tiny", "--dry-run", "--json")
    assert code == 0
    found = json.loads(out)
    both = {"evidence": True, "bystanders": True}
    assert found == to_json(load_grid("tiny"), estimate_sweep(load_grid("tiny")), **both)
    cells_s = sum(cell["time_s"] for cell in found["cells"])
    assert found["time_s"] == pytest.approx(cells_s + found["evidence_s"] + found["bystanders_s"])
    assert list(tmp_path.iterdir()) == []
