"""What may be said about load, quota and nice levels, and what this machine cannot do."""

import pytest

from ktask.lab.sweep.grid import cell_id, parse_grid
from ktask.workloads import Case, conditions, why_not
from ktask.workloads.conditions import Load, Nice, parse_load, parse_nice, parse_quota

MIB = 1 << 20
HALF = Load("spin", "half", 0.5)
LOADS = {
    "none": None,
    "spin": Load("spin"),
    "memory:2": Load("memory", "2"),
    "spin:50%": Load("spin", share=0.5),
    "spin:half:50%": HALF,
    "memory:2:8GiB/s:pinned": Load("memory", "2", bytes_per_s=8 << 30, pinned=True),
    "mmap:all:same": Load("mmap", "all", in_same_process=True),
    "fork:3:same:pinned": Load("fork", "3", in_same_process=True, pinned=True),
}
REFUSED = [
    *(("load", text) for text in ("", "drums", "spin:0", "spin:0%", "spin:101%", "spin:-1", "spin:1.5")),
    *(("load", text) for text in ("spin:8GiB/s", "memory:0GiB/s", "spin:pinned:2", "spin spin", "Spin")),
    *(("quota", text) for text in ("", "150", "0%", "1.5", "-50%", "50%%", "99999999%")),
    *(("nice", text) for text in ("", "20", "-1", "1.5", "19:", "19:hand-over", "policy:no-hand-over")),
]


@pytest.mark.parametrize(("text", "load"), LOADS.items())
def test_a_load_is_understood(text, load):
    assert parse_load(text) == load
    assert Case.of("free", size=MIB, load=text).options == (() if load is None else (("load", text),))


def test_a_count_may_follow_the_machine():
    assert [HALF.generators(n) for n in (1, 2, 3, 8)] == [1, 1, 1, 4]
    assert Load("spin", "all").generators(6) == 6
    assert Load("spin", "3").generators(1) == 3


def test_quotas_and_nice_levels_are_understood():
    assert [parse_quota(text) for text in ("none", "150%", "7%")] == [None, 1.5, 0.07]
    assert [parse_nice(text) for text in ("policy", "0", "19", "7:no-hand-over")] == [
        Nice(),
        Nice(0),
        Nice(19),
        Nice(7, hand_over=False),
    ]
    assert Case.of("free", size=MIB, nice=19).options == (("nice", "19"),)


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_what_is_not_understood_is_refused_with_what_is_allowed(name, text):
    with pytest.raises(ValueError, match=f"{name}={text!r} is not allowed; use "):
        Case.of("free", size=MIB, **{name: text})


@pytest.mark.parametrize(
    ("how", "message"),
    [({"load": "spin:9"}, "more than 4 generators per CPU; use up to 8"), ({"quota": "201%"}, "up to 200%")],
)
def test_what_is_more_than_the_machine_has_is_a_reason(monkeypatch, how, message):
    monkeypatch.setattr(conditions.topology, "cpu_count", lambda: 2)
    assert message in why_not(Case.of("free", size=MIB, **how))


def test_a_quota_that_may_not_be_made_is_a_reason(monkeypatch):
    monkeypatch.setattr(conditions.topology, "cpu_count", lambda: 2)
    monkeypatch.setattr(conditions.control_groups, "room_for_quota", lambda: "no control groups are mounted")
    reason = why_not(Case.of("free", size=MIB, quota="50%"))
    assert reason == "quota=50% needs a control group: no control groups are mounted"
    assert why_not(Case.of("free", size=MIB, load="spin")) is None


def test_a_nice_level_that_cannot_be_taken_back_is_a_reason(monkeypatch):
    monkeypatch.setattr(conditions.placement, "may_renice", lambda: False)
    assert "raise RLIMIT_NICE" in why_not(Case.of("free", size=MIB, nice=19))
    assert why_not(Case.of("free", size=MIB, nice=0)) is None


def test_a_grid_has_keys_for_them_and_cells_plain_names():
    under = "load: [none, 'memory:2:8GiB/s'], quota: 150%, nice: 19"
    work = f"{{workload: free, method: dontneed, size: 1MiB, {under}}}"
    cases = parse_grid(f"work: [{work}]", "g").cases
    assert [case.options_text for case in cases if case.page_kind == "4KiB"] == [
        "nice=19,quota=150%",
        "load=memory:2:8GiB/s,nice=19,quota=150%",
    ]
    assert cell_id(cases[-1]).endswith("-load=memory.2.8GiBps-nice=19-quota=150pct")
    assert all(case.is_conditioned for case in cases)
    assert not Case.of("free", size=MIB, placement="cores").is_conditioned


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("", False),
        ("fill=each", False),
        ("load=spin", True),
        ("fill=each,nice=0", True),
        ("payload=1", False),
    ],
)
def test_records_say_which_cells_have_a_condition(text, is_one):
    assert conditions.are_in(text) is is_one
