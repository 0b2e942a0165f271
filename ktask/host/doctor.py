"""What would disturb a measurement on this machine, and what to do about it.

The doctor checks and advises; it never changes a setting. A check is a function from what is known of the
machine to a value, a level, what that means and a remedy; `check` puts it into `CHECKS` under its name.
"""

import ctypes.util
import importlib.util
import mmap
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ktask.common.units import GIB, MIB
from ktask.host import perf
from ktask.host.counters import OTHER_LOAD_LIMIT, STEAL_LIMIT, sample_state, state_change
from ktask.host.cpus import format_cpu_list
from ktask.host.facts import Facts, machine_facts
from ktask.host.kernel_files import ROOT
from ktask.host.topology import smt_siblings

LEVELS = ("ok", "note", "warning", "blocker")  # from harmless to fatal
ACTIVITY_SAMPLE_S = 0.5
MADV_POPULATE_WRITE = 23
POPULATE_WRITE_SINCE = (5, 14)
LITTLE_MEMORY_BYTES = GIB
TOO_LITTLE_MEMORY_BYTES = 256 * MIB
POOL_BYTES = 2 * GIB  # enough for the largest size of the quick grid
SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}


@dataclass(frozen=True)
class Finding:
    """One property of the machine and what it does to a measurement."""

    name: str
    value: str
    level: str
    means: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r} of {self.name!r} is not allowed; use one of {LEVELS}")


@dataclass(frozen=True)
class Activity:
    """What happened beside this process for a moment, as shares of all CPUs' time."""

    other_share: float
    steal_share: float


@dataclass(frozen=True)
class Probes:
    """What can only be found out by trying: calls without arguments; None skips a check."""

    activity: Callable[[], Activity] | None = None
    populate_write: Callable[[], bool] | None = None
    openmp: Callable[[], bool] | None = None
    evidence: Callable[[], str] | None = None


def measure_activity(interval_s: float = ACTIVITY_SAMPLE_S, root: Path = ROOT) -> Activity:
    """Watch the machine for `interval_s` seconds, in which this process sleeps."""
    before = sample_state(root)
    time.sleep(interval_s)
    change = state_change(before, sample_state(root))
    return Activity(change["other_s"] / change["capacity_s"], change["steal_s"] / change["capacity_s"])


