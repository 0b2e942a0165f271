"""The study of coverage: right on made runs, and its sweeps go on where they were stopped."""

import numpy as np
import pandas as pd
import pytest
import yaml

from ktask.lab.records import Run
from ktask.lab.studies import coverage
from ktask.lab.sweep.grid import shipped


def a_run(random, between_sweeps=0.03, between=0.05, passes=5):
    rows = []
    shift = np.exp(random.normal(0, between_sweeps))
    for number in range(1, passes + 1):
        process = shift * np.exp(random.normal(0, between))
        for threads, speedup in ((1, 1.0), (2, 1.8)):
            rows += [
                {
                    "pass": number,
                    "round": k,
                    "wall_s": process / speedup * np.exp(random.normal(0, 0.01)),
                    "threads_requested": threads,
                    "baseline": threads == 1,
                }
                for k in range(5)
            ]
    table = pd.DataFrame(rows).assign(workload="free", cell_id="c", boot_id="b", warmup=False)
    table["flags"] = [[] for _ in range(len(table))]
    return Run("r", None, table, {}, {}, pd.DataFrame())


def shares(**how):
    random = np.random.default_rng(3)
    table = coverage.coverage_table([a_run(random, **how) for _ in range(150)])
    return table[table["workload"] == "all"].set_index("quantity")


def test_intervals_of_processes_that_differ_hold_for_the_other_sweeps():
    found = shares()
    assert list(found["of"]) == [150] * 3
    assert found["share"].between(0.9, 0.99).all()
    assert (found["low"] < found["share"]).all()
    assert found["width_pct"].between(0.5, 12).all()


def test_sweeps_that_differ_by_more_than_their_processes_are_seen():
    found = shares(between_sweeps=0.3)
    assert found.loc["time, serial", "share"] < 0.6
    assert found.loc["speedup, 2 threads", "share"] > 0.9  # drift cancels in a ratio of neighbours


def test_sweeps_are_made_and_go_on(tmp_path, monkeypatch):
    walk = {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size": "4MiB"}
    grid = {"threads": [1, 2], "passes": 2, "protocol": {"least": 2, "most": 2, "warmup_s": 0.1}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(grid | {"work": [walk]}))
    for sweeps in (1, 2):
        runs = coverage.make_sweeps(sweeps, str(tmp_path / "small.yaml"), tmp_path / "runs", quiet=True)
    assert [run.name for run in runs] == ["small-01", "small-02"]
    assert len({run.grid["seed"] for run in runs}) == 2
    assert set(coverage.coverage_table(runs)["of"]) == {2}


def test_there_is_a_grid_for_it_and_too_few_sweeps_are_refused(monkeypatch, capsys):
    assert "coverage" in shipped()
    monkeypatch.setattr("sys.argv", ["coverage", "--sweeps", "2"])
    with pytest.raises(SystemExit) as ended:
        coverage.main()
    assert ended.value.code == 2
    assert "--sweeps 2 is not allowed; use 3 or more" in capsys.readouterr().err
