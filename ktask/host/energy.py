"""How much energy the machine uses: the counters of RAPL, where they may be read (mostly by root alone)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ktask.host.kernel_files import ROOT, numbered, read_int, read_text

FOLDER = "sys/class/powercap"
PREFIX = "energy_"


class Zone(NamedTuple):
    """A part of the machine, such as a package: its counter, and where that begins again."""

    counter: Path
    range_uj: int


@lru_cache(maxsize=4)
def zones(root: Path = ROOT) -> dict[str, Zone]:
    """Return what has a counter, by names such as `energy_package-0_j` and `energy_package-0-dram_j`."""
    found = {}
    for number, package in numbered(root / FOLDER, "intel-rapl:"):
        found[_name(package)] = _zone(package)
        for _, part in numbered(root / FOLDER, f"intel-rapl:{number}:"):
            if read_text(part / "name") == "dram":  # cores and the like are in the package
                found[f"{_name(package)}-dram"] = _zone(part)
    return {f"{PREFIX}{name}_j": zone for name, zone in found.items() if name and zone.range_uj > 0}


def _name(folder: Path) -> str:
    return re.sub(r"[^\w-]", "", read_text(folder / "name") or "")[:40]


def _zone(folder: Path) -> Zone:
    return Zone(folder / "energy_uj", read_int(folder / "max_energy_range_uj") or 0)


def sample(root: Path = ROOT) -> dict[str, float]:
    """Return the energy used since some moment, in joules, by zone; without those that may not be read."""
    counts = {name: read_int(zone.counter) for name, zone in zones(root).items()}
    return {name: uj / 1e6 for name, uj in counts.items() if uj is not None and uj >= 0}


def used_j(name: str, before: Mapping[str, float], after: Mapping[str, float], root: Path = ROOT) -> float:
    """Return the energy used between two samples, of a counter that began again at most once."""
    grown = after[name] - before[name]
    return grown if grown >= 0 else grown + zones(root)[name].range_uj / 1e6
