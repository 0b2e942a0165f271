"""Evidence from several processes: their mean, and the interval over them."""

import math

import pytest
from seen_evidence import SEEN, a_look

from ktask.lab.evidence import Evidence
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.mean import mean_of, over_processes


def waiting(wait_s, threads=2, **changes):
    waits = [Wait("LRU lock", "spinlock", "release_pages", wait_s, 1)]
    return Evidence(a_look(), a_look(threads, waits=waits, **changes), took_s=1.0)


def lru(evidence):
    return evidence.lock_shares["LRU lock"]


def test_the_mean_of_one_is_what_it_saw_without_an_interval():
    found = mean_of([SEEN])
    assert (found, found.took_s, found.processes) == (SEEN, SEEN.took_s, (SEEN,))
    assert math.isnan(over_processes(waiting(0.1), lru).low)


def test_shares_of_several_have_an_interval_that_ends_at_nothing():
    found = over_processes(mean_of([waiting(0.1), waiting(0.12), waiting(0.11)]), lru)
    assert (found.median, found.processes) == (pytest.approx(0.11), 3)
    assert 0.07 < found.low < 0.1 < 0.12 < found.high < 0.15
    assert over_processes(mean_of([waiting(0.0), waiting(0.0), waiting(0.2)]), lru).low == 0


def test_a_lock_that_is_taken_at_several_places_counts_as_one():
    waits = [Wait("zone lock", "spinlock", site, 0.1, 1) for site in ("rmqueue_bulk", "free_pcppages_bulk")]
    assert Evidence(a_look(), a_look(2, waits=waits)).lock_shares["zone lock"] == pytest.approx(0.2)


def test_stacks_of_which_one_process_saw_nothing_count_there_as_nothing():
    one, other = waiting(0.1, stacks={("f",): 0.4, ("g",): 0.1}), waiting(0.1, stacks={("f",): 0.2})
    assert mean_of([one, other]).many.stacks == {("f",): pytest.approx(0.3), ("g",): pytest.approx(0.05)}


def test_processes_that_got_fewer_threads_are_left_out():
    found = mean_of([waiting(0.1, 1), waiting(0.2, 2), waiting(0.4, 2)])
    assert found.many.threads == 2
    assert lru(found) == pytest.approx(0.3)
    assert len(found.processes) == 2


def test_where_none_saw_anything_the_last_reason_stands_with_all_the_time():
    found = mean_of([Evidence(skipped="no time", took_s=1.0), Evidence(skipped="no perf", took_s=2.0)])
    assert (found.skipped, found.took_s, found.processes) == ("no perf", 3.0, ())