def can_populate_write() -> bool:
    """Return whether the kernel fills a page on MADV_POPULATE_WRITE, by trying one page."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            page.madvise(MADV_POPULATE_WRITE)
        except OSError:
            return False
    return True


def has_openmp() -> bool:
    """Return whether numba's omp threading layer and the libgomp it needs are there; loads neither.

    Loading libgomp here would make it read its environment variables before the engine has set them.
    """
    numba = importlib.util.find_spec("numba")
    layers = Path(numba.origin).parent.glob("np/ufunc/omppool*") if numba and numba.origin else ()
    return any(layers) and ctypes.util.find_library("gomp") is not None


LOCAL_PROBES = Probes(measure_activity, can_populate_write, has_openmp, lambda: perf.why_not() or "")


def diagnose(
    root: Path = ROOT,
    facts: Facts | None = None,
    pagemap_scan: Callable[[], bool] | None = None,
    probes: Probes | None = None,
    system: str | None = None,
) -> list[Finding]:
    """Return what the machine's state does to a measurement; changes nothing.

    Parameters
    ----------
    root
        Directory that holds ``proc`` and ``sys``.
    facts
        Result of `machine_facts`, if it is at hand.
    pagemap_scan
        Call that returns whether the PAGEMAP_SCAN ioctl works; None skips the check.
    probes
        What to try out; None is `LOCAL_PROBES` for this machine and nothing for a foreign `root`.
    system
        Name of the operating system; None asks the interpreter.
    """
    system = system or platform.system()
    if system != "Linux":
        means = "ktask measures paths of the Linux kernel; there is nothing to measure on another system."
        return [Finding("system", system, "blocker", means, "Run ktask on Linux 5.14 or later.")]
    probes = probes or (LOCAL_PROBES if root == ROOT else Probes())
    tried = {**vars(probes), "pagemap_scan": pagemap_scan}
    known = dict(machine_facts(root) if facts is None else facts)
    known["siblings"] = smt_siblings(root)
    known |= {name: probe() for name, probe in tried.items() if probe}
    found = ((name, examine(known)) for name, examine in CHECKS.items())
    return [Finding(name, *verdict) for name, verdict in found if verdict]


Verdict = tuple[str, ...] | None  # value, level, what it means, and perhaps a remedy
CHECKS: dict[str, Callable[[Facts], Verdict]] = {}


def check(*needed: str) -> Callable[[Callable[[Facts], Verdict]], Callable[[Facts], Verdict]]:
    """Register a check, to be skipped where one of the facts that it needs is not known."""

    def register(examine: Callable[[Facts], Verdict]) -> Callable[[Facts], Verdict]:
        def unless_unknown(facts: Facts) -> Verdict:
            return examine(facts) if all(facts.get(name) is not None for name in needed) else None

        CHECKS[examine.__name__] = unless_unknown
        return examine

    return register


# --- what has to work ----------------------------------------------------------------------------------


@check()
def populate_write(facts: Facts) -> Verdict:
    """Require MADV_POPULATE_WRITE, which makes the kernel clear pages."""
    works = facts.get("populate_write")
    release = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", facts.get("kernel_release", ""))
    if works is None and release:
        works = (int(release[1]), int(release[2])) >= POPULATE_WRITE_SINCE
    if works is None:
        return None
    if works:
        return (
            "works",
            "ok",
            "The kernel clears pages on request, without page faults.",
        )
    means = "Without MADV_POPULATE_WRITE no workload can make the kernel clear pages."
    return "missing", "blocker", means, "Boot Linux 5.14 or later."


@check("pagemap_scan")
def pagemap_scan(facts: Facts) -> Verdict:
    """Look for PAGEMAP_SCAN, one of two ways into the kernel's page-table walker."""
    if facts["pagemap_scan"]:
        return "works", "ok", "Page walks can be measured by ioctl and by reading pagemap."
    means = "Page walks are measured by reading pagemap alone, which copies 8 bytes per entry."
    return "missing", "note", means, "Boot Linux 6.7 or later."


@check("openmp")
def openmp(facts: Facts) -> Verdict:
    """Look for the omp layer: only it starts a parallel region in microseconds."""
    if facts["openmp"]:
        return "found", "ok", "Parallel regions start through libgomp, within microseconds."
    means = "Another threading layer starts the helpers, more slowly; small tasks look worse than they are."
    return "missing", "warning", means, "Install libgomp: `sudo apt-get install libgomp1`."


@check("evidence")
def evidence(facts: Facts) -> Verdict:
    """Look for what `--evidence` needs: perf, and permission to see the stacks of the kernel."""
    if not facts["evidence"]:
        return "works", "ok", "perf can show where the time of threads goes (`ktask run --evidence`)."
    reason, _, remedy = facts["evidence"].partition("; ")
    means = "There is no evidence on causes: where the time goes, and which locks are waited for."
    return reason, "note", means, remedy


@check("memory_available_bytes")
def memory(facts: Facts) -> Verdict:
    """Compare the available memory with what regions need."""
    available_bytes = facts["memory_available_bytes"]
    value = f"{available_bytes / GIB:.1f} GiB available"
    remedy = "Stop other programs, or raise the memory limit of the container."
    if available_bytes < TOO_LITTLE_MEMORY_BYTES:
        return value, "blocker", "A measurement needs at least 256 MiB.", remedy
    if available_bytes < LITTLE_MEMORY_BYTES:
        means = "Below 1 GiB the larger sizes are skipped, and reclaim may disturb the rest."
        return value, "warning", means, remedy
    return value, "ok", "Regions of up to half of this fit without reclaim."


# --- CPUs ----------------------------------------------------------------------------------------------


