"""Runs of machines with 8, 64, 128 and 288 CPUs that nobody measured: the simulator makes them, for tests.

    python tests/synthetic/make.py [FOLDER]      writes data/synthetic-*, the same bytes each time

The policies of the engine hand out the chunks, threads take CPUs in the order in which the engine does, and
the event loop says how long that takes on the figures below, which are plausible and of no machine. Processes
differ by `SPREAD`. `machine.json` says `synthetic`, and so does every page, mail and table of it.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from msgspec.structs import replace

from ktask import workloads
from ktask.common.files import write_json, write_text
from ktask.engine import cpu_order, policy
from ktask.engine.policy import ANY_NODE, Part
from ktask.host.cpus import Cpu, Topology
from ktask.lab.measure.measurement import Protocol
from ktask.lab.measure.threads import counts_between, most_threads
from ktask.lab.records import SYNTHETIC, write_datapackage, write_records
from ktask.lab.sweep.grid import Grid, cell_id
from ktask.models.simulation.machines import Machine
from ktask.models.simulation.simulator import Simulation, run_plan
from ktask.workloads import Case

FOLDER = Path(__file__).resolve().parents[2] / "data"
GIB = 1 << 30
SEED, PASSES, ROUNDS = 20261126, 5, 2
SPREAD = {"core_bandwidth": 0.025, "contention": 0.1}  # sd of the logarithm, between processes
STARTED = datetime(2026, 11, 26, tzinfo=UTC)
COSTS = {"smt_gain": 1.25, "task_start_s": 2e-5, "helper_queue_s": 2e-6, "helper_start_s": 6e-5}
COSTS |= {"chunk_cost_s": 2e-6, "noise": 0.03}


class Shape(NamedTuple):
    """The layout of a machine, and the sizes that are measured on it."""

    nodes: int
    cores_per_node: int
    sizes: tuple[str, ...]


SHAPES = {  # two hardware threads on each core
    8: Shape(1, 4, ("64MiB", "1GiB", "16GiB")),
    64: Shape(2, 16, ("64MiB", "1GiB", "16GiB", "128GiB")),
    128: Shape(2, 32, ("64MiB", "1GiB", "16GiB", "256GiB")),
    288: Shape(8, 18, ("64MiB", "1GiB", "32GiB", "512GiB")),
}


class Work(NamedTuple):
    """A path and its figures; `is_local` where each thread has its memory on its own node."""

    workload: str
    method: str
    page_kind: str
    is_local: bool
    figures: Mapping[str, float]


def _gib(core: float, node: float, **more: float) -> dict[str, float]:
    """Return bandwidths of a thread and of a node, given in GiB/s, and other figures."""
    return {"core_bandwidth": core * GIB, "node_bandwidth": node * GIB, **more}


WORKS = (
    Work("zeroing", "populate", "4KiB", True, _gib(2.1, 60, contention=0.004)),
    Work("zeroing", "populate", "THP", True, _gib(8.2, 85, contention=0.001)),
    Work("zeroing", "populate", "1GiB", True, _gib(9.1, 85)),
    Work("zeroing", "nontemporal", "THP", False, _gib(14, 120)),
    Work("page_walk", "pagemap_scan", "4KiB", False, _gib(700, 9000, contention=0.002)),
    Work("free", "dontneed", "4KiB", False, _gib(28, 400, contention=0.012)),
    Work("free", "munmap", "THP", False, _gib(250, 9000, lock_share=0.06)),
    # mmap_lock for writing: threads take turns, and each waiter slows the one that holds it.
    Work("protect", "mprotect", "4KiB", False, _gib(95, 9000, lock_share=0.97, contention=0.006)),
)
PLACES = ("local", "remote", "spread", "split")
PLACED = (WORKS[1], WORKS[3])  # measured with their memory in each place, on several nodes
FAR = 1.45  # times longer that memory of another node takes


# --- one machine -------------------------------------------------------------------------------------------


def topology(cpus: int) -> Topology:
    """Return the CPUs as Linux counts them: a thread of every core, then their siblings."""
    shape, half = SHAPES[cpus], cpus // 2
    per_node = shape.cores_per_node
    each = (
        Cpu(n, n % half // per_node, n % half // per_node, n % half // per_node, n % half)
        for n in range(cpus)
    )
    return Topology(tuple(each), memory_nids=tuple(range(shape.nodes)))


def machine_facts(cpus: int) -> dict[str, Any]:
    """Return what machine.json says."""
    topo, shape = topology(cpus), SHAPES[cpus]
    distances = [[10 if a == b else 20 for b in range(shape.nodes)] for a in range(shape.nodes)]
    memory_bytes = 1536 * GIB // shape.nodes if cpus > 8 else 64 * GIB
    nodes = [
        {
            "nid": node.nid,
            "cpus": list(node.cpus),
            "memory_bytes": memory_bytes,
            "distances": distances[node.nid],
        }
        for node in topo.nodes
    ]
    about = {
        "name": "evidence",
        "value": "a simulated machine has none",
        "level": "warning",
        "means": f"This run was {SYNTHETIC}.",
        "remedy": "`make report` measures a machine",
    }
    return {
        "schema_version": 1,
        "synthetic": SYNTHETIC,
        "host_name": f"simulated-{cpus}",
        "host_id": f"synthetic{cpus:04d}",
        "collected_at": STARTED.isoformat(),
        "kernel_release": "simulated",
        "operating_system": "none",
        "cpu_model": "Simulated processor",
        "sockets": shape.nodes,
        "cores": cpus // 2,
        "threads": cpus,
        "smt": True,
        "virtualised": False,
        "nodes": nodes,
        "memory_total_bytes": memory_bytes * shape.nodes,
        "thread_borders": cpu_order.borders(topo),
        "doctor": [about],
    }


def cases_of(cpus: int) -> list[tuple[Case, Work]]:
    """Return the cells of a machine: each path at all sizes, and two with their memory elsewhere."""
    shape, found = SHAPES[cpus], []
    for work in WORKS:
        sizes = ("4GiB", *shape.sizes[2:]) if work.page_kind == "1GiB" else shape.sizes
        found += [(_case(work, size), work) for size in sizes]
    placed = PLACED if shape.nodes > 1 else ()
    return found + [(_case(work, "16GiB", node=place), work) for work in placed for place in PLACES]


def _case(work: Work, size: str, **options: str) -> Case:
    least = "1GiB" if work.page_kind == "1GiB" else "2MiB"
    kind = {"page_kind": work.page_kind, "min_chunk": least}
    return Case.of(work.workload, work.method, size=size, options=options, **kind)


# --- one repetition ----------------------------------------------------------------------------------------


def simulated(
    machine: Machine, case: Case, work: Work, cpus: tuple[int, ...], topo: Topology, seed: int
) -> Simulation:
    """Return a task whose threads are on these CPUs."""
    nids = [topo.node_of(cpu) for cpu in cpus]
    place = dict(case.options).get("node", "")
    parts = _parts(place or ("first touch" if work.is_local else "local"), case.size_bytes, nids, machine)
    whole = policy.make_plan(
        case.policy,
        (Part(0, case.size_bytes, ANY_NODE),),
        case.min_chunk_bytes,
        len(cpus),
        machine=machine.for_policy(),
    )
    at = {part.nid: k for k, part in enumerate(parts)}
    helpers = tuple(policy.Helper(at.get(nid, 0), nid) for nid in nids[1 : whole.threads])
    plan = policy.Plan(**{**vars(whole), "parts": tuple(parts), "helpers": helpers})
    return run_plan(machine, plan, seed=seed)


def _parts(place: str, size: int, nids: list[int], machine: Machine) -> list[Part]:
    """Return where the memory lies: as the option `node` says, or a share per thread on its node."""
    if place in ("local", "remote"):
        return [Part(0, size, 0 if place == "local" else machine.nodes - 1)]
    if place == "spread":
        return [Part(0, size, ANY_NODE)]
    shares = Counter(nids) if place == "first touch" else Counter(range(machine.nodes))
    parts, start, done = [], 0, 0
    for nid, count in shares.items():
        done += count
        end = size * done // shares.total()
        parts.append(Part(start, end - start, nid))
        start = end
    return parts


def rows_of(
    cpus: int, case: Case, work: Work, topo: Topology, counts: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of all processes of one cell."""
    shape = SHAPES[cpus]
    layout = {"nodes": shape.nodes, "cores_per_node": shape.cores_per_node, "smt": 2, "remote_penalty": FAR}
    usual = Machine(f"{cpus} CPUs", **layout, **COSTS, **work.figures)
    order = cpu_order.order(topo)
    variants = [(1, True, []), (1, True, ["aa"]), *((n, False, []) for n in counts[1:])]
    for number in range(1, PASSES + 1):
        rng = np.random.default_rng([SEED, cpus, number, *cell_id(case).encode()])
        factors = {name: float(np.exp(rng.normal(0, sd))) for name, sd in SPREAD.items()}
        machine = replace(usual, **{name: getattr(usual, name) * factor for name, factor in factors.items()})
        for turn in range(ROUNDS):
            for place, k in enumerate(rng.permutation(len(variants))):
                threads, baseline, flags = variants[k]
                run = simulated(machine, case, work, order[:threads], topo, int(rng.integers(1 << 30)))
                yield _row(run, case, topo, order) | {
                    **{"pass": number, "round": turn, "order": place, "baseline": baseline, "flags": flags},
                    **{"threads_requested": threads, "boot_id": "simulated"},
                }


