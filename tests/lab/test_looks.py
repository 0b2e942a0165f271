"""Looks of a sweep: who looks, in which share of the time, and what is said of cases without."""

import itertools
import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from seen_evidence import SEEN
from test_records import row

from ktask.lab import records
from ktask.lab.evidence import Evidence, store
from ktask.lab.evidence.case import ONE_THREAD, UNLIKE
from ktask.lab.evidence.collect import LARGER
from ktask.lab.measure.measurement import Protocol
from ktask.lab.sweep import looks
from ktask.lab.sweep.cells import CellTask
from ktask.lab.sweep.grid import cell_id
from ktask.workloads import Case

SIZES = [f"{1 << k}MiB" for k in range(6)]
CASES = [Case.of("zeroing", "populate", size=size, page_kind="4KiB") for size in SIZES]


class Sweep:
    """A sweep whose processes measure for `process_s` and look for as long as `look` says."""

    def __init__(self, path, process_s=5.0):
        self.path, self.process_s, self.now, self.looked_s = path, process_s, 0.0, 0.0
        self.looked = []
        for name in ("records", "evidence"):
            (path / name).mkdir(exist_ok=True)

    def run(self, look, passes=1, cases=CASES):
        found = looks.Looks(cases, self.path, clock=lambda: self.now)
        each = itertools.product(range(1, passes + 1), cases)
        tasks = [CellTask(case, (1, 2), Protocol(), "r", "h", 9.0, number) for number, case in each]
        for task in found.asked(tasks):
            self._process(task, look)
            found.update(task)
        found.finish()
        return store.load(self.path)

    def _process(self, task, look):
        self.now += self.process_s
        rows = [row(**task.labels, size_bytes=task.case.size_bytes)]
        records.write_records(self.path / f"records/{task.name}.parquet", rows)
        if task.evidence and (seen := look(task.case)):
            self.now += seen.took_s
            self.looked_s += seen.took_s
            self.looked.append(task.case)
            store.save(self.path / "evidence", store.key_of(rows), seen, task.labels)


def test_nobody_looks_at_a_case_under_a_condition():
    loaded = Case.of("zeroing", "populate", size="1MiB", page_kind="4KiB", load="spin")
    assert looks.cases_to_look_at([loaded, CASES[1], loaded]) == [CASES[1]]


def taking(seconds, **changes):
    return replace(Evidence(**changes) if changes else SEEN, took_s=seconds)


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


@pytest.mark.parametrize(
    ("spent_s", "elapsed_s", "may"),
    [(0, 0, False), (0, 5.9, False), (0, 6, True), (10, 40, False), (10, 46, True)],
)
def test_a_look_keeps_all_of_them_in_their_share(spent_s, elapsed_s, may):
    assert looks.may_look(spent_s, elapsed_s, 2, share=0.25) is may


def test_of_cells_that_differ_in_chunks_or_policy_the_first_is_looked_at():
    how = {"size": "1GiB", "page_kind": "THP"}
    first, *others = (
        Case.of("zeroing", "populate", **how, policy=policy, min_chunk=chunk)
        for policy, chunk in [("ktask-v4", "2MiB"), ("dynamic", "2MiB"), ("dynamic", "8MiB")]
    )
    another = Case.of("zeroing", "populate", size="2GiB", page_kind="THP")
    assert looks.cases_to_look_at([first, *others, another]) == [first, another]


def test_each_case_is_looked_at_and_the_largest_size_in_several_processes(sweep):
    found = sweep.run(lambda _: taking(0.5), passes=9)
    assert Counter(sweep.looked) == dict.fromkeys(CASES, 1) | {CASES[-1]: looks.MOST_PROCESSES}
    assert [one.skipped for one in found.values()] == [None] * len(CASES)
    assert sorted(len(one.processes) for one in found.values()) == [1] * 5 + [looks.MOST_PROCESSES]
    assert sweep.looked_s <= looks.SHARE * sweep.now


