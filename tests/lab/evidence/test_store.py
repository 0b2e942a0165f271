"""Evidence as files: what is written is read again, and damage is named with its file."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from seen_evidence import KEY, SEEN, a_look, kept

from ktask.lab import records
from ktask.lab.evidence import Evidence
from ktask.lab.evidence.locks import Wait
from ktask.lab.evidence.store import SCHEMA, load


@pytest.mark.parametrize("evidence", [SEEN, Evidence(a_look(), a_look(2)), Evidence(skipped="no perf: 'x'")])
def test_evidence_comes_back_as_it_was(tmp_path, evidence):
    kept(tmp_path, evidence)
    assert load(tmp_path) == {KEY: evidence}
    assert load(tmp_path)[KEY].took_s == evidence.took_s


def test_a_stack_has_its_outermost_function_first_and_its_samples(tmp_path):
    rows = pq.read_table(kept(tmp_path)).to_pylist()
    first = next(row for row in rows if row["kind"] == "stack" and row["way"] == "threads")
    assert first["name"] == "do_mprotect_pkey;clear_page_erms"
    assert first["count"] == round(0.3 * 3989 * 4)


def test_a_name_with_a_semicolon_stays_one_function(tmp_path):
    kept(tmp_path, Evidence(a_look(stacks={("a;b", "c"): 1.0}), a_look()))
    assert list(load(tmp_path)[KEY].serial.stacks) == [("a:b", "c")]


def test_what_several_processes_saw_is_one_case_with_their_mean(tmp_path):
    shares = (0.1, 0.2, 0.3)
    for number, share in enumerate(shares, 1):
        waits = [Wait("mmap_lock", "mutex", "do_mlock", share, 3)] * (number < 3)
        kept(tmp_path, Evidence(a_look(), a_look(2, stacks={}, waits=waits), took_s=1.0), number)
    kept(tmp_path, Evidence(skipped="others", took_s=1.0), 4)
    (found,) = load(tmp_path).values()
    assert (found.took_s, found.skipped, len(found.processes)) == (4.0, None, 3)
    assert found.many.waits == [Wait("mmap_lock", "mutex", "do_mlock", pytest.approx(0.1), 6)]
    assert found.lock_shares["mmap_lock"] == pytest.approx(0.1)  # of two threads for half a second
    assert found.many.repetitions == 12


def test_an_older_file_without_a_pass_is_read(tmp_path):
    path = kept(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns("pass"), path)
    assert load(tmp_path) == {KEY: SEEN}
    assert len(load(tmp_path)[KEY].processes) == 1


def test_a_run_shows_its_evidence(tmp_path):
    for name in ("grid.yaml", "machine.json"):
        (tmp_path / name).write_text("{}")
    assert records.load_run(tmp_path).evidence == {}
    kept(tmp_path)
    assert records.load_run(tmp_path).evidence == {KEY: SEEN}


def changed(path, k=0, drop=None, **values):
    rows = [row for row in pq.read_table(path).to_pylist() if row["name"] != drop]
    rows[k] |= values
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"k": 1, "value": math.nan}, "row 1 has value nan"),
        ({"k": 2, "value": -1.0}, "value -1"),
        ({"k": 3, "value": None}, "row 3 has no value"),
        ({"kind": "gossip"}, "kind 'gossip'"),
        ({"k": 1, "way": "many"}, "way 'many'"),
        ({"k": 1, "kind": "skipped"}, "skipped"),
        ({"method": "uffd_wp"}, "about 2 cases"),
        ({"drop": "repetitions"}, "lacks repetitions"),
    ],
)
def test_what_cannot_be_evidence_is_named(tmp_path, how, reason):
    path = kept(tmp_path)
    changed(path, **how)
    with pytest.raises(ValueError, match=rf"1TiB\.parquet is not readable evidence \(.*{reason}.*delete it"):
        load(tmp_path)


def test_a_file_that_is_no_table_is_named(tmp_path, monkeypatch):
    path = kept(tmp_path)
    monkeypatch.setattr("ktask.lab.parquet_files.MOST_ROWS", 3)
    with pytest.raises(ValueError, match="rows, more than 3"):
        load(tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="not readable evidence"):
        load(tmp_path)


def test_half_of_it_is_not_evidence(tmp_path):
    kept(tmp_path, Evidence(serial=a_look()))
    with pytest.raises(ValueError, match="neither what was seen"):
        load(tmp_path)
