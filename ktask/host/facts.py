"""The facts about a machine that a reader of its measurements needs: ``machine.json``.

One small collector per source; `COLLECTORS` lists them. A source that is missing means missing keys. All
text is cleaned before it is stored, because host names, DMI fields and the like are chosen by others.
"""

import hashlib
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ktask.common.version import __version__
from ktask.host import available_memory, control_groups, node_memory, topology
from ktask.host.boot_log import parallel_boot
from ktask.host.kernel_files import ROOT, bracketed, numbered, read_int, read_text
from ktask.host.topology import CPU_DIR, NODE_DIR

SCHEMA_VERSION = 1
MAX_TEXT = 4096  # the longest kernel command line is 4 KiB on most architectures
PROJECT = Path(__file__).resolve().parents[2]
# Recorded even if the project is not installed but only lies there.
PACKAGES = ("numba", "llvmlite", "numpy", "pandas", "pyarrow", "scipy", "papermill", "nbclient", "matplotlib")
OTHER_EXTRAS = re.compile(r"extra == .(cluster|dev)")
NAME = re.compile(r"[a-z][a-z0-9_]*")
GIT_TIMEOUT_S = 5

ARM_VENDORS = {0x41: "Arm", 0x43: "Cavium", 0x46: "Fujitsu", 0x48: "HiSilicon"}
ARM_VENDORS |= {0x4E: "NVIDIA", 0xC0: "Ampere"}

ARM_MODELS = {
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}
# What DMI or the list of clock sources says, the most specific first.
HYPERVISORS = (
    ("amazon ec2", "Amazon EC2"),
    ("google compute engine", "Google Compute Engine"),
    ("alibaba cloud", "Alibaba Cloud"),
    ("openstack", "OpenStack"),
    ("vmware", "VMware"),
    ("virtualbox", "VirtualBox"),
    ("parallels", "Parallels"),
    ("bhyve", "bhyve"),
    ("kvm", "KVM"),
    ("qemu", "QEMU"),
    ("xen", "Xen"),
    ("hyperv", "Hyper-V"),
    ("virtual machine", "Hyper-V"),
)
# Bit of the virtio balloon's feature string: the guest reports free pages and the host takes them away.
BALLOON_REPORTING_BIT = 5

Facts = dict[str, Any]


def machine_facts(root: Path = ROOT) -> Facts:
    """Return what is known about the machine, ready for JSON.

    Parameters
    ----------
    root
        Directory that holds ``proc``, ``sys`` and ``etc``. The facts about Python, the packages and this
        checkout always are those of the running process.

    Returns
    -------
    dict
        Keys are lower-case words, sizes end in ``_bytes``. What is not known has no key.
    """
    facts: Facts = {"schema_version": SCHEMA_VERSION}
    for collect in COLLECTORS:
        facts |= _clean(collect(root))
    return facts


def _clean(value: Any) -> Any:
    """Return `value` with plain one-line texts, without empty parts and without names that are not `NAME`."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        items = ((key, _clean(part)) for key, part in value.items() if NAME.fullmatch(key))
        return {key: part for key, part in items if part is not None and part not in ("", [], {})}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    return value


def clean_text(text: str) -> str:
    """Return `text` in one line of printable characters, at most `MAX_TEXT` of them."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * MAX_TEXT])
    return " ".join(printable.split())[:MAX_TEXT].strip()


# --- who and when --------------------------------------------------------------------------------------


def collect_host(root: Path) -> Facts:
    """Name the host, and give it an identifier that hides the name."""
    name = read_text(root / "proc/sys/kernel/hostname")
    machine_id = read_text(root / "etc/machine-id")
    known = [text for text in (machine_id, name) if text]
    digest = hashlib.sha256("\0".join(["ktask", *known]).encode()).hexdigest()
    return {"host_name": name, "host_id": digest[:12] if known else None}


def collect_time(_root: Path) -> Facts:
    """Record when the facts were collected, in UTC."""
    return {"collected_at": datetime.now(UTC).isoformat(timespec="seconds")}


def collect_kernel(root: Path) -> Facts:
    """Record the running kernel and the distribution."""
    kernel = root / "proc/sys/kernel"
    here = platform.machine() if root == ROOT else None
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return {
        "architecture": read_text(kernel / "arch") or here,
        "kernel_release": read_text(kernel / "osrelease"),
        "kernel_version": read_text(kernel / "version"),
        "operating_system": pretty[1] if pretty else None,
    }


