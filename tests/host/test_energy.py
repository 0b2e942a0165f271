"""Energy as RAPL counts it: zones, counters that begin again, and machines that have none."""

from ktask.host import energy
from ktask.host.kernel_counters import growth, sample


def zone(root, name: str, label: str, uj: str, range_uj: str = "262143328850"):
    folder = root / energy.FOLDER / name
    folder.mkdir(parents=True)
    for file, text in (("name", label), ("energy_uj", uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_packages_and_their_memory_are_counted(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", "5000000")
    zone(tmp_path, "intel-rapl:0:0", "core", "1000000")
    zone(tmp_path, "intel-rapl:0:1", "dram", "2000000")
    zone(tmp_path, "intel-rapl:1", "package-1", "7000000")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", "9000000")  # the same once more
    assert energy.sample(tmp_path) == {
        "energy_package-0_j": 5.0,
        "energy_package-0-dram_j": 2.0,
        "energy_package-1_j": 7.0,
    }
    assert sample(tmp_path)["energy_package-0_j"] == 5.0


def test_a_counter_that_began_again_has_not_gone_back(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", "9500000", "10000000") / "energy_uj"
    before = sample(tmp_path)
    counter.write_text("200000\n")
    assert round(growth(before, sample(tmp_path), tmp_path)["energy_package-0_j"], 6) == 0.7


def test_a_counter_that_may_not_be_read_or_is_damaged_is_left_out(tmp_path):
    (zone(tmp_path, "intel-rapl:0", "package-0", "1") / "energy_uj").unlink()
    zone(tmp_path, "intel-rapl:1", "package-1", "many")
    zone(tmp_path, "intel-rapl:2", "package-2", "1", "0")
    assert energy.sample(tmp_path) == {}


def test_a_machine_without_rapl_has_no_energy(tmp_path):
    assert energy.sample(tmp_path) == {}
    assert all(joules >= 0 for joules in energy.sample().values())
