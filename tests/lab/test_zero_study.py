"""Studies of zeroing: rows for what the machine can do, and the size from which splitting pays."""

import pandas as pd
import pytest

from ktask.host import available_memory
from ktask.lab.studies import ways as way_study
from ktask.lab.studies import zeroing as zero_study
from ktask.workloads import get


def test_every_way_names_a_method_and_a_page_kind_that_it_can_do():
    for workload, method, kind, options in way_study.ZEROING.values():
        assert kind in get(workload).method(method).page_kinds
        assert get(workload).method(method).parse_options(dict(options)) == options


def test_the_methods_of_a_workload_that_do_a_kind_of_page():
    assert list(way_study.entries_of("pin", "4KiB")) == [
        "io_uring",
        "mlock",
        "io_uring_unpin",
        "munlock",
        "xdp",
        "gpu",
    ]
    assert way_study.entries_of("truncate", "2MiB")["ftruncate"] == ("truncate", "ftruncate", "2MiB", ())
    assert "mlock" not in way_study.entries_of("pin", "2MiB")


def test_a_way_has_time_speedup_and_cpu_time():
    table = way_study.ways("4MiB", {"a": way_study.ZEROING["populate, 4KiB"]}, threads=1, rounds=2)
    row = table.loc["a"]
    assert row["serial_ms"] > 0
    assert (row["speedup"], row["cpu"], row["n"]) == (1, 1, 2)


def test_a_way_that_the_machine_lacks_is_left_out(monkeypatch):
    entries = {"here": way_study.ZEROING["populate, 4KiB"], "not here": way_study.ZEROING["populate, THP"]}
    monkeypatch.setattr(available_memory, "thp_mode", lambda: "never")
    assert list(way_study.ways("1MiB", entries, threads=1, rounds=1).index) == ["here"]


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ([1, 1, 1], [2, 2, 2], "from the smallest size here on, 1 MiB"),
        ([1, 1, 1], [0.5, 2, 2], "Splitting pays from 2 MiB on."),
        ([1, 1, 1], [2, 0.5, 2], "Splitting pays from 4 MiB on."),
        ([1, 1, 1], [2, 2, 0.5], "does not pay at the largest size"),
        ([1, 1, 1], None, "one CPU"),
    ],
)
def test_the_crossover_is_the_size_above_the_last_that_loses(one, two, words):
    rates = {1: one} | ({2: two} if two else {})
    rows = [
        {"size_bytes": 1 << 20 + k, "stores": "auto", "threads": n, "gib_s": rate}
        for n, values in rates.items()
        for k, rate in enumerate(values)
    ]
    assert words in zero_study.crossover(pd.DataFrame(rows))
