"""Parquet files from another hand: what is too much is refused before it takes memory."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ktask.lab import parquet_files, traces
from ktask.lab.evidence import store
from ktask.lab.records import read_records

TABLE = pa.table({"name": ["a", "b", "a"], "n": [1, 2, 3], "flags": [["x"], [], ["y", "z"]]})


@pytest.fixture
def path(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet", compression="zstd")
    return tmp_path / "a.parquet"


def test_what_is_usual_is_read_as_it_is(path):
    assert parquet_files.read(path).equals(TABLE)


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [
        ("MOST_ROWS", 2, "it has 3 rows, more than 2"),
        ("MOST_BYTES", 10, "bytes, unpacked, more than 10"),
        ("LONGEST_TEXT", 0, "column name has a text of 1 bytes, more than 0"),
        ("MOST_TEXT_BYTES", 2, "column name has texts of 3 bytes, more than 2"),
    ],
)
def test_what_is_too_much_is_refused(path, monkeypatch, limit, most, message):
    monkeypatch.setattr(parquet_files, limit, most)
    with pytest.raises(pa.ArrowInvalid, match=message):
        parquet_files.read(path)


def test_a_long_text_said_a_million_times_takes_no_memory(tmp_path):
    """Some kilobytes that would be 20 GB."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["x" * 20_000])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(pa.ArrowInvalid, match="has texts of 20000000000 bytes"):
        parquet_files.read(tmp_path / "a.parquet")


def test_a_long_flag_said_a_million_times_takes_no_memory(tmp_path):
    """Texts in lists, of which a file of two kilobytes makes 4 GB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 20_000])
    lists = pa.ListArray.from_arrays(pa.array(range(200_001), pa.int32()), texts)
    pq.write_table(pa.table({"flags": lists}), tmp_path / "a.parquet", store_schema=False)
    with pytest.raises(pa.ArrowInvalid, match="column flags has texts of 4000000000 bytes"):
        parquet_files.read(tmp_path / "a.parquet")


def test_memory_that_has_run_out_is_no_damage(path, monkeypatch):
    def no_memory(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 13248 failed")

    monkeypatch.setattr(parquet_files.pq, "ParquetFile", no_memory)
    with pytest.raises(MemoryError, match="malloc of size 13248 failed"):
        read_records(path)


def test_what_steers_a_terminal_is_left_out(path):
    pq.write_table(pa.table({"name": ["\x1b[31mred\x07", None, "a\u202eb\tc"]}), path)
    assert parquet_files.read(path)["name"].to_pylist() == ["red", None, "ab\tc"]


@pytest.mark.parametrize(("folder", "read"), [("traces", traces.read_traces), ("evidence", store.load)])
def test_pipes_and_long_texts_are_refused_among_traces_and_evidence(tmp_path, folder, read):
    (tmp_path / folder).mkdir()
    os.mkfifo(tmp_path / folder / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet is not a regular file"):
        read(tmp_path)
    (tmp_path / folder / "a.parquet").unlink()
    pq.write_table(pa.table({"name": ["x" * 30_000]}), tmp_path / folder / "a.parquet")
    with pytest.raises(ValueError, match="a text of 30000 bytes"):
        read(tmp_path)
