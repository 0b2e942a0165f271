"""`ktask simulate`, as a user types it."""

import json

import pytest

from ktask.common.resources import SAMPLE
from ktask.models.simulation.machines import load_machine


def test_the_curve_as_json(typed):
    code, out, _ = typed("simulate", "xeon-e7-8895v3", "--size", "8GiB", "--threads", "1,4", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["cpus"], result["size_bytes"], result["memory"]) == (288, 8 << 30, "parts")
    assert [row["threads"] for row in result["curve"]] == [1, 4]
    assert result["curve"][1]["speedup"] == pytest.approx(4, rel=0.01)


def test_the_curve_in_words_with_load(typed):
    code, out, err = typed(
        "simulate", "sparc-t7-4", "--work", "fallocate", "--load", "1100", "--threads", "1,8"
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "SPARC T7-4, 4 sockets, 1024 CPUs, fallocate: 64 GiB, ktask-v4"
    assert lines[2].split()[-2:] == ["load", "loses"]
    assert len(lines) == 5


def test_calibrating_writes_a_description_once(typed, tmp_path):
    run, mine = SAMPLE, tmp_path / "mine.yaml"
    code, out, _ = typed("simulate", mine, "--calibrate", run)
    assert (code, out) == (0, f"{mine}\n")
    work = load_machine(mine).work
    assert "zeroing-populate-THP" in work
    assert "free-exit-4KiB" not in work  # two of its chunks end a process, the others nothing
    code, _, err = typed("simulate", mine, "--calibrate", run)
    assert code == 2
    assert f"{mine} exists; remove it, or name another file" in err
    assert typed("simulate", mine, "--work", "zeroing-populate-THP", "--size", "1GiB")[0] == 0


def test_the_published_tables(typed):
    code, out, _ = typed("simulate", "--contention")
    assert code == 0
    assert "32 of 32 times within 15 %" in out
    assert "12 of 12 where task and load were published alone" in out
    assert len(out.splitlines()) == 1 + 41 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no machine given; name a YAML file, or one of"),
        (("pdp-11",), "machine 'pdp-11' is neither a file nor one of"),
        (("sparc-t7-4", "--work", "walk"), "work 'walk' is not described for"),
        (("sparc-t7-4", "--memory", "everywhere"), "memory 'everywhere' is not allowed; use one of parts,"),
        (("sparc-t7-4", "--policy", "fair"), "policy 'fair' is not known"),
        (("sparc-t7-4", "--threads", "0"), "threads '0' are not allowed"),
        (("sparc-t7-4", "--load", "-1"), "load=-1 is not allowed; use 0 to 65536"),
        (("mine.yaml", "--calibrate", "no-such-run"), "no-such-run"),
    ],
)
def test_bad_input_is_one_line(typed, args, message):
    code, out, err = typed("simulate", *args)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_machine_file_at_fault_is_told_by_line(typed, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("nodes: 2\ncores_per_node: 4\nnode_bandwidth: -3GiB\n")
    code, _, err = typed("simulate", path)
    assert code == 2
    assert f"{path}, line 3: node_bandwidth=-3GiB is not allowed; use bytes per second from 1e-06" in err
