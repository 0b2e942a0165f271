"""What this process may use: CPUs, memory nodes, quotas, caches, memory and huge pages.

Every reader takes ``root``, the directory that holds ``proc`` and ``sys``; tests pass the captured tree of
a foreign machine. A file that is missing or damaged means a missing value, never an exception. Only the
standard library is used, so that the import costs next to nothing.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ktask.host.cpus import Cpu, Topology, format_cpu_list, parse_cpu_list

ROOT = Path("/")
READ_BYTES = 64 << 10
MAX_PIECES = 256  # 16 MiB; the mounts of a machine full of containers fit
CPU_DIR = "sys/devices/system/cpu"
NODE_DIR = "sys/devices/system/node"
FASTEST = 1024  # SCHED_CAPACITY_SCALE: the capacity of the fastest core
SIZE_SUFFIX = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


# --- files ---------------------------------------------------------------------------------------------


def read_text(path: Path) -> str | None:
    """Return the stripped text of a small file, or None if it cannot be read."""
    try:
        with path.open("rb") as file:
            # In pieces, because files below /proc/sys answer a read of 4 MiB with "out of memory".
            pieces = iter(lambda: file.read(READ_BYTES), b"")
            text = b"".join(islice(pieces, MAX_PIECES))
    except (OSError, ValueError):  # ValueError: a path with a null byte in it
        return None
    return text.decode(errors="replace").strip()


def status_field(name: str, path: Path = ROOT / "proc/self/status") -> str | None:
    """Return a field of a file such as ``/proc/PID/status``; None if it is not there."""
    match = re.search(rf"^{name}:\s*(.*)$", read_text(path) or "", re.MULTILINE)
    return match[1] if match else None


def status_bytes(name: str, pid: int | str = "self", file: str = "status") -> int:
    """Return a size from ``/proc/PID/status``, or another file there, in bytes; 0 if it is not there."""
    match = re.fullmatch(r"([0-9]{1,18}) kB", status_field(name, ROOT / f"proc/{pid}/{file}") or "")
    return int(match[1]) << 10 if match else 0


def read_int(path: Path) -> int | None:
    """Return the integer in a file, or None if there is none."""
    return _parse_int(read_text(path))


def _parse_int(text: str | None) -> int | None:
    # The length bound is that of a 64-bit counter: longer digits are damage, and slow to convert.
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,20}", text) else None


def numbered(directory: Path, prefix: str, suffix: str = "") -> list[tuple[int, Path]]:
    """Return number and path of the entries ``<prefix><number><suffix>`` of a directory, by number."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    found = (re.fullmatch(rf"{prefix}([0-9]{{1,9}}){suffix}", name) for name in names)
    return sorted((int(match[1]), directory / match[0]) for match in found if match)


def read_cpu_list(path: Path) -> tuple[int, ...]:
    """Return the CPUs listed in a file; empty if it is missing or damaged."""
    return _cpus_if_valid(read_text(path) or "")


def _cpus_if_valid(text: str) -> tuple[int, ...]:
    try:
        return parse_cpu_list(text)
    except ValueError:
        return ()


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
    return _cpus_if_valid(status_field("Cpus_allowed_list", root / "proc/self/status") or "")


def recorded_mems(root: Path = ROOT) -> tuple[int, ...]:
    """Return the memory nodes in ``/proc/self/status`` that the process may use; empty if there are none."""
    return _cpus_if_valid(status_field("Mems_allowed_list", root / "proc/self/status") or "")


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
    quota = quota_cpus(root)
    return max(1, count if quota is None else min(count, int(quota)))


def why_so_many_cpus(root: Path = ROOT, cpus: Iterable[int] | None = None) -> str:
    """Return in words where `cpu_count` comes from: the CPUs of the process, or its quota."""
    count, quota = len(allowed_cpus() if cpus is None else set(cpus)), quota_cpus(root)
    if quota is None or int(quota) >= count:
        return "the CPUs of this process"
    return f"the whole CPUs of this process's quota of {quota:g} (it may run on {count})"


def quota_cpus(root: Path = ROOT) -> float | None:
    """Return the CPU quota in CPUs, or None without one.

    A quota of any ancestor of the process's control group binds too (cgroup v1 and v2): the smallest counts.
    """
    return min(quotas(root).values(), default=None)


def quotas(root: Path = ROOT) -> dict[Path, float]:
    """Return the quota in CPUs of each control group of the process that has one."""
    pairs: dict[Path, tuple[int | None, int | None]] = {}
    for group in cgroup_directories(root, ""):
        quota, _, period = (read_text(group / "cpu.max") or "").partition(" ")
        pairs[group] = _parse_int(quota), _parse_int(period)
    for group in cgroup_directories(root, "cpu"):
        pairs[group] = read_int(group / "cpu.cfs_quota_us"), read_int(group / "cpu.cfs_period_us")
    # Version 1 writes "no quota" as -1.
    found = pairs.items()
    return {group: us / period for group, (us, period) in found if us and period and min(us, period) > 0}


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
        row = [_parse_int(text) for text in (read_text(path / "distance") or "").split()]
        found[nid] = {other: far for (other, _), far in zip(nodes, row, strict=False) if far is not None}
    return found


