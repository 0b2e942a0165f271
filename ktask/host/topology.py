"""What this process may use: CPUs, caches, memory nodes, and how far apart they are.

Every reader takes ``root``, the directory that holds ``proc`` and ``sys``; tests pass the captured tree of
a foreign machine. A file that is missing or damaged means a missing value, never an exception. Only the
standard library is used, so that the import costs next to nothing.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ktask.host import control_groups
from ktask.host.cpus import Cpu, Topology, format_cpu_list, parse_cpu_list
from ktask.host.kernel_files import (
    ROOT,
    cpus_if_valid,
    numbered,
    parse_int,
    read_cpu_list,
    read_int,
    read_text,
    status_field,
)

CPU_DIR = "sys/devices/system/cpu"
NODE_DIR = "sys/devices/system/node"
FASTEST = 1024  # SCHED_CAPACITY_SCALE: the capacity of the fastest core
SIZE_SUFFIX = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


# --- CPUs ----------------------------------------------------------------------------------------------


_kept = threading.local()


def allowed_cpus() -> tuple[int, ...]:
    """Return the CPUs that the calling thread may use, sorted: its mask, within `kept_to` that of before."""
    if known := getattr(_kept, "cpus", ()):
        return known
    if not hasattr(os, "sched_getaffinity"):  # not Linux: the doctor says so, an import must not fail
        return tuple(range(os.cpu_count() or 1))
    return tuple(sorted(os.sched_getaffinity(0)))


@contextlib.contextmanager
def kept_to(cpu: int) -> Iterator[None]:
    """Keep the calling thread to one CPU for the block; `allowed_cpus` still says what others may use."""
    with _back_to_before():
        _kept.cpus = allowed_cpus()
        os.sched_setaffinity(0, {cpu})
        yield


@contextlib.contextmanager
def _back_to_before() -> Iterator[None]:
    """Give the calling thread its affinity mask back after the block."""
    cpus, mask = getattr(_kept, "cpus", ()), os.sched_getaffinity(0)
    try:
        yield
    finally:
        _kept.cpus = cpus
        with contextlib.suppress(OSError):  # a cpuset has changed: none of them is left to this process
            os.sched_setaffinity(0, mask)


@contextlib.contextmanager
def narrowed_to(cpus: str | Iterable[int] | None) -> Iterator[None]:
    """Have the calling thread, and what it starts, use only `cpus` for the block; None changes nothing.

    Isolated CPUs (the boot option isolcpus) are in no mask by themselves: to use them, name them here.

    Raises
    ------
    ValueError
        If one does not exist, is offline, or is not allowed; the message names those that are.
    """
    with _back_to_before():
        if cpus is not None:
            _narrow_to(set(parse_cpu_list(cpus) if isinstance(cpus, str) else cpus))
        yield


def _narrow_to(wanted: set[int]) -> None:
    before = set(allowed_cpus())
    allowed = before if wanted <= before else before.union(set(isolated_cpus()).intersection(online_cpus()))
    if wanted and wanted <= allowed:
        os.sched_setaffinity(0, wanted)
        if (granted := os.sched_getaffinity(0)) == wanted:
            _kept.cpus = ()
            return
        os.sched_setaffinity(0, before)  # a cpuset left some out
        allowed = before | granted
    what = (
        "no CPU is named" if not wanted else f"CPUs {format_cpu_list(wanted - allowed)} cannot be used here"
    )
    raise ValueError(f"{what}; use some of {format_cpu_list(allowed)}")


def recorded_affinity(root: Path = ROOT) -> tuple[int, ...]:
    """Return the affinity mask in ``/proc/self/status``, sorted; empty if there is none."""
    return cpus_if_valid(status_field("Cpus_allowed_list", root / "proc/self/status") or "")


def recorded_mems(root: Path = ROOT) -> tuple[int, ...]:
    """Return the memory nodes in ``/proc/self/status`` that the process may use; empty if there are none."""
    return cpus_if_valid(status_field("Mems_allowed_list", root / "proc/self/status") or "")


def online_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """Return the CPUs the kernel has online, sorted; empty if it does not say."""
    return read_cpu_list(root / CPU_DIR / "online") or _cpus_in_stat(root)


def isolated_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """Return the CPUs that the scheduler leaves alone (boot option isolcpus, isolated cpusets), sorted."""
    return read_cpu_list(root / CPU_DIR / "isolated")


def _cpus_in_stat(root: Path) -> tuple[int, ...]:
    numbers = re.findall(r"^cpu([0-9]{1,5}) ", read_text(root / "proc/stat") or "", re.MULTILINE)
    return tuple(sorted(map(int, numbers)))


def cpu_count(root: Path = ROOT, cpus: Iterable[int] | None = None) -> int:
    """Return how many CPUs to plan for: the affinity mask cut by the whole CPUs of the quota, at least 1.

    Parameters
    ----------
    root
        Directory that holds ``proc`` and ``sys``.
    cpus
        CPUs to count; None is the affinity mask of the calling thread.
    """
    count = len(allowed_cpus() if cpus is None else set(cpus))
    quota = control_groups.quota_cpus(root)
    return max(1, count if quota is None else min(count, int(quota)))


def why_so_many_cpus(root: Path = ROOT, cpus: Iterable[int] | None = None) -> str:
    """Return in words where `cpu_count` comes from: the CPUs of the process, or its quota."""
    count, quota = len(allowed_cpus() if cpus is None else set(cpus)), control_groups.quota_cpus(root)
    if quota is None or int(quota) >= count:
        return "the CPUs of this process"
    return f"the whole CPUs of this process's quota of {quota:g} (it may run on {count})"


def smt_siblings(root: Path = ROOT) -> dict[int, tuple[int, ...]]:
    """Return, for each online CPU, the CPUs of its core, itself included."""
    paths = numbered(root / CPU_DIR, "cpu")
    siblings = {cpu: read_cpu_list(path / "topology/thread_siblings_list") for cpu, path in paths}
    return {cpu: cpus for cpu, cpus in siblings.items() if cpus}


def caches(root: Path = ROOT) -> list[dict[str, Any]]:
    """Return every cache of the machine once, by level and CPU.

    Returns
    -------
    list of dict
        ``level`` (1, 2, ...), ``type`` ('data', 'instruction' or 'unified'), ``size_bytes`` and
        ``shared_cpus``, the CPUs in front of it. A cache of unknown size is left out.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, cpu in numbered(root / CPU_DIR, "cpu"):
        for _, index in numbered(cpu / "cache", "index"):
            if cache := _read_cache(index):
                found[cache["level"], cache["type"], cache["shared_cpus"]] = cache
    return [found[key] for key in sorted(found)]


