"""What the doctor finds on foreign machines."""

import dataclasses
import json

import pytest
from machines import NAMES, plant

from ktask.cli.doctor import render
from ktask.cli.tables import as_text
from ktask.host import doctor
from ktask.host.doctor import Activity, Finding, Probes, diagnose, worst

QUIET = Probes(activity=lambda: Activity(other_share=0.01, steal_share=0.0))


@pytest.fixture
def findings_of(tmp_path):
    def examine(name, **options):
        root = plant(name, tmp_path / name)
        return {finding.name: finding for finding in diagnose(root, **options)}

    return examine


def level_and_value(finding):
    return finding.level, finding.value


# --- invariants ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_well_formed(tmp_path, name):
    findings = diagnose(plant(name, tmp_path), pagemap_scan=lambda: False, probes=QUIET)
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names)) > 5
    for finding in findings:
        assert finding.means.endswith(".")
        assert finding.value == finding.value.strip() != ""
        if finding.level in {"warning", "blocker"}:
            assert finding.remedy


@pytest.mark.parametrize(
    ("state", "action", "module", "expected"),
    [
        ("on", "pageout", "N", ("warning", "on: pageout")),
        ("on", "stat", "N", ("note", "on: stat")),
        ("on", None, "N", ("note", "on: stat")),
        ("off", "pageout", "N", None),
        ("off", None, "Y", ("warning", "on: pageout")),
    ],
)
def test_a_watcher_of_memory_that_takes_pages_away_is_found(tmp_path, state, action, module, expected):
    kdamond = tmp_path / "sys/kernel/mm/damon/admin/kdamonds/0"
    scheme = kdamond / "contexts/0/schemes/0"
    switch = tmp_path / "sys/module/damon_reclaim/parameters/enabled"
    for file, text in ((kdamond / "state", state), (scheme / "action", action), (switch, module)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n") if text else None
    found = {finding.name: finding for finding in diagnose(tmp_path)}.get("damon")
    assert (found and level_and_value(found)) == expected
    if action == "pageout" and found:
        assert "reclaims" in found.means
        assert "kdamonds" in found.remedy


def test_diagnosis_changes_nothing(tmp_path):
    root = plant("laptop", tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    diagnose(root, probes=QUIET)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_nothing_to_read_gives_no_blocker(tmp_path):
    assert worst(diagnose(tmp_path)) != "blocker"


def test_foreign_tree_is_not_probed(tmp_path):
    names = {finding.name for finding in diagnose(tmp_path)}
    assert not names & {"other_load", "steal", "openmp", "pagemap_scan", "populate_write"}


def test_this_machine():
    findings = {finding.name: finding for finding in diagnose(pagemap_scan=lambda: True)}
    assert findings["pagemap_scan"].level == "ok"
    assert {"other_load", "steal", "openmp", "populate_write", "memory", "cpus"} <= set(findings)


# --- single findings -----------------------------------------------------------------------------------


def test_xeon(findings_of):
    found = findings_of("xeon_two_sockets", probes=QUIET)
    assert found["numa_balancing"].level == "warning"
    assert found["governor"].level == "ok"
    assert found["turbo"].remedy == "`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo`"
    assert level_and_value(found["hugetlb_2mib"]) == ("ok", "60 of 64 free")
    assert found["hugetlb_1gib"].remedy.startswith(
        "`echo 2 | sudo tee /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages`"
    )
    assert level_and_value(found["smt"]) == ("note", "160 CPUs, 80 cores")
    assert "taskset -c 0-79 ktask" in found["smt"].remedy
    assert level_and_value(found["swap"]) == ("warning", "256 MiB used")
    assert level_and_value(found["mitigations"]) == ("note", "2 active")
    assert found["virtualisation"].level == "ok"
    assert found["cold_memory"].level == "ok"
    assert found["populate_write"].level == "ok"  # 5.14
    assert found["clock"].level == "ok"


def test_epyc(findings_of):
    found = findings_of("epyc_nps4")
    assert found["turbo"].remedy == "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost`"
    assert level_and_value(found["governor"]) == ("warning", "schedutil")
    assert found["numa_balancing"].level == "ok"
    assert level_and_value(found["hugetlb_2mib"]) == ("note", "not offered")


def test_laptop(findings_of):
    found = findings_of("laptop")
    assert level_and_value(found["populate_write"]) == ("blocker", "missing")  # 5.10
    assert level_and_value(found["governor"]) == ("warning", "powersave")
    assert "cpupower frequency-set -g performance" in found["governor"].remedy
    assert level_and_value(found["thp"]) == ("warning", "never")
    assert "tee /sys/kernel/mm/transparent_hugepage/enabled" in found["thp"].remedy
    assert level_and_value(found["memory"]) == ("warning", "0.9 GiB available")
    assert level_and_value(found["clock"]) == ("warning", "hpet")


def test_container(findings_of):
    found = findings_of("container_v2")
    assert level_and_value(found["quota"]) == ("warning", "1.5 CPUs")
    assert level_and_value(found["virtualisation"]) == ("note", "Amazon EC2")


def test_one_cpu(findings_of):
    found = findings_of("one_cpu")
    assert level_and_value(found["cpus"]) == ("warning", "1 of 1")
    assert level_and_value(found["memory"]) == ("blocker", "0.2 GiB available")
    assert level_and_value(found["thp"]) == ("note", "not in the kernel")
    assert level_and_value(found["cold_memory"]) == ("warning", "free pages reported")
    assert "flags cold repetitions" in found["cold_memory"].remedy


CXL = {"nid": 2, "memory_bytes": 64 << 30}  # a node of memory only: no CPUs in the facts


@pytest.mark.parametrize(
    ("facts", "expected", "words"),
    [
        ({"sockets": 1, "nodes": [{"nid": 0}]}, ("ok", "1 socket, 1 memory node"), "equally near"),
        ({"sockets": 2, "nodes": [{"nid": 0}]}, ("note", "2 sockets, 1 memory node"), "sees no nodes"),
        (
            {"sockets": 2, "nodes": [{"nid": 0, "cpus": [0, 1, 4], "memory_bytes": 3 << 30}, CXL]},
            ("note", "2 sockets, 2 memory nodes"),
            "node 0: CPUs 0-1,4, 3.0 GiB; node 2: no CPUs, 64.0 GiB.",
        ),
        (
            {"nodes": [{"nid": 0, "cpus": [0]}, {"nid": 1, "cpus": [1], "memory_bytes": 0}]},
            ("note", "2 memory nodes"),
            "node 1: CPUs 1, no memory.",
        ),
        ({}, None, ""),
    ],
)
def test_sockets_and_nodes_are_named(tmp_path, facts, expected, words):
    finding = {found.name: found for found in diagnose(tmp_path, facts)}.get("nodes")
    assert (finding and level_and_value(finding)) == expected
    assert not finding or words in finding.means


def test_nodes_of_a_foreign_machine(findings_of):
    found = findings_of("epyc_nps4")["nodes"]
    assert level_and_value(found) == ("note", "2 sockets, 8 memory nodes")
    assert "node 7: CPUs 112-127,240-255, 125.9 GiB" in found.means


@pytest.mark.parametrize(
    ("facts", "name", "level"),
    [
        ({"affinity": [0, 1], "threads": 4}, "cpus", "note"),
        ({"affinity": [2], "threads": 4}, "cpus", "warning"),
        ({"affinity": [0, 1], "threads": 2}, "cpus", "ok"),
        ({"quota_cpus": 2.0, "threads": 2}, "quota", "ok"),
        ({"quota_cpus": 1.9, "threads": 2}, "quota", "warning"),
        (
            {"balloon": True, "balloon_reports_free_pages": False, "page_reporting": True},
            "cold_memory",
            "note",
        ),
        ({"balloon": True, "page_reporting": True}, "cold_memory", "warning"),
        ({"numa_balancing": 1, "nodes": [{}]}, "numa_balancing", "ok"),
        ({"aslr": 0}, "aslr", "ok"),
        ({"aslr": 2}, "aslr", "note"),
        ({"mitigations": {"a": "Not affected", "b": "Vulnerable"}}, "mitigations", "ok"),
        ({"memory_available_bytes": 2 << 30}, "memory", "ok"),
        ({"turbo": False}, "turbo", "ok"),
        ({"kernel_release": "6.1.0"}, "populate_write", "ok"),
        ({"kernel_release": "5.9.1"}, "populate_write", "blocker"),
    ],
)
def test_level(tmp_path, facts, name, level):
    found = {finding.name: finding.level for finding in diagnose(tmp_path, facts)}
    assert found[name] == level


def test_pool_that_is_all_taken_or_promised_asks_for_more(tmp_path):
    pool = {"page_size_bytes": 2 << 20, "total": 8, "free": 3, "reserved": 3}
    facts = {"hugetlb_pools": [pool], "memory_available_bytes": 512 << 20}
    finding = next(found for found in diagnose(tmp_path, facts) if found.name == "hugetlb_2mib")
    assert level_and_value(finding) == ("note", "3 of 8 free")
    assert finding.remedy == "`echo 72 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`"


def test_smt_sees_only_allowed_cpus(tmp_path):
    root = plant("laptop", tmp_path)
    facts = {"affinity": [0, 1, 2, 3]}
    assert {found.name: found.level for found in diagnose(root, facts)}["smt"] == "ok"


@pytest.mark.parametrize(
    ("activity", "name", "level"),
    [
        (Activity(0.05, 0.0), "other_load", "ok"),
        (Activity(0.06, 0.0), "other_load", "warning"),
        (Activity(0.0, 0.01), "steal", "ok"),
        (Activity(0.0, 0.02), "steal", "warning"),
    ],
)
def test_activity(tmp_path, activity, name, level):
    found = {finding.name: finding.level for finding in diagnose(tmp_path, probes=Probes(lambda: activity))}
    assert found[name] == level


@pytest.mark.parametrize(
    ("probes", "name", "level"),
    [
        (Probes(populate_write=lambda: False), "populate_write", "blocker"),
        (Probes(populate_write=lambda: True), "populate_write", "ok"),
        (Probes(openmp=lambda: False), "openmp", "warning"),
        (Probes(openmp=lambda: True), "openmp", "ok"),
        (Probes(evidence=lambda: ""), "evidence", "ok"),
        (Probes(evidence=lambda: "perf is not installed; install it"), "evidence", "note"),
    ],
)
def test_probes(tmp_path, probes, name, level):
    assert {finding.name: finding.level for finding in diagnose(tmp_path, probes=probes)}[name] == level


def test_missing_libgomp_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: None)
    assert doctor.has_openmp() is False


def test_populate_write_is_really_tried(monkeypatch):
    assert doctor.can_populate_write() is True
    monkeypatch.setattr(doctor, "MADV_POPULATE_WRITE", 250)  # no such advice
    assert doctor.can_populate_write() is False


def test_missing_pagemap_scan_is_a_note(tmp_path):
    found = {finding.name: finding.level for finding in diagnose(tmp_path, pagemap_scan=lambda: False)}
    assert found["pagemap_scan"] == "note"


def test_another_system_is_a_blocker():
    findings = diagnose(system="Darwin")
    assert [level_and_value(finding) for finding in findings] == [("blocker", "Darwin")]
    assert doctor.exit_code(findings) == 1


# --- what comes out ------------------------------------------------------------------------------------

COMMAND = "echo 64 | sudo tee /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
SOME = [
    Finding("fine", "yes", "ok", "All is well."),
    Finding(
        "bad",
        "no",
        "warning",
        "It " + "really " * 20 + "spoils it.",
        f"As an administrator call `{COMMAND}`.",
    ),
]


def test_worst():
    assert worst([]) == "ok"
    assert worst(SOME) == "warning"
    assert doctor.exit_code(SOME) == 0
    assert worst([*SOME, Finding("x", "y", "blocker", "Stop.", "Go.")]) == "blocker"


def test_unknown_level_is_refused():
    with pytest.raises(ValueError, match=r"level 'fatal' of 'x' is not allowed; use one of \('ok'"):
        Finding("x", "y", "fatal", "z")


def test_table_fits_the_terminal_and_keeps_commands_whole():
    lines = as_text(render(SOME)).splitlines()
    assert lines[0].split()[:3] == ["WARNING", "bad", "no"]
    assert max(map(len, lines)) <= 100
    assert any(COMMAND in line for line in lines)
    assert lines[-1] == "0 blockers, 1 warning, 0 notes, 1 ok"


def test_table_shows_no_control_characters():
    text = as_text(render([Finding("name", "a\x1b[31m\nb", "ok", "Means\x07.", "Do\x1b it.")]))
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_table_of_every_machine_fits(tmp_path, name):
    assert max(map(len, as_text(render(diagnose(plant(name, tmp_path)))).splitlines())) <= 100


def test_json():
    assert json.loads(json.dumps(doctor.to_json(SOME))) == {
        "worst": "warning",
        "findings": [dataclasses.asdict(finding) for finding in SOME],
    }
