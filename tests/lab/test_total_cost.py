"""The total cost of threads: CPU seconds, what a saved second is paid with, how many threads that buys."""

import numpy as np
import pandas as pd
import pytest
from seen_evidence import KEY, a_look

from ktask.lab.evidence import Evidence
from ktask.lab.evidence.mean import mean_of
from ktask.lab.studies import total_cost
from ktask.lab.studies.total_cost import energy_table, threads_for, total_costs

# Wall and CPU seconds of one process, by threads; 0: the serial call.
TIMES = {0: (1.0, 1.0), 2: (0.5, 1.1), 4: (0.3, 1.6)}


def records(times=TIMES, passes=(1.0, 1.1, 0.9), **changes):
    rows = [
        {
            "workload": "w",
            "backend": "kernel",
            "method": "m",
            "page_kind": "4KiB",
            "options": "",
            "policy": "p",
        }
        | {
            "size_bytes": 1,
            "min_chunk_size": 1,
            "threads": max(n, 1),
            "baseline": n == 0,
            "warmup": False,
            "flags": [],
            "boot_id": "b",
        }
        | {"pass": k, "wall_s": wall * scale, "cpu_user_s": 0.0, "cpu_system_s": cpu * scale}
        for k, scale in enumerate(passes, 1)
        for n, (wall, cpu) in times.items()
        for _ in range(3)
    ]
    return pd.DataFrame([row | changes for row in rows])


def test_a_price_is_what_is_paid_over_what_is_saved():
    table = total_costs(records()).set_index("threads")
    assert table.loc[2, "price"] == pytest.approx(0.2)
    assert table.loc[4, "price"] == pytest.approx(0.6 / 0.7)
    assert table.loc[2, ["serial_cpu_s", "cpu_s", "saved_s", "paid_s"]].tolist() == pytest.approx(
        [1, 1.1, 0.5, 0.1]
    )
    assert (table["cpu_s_low"] < table["cpu_s"]).all()
    assert (table["processes"] == 3).all()


def test_what_saves_nothing_has_no_price():
    table = total_costs(records({0: (1.0, 1.0), 2: (1.05, 2.0)}))
    assert np.isnan(table["price"].iloc[0])
    assert threads_for(100, table)["threads"].iloc[0] == 1


@pytest.mark.parametrize(
    "changes", [{"wall_s": 1e-6}, {"cpu_system_s": 0.01}, {"cpu_system_s": np.nan}, {"warmup": True}]
)
def test_without_a_cpu_time_of_its_own_a_case_is_left_out(changes):
    assert total_costs(records(**changes)).empty


@pytest.mark.parametrize(("price", "threads", "gain_s"), [(0.1, 1, 0), (0.5, 2, 0.15), (10, 4, 6.4)])
def test_the_price_decides_how_many_threads_pay(price, threads, gain_s):
    (row,) = threads_for(price, total_costs(records())).to_dict("records")
    assert (row["threads"], row["gain_s"]) == (threads, pytest.approx(gain_s))


def test_a_price_below_zero_is_refused():
    with pytest.raises(ValueError, match="price=-1 is not allowed"):
        threads_for(-1, total_costs(records()))


def test_joules_come_from_the_counters_of_both_ways():
    looks = [
        a_look(n, counters={"energy_package-0_j": 3.0 * n, "energy_package-0-dram_j": 1.0}) for n in (1, 2)
    ]
    found = {KEY: Evidence(*looks), KEY._replace(size_bytes=1): Evidence(a_look(), a_look(2))}
    (row,) = energy_table(found).to_dict("records")
    assert (row["serial_j"], row["threads_j"], row["threads"]) == (4, 7, KEY.threads)
    assert total_cost.energy_table({}).empty


def test_joules_of_several_processes_have_an_interval_of_their_ratio():
    def one(joules):
        return Evidence(*(a_look(counters={"energy_package-0_j": each}) for each in (4.0, joules)))

    (row,) = energy_table({KEY: mean_of([one(5.0), one(6.0), one(7.0)])}).to_dict("records")
    assert (row["threads_j"], row["ratio"], row["n"]) == (6, pytest.approx(1.5), 3)
    assert 0.8 < row["ratio_low"] < 0.9
    assert 2.1 < row["ratio_high"] < 2.2