def _read_cache(index: Path) -> dict[str, Any] | None:
    level, size_bytes = read_int(index / "level"), _parse_size(read_text(index / "size"))
    kind = (read_text(index / "type") or "").lower()
    if level is None or not size_bytes or kind not in {"data", "instruction", "unified"}:
        return None
    shared_cpus = read_cpu_list(index / "shared_cpu_list")
    return {"level": level, "type": kind, "size_bytes": size_bytes, "shared_cpus": shared_cpus}


def _parse_size(text: str | None) -> int | None:
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text or "")
    return int(match[1]) * SIZE_SUFFIX[match[2]] if match else None


# --- memory nodes --------------------------------------------------------------------------------------


def node_cpus(root: Path = ROOT) -> dict[int, tuple[int, ...]]:
    """Return the online CPUs of every memory node by node number; a node of memory only has none."""
    return {nid: read_cpu_list(path / "cpulist") for nid, path in numbered(root / NODE_DIR, "node")}


def memory_nodes(root: Path = ROOT) -> tuple[int, ...]:
    """Return the nodes that have memory; where the kernel does not say so, all of them."""
    return read_cpu_list(root / NODE_DIR / "has_memory") or tuple(sorted(node_cpus(root)))


def read_topology(root: Path = ROOT, cpus: Iterable[int] | None = None) -> Topology:
    """Return how the CPUs in `cpus` and the memory nodes lie to each other.

    Parameters
    ----------
    root
        Directory that holds ``proc`` and ``sys``.
    cpus
        CPUs to keep; None is the affinity mask of the calling thread, which has no offline ones.

    Returns
    -------
    Topology
        Every CPU of `cpus` is in exactly one node. Where the kernel names no node for a CPU, node 0 takes it,
        so a machine without node files is one node. A CPU of unknown core has one of its own; those of
        unknown cache have that of their node and socket.
    """
    kept = sorted(set(allowed_cpus() if cpus is None else cpus))
    nids = {cpu: nid for nid, here in reversed(node_cpus(root).items()) for cpu in here}
    paths = {cpu: root / CPU_DIR / f"cpu{cpu}" for cpu in kept}
    cores = _groups(kept, lambda cpu: read_cpu_list(paths[cpu] / "topology/thread_siblings_list"))
    sockets = {cpu: max(read_int(paths[cpu] / "topology/physical_package_id") or 0, 0) for cpu in kept}

    def beside(cpu: int) -> list[int]:
        return [one for one in kept if (nids.get(one), sockets[one]) == (nids.get(cpu), sockets[cpu])]

    caches = _groups(kept, lambda cpu: _last_cache(paths[cpu]) or beside(cpu))
    tiers = _tiers(root, paths)
    return Topology(
        tuple(Cpu(cpu, nids.get(cpu, 0), sockets[cpu], caches[cpu], cores[cpu], tiers[cpu]) for cpu in kept),
        _distances(root),
        memory_nodes(root),
    )


