"""Descriptions of the published machines, from their published curves.

The files in `described/` are written by `write_all`; a test holds them against the data. Layouts are
those of the processors named; figures of each kind of work are fitted as for a run of this suite
(`calibrate`). All threads of a curve count, because these are descriptions and no predictions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from msgspec.structs import replace

from ktask.models import published
from ktask.models.simulation.calibrate import fit_line, fit_scaling
from ktask.models.simulation.machines import FOLDER, Machine, write_machine
from ktask.models.simulation.simulator import simulate

FITS = 10  # of bandwidth and shape in turn
HELPER_START_S = (
    50e-6  # "about 50 us" from queueing to start, on a Xeon of 2018 (reply to Zi Yan, 2018-11-06)
)


@dataclass(frozen=True)
class Curves:
    """Which rows describe a kind of work.

    Attributes
    ----------
    file, where
        File of the published data, and what its rows have in common.
    jobs
        Equal tasks that ran side by side, one per node: each has its share of the size.
    one_node
        Whether the memory is known to lie on one node, so that a plateau is the roof of that node.
    """

    file: str
    where: Mapping[str, str]
    jobs: int = 1
    one_node: bool = False


@dataclass(frozen=True)
class Layout:
    """A published machine: how it is called in the data, its layout, and its kinds of work."""

    title: str
    machine: str
    nodes: int
    cores_per_node: int
    smt: int
    work: Mapping[str, Curves]


_INIT = {"variant": "test", "metric": "deferred init (slowest node)"}
LAYOUTS: dict[str, Layout] = {
    "xeon-e7-8895v3": Layout(
        "Xeon E7-8895 v3, 8 sockets, 288 CPUs",
        "E7-8895 v3",
        *(8, 18, 2),
        {
            "clear-gigantic": Curves("ktask_clear_gigantic_page", {}, one_node=True),
            "fallocate-2MiB": Curves("ktask_hugetlbfs_fallocate", {"size_gib": "200"}),
        },
    ),
    "sparc-t7-4": Layout(
        "SPARC T7-4, 4 sockets, 1024 CPUs",
        "SPARC T7-4",
        *(4, 32, 8),
        {
            "clear-gigantic": Curves("ktask_clear_gigantic_page", {}),
            "fallocate": Curves("ktask_hugetlbfs_fallocate", {}),
        },
    ),
    "xeon-platinum-8160": Layout(
        "Xeon Platinum 8160, 2 sockets, 96 CPUs",
        "Platinum 8160",
        *(2, 24, 2),
        {
            "start-guest-v6": Curves(
                "ktask_vfio_pinning", {"variant": "patch 6 (parallelize vfio_pin_map_dma)"}
            ),
            "start-guest-v8": Curves(
                "ktask_vfio_pinning", {"variant": "patch 8 (locked_vm atomic, no mmap_sem writer)"}
            ),
        },
    ),
    "xeon-platinum-8167m": Layout(
        "Xeon Platinum 8167M, 2 sockets, 104 CPUs",
        "8167M",
        *(2, 26, 2),
        {"deferred-init": Curves("padata_deferred_init_2020", _INIT, jobs=2)},
    ),
    "xeon-e5-2699v3": Layout(
        "Xeon E5-2699 v3, 2 sockets, 72 CPUs",
        "E5-2699 v3",
        *(2, 18, 2),
        {"deferred-init": Curves("padata_deferred_init_2020", {**_INIT, "cpus": "72"}, jobs=2)},
    ),
}


def points(layout: Layout, curves: Curves, table: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements of one kind of work: threads, size_bytes of one job and time_s.

    Up to the cores of a node only: what siblings gain is not known.
    """
    found = table[(table.file == curves.file) & table.machine.str.contains(layout.machine, regex=False)]
    found = found[found.new_measurement & (found.threads >= 1) & (found.time_s > 0)]
    for column, value in curves.where.items():
        if column == "size_gib":
            found = found[found.size_bytes == float(value) * published.GIB]
        elif column == "cpus":
            found = found[found.cpus == float(value)]
        else:
            found = found[found[column] == value]
    found = found[found.threads <= layout.cores_per_node]
    return found.assign(size_bytes=found.size_bytes / curves.jobs)[["threads", "size_bytes", "time_s"]]


def describe(layout: Layout, table: pd.DataFrame) -> Machine:
    """Return the description of a published machine."""
    known = {name: points(layout, curves, table) for name, curves in layout.work.items()}
    work = {name: _figures(known[name], layout.work[name]) for name in known}
    first = next(iter(work.values()))
    machine = Machine(
        name=layout.title,
        source=f"data/published: {', '.join(sorted({curves.file for curves in layout.work.values()}))}",
        nodes=layout.nodes,
        cores_per_node=layout.cores_per_node,
        smt=layout.smt,
        core_bandwidth=first["core_bandwidth"],
        node_bandwidth=first.get("node_bandwidth", math.inf),
        helper_start_s=HELPER_START_S,
        run_queue="node",
        work=work,
    )
    off = ", ".join(f"{name} {_misfit_text(machine.for_work(name), known[name])}" for name in known)
    return replace(machine, about=f"Simulated against published, median and largest error: {off}.")


def _misfit_text(machine: Machine, found: pd.DataFrame) -> str:
    errors = [
        abs(simulate(machine, int(row.size_bytes), max_threads=int(row.threads)).wall_s / row.time_s - 1)
        for row in found.itertuples()
    ]
    return f"{statistics.median(errors):.0%} and {max(errors):.0%} ({len(errors)} times)"


def _figures(found: pd.DataFrame, curves: Curves) -> dict[str, float]:
    """Return the figures of one kind of work.

    Its bandwidth follows from all threads, not from the one-thread rows alone: some of those are slower than
    half of the two-thread rows, and then no curve through them fits the rest.
    """
    alone = found[found.threads == 1]
    start_s, bandwidth = fit_line(alone.size_bytes, alone.time_s)
    rates = (found.size_bytes / (found.time_s - start_s).where(found.time_s > start_s)).dropna()
    threads = found.threads[rates.index].tolist()
    for _ in range(FITS):
        gains = (rates / bandwidth).tolist()
        contention, roof = fit_scaling(threads, gains, may_have_roof=curves.one_node)
        off = [
            math.log(gain / min(n / (1 + contention * (n - 1)), roof))
            for n, gain in zip(threads, gains, strict=True)
        ]
        bandwidth *= math.exp(statistics.mean(off))
    figures = {"core_bandwidth": bandwidth, "task_start_s": start_s, "contention": contention}
    if math.isfinite(roof):
        figures["node_bandwidth"] = roof * bandwidth
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def write_all(folder: Path = FOLDER) -> list[Path]:
    """Write every description; return the paths."""
    table = published.load()
    paths = []
    for name, layout in LAYOUTS.items():
        paths.append(folder / f"{name}.yaml")
        write_machine(describe(layout, table), paths[-1])
    return paths