@check("affinity", "threads")
def cpus(facts: Facts) -> Verdict:
    """Compare the affinity mask with the CPUs that are online."""
    affinity, online = facts["affinity"], facts["threads"]
    value = f"{len(affinity)} of {online}"
    if len(affinity) == 1:
        means = "With one CPU the threads take turns: there can be no speedup."
        step = f"Start with `taskset -c 0-{online - 1} ktask ...`." if online > 1 else "Use a larger machine."
        return value, "warning", means, step
    if len(affinity) < online:
        means = f"The affinity mask allows CPUs {format_cpu_list(affinity)}; the others are not used."
        return value, "note", means, "Start from a shell without `taskset` or a cpuset."
    return value, "ok", "The process may use every CPU that is online."


@check()
def quota(facts: Facts) -> Verdict:
    """Look for a CPU quota: it stops threads during their work."""
    quota, online = facts.get("quota_cpus"), facts.get("threads")
    if quota is None:
        return "none", "ok", "No control group limits the CPU time."
    if online and quota >= online:
        return f"{quota:g} CPUs", "ok", "The quota is no smaller than the machine."
    means = "Once the quota of a period is used up all threads stop; more helpers reach that point sooner."
    remedy = "Start the container without a CPU limit (`--cpus`), or set cpu.max of the control group to max."
    return f"{quota:g} CPUs", "warning", means, remedy


@check()
def smt(facts: Facts) -> Verdict:
    """Look for CPUs that share a core, its execution units and its caches."""
    affinity = set(facts.get("affinity", ()))
    cores = {tuple(sorted(affinity.intersection(cpus))) for cpus in facts["siblings"].values()} - {()}
    if not cores:
        return None
    if all(len(core) == 1 for core in cores):
        return "one CPU per core", "ok", "No two allowed CPUs share a core."
    means = "Two helpers on one core share its units, so scaling flattens once every core has a helper."
    first = format_cpu_list(core[0] for core in cores)
    remedy = f"For one CPU per core start with `taskset -c {first} ktask ...`."
    return f"{len(affinity)} CPUs, {len(cores)} cores", "note", means, remedy


@check()
def nodes(facts: Facts) -> Verdict:
    """Name sockets and memory nodes: what lies on another one is farther away."""
    found, sockets = facts.get("nodes", ()), facts.get("sockets")
    counts = ((sockets, "socket"), (len(found), "memory node"))
    value = ", ".join(f"{number} {noun}{'s' * (number != 1)}" for number, noun in counts if number)
    if not value:
        return None
    if len(found) > 1:
        means = f"{'; '.join(map(_node, found))}. Memory of another node is slower to reach."
        return value, "note", means, "To have the memory of a case on one node, `--set node=N`."
    if (sockets or 1) > 1:
        means = "The kernel sees no nodes, so nothing tells which memory is near to which socket."
        return value, "note", means, "Switch node interleaving off in the firmware to see them."
    return value, "ok", "All memory is equally near to every CPU."


def _node(node: Facts) -> str:
    cpus, size_bytes = node.get("cpus"), node.get("memory_bytes")
    memory = "no memory" if size_bytes == 0 else f"{(size_bytes or 0) / GIB:.1f} GiB"
    return f"node {node['nid']}: {f'CPUs {format_cpu_list(cpus)}' if cpus else 'no CPUs'}, {memory}"


@check("governor")
def governor(facts: Facts) -> Verdict:
    """Look for a governor that lowers the clock and makes the first chunks slow."""
    if facts["governor"] == "performance":
        return "performance", "ok", "The CPUs do not lower their clock when idle."
    means = "The clock follows the load, so short tasks and fresh helpers run slower than long ones."
    return facts["governor"], "warning", means, "`sudo cpupower frequency-set -g performance`"


