"""Beside which processes of a sweep neighbours probe, and in how much time."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_records import row

from ktask.lab import records
from ktask.lab.bystanders import Bystanders, store
from ktask.lab.measure.measurement import Protocol
from ktask.lab.sweep import probing
from ktask.lab.sweep.cells import CellTask
from ktask.lab.sweep.grid import cell_id
from ktask.workloads import Case


def case(method="populate", size="64MiB", **how):
    return Case.of("zeroing", method, size=size, page_kind="4KiB", **how)


SIZES = {"8MiB": 0.002, "64MiB": 0.016, "1GiB": 0.25}


def test_a_path_is_probed_at_the_shortest_size_that_is_long_enough():
    serial_s = {case(size=size): seconds for size, seconds in SIZES.items()}
    serial_s |= {case("memset", "8MiB"): 0.001, case("memset", "16MiB"): 0.002}
    serial_s |= {case(size="64MiB", policy="dynamic"): 0.016, Case.of("free", "buddy", size="1GiB"): 1.0}
    serial_s[case(options={"load": "spin"})] = 1.0
    assert probing.cases_to_probe(serial_s) == [case(), case("memset", "16MiB")]


def swept(path, look_s, passes=5):
    """Return how often each case was probed in a sweep in which each time takes `look_s`."""
    cases = [case(size=size) for size in SIZES] + [case("memset", size="1GiB")]
    for name in ("records", store.FOLDER):
        (path / name).mkdir(exist_ok=True)
    found = probing.Probing(SimpleNamespace(cases=cases, passes=passes, bystanders_s=2.0), path)
    tasks = [
        CellTask(one, (1, 2), Protocol(), "r", "h", 9.0, n) for n in range(1, passes + 1) for one in cases
    ]
    probed = Counter()
    for task in found.asked(tasks):
        wall_s = SIZES[{one: size for size in SIZES for one in [case(size=size)]}.get(task.case, "1GiB")]
        rows = [replace_row(task, wall_s)]
        records.write_records(path / f"records/{task.name}.parquet", rows)
        if task.bystanders:
            probed[task.case] += 1
            key = store.key_of(rows)
            store.save(
                path / store.FOLDER / f"{task.name}.parquet",
                Bystanders(skipped="a test", took_s=look_s),
                key,
                task.labels,
            )
        found.update(task)
    return probed, task


def replace_row(task, wall_s):
    about = {"size_bytes": task.case.size_bytes, "method": task.case.method, "wall_s": wall_s}
    return row(**task.labels, **about, warmup=False, baseline=True, threads=1, threads_requested=1, flags=[])


def test_each_path_is_probed_in_every_pass_but_the_first(tmp_path):
    probed, last = swept(tmp_path, look_s=1.0)
    assert probed == {case(): 4, case("memset", size="1GiB"): 4}
    assert last.bystanders == pytest.approx(2.0 * 5 / 4 / 2)


def test_where_there_is_no_time_for_all_one_path_has_several_processes(tmp_path):
    probed, _ = swept(tmp_path, look_s=3.0)
    assert list(probed.values()) == [3]  # of one path of two, in at most 10 s
    assert swept(tmp_path, look_s=3.0)[0].total() == 0  # a sweep that goes on counts what was spent
    (summary,) = [probing.summary_of_probing(tmp_path)]
    assert summary.startswith("bystanders of ")


def test_a_single_pass_probes_at_once(tmp_path):
    assert swept(tmp_path, look_s=0.1, passes=1)[0].total() == 2


def test_a_cell_names_its_files_by_the_pass():
    task = CellTask(case(), (1, 2), Protocol(), "r", "h", 9.0, 2)
    assert replace(task, bystanders=1.0).name == f"{cell_id(case())}.pass2"