def _row(run: Simulation, case: Case, topo: Topology, order: tuple[int, ...]) -> dict[str, Any]:
    plan, method = run.plan, workloads.get(case.workload).method(case.method)
    used = order[: plan.threads]
    ends = run.workers["end_s"]
    return {
        **{"cell_id": cell_id(case), "workload": case.workload, "method": case.method, "policy": case.policy},
        **{"backend": method.backend, "page_kind": case.page_kind, "page_size_bytes": case.page_size},
        **{"size_bytes": case.size_bytes, "unit": workloads.get(case.workload).operation},
        "operations": case.size_bytes // (case.page_size if case.workload == "page_walk" else 1),
        **{"threads": plan.threads, "chunk_size": plan.chunk_size, "n_chunks": plan.n_chunks},
        **{"min_chunk_size": case.min_chunk_bytes, "options": case.options_text},
        "wall_s": _rounded(run.wall_s),
        "cpu_user_s": 0.0,
        "cpu_system_s": _rounded(float(run.workers["cpu_s"].sum()), 3),
        "apart_s": _rounded(float(ends.max() - ends.min()), 2),
        **{
            "faults_minor": 0,
            "ctx_involuntary": 0,
            "steal_s": 0.0,
            "verified": True,
            "warmup": False,
            "calls": 1,
        },
        "run_mode": "simulated",
        "cpus": ",".join(map(str, used)),
        "nodes": ",".join(str(topo.node_of(cpu)) for cpu in used),
        "shared_cores": cpu_order.shared_cores(topo, used),
    }