TELLING_PARAMETERS = re.compile(
    r"amd_pstate|balloon|cgroup|cpuidle|default_hugepagesz|deferred_|haltpoll|hugepages|idle=|init_on_|"
    r"intel_idle|intel_pstate|isolcpus|kpti|maxcpus|mem=|memhp|mitigations|nested|nohz|nopti|nosmt|nr_cpus|"
    r"numa|page_|preempt|processor\.|pti|rcu_|sched|slab|spec_|spectre|swiotlb|thp|threadirqs|transparent_"
)  # how they begin


def collect_cmdline(root: Path) -> Facts:
    """Record the kernel's parameters that bear on memory and scheduling.

    The rest names disks, consoles and first processes: nothing a reader needs, and nothing to send around.
    """
    text = read_text(root / "proc/cmdline") or ""
    kernel_part = re.split(r"(?:^|\s)--(?:\s|$)", text, maxsplit=1)[0]
    return {"cmdline": " ".join(word for word in kernel_part.split() if TELLING_PARAMETERS.match(word))}


def collect_boot(root: Path) -> Facts:
    """Record what the kernel says it did by several threads while it booted."""
    return {"parallel_boot": parallel_boot(root)}


# --- processor -----------------------------------------------------------------------------------------


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the fields of ``/proc/cpuinfo``; of fields that each CPU repeats, the first."""
    text = read_text(root / "proc/cpuinfo") or ""
    pairs = re.findall(r"^([^:\n]+?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    return dict(reversed(pairs))


def collect_cpu_model(root: Path) -> Facts:
    """Record vendor, model, family and stepping of the processor."""
    info = _cpuinfo(root)
    if "CPU implementer" in info:
        return _arm_model(info)
    model = next((info[key] for key in ("model name", "cpu", "uarch") if key in info), None)
    numbers = {fact: _number(info.get(name)) for fact, name in CPUID_NUMBERS.items()}
    named = {"cpu_vendor": info.get("vendor_id"), "cpu_model": model, "microcode": info.get("microcode")}
    return named | numbers


# What CPUID says beside the name, which a hypervisor may choose freely.
CPUID_NUMBERS = {"cpu_family": "cpu family", "cpu_model_number": "model", "cpu_stepping": "stepping"}


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,9}", text) else None


def _arm_model(info: dict[str, str]) -> Facts:
    texts = (info.get("CPU implementer", ""), info.get("CPU part", ""))
    if not all(re.fullmatch(r"0x[0-9a-fA-F]{1,4}", text) for text in texts):
        return {}
    vendor, part = (int(text, 16) for text in texts)
    return {
        "cpu_vendor": ARM_VENDORS.get(vendor, f"implementer {vendor:#04x}"),
        "cpu_model": ARM_MODELS.get((vendor, part), f"part {part:#05x}"),
        "cpu_part": f"{part:#05x}",
        "cpu_revision": _arm_revision(info),
    }


def _arm_revision(info: dict[str, str]) -> str | None:
    """Return variant and revision as Arm writes them: "r3p1"."""
    text = f"{info.get('CPU variant')} {info.get('CPU revision')}"
    match = re.fullmatch(r"0x([0-9a-fA-F]) ([0-9]{1,2})", text)
    return f"r{int(match[1], 16)}p{match[2]}" if match else None


def collect_cpu_counts(root: Path) -> Facts:
    """Count sockets, cores and hardware threads that are online."""
    siblings = topology.smt_siblings(root)
    threads, cores = len(topology.online_cpus(root)), len(set(siblings.values()))
    paths = [path / "topology/physical_package_id" for _, path in numbered(root / CPU_DIR, "cpu")]
    packages = {package for package in map(read_int, paths) if package is not None and package >= 0}
    return {
        "sockets": len(packages) or None,
        "cores": cores or None,
        "threads": threads or None,
        "smt": any(len(cpus) > 1 for cpus in siblings.values()) if siblings else None,
    }


def collect_caches(root: Path) -> Facts:
    """Record each kind of cache: its size, how many there are and how many CPUs share one."""
    found = topology.caches(root)
    kinds = Counter((c["level"], c["type"], c["size_bytes"], len(c["shared_cpus"])) for c in found)
    names = ("level", "type", "size_bytes", "cpus_sharing", "count")
    return {"caches": [dict(zip(names, (*key, count), strict=True)) for key, count in sorted(kinds.items())]}


def collect_frequency(root: Path) -> Facts:
    """Record how the clock of the CPUs is governed; most virtual machines do not show it."""
    files = [path / "cpufreq/scaling_governor" for _, path in numbered(root / CPU_DIR, "cpu")]
    governors = {text for text in map(read_text, files) if text}
    facts: Facts = {
        "governor": ", ".join(sorted(governors)),
        "cpufreq_driver": read_text(root / CPU_DIR / "cpu0/cpufreq/scaling_driver"),
    }
    if (no_turbo := read_int(root / CPU_DIR / "intel_pstate/no_turbo")) is not None:
        return facts | {"turbo": not no_turbo, "turbo_control": "intel_pstate"}
    if (boost := read_int(root / CPU_DIR / "cpufreq/boost")) is not None:
        return facts | {"turbo": bool(boost), "turbo_control": "cpufreq"}
    return facts


def collect_mitigations(root: Path) -> Facts:
    """Record what the kernel does about each processor vulnerability."""
    directory = root / CPU_DIR / "vulnerabilities"
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return {}
    return {"mitigations": {path.name: read_text(path) for path in paths}}


# --- virtual machine and container ---------------------------------------------------------------------


def collect_hypervisor(root: Path) -> Facts:
    """Record whether the machine is virtual, and the hypervisor."""
    dmi = [read_text(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name")]
    kind = read_text(root / "sys/hypervisor/type") or ""
    clocks = read_text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    names = " ".join([*dmi, kind, clocks]).lower()
    named = next((name for mark, name in HYPERVISORS if mark in names), None)
    virtual = _is_virtual(_cpuinfo(root), bool(kind), named is not None and not dmi[1].endswith(".metal"))
    return {
        "virtualised": virtual,
        "hypervisor": (named or "unknown") if virtual else None,
        "dmi_vendor": dmi[0],
        "dmi_product": dmi[1],
    }


def _is_virtual(info: dict[str, str], hypervisor_files: bool, named: bool) -> bool | None:
    if "flags" in info:  # x86: a flag of the processor
        return hypervisor_files or "hypervisor" in info["flags"].split()
    return hypervisor_files or named if info else None


def collect_container(root: Path) -> Facts:
    """Give a hint whether the process runs in a container, and of which kind."""
    if (root / ".dockerenv").exists():
        return {"container": "docker"}
    if (root / "run/.containerenv").exists():
        return {"container": "podman"}
    kind = read_text(root / "run/systemd/container")
    groups = read_text(root / "proc/self/cgroup") or ""
    match = re.search(r"kubepods|docker|libpod|containerd|lxc", groups)
    return {"container": kind or (match[0] if match else None)}


def collect_balloon(root: Path) -> Facts:
    """Record whether the host can take free memory away from this virtual machine."""
    devices = numbered(root / "sys/bus/virtio/drivers/virtio_balloon", "virtio")
    features = [read_text(path / "features") or "" for _, path in devices]
    bit = slice(BALLOON_REPORTING_BIT, BALLOON_REPORTING_BIT + 1)
    return {
        "page_reporting": (root / "sys/module/page_reporting").is_dir(),
        "balloon": bool(devices),
        "balloon_reports_free_pages": any(text[bit] == "1" for text in features) if any(features) else None,
    }


# --- memory --------------------------------------------------------------------------------------------


def collect_nodes(root: Path) -> Facts:
    """Record CPUs, memory and distances of each memory node."""
    nodes = topology.node_cpus(root).items()
    return {"nodes": [_node_facts(root / NODE_DIR / f"node{nid}", nid, cpus) for nid, cpus in nodes]}


def _node_facts(path: Path, nid: int, cpus: tuple[int, ...]) -> Facts:
    match = re.search(r"MemTotal:\s+([0-9]{1,18}) kB", read_text(path / "meminfo") or "")
    distances = (read_text(path / "distance") or "").split()
    return {
        "nid": nid,
        "cpus": list(cpus),
        "memory_bytes": int(match[1]) << 10 if match else None,
        "distances": [int(text) for text in distances if re.fullmatch(r"[0-9]{1,9}", text)],
    }


def collect_memory(root: Path) -> Facts:
    """Record how much memory and swap there is, in bytes."""
    info = available_memory.meminfo(root)
    swap, free = info.get("SwapTotal"), info.get("SwapFree")
    is_known = bool(available_memory.memory_room_bytes(root))
    return {
        "memory_total_bytes": info.get("MemTotal"),
        "memory_available_bytes": node_memory.available_bytes(root) if is_known else None,
        "swap_total_bytes": swap,
        "swap_used_bytes": swap - free if swap is not None and free is not None else None,
    }


def collect_huge_pages(root: Path) -> Facts:
    """Record the modes of transparent huge pages and the hugetlb pools."""
    directory = root / "sys/kernel/mm/transparent_hugepage"
    pools = available_memory.hugetlb_pools(root).items()
    return {
        "thp_mode": available_memory.thp_mode(root),
        "thp_defrag": bracketed(directory / "defrag"),
        "thp_shmem": bracketed(directory / "shmem_enabled"),
        "hugetlb_pools": [{"page_size_bytes": size, **pool} for size, pool in pools],
    }


def collect_settings(root: Path) -> Facts:
    """Record the kernel settings that change how memory paths behave."""
    return {
        "numa_balancing": read_int(root / "proc/sys/kernel/numa_balancing"),
        "aslr": read_int(root / "proc/sys/kernel/randomize_va_space"),
        "overcommit": read_int(root / "proc/sys/vm/overcommit_memory"),
        "swappiness": read_int(root / "proc/sys/vm/swappiness"),
        "clocksource": read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }


# --- process -------------------------------------------------------------------------------------------


def collect_damon(root: Path) -> Facts:
    """Record what the kernel's watcher of memory accesses, DAMON, does where it runs."""
    kdamonds = [path for _, path in numbered(root / "sys/kernel/mm/damon/admin/kdamonds", "")]
    running = [path for path in kdamonds if read_text(path / "state") == "on"]
    contexts = [context for path in running for _, context in numbered(path / "contexts", "")]
    schemes = [scheme for context in contexts for _, scheme in numbered(context / "schemes", "")]
    actions = [read_text(scheme / "action") for scheme in schemes]
    modules = {"damon_reclaim": "pageout", "damon_lru_sort": "lru_prio", "damon_stat": "stat"}
    switches = {name: root / "sys/module" / name / "parameters/enabled" for name in modules}
    actions += [modules[name] for name, switch in switches.items() if read_text(switch) == "Y"]
    return {"damon": sorted({text for text in actions if text}) or (["stat"] if running else None)}


