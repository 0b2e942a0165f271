"""The memory of the machine, how much of it this process may take, and the pools of huge pages."""

import re
from pathlib import Path

from ktask.host.control_groups import cgroup_directories
from ktask.host.kernel_files import ROOT, bracketed, numbered, read_int, read_text


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


def memory_total_bytes(root: Path = ROOT) -> int:
    """Return how much memory there is, or a control group allows if that is less; 0 if that is not known."""
    limits = [meminfo(root).get("MemTotal")]
    limits += [read_int(group / "memory.max") for group in cgroup_directories(root, "")]
    limits += [read_int(group / "memory.limit_in_bytes") for group in cgroup_directories(root, "memory")]
    return min((limit for limit in limits if limit is not None), default=0)


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


def thp_mode(root: Path = ROOT) -> str | None:
    """Return when the kernel uses transparent huge pages: 'always', 'madvise', 'never'; None without them."""
    return bracketed(root / "sys/kernel/mm/transparent_hugepage/enabled")