def _rounded(seconds: float, digits: int = 4) -> float:
    """Return so many digits: more are noise, and would not compress."""
    return float(f"{seconds:.{digits}g}")


# --- one run -----------------------------------------------------------------------------------------------


def make(cpus: int, folder: Path = FOLDER) -> Path:
    """Write the run of a machine with so many CPUs, and return its directory."""
    path, topo, facts = folder / f"synthetic-{cpus}-cpus", topology(cpus), machine_facts(cpus)
    cases, borders = cases_of(cpus), facts["thread_borders"]
    counts = counts_between(most_threads(cpus), borders.values())
    at, rows = STARTED, []
    for case, work in cases:
        for row in rows_of(cpus, case, work, topo, counts):
            rows.append(row | {"run_id": path.name, "host_id": facts["host_id"], "started_at": at})
            at += timedelta(seconds=max(1, round(row["wall_s"])))
    shutil.rmtree(path, ignore_errors=True)
    (path / "records").mkdir(parents=True)
    write_records(path / "records" / "all.parquet", rows)
    write_json(path / "machine.json", facts)
    protocol = Protocol(least=ROUNDS, most=ROUNDS, seed=SEED)
    grid = Grid(
        "synthetic", SYNTHETIC, SEED, counts, protocol, tuple(case for case, _ in cases), passes=PASSES
    )
    write_text(path / "grid.yaml", yaml.safe_dump(grid.as_dict(), sort_keys=False))
    write_datapackage(path, path.name)
    return path


if __name__ == "__main__":
    for n in SHAPES:
        print(make(n, *map(Path, sys.argv[1:2])))  # noqa: T201