def collect_load(root: Path) -> Facts:
    """Record the load averages over 1, 5 and 15 minutes."""
    match = re.match(r"([0-9.]+) ([0-9.]+) ([0-9.]+) ", read_text(root / "proc/loadavg") or "")
    valid = match and all(re.fullmatch(r"[0-9]{1,9}\.[0-9]{1,9}", text) for text in match.groups())
    return {"load_average": [float(text) for text in match.groups()]} if match and valid else {}


def collect_limits(root: Path) -> Facts:
    """Record which CPUs the process may use, and its CPU quota in CPUs."""
    return {"affinity": list(topology.recorded_affinity(root)), "quota_cpus": control_groups.quota_cpus(root)}


def collect_python(_root: Path) -> Facts:
    """Record the versions of Python, of ktask and of the packages it needs."""
    return {
        "python_version": platform.python_version(),
        "python_implementation": platform.python_implementation(),
        "libc": " ".join(platform.libc_ver()),
        "ktask_version": __version__,
        "packages": {name.replace("-", "_"): _version(name) for name in _needed_packages()},
    }


def _needed_packages() -> list[str]:
    """Return the packages that measuring needs, not those for clusters and development; and `PACKAGES`."""
    try:
        needs = metadata.requires("ktask") or []
    except metadata.PackageNotFoundError:
        needs = []
    names = (re.match(r"[A-Za-z0-9._-]+", need) for need in needs if not OTHER_EXTRAS.search(need))
    return sorted({name[0].lower() for name in names if name} | set(PACKAGES))