@check("turbo")
def turbo(facts: Facts) -> Verdict:
    """Look for turbo, which gives one busy core a higher clock than many."""
    if not facts["turbo"]:
        return "off", "ok", "One thread runs at the same clock as many."
    means = "One thread may run at a higher clock than many, which makes every speedup look smaller."
    off = {
        "intel_pstate": "`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo`",
        "cpufreq": "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost`",
    }
    return "on", "note", means, off.get(facts.get("turbo_control", ""), "")


@check("activity")
def other_load(facts: Facts) -> Verdict:
    """Look for other processes that take CPU time and memory bandwidth."""
    share = facts["activity"].other_share
    if share <= OTHER_LOAD_LIMIT:
        return f"{share:.1%} of the CPUs", "ok", "Other processes leave the CPUs alone."
    means = "Other processes take CPU time and bandwidth, and parallel runs lose more by it than serial ones."
    return f"{share:.1%} of the CPUs", "warning", means, "Find them with `top` and stop them."


@check("activity")
def steal(facts: Facts) -> Verdict:
    """Look for CPU time that the host gave to somebody else."""
    value = f"{facts['activity'].steal_share:.1%} of the CPUs"
    if facts["activity"].steal_share <= STEAL_LIMIT:
        return value, "ok", "The host took no CPU time just now; each repetition is checked as well."
    means = "The host runs others on these CPUs; repetitions with steal are flagged."
    remedy = "Measure at another time, or on a host with CPUs of its own for this machine."
    return value, "warning", means, remedy


@check("clocksource")
def clock(facts: Facts) -> Verdict:
    """Look for a clock that costs more to read than an empty chunk."""
    name = facts["clocksource"]
    if name not in SLOW_CLOCKS:
        return name, "ok", "Reading the clock costs tens of nanoseconds."
    means = "Reading this clock costs a microsecond or more, which shows in small chunks and in traces."
    return name, "warning", means, "See the kernel log for why: `sudo dmesg | grep -i clocksource`."


# --- memory --------------------------------------------------------------------------------------------


@check()
def thp(facts: Facts) -> Verdict:
    """Look for transparent huge pages, one of the page kinds."""
    mode = facts.get("thp_mode")
    if mode in {"always", "madvise"}:
        return mode, "ok", "Regions get transparent huge pages where they ask for them."
    means = "There are no transparent huge pages, so those cases are skipped."
    if mode is None:
        return "not in the kernel", "note", means, "Boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE."
    return mode, "warning", means, "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`"


@check()
def hugetlb_2mib(facts: Facts) -> Verdict:
    """Look into the pool of 2 MiB pages."""
    return _pool(facts, 2 * MIB, "2 MiB")


@check()
def hugetlb_1gib(facts: Facts) -> Verdict:
    """Look into the pool of 1 GiB pages."""
    return _pool(facts, GIB, "1 GiB")


def _pool(facts: Facts, size_bytes: int, label: str) -> Verdict:
    pool = {pool["page_size_bytes"]: pool for pool in facts.get("hugetlb_pools", ())}.get(size_bytes)
    if pool is None:
        return "not offered", "note", f"The kernel has no {label} pages; those cases are skipped."
    value = f"{pool['free']} of {pool['total']} free"
    if pool["free"] > pool["reserved"]:
        return value, "ok", f"Cases with {label} pages can run if they fit into the pool."
    means = f"No {label} page can be taken, so those cases are skipped."
    return value, "note", means, _pool_remedy(facts, size_bytes, pool["total"])