def _groups(cpus: Iterable[int], sharing: Callable[[int], Iterable[int]]) -> dict[int, int]:
    """Return for each CPU the first of those that share something with it."""
    first: dict[int, int] = {}
    for cpu in cpus:
        if cpu not in first:
            first |= {other: cpu for other in (cpu, *sharing(cpu)) if other not in first}
    return first


def _last_cache(cpu: Path) -> tuple[int, ...]:
    """Return the CPUs that share the last-level cache of a CPU; empty if it is not known."""
    found = [
        (read_int(index / "level") or 0, read_cpu_list(index / "shared_cpu_list"))
        for _, index in numbered(cpu / "cache", "index")
        if read_text(index / "type") != "Instruction"
    ]
    return max(found, default=(0, ()))[1]


def _tiers(root: Path, paths: Mapping[int, Path]) -> dict[int, int]:
    """Return how small the core of each CPU is: 0 for the fastest, by quarters of their capacity.

    Arm names capacities. Intel's hybrid processors name their smaller cores by an event source of their own.
    """
    small = {
        cpu: capacity
        for name, capacity in (("cpu_atom", FASTEST // 2), ("cpu_lowpower", FASTEST // 4))
        for cpu in read_cpu_list(root / "sys/devices" / name / "cpus")
    }
    found = {
        cpu: max(read_int(path / "cpu_capacity") or small.get(cpu, FASTEST), 0) for cpu, path in paths.items()
    }
    most = max(found.values(), default=0) + 1
    return {cpu: 3 - 4 * capacity // most for cpu, capacity in found.items()}


def _distances(root: Path) -> dict[int, dict[int, int]]:
    """Return the distances between the nodes that are online; a row has one number per such node."""
    nodes = numbered(root / NODE_DIR, "node")
    found = {}
    for nid, path in nodes:
        row = [parse_int(text) for text in (read_text(path / "distance") or "").split()]
        found[nid] = {other: far for (other, _), far in zip(nodes, row, strict=False) if far is not None}
    return found
