"""Conditions around repetitions: what load and quota did enters the records and the JSON."""

import math

import pandas as pd
import pytest

from ktask import measure
from ktask.lab.conditions import Meanwhile
from ktask.lab.conditions.conditions import Conditions
from ktask.lab.conditions.load import Reading
from ktask.lab.measure import rows
from ktask.lab.measure.rounds import Repetition
from ktask.lab.records import Run, conditioned, unconditioned


class CountingLoad:
    alone_rate = 500.0
    threads = (7,)

    def __init__(self):
        self.readings = iter([Reading(100, 1.0, 0.0), Reading(400, 1.5, 1.0)])

    def read(self):
        return next(self.readings)


class CountingQuota:
    def __init__(self):
        self.readings = iter([2.0, 2.25])

    @property
    def throttled_s(self):
        return next(self.readings)


def test_what_load_and_quota_do_meanwhile_is_metered():
    with Conditions(load=CountingLoad(), quota=CountingQuota()).metered() as found:
        assert math.isnan(found.load_count)
    assert (found.load_count, found.load_cpu_s, found.throttled_s) == (300, 0.5, 0.25)
    assert found.load_alone_rate == 500
    assert found.elapsed_s > 0


def test_without_conditions_nothing_is_known():
    with Conditions().metered() as found:
        pass
    one = Repetition(None, meanwhile=found)
    assert rows._meanwhile([one, one]) == dict.fromkeys(
        ("load_rate", "load_alone_rate", "load_cpu_s", "throttled_s")
    )


def test_a_repetition_of_several_calls_has_the_rate_of_all_and_means():
    calls = [
        Repetition(None, meanwhile=Meanwhile(*one)) for one in ((10, 0.5, 9, 0, 1), (50, 1.5, 9, 0.5, 2))
    ]
    assert rows._meanwhile(calls) == {
        "load_rate": 20.0,
        "load_alone_rate": 9,
        "load_cpu_s": 1.0,
        "throttled_s": 0.25,
    }


@pytest.mark.parametrize("load", ["spin", "fault:same"])
def test_a_case_is_measured_beside_a_load(load):
    protocol = {"least": 1, "most": 1, "warmup_s": 0.01, "sample_s": 1e-6}
    how = {"page_kind": "4KiB", "load": load, "nice": 0, "protocol": protocol, "quiet": True}
    found = measure("zeroing", "populate", size="128MiB", threads=[1], **how)
    serial = [row for row in found.rows if row["baseline"]]
    assert all(row["load_rate"] >= 0 and row["load_alone_rate"] > 0 for row in serial)
    assert any(row["load_rate"] > 0 for row in serial)  # where others have the CPUs, not in each
    assert all(row["throttled_s"] is None for row in serial)
    assert {row["options"] for row in serial} == {f"load={load},nice=0"}
    said = found.as_dict(1)["conditions"]
    assert (said["load"], said["quota"], said["nice"], said["placement"]) == (load, "none", "0", "cores")
    assert list(said["load_rate"]) == ["serial", "threads"]


def test_a_run_without_its_conditioned_cells(tmp_path):
    options = ["", "load=spin", None, "fill=each", "fill=each,quota=50%"]
    records = pd.DataFrame({"options": options, "wall_s": range(5)})
    cells = [{"options": {}}, {"options": {"nice": "0"}}, "odd"]
    run = Run("r", tmp_path, records, {}, {"cells": cells, "seed": 1}, records.copy())
    plain = unconditioned(run)
    assert plain.records["wall_s"].tolist() == [0, 2, 3]
    assert plain.skipped["wall_s"].tolist() == [0, 2, 3]
    assert plain.grid == {"cells": [{"options": {}}, "odd"], "seed": 1}
    assert conditioned(pd.DataFrame({"a": [1]})).tolist() == [False]  # older rows