@cache  # two milliseconds for each of 200 packages
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def collect_checkout(_root: Path) -> Facts:
    """Record the commit of this checkout, whether it was changed, and what differs from the lock."""
    lock = PROJECT / "requirements.lock"
    commit = _git("rev-parse", "HEAD") if (PROJECT / ".git").exists() else None
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "git_commit": commit,
        "git_changed": bool(status) if status is not None else None,
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        "lock_strays": _strays(lock.read_text(encoding="utf-8")) if lock.is_file() else None,
    }


def _strays(lock: str) -> list[str]:
    """Return the installed packages whose version is none that the lock allows (one per Python, say)."""
    locked: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;\\\n]+)", lock, re.MULTILINE):
        locked.setdefault(name, set()).add(version)
    found = ((name, versions, _version(name)) for name, versions in locked.items())
    return [
        f"{name} {here}, locked {' or '.join(sorted(versions))}"
        for name, versions, here in found
        if here is not None and here not in versions
    ]


def _git(*arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "--no-optional-locks", "-C", str(PROJECT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


COLLECTORS: tuple[Callable[[Path], Facts], ...] = (
    collect_host,
    collect_time,
    collect_kernel,
    collect_cmdline,
    collect_boot,
    collect_cpu_model,
    collect_cpu_counts,
    collect_caches,
    collect_frequency,
    collect_mitigations,
    collect_hypervisor,
    collect_container,
    collect_balloon,
    collect_nodes,
    collect_memory,
    collect_huge_pages,
    collect_settings,
    collect_damon,
    collect_load,
    collect_limits,
    collect_python,
    collect_checkout,
)