def _pool_remedy(facts: Facts, size_bytes: int, total: int) -> str:
    room_bytes = min(POOL_BYTES, facts.get("memory_available_bytes", POOL_BYTES) // 4)
    pages = total + max(1, room_bytes // size_bytes)
    path = f"/sys/kernel/mm/hugepages/hugepages-{size_bytes >> 10}kB/nr_hugepages"
    at_boot = f" If memory is fragmented, boot with `hugepagesz=1G hugepages={pages}`."
    return f"`echo {pages} | sudo tee {path}`" + (at_boot if size_bytes == GIB else "")


@check("balloon")
def cold_memory(facts: Facts) -> Verdict:
    """Look for a host that takes free memory back, so that the first touch is slow."""
    if not facts["balloon"]:
        return "no balloon", "ok", "No balloon hands free memory back to a host."
    if facts.get("balloon_reports_free_pages", facts.get("page_reporting")):
        means = "The host takes freed pages away; who touches them again waits for the host."
        remedy = "None needed: ktask conditions its memory before it measures and flags cold repetitions."
        return "free pages reported", "warning", means, remedy
    means = "The host can take memory away by the balloon; pages it has to give back are slow at first touch."
    return "balloon", "note", means, "Ask the owner of the host not to use the balloon meanwhile."


@check("swap_used_bytes")
def swap(facts: Facts) -> Verdict:
    """Look for swapping, which turns a memory measurement into a disk measurement."""
    if facts["swap_used_bytes"] == 0:
        return "unused", "ok", "Nothing has been swapped out."
    value = f"{facts['swap_used_bytes'] / MIB:.0f} MiB used"
    return value, "warning", "Memory was short; swapping during a run measures the disk.", "`sudo swapoff -a`"


@check("numa_balancing")
def numa_balancing(facts: Facts) -> Verdict:
    """Look for automatic NUMA balancing, which unmaps and moves pages."""
    if facts["numa_balancing"] == 0 or len(facts.get("nodes", ())) < 2:
        value = "off" if facts["numa_balancing"] == 0 else "on, one node"
        return value, "ok", "The kernel does not move pages between nodes by itself."
    means = "The kernel unmaps and moves pages while they are measured, which adds faults."
    return "on", "warning", means, "`echo 0 | sudo tee /proc/sys/kernel/numa_balancing`"


@check("damon")
def damon(facts: Facts) -> Verdict:
    """Look for DAMON, which samples memory accesses and may reclaim idle pages."""
    means = "The kernel (kdamond) samples which pages are in use, which takes CPU time."
    if "pageout" in facts["damon"]:
        means += " It reclaims pages that are idle: file pages, and with swap all others."
    level = "note" if facts["damon"] == ["stat"] else "warning"
    remedy = "`echo off | sudo tee /sys/kernel/mm/damon/admin/kdamonds/*/state` while measuring"
    return f"on: {', '.join(facts['damon'])}", level, means, remedy


@check("aslr")
def aslr(facts: Facts) -> Verdict:
    """Look for random addresses: another page-table layout in each process."""
    if facts["aslr"] == 0:
        return "off", "ok", "Every process has the same page-table layout."
    means = "Each process has another page-table layout, which adds a little spread between cells."
    return "on", "note", means, "Start ktask by `setarch -R`."


# --- what a reader has to know -------------------------------------------------------------------------


@check("mitigations")
def mitigations(facts: Facts) -> Verdict:
    """Look for mitigations, which make system calls and page faults slower."""
    active = sum("mitigation" in text.lower() for text in facts["mitigations"].values())
    if not active:
        return "none active", "ok", "System calls and page faults carry no extra cost."
    means = "System calls and page faults cost more; compare with machines that have the same mitigations."
    return f"{active} active", "note", means


@check("virtualised")
def virtualisation(facts: Facts) -> Verdict:
    """Look for a hypervisor: a guest translates addresses twice and shares its CPUs."""
    if not facts["virtualised"]:
        return "none", "ok", "The kernel runs on the hardware itself."
    means = "Page walks and first touches go through the host too; results hold for guests like this one."
    return facts.get("hypervisor", "unknown"), "note", means, "To measure the hardware, run on the host."


# --- what comes out ------------------------------------------------------------------------------------


def worst(findings: Sequence[Finding]) -> str:
    """Return the most severe level among the findings, 'ok' if there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def exit_code(findings: Sequence[Finding]) -> int:
    """Return the exit code of the doctor: 1 if there is a blocker, else 0."""
    return int(worst(findings) == "blocker")


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings ready for JSON: ``worst`` and the list ``findings``."""
    return {"worst": worst(findings), "findings": [asdict(finding) for finding in findings]}
