"""Published figures: the files are what was collected, and the tidy table says the same as they do."""

import csv
import hashlib

import pytest

from ktask.models import published

PACKAGE = published.datapackage()
FILES = {item["name"]: item for item in PACKAGE["resources"]}
KINDS = {"string": str, "integer": int, "number": float}


@pytest.fixture(scope="module")
def table():
    return published.load()


def cells(name):
    with (published.FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_is_described():
    assert {path.stem for path in published.FOLDER.glob("*.csv")} == set(FILES)
    assert (published.FOLDER / "README.md").is_file()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_byte_for_byte_what_was_collected(name):
    content = (published.FOLDER / f"{name}.csv").read_bytes()
    assert FILES[name]["bytes"] == len(content)
    assert FILES[name]["hash"] == "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_the_schema_holds_for_every_cell(name):
    fields = {field["name"]: field for field in FILES[name]["schema"]["fields"]}
    rows = cells(name)
    assert list(rows[0]) == list(fields)
    for row in rows:
        for column, text in row.items():
            if text != "":
                KINDS[fields[column]["type"]](text)
    assert all(field["description"] for field in fields.values())


@pytest.mark.parametrize("name", [name for name, item in FILES.items() if "sources" in item])
def test_the_sources_of_a_file_are_those_of_its_rows(name):
    listed = {source["id"] for source in FILES[name]["sources"]}
    assert listed == {row["source_id"] for row in cells(name)}


def test_the_tidy_table_has_every_row_once(table):
    counted = {name: len(cells(name)) for name, item in FILES.items() if "tidy" in item}
    assert table.groupby("file").size().to_dict() == counted
    assert set(FILES) - set(counted) == {"speedup_mismatches"}


def test_repeats_are_marked(table):
    for name in ("ktask_clear_gigantic_page", "padata_deferred_init_2020"):
        new = [row["new_measurement"] == "yes" for row in cells(name)]
        assert table[table.file == name].new_measurement.tolist() == new
    assert table[table.file == "ktask_vfio_pinning"].new_measurement.all()


def test_one_row_of_each_kind_reads_as_printed(table):
    row = table[(table.file == "ktask_clear_gigantic_page") & (table.line == 2)].iloc[0]
    assert (row.threads, row.size_bytes, row.time_s, row.stdev, row.unit) == (1, 50 << 30, 7.77, 0.02, "s")
    row = table[(table.file == "padata_deferred_init_2020") & (table.line == 3)].iloc[0]
    assert (row.threads, row.time_s, row.case) == (0, 1.7633, "environment=bare metal")
    assert row.stdev == pytest.approx(0.0042)
    row = table[(table.file == "lock_scalability_page_fault1") & (table.line == 2)].iloc[0]
    assert (row.threads, row.value, row.unit) == (1, 626944, "page faults/s")
    assert row.time_s != row.time_s  # a rate is no time
    row = table[(table.file == "ktask_vfio_pinning") & (table.line == 2)].iloc[0]
    assert row.stdev == pytest.approx(65.0 * 0.006)


def test_measurements_that_disagree_are_found(table):
    worst = published.repeated(table).iloc[0]
    assert (worst.low, worst.high, worst.threads) == (0.0210, 0.0533, 4)
    assert worst.versions == "v1 changelog, v2, v3"


def test_speedups_beyond_the_thread_count_are_found(table):
    most = published.superlinear(table).sort_values("per_thread").iloc[-1]
    assert (most.file, most.threads) == ("ktask_hugetlbfs_fallocate", 2)
    assert most.speedup == pytest.approx(127.53 / 41.30)
    assert len(published.mismatches()) == 8


def test_the_overview_counts(table):
    overview = published.overview(table).set_index("file")
    assert overview.loc["ktask_clear_gigantic_page", ["rows", "new", "machines"]].tolist() == [65, 25, 2]