# --- control groups ------------------------------------------------------------------------------------


class _Mount(NamedTuple):
    top: PurePosixPath  # the control group that is visible at `point`
    point: PurePosixPath
    kind: str  # "cgroup" (version 1) or "cgroup2"
    controllers: frozenset[str]


def _cgroup_mounts(root: Path) -> Iterator[_Mount]:
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        place, source = left.split(), right.split()
        if len(place) > 4 and len(source) > 2 and source[0] in {"cgroup", "cgroup2"}:
            top, point = (PurePosixPath(_unescape(text)) for text in place[3:5])
            yield _Mount(top, point, source[0], frozenset(source[2].split(",")))


def _unescape(text: str) -> str:
    # mountinfo writes blanks and backslashes as octal escapes, "\040".
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), text)


def cgroup_directories(root: Path, controller: str) -> list[Path]:
    """Return the directories of the process's control group and of its visible ancestors, innermost first.

    `controller` names a version 1 hierarchy; the empty string is version 2.
    """
    path = _cgroup_path(root, controller)
    if path is None:
        return []
    for mount in _cgroup_mounts(root):
        if (controller in mount.controllers) if controller else (mount.kind == "cgroup2"):
            inside = _path_below(path, mount.top)
            point = root / mount.point.relative_to(mount.point.anchor)
            return [point / parent for parent in (inside, *inside.parents)]
    return []


def _cgroup_path(root: Path, controller: str) -> PurePosixPath | None:
    text = read_text(root / "proc/self/cgroup") or ""
    for controllers, path in re.findall(r"^[0-9]+:([^:]*):(/.*)$", text, re.MULTILINE):
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _path_below(path: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    # A container may see a path from outside its namespace; then the mount point is all that is visible.
    if ".." in path.parts or not path.is_relative_to(top):
        return PurePosixPath()
    return path.relative_to(top)


# --- memory --------------------------------------------------------------------------------------------


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """Return the entries of ``/proc/meminfo`` in bytes; entries without a unit are left out."""
    text = read_text(root / "proc/meminfo") or ""
    entries = re.findall(r"^([\w()]+):\s+([0-9]{1,18}) kB$", text, re.MULTILINE)
    return {name: int(kib) << 10 for name, kib in entries}


def available_memory_bytes(root: Path = ROOT) -> int:
    """Return how many bytes the process can still take without swapping or being killed.

    That is the smallest of MemAvailable and the room under every limit of the process's control group and its
    ancestors; page cache the kernel can drop counts as room. The result is 0 if no source can be read.
    """
    return max(0, min(memory_room_bytes(root), default=0))


def memory_room_bytes(root: Path = ROOT) -> list[int]:
    """Return the room in bytes under each bound on the process's memory; empty if none can be read."""
    rooms = [meminfo(root).get("MemAvailable")]
    for group in cgroup_directories(root, ""):
        limits = ("memory.max", "memory.high")
        rooms += [_room(group, limit, "memory.current", "inactive_file") for limit in limits]
    for group in cgroup_directories(root, "memory"):
        rooms.append(_room(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
    return [room for room in rooms if room is not None]


def _room(directory: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    limit_bytes, usage_bytes = read_int(directory / limit), read_int(directory / usage)
    if limit_bytes is None or usage_bytes is None:  # "max": no limit
        return None
    stat = read_text(directory / "memory.stat") or ""
    match = re.search(rf"^{reclaimable} ([0-9]{{1,19}})$", stat, re.MULTILINE)
    return limit_bytes - usage_bytes + (int(match[1]) if match else 0)


def hugetlb_pools(root: Path = ROOT) -> dict[int, dict[str, int]]:
    """Return the hugetlb pools by page size in bytes.

    Returns
    -------
    dict of int to dict
        ``total``, ``free`` and ``reserved`` pages; ``free - reserved`` pages can still be taken.
    """
    paths = numbered(root / "sys/kernel/mm/hugepages", "hugepages-", "kB")
    pools = {size_kib << 10: _read_pool(path) for size_kib, path in paths}
    return {size_bytes: pool for size_bytes, pool in pools.items() if pool}


def _read_pool(path: Path) -> dict[str, int] | None:
    files = {"total": "nr_hugepages", "free": "free_hugepages", "reserved": "resv_hugepages"}
    counts = {key: read_int(path / name) for key, name in files.items()}
    complete = {key: count for key, count in counts.items() if count is not None}
    return complete if len(complete) == len(files) else None


def bracketed(path: Path) -> str | None:
    """Return the chosen word of a kernel setting such as ``always [madvise] never``."""
    match = re.search(r"\[([\w+-]+)\]", read_text(path) or "")
    return match[1] if match else None


def thp_mode(root: Path = ROOT) -> str | None:
    """Return when the kernel uses transparent huge pages: 'always', 'madvise', 'never'; None without them."""
    return bracketed(root / "sys/kernel/mm/transparent_hugepage/enabled")
