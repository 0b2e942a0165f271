"""The facts of foreign machines and of this one, and the files they go into."""

import json
import os
import re
import stat
import subprocess
from importlib import metadata

import pytest
from machines import NAMES, plant

from ktask.common import files
from ktask.host import facts as machine
from ktask.host.facts import clean_text, machine_facts

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def facts_of(tmp_path):
    return lambda name: machine_facts(plant(name, tmp_path / name))


def pairs(value, name="facts"):
    """Yield every name and plain value of nested facts."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from pairs(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from pairs(part, name)
    else:
        yield name, value


def assert_well_formed(facts):
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    for name, value in pairs(facts):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert value is not None
        if isinstance(value, str):
            assert value == value.strip() != ""
            assert value.isprintable()


# --- every machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_well_formed(facts_of, name):
    facts = facts_of(name)
    assert_well_formed(facts)
    assert facts["schema_version"] == machine.SCHEMA_VERSION
    assert facts["cpu_model"]
    assert facts["memory_total_bytes"] > 0


def test_facts_of_this_machine_are_well_formed():
    facts = machine_facts()
    assert_well_formed(facts)
    assert facts["kernel_release"] == os.uname().release
    assert facts["host_name"] == os.uname().nodename
    assert facts["affinity"] == sorted(os.sched_getaffinity(0))
    assert facts["packages"]["numpy"] == metadata.version("numpy")
    assert {"numba", "papermill", "ipykernel", "pyyaml"} <= set(facts["packages"])
    assert facts["threads"] >= len(facts["affinity"])


def test_packages_that_stray_from_the_lock_are_named(monkeypatch):
    installed = {"numpy": "2.4.6", "scipy": "1.0", "rich": "9"}
    monkeypatch.setattr(machine, "_version", installed.get)
    lines = [
        "numpy==2.4.6 ; python < 3.12 \\",
        "    --hash=sha256:0",
        "numpy==2.5.5 \\",
        "scipy==1.1",
        "absent==3",
    ]
    lock = "\n".join([*lines, "# rich==1"])
    assert machine._strays(lock) == ["scipy 1.0, locked 1.1"]


def test_nothing_to_read_means_missing_keys(tmp_path):
    facts = machine_facts(tmp_path)
    assert_well_formed(facts)
    assert not {
        "host_id",
        "cpu_model",
        "threads",
        "virtualised",
        "memory_available_bytes",
        "architecture",
    } & set(facts)


EVIL = b"model name\t: \x1b[31mred\x07\n\xff\xfe \xe2\x80\xae]evil[ 1 2 3\n0-\n<b>: 0::/x/\0 - cgroup2 a b\n"


@pytest.mark.parametrize("junk", [b"", EVIL, b"9" * 6000, b"a: b\rc\n" * 3, b"[always]\x85x"])
@pytest.mark.parametrize("name", NAMES)
def test_junk_in_every_file_stays_plain_text(tmp_path, name, junk):
    root = plant(name, tmp_path)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.write_bytes(junk)
    (root / "sys/devices/system/cpu/vulnerabilities").mkdir(parents=True, exist_ok=True)
    (root / "sys/devices/system/cpu/vulnerabilities/Bad name\n").write_bytes(junk)
    assert_well_formed(machine_facts(root))


def test_text_is_cut_and_cleaned():
    assert clean_text(" a\tb\n\x1b[1mc\u202e ") == "a b [1mc"
    assert len(clean_text("x" * 100_000)) == machine.MAX_TEXT


# --- single machines -----------------------------------------------------------------------------------


def expect(facts, **expected):
    assert {key: facts.get(key) for key in expected} == expected


def test_xeon(facts_of):
    facts = facts_of("xeon_two_sockets")
    expect(
        facts,
        cpu_model="Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz",
        cpu_vendor="GenuineIntel",
        cpu_family=6,
        cpu_model_number=106,
        cpu_stepping=6,
        sockets=2,
        cores=80,
        threads=160,
        smt=True,
        governor="performance",
        turbo=True,
        turbo_control="intel_pstate",
        virtualised=False,
        hypervisor=None,
        thp_mode="always",
        thp_defrag="madvise",
        thp_shmem="never",
        numa_balancing=1,
        aslr=2,
        overcommit=0,
        clocksource="tsc",
        load_average=[1.25, 0.75, 0.5],
        operating_system="Red Hat Enterprise Linux 9.4 (Plow)",
        architecture="x86_64",
        host_name="node17",
        affinity=list(range(160)),
        swap_used_bytes=(8388604 - 8126460) << 10,
        quota_cpus=None,
        container=None,
        balloon=False,
        page_reporting=False,
    )
    assert facts["cmdline"].endswith("hugepagesz=2M hugepages=64")  # without the part for init
    assert facts["mitigations"]["meltdown"] == "Not affected"
    assert [node["distances"] for node in facts["nodes"]] == [[10, 20], [20, 10]]
    assert sum(node["memory_bytes"] for node in facts["nodes"]) == facts["memory_total_bytes"]
    assert facts["hugetlb_pools"][0] == {"page_size_bytes": 2 * MIB, "total": 64, "free": 60, "reserved": 10}
    assert {"level": 3, "type": "unified", "size_bytes": 60 * MIB, "cpus_sharing": 80, "count": 2} in facts[
        "caches"
    ]


def test_epyc(facts_of):
    facts = facts_of("epyc_nps4")
    expect(
        facts, sockets=2, cores=128, threads=256, turbo=True, turbo_control="cpufreq", governor="schedutil"
    )
    assert [len(node["cpus"]) for node in facts["nodes"]] == [32] * 8
    assert facts["caches"] == [
        {"level": 3, "type": "unified", "size_bytes": 32 * MIB, "cpus_sharing": 16, "count": 16}
    ]


def test_arm(facts_of):
    expect(
        facts_of("arm_server"),
        cpu_vendor="Arm",
        cpu_model="Neoverse-N1",
        cpu_part="0xd0c",
        cpu_revision="r3p1",
        cpu_family=None,
        architecture="aarch64",
        smt=False,
        virtualised=False,
        turbo=None,
        governor=None,
        mitigations=None,
    )


def test_unknown_arm_part_is_shown_as_number(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("CPU implementer\t: 0x99\nCPU part\t: 0x1\n")
    expect(machine_facts(tmp_path), cpu_vendor="implementer 0x99", cpu_model="part 0x001")


@pytest.mark.parametrize(
    ("name", "hypervisor", "container", "quota"),
    [
        ("container_v2", "Amazon EC2", "kubepods", 1.5),
        ("container_v1", "Xen", "docker", 2.5),
        ("one_cpu", "unknown", None, None),
    ],
)
def test_guests_and_containers(facts_of, name, hypervisor, container, quota):
    expect(facts_of(name), virtualised=True, hypervisor=hypervisor, container=container, quota_cpus=quota)


@pytest.mark.parametrize(
    ("product", "virtual"), [("m6g.metal", False), ("m6g.large", True), ("KVM Virtual Machine", True)]
)
def test_arm_guest_is_told_by_dmi(tmp_path, product, virtual):
    root = plant("arm_server", tmp_path)
    (root / "sys/class/dmi/id/sys_vendor").write_text("Amazon EC2" if product.startswith("m6g") else "QEMU")
    (root / "sys/class/dmi/id/product_name").write_text(product)
    assert machine_facts(root)["virtualised"] is virtual


def test_balloon_feature_bit(tmp_path):
    root = plant("one_cpu", tmp_path)
    expect(machine_facts(root), page_reporting=True, balloon=True, balloon_reports_free_pages=True)
    features = root / "sys/bus/virtio/drivers/virtio_balloon/virtio0/features"
    features.write_text("0110101111")
    expect(machine_facts(root), balloon=True, balloon_reports_free_pages=False)


def test_host_id_is_stable_and_hides_the_name(tmp_path):
    root = plant("xeon_two_sockets", tmp_path)
    first, again = machine_facts(root)["host_id"], machine_facts(root)["host_id"]
    assert first == again
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    (root / "proc/sys/kernel/hostname").write_text("node18\n")
    assert machine_facts(root)["host_id"] != first


# --- checkout ------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.lock").write_text("")
    monkeypatch.setattr(machine, "PROJECT", project)
    return project


def git(project, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, "-C", project, *arguments], check=True, capture_output=True)


def test_commit_of_a_checkout(checkout):
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    facts = machine.collect_checkout(machine.ROOT)
    assert re.fullmatch(r"[0-9a-f]{40}", facts["git_commit"])
    assert facts["git_changed"] is False
    assert facts["lock_sha256"].startswith("e3b0c44298fc1c14")  # of the empty file
    (checkout / "requirements.lock").write_text("changed")
    assert machine.collect_checkout(machine.ROOT)["git_changed"] is True


def test_no_git_no_commit(checkout, monkeypatch):
    (checkout / ".git").mkdir()  # broken: git fails
    assert machine.collect_checkout(machine.ROOT)["git_commit"] is None
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.collect_checkout(machine.ROOT)["git_commit"] is None


# --- files ---------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": "Zürich", "values": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a.json") == {"name": "Zürich", "values": [1, 2.5, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path):
    files.write_json(tmp_path / "a.json", {"old": True})
    with (tmp_path / "a.json").open() as reader:
        files.write_json(tmp_path / "a.json", {"new": True})
        assert json.load(reader) == {"old": True}


def test_json_file_has_ordinary_permissions(tmp_path):
    files.write_json(tmp_path / "a.json", {})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": object()}])
def test_failed_write_keeps_the_old_file(tmp_path, bad):
    files.write_json(tmp_path / "a.json", {"old": True})
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "a.json", bad)
    assert files.read_json(tmp_path / "a.json") == {"old": True}


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"old": True})

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "a.json", {"new": True})
    assert files.read_json(tmp_path / "a.json") == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", [b'{"a": 1', b"", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "machine.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"machine\.json is not a JSON file .*; delete it"):
        files.read_json(path)