def test_where_time_is_short_no_case_is_far_behind(sweep):
    paths = [Case.of("zeroing", "populate", size="1MiB", page_kind=kind) for kind in ("4KiB", "THP", "2MiB")]
    sweep.run(lambda _: taking(5.0), 30, paths)  # there is time for every third process
    for k in range(len(sweep.looked)):
        n = Counter(sweep.looked[:k])
        assert max(n[case] for case in paths) <= min(n[case] for case in paths) + 2
    assert len(sweep.looked) == 3 * looks.MOST_PROCESSES


@pytest.mark.parametrize("seed", range(20))
def test_looks_of_any_length_stay_within_a_quarter_but_for_the_last(seed):
    random = Random(seed)
    spent_s = elapsed_s = 0.0
    lengths = [2.0]
    for _ in range(200):
        elapsed_s += random.expovariate(0.5)
        if looks.may_look(spent_s, elapsed_s, max(lengths)):
            lengths.append(random.expovariate(0.5))
            spent_s, elapsed_s = spent_s + lengths[-1], elapsed_s + lengths[-1]
        assert spent_s <= looks.SHARE * elapsed_s + max(lengths)
    assert len(lengths) > 10


def test_what_there_was_no_time_for_is_said_and_looked_at_in_a_later_sweep(sweep):
    sweep.process_s = 1.0
    found = sweep.run(lambda _: taking(1.0))
    assert sweep.looked == []
    assert {one.skipped for one in found.values()} == {looks.NO_TIME}
    assert sorted(key.size_bytes for key in found) == sorted(case.size_bytes for case in CASES)
    sweep.process_s = 5.0
    for _ in range(2):
        sweep.run(lambda _: taking(1.0), passes=2)
        n = Counter(sweep.looked)
        assert [n[case] for case in CASES[:-1]] == [1] * 5  # what was seen is not looked at again
        assert n[CASES[-1]] > 1


def test_what_this_machine_cannot_do_is_tried_twice(sweep):
    found = sweep.run(lambda _: taking(0.1, skipped="no perf"), passes=2)
    assert len(sweep.looked) == 2
    assert [one.skipped for one in found.values()] == ["no perf"] * len(CASES)
    sweep.run(lambda _: taking(0.1), passes=2)  # perf is there now
    assert set(sweep.looked[2:]) == set(CASES)


@pytest.mark.parametrize("reason", [ONE_THREAD, f"perf took 0 samples; {LARGER}"])
def test_what_lies_in_the_case_is_no_failure_of_the_machine(sweep, reason):
    sweep.run(lambda _: taking(0.0, skipped=reason), passes=2)
    assert len(sweep.looked) == len(CASES)


def test_a_look_at_what_was_not_timed_is_tried_once_more(sweep):
    reason = f"the serial call took 3.9 times as long; {UNLIKE}"
    seen = iter([taking(0.5, skipped=reason), taking(0.5), taking(0.5, skipped=reason), taking(0.5)])
    look = {CASES[0]: lambda: next(seen), CASES[1]: lambda: taking(0.5)}
    found = sweep.run(lambda case: look[case](), 9, CASES[:2])
    assert {one.skipped for one in found.values()} == {None}
    assert sweep.looked.count(CASES[0]) == 2


def test_a_process_that_failed_costs_nothing_and_leaves_nothing(sweep):
    found = sweep.run(lambda _: None, passes=2)
    assert {one.skipped for one in found.values()} == {looks.NO_TIME}


def test_without_evidence_nothing_is_written(sweep):
    assert sweep.run(lambda _: taking(1.0), passes=2, cases=[]) == {}
    assert looks.summary_of_looks(sweep.path) == ""


def test_the_closing_line_says_what_looking_took_and_why_cases_are_missing(sweep):
    seen = {CASES[0]: taking(1.4)}
    sweep.run(lambda case: seen.get(case, taking(0.5, skipped=f"{case.size_bytes} is odd")), passes=3)
    line = r"evidence on 1 of 6 cases \(5 s\), else: \d+ is odd"
    assert re.fullmatch(line, looks.summary_of_looks(sweep.path))


def test_a_damaged_file_stops_a_sweep_before_it_starts(sweep):
    (sweep.path / f"evidence/{cell_id(CASES[0])}.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="not readable evidence"):
        looks.Looks(CASES, sweep.path)
