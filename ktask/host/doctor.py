"""What would disturb a measurement on this machine, and what to do about it.

The doctor checks and advises; it never changes a setting. Each check is a small function from an
`Examination` to a `Finding`; `CHECKS` lists them. `sample_state` and `state_flags` watch for the same
disturbances around every repetition.
"""

import ctypes.util
import importlib.util
import mmap
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ktask.host.counters import event_flags, sample_events
from ktask.host.facts import Facts, machine_facts
from ktask.host.topology import ROOT, format_cpu_list, read_text, smt_siblings

LEVELS = ("ok", "note", "warning", "blocker")  # from harmless to fatal
GIB = 1 << 30
MIB = 1 << 20

STEAL_LIMIT = 0.01  # of wall time x CPUs
OTHER_LOAD_LIMIT = 0.05
PREEMPTIONS_PER_CPU_S = 100
MIN_PREEMPTIONS = 20
# The kernel counts CPU time in ticks of up to 10 ms; less than three of them is no evidence.
MIN_EVIDENCE_S = 0.03
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ACTIVITY_SAMPLE_S = 0.5

MADV_POPULATE_WRITE = 23
POPULATE_WRITE_SINCE = (5, 14)
LITTLE_MEMORY_BYTES = GIB
TOO_LITTLE_MEMORY_BYTES = 256 * MIB
POOL_BYTES = 2 * GIB  # enough for the largest size of the quick grid
HUGE_PAGES = {2 * MIB: "2 MiB", GIB: "1 GiB"}
SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}


# --- state around a repetition -------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Counters of the machine and of this process at one moment.

    Attributes
    ----------
    at_s
        Monotonic clock.
    cpus
        CPUs the machine has online.
    busy_s, steal_s
        CPU time all processes of the machine used, and CPU time the host gave to others, since boot.
    cpu_user_s, cpu_system_s, ctx_involuntary, faults_minor
        CPU time, involuntary context switches and minor faults of this process.
    events
        Counters of the kernel, by the flag that their growth raises (`ktask.host.counters`).
    """

    at_s: float
    cpus: int
    busy_s: float
    steal_s: float
    cpu_user_s: float
    cpu_system_s: float
    ctx_involuntary: int
    faults_minor: int
    events: dict[str, int] = field(default_factory=dict)


def sample_state(root: Path = ROOT) -> State:
    """Return the counters of this moment; takes about 0.2 ms on a machine with few CPUs.

    Where ``/proc/stat`` cannot be read, the counters of the machine are 0, so that no flag is raised.
    """
    text = read_text(root / "proc/stat") or ""
    busy, steal = _machine_ticks(text)
    own = resource.getrusage(resource.RUSAGE_SELF)
    return State(
        at_s=time.monotonic(),
        cpus=max(1, text.count("\ncpu")),
        busy_s=busy / TICKS_PER_S,
        steal_s=steal / TICKS_PER_S,
        cpu_user_s=own.ru_utime,
        cpu_system_s=own.ru_stime,
        ctx_involuntary=own.ru_nivcsw,
        faults_minor=own.ru_minflt,
        events=sample_events(root),
    )


def _machine_ticks(text: str) -> tuple[int, int]:
    """Return busy and stolen ticks of the first line of ``/proc/stat``."""
    match = re.match(r"cpu +((?:[0-9]{1,20} ?)+)", text)
    counts = [int(part) for part in match[1].split()] if match else []
    if len(counts) < 8:
        return 0, 0
    user, nice, system, _idle, _iowait, irq, softirq, steal = counts[:8]
    return user + nice + system + irq + softirq, steal


def state_change(before: State, after: State) -> dict[str, float]:
    """Return what changed between two samples.

    Returns
    -------
    dict
        ``wall_s``, ``capacity_s`` (wall time x CPUs), ``steal_s``, ``other_s`` (CPU time of other processes),
        ``cpu_user_s``, ``cpu_system_s``, ``ctx_involuntary`` and ``faults_minor``.
    """
    old, new = asdict(before), asdict(after)
    change = {key: new[key] - old[key] for key in old if key not in {"at_s", "cpus", "busy_s", "events"}}
    wall_s = after.at_s - before.at_s
    own_s = change["cpu_user_s"] + change["cpu_system_s"]
    change["other_s"] = max(0.0, after.busy_s - before.busy_s - own_s)
    return {**change, "wall_s": wall_s, "capacity_s": wall_s * after.cpus}


def state_flags(before: State, after: State) -> list[str]:
    """Return the measurement warnings for the time between two samples.

    Returns
    -------
    list of str
        ``steal`` if the host took more than 1 % of the CPUs' time, ``other_load`` if other processes used
        more than 5 % of it, ``preempted`` if this process lost a CPU against its will more than 100 times per
        second of CPU time. Less than three ticks is below the resolution of the counters and raises nothing.
        Then what `ktask.host.counters` counts: one event is enough.
    """
    change = state_change(before, after)
    own_s = change["cpu_user_s"] + change["cpu_system_s"]
    raised = {
        "steal": change["steal_s"] > max(STEAL_LIMIT * change["capacity_s"], MIN_EVIDENCE_S),
        "other_load": change["other_s"] > max(OTHER_LOAD_LIMIT * change["capacity_s"], MIN_EVIDENCE_S),
        "preempted": change["ctx_involuntary"] > max(PREEMPTIONS_PER_CPU_S * own_s, MIN_PREEMPTIONS),
    }
    loud = [flag for flag, is_raised in raised.items() if is_raised]
    return loud + event_flags(before.events, after.events)


# --- examination ---------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Examination:
    """Everything the checks look at; a result that is None was not tried."""

    facts: Facts
    siblings: dict[int, tuple[int, ...]] = field(default_factory=dict)
    activity: Activity | None = None
    populate_write: bool | None = None
    openmp: bool | None = None
    pagemap_scan: bool | None = None


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


LOCAL_PROBES = Probes(measure_activity, can_populate_write, has_openmp)


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
        return [_not_linux(system)]
    probes = probes or (LOCAL_PROBES if root == ROOT else Probes())
    examination = Examination(
        facts=machine_facts(root) if facts is None else facts,
        siblings=smt_siblings(root),
        activity=_try(probes.activity),
        populate_write=_try(probes.populate_write),
        openmp=_try(probes.openmp),
        pagemap_scan=_try(pagemap_scan),
    )
    return [finding for check in CHECKS if (finding := check(examination))]


def _try(probe: Callable[[], Any] | None) -> Any:
    return None if probe is None else probe()


# --- checks: what has to work --------------------------------------------------------------------------


def _not_linux(system: str) -> Finding:
    means = "The suite measures paths of the Linux kernel; there is nothing to measure on another system."
    return Finding("system", system, "blocker", means, "Run ktask on Linux 5.14 or later.")


def check_populate_write(exam: Examination) -> Finding | None:
    """Require MADV_POPULATE_WRITE, which makes the kernel clear pages."""
    works = exam.populate_write
    if works is None:
        works = _kernel_at_least(exam.facts, POPULATE_WRITE_SINCE)
    if works is None:
        return None
    if works:
        means = "The kernel clears pages on request, so clearing can be measured without page faults."
        return Finding("populate_write", "works", "ok", means)
    means = "Without MADV_POPULATE_WRITE no workload can make the kernel clear pages."
    return Finding("populate_write", "missing", "blocker", means, "Boot Linux 5.14 or later.")


def _kernel_at_least(facts: Facts, version: tuple[int, int]) -> bool | None:
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", facts.get("kernel_release", ""))
    return (int(match[1]), int(match[2])) >= version if match else None


def check_pagemap_scan(exam: Examination) -> Finding | None:
    """Look for PAGEMAP_SCAN, one of two ways into the kernel's page-table walker."""
    if exam.pagemap_scan is None:
        return None
    if exam.pagemap_scan:
        return Finding(
            "pagemap_scan", "works", "ok", "Page walks can be measured by ioctl and by reading pagemap."
        )
    means = "Page walks are measured by reading pagemap alone, which is about three times slower per entry."
    return Finding("pagemap_scan", "missing", "note", means, "Boot Linux 6.7 or later.")


def check_openmp(exam: Examination) -> Finding | None:
    """Look for the omp layer: only it starts a parallel region in microseconds."""
    if exam.openmp is None:
        return None
    if exam.openmp:
        return Finding(
            "openmp", "found", "ok", "Parallel regions start through libgomp, within microseconds."
        )
    means = (
        "Without libgomp a slower threading layer starts the helpers; small tasks look worse than they are."
    )
    return Finding("openmp", "missing", "warning", means, "Install libgomp: `sudo apt-get install libgomp1`.")


def check_memory(exam: Examination) -> Finding | None:
    """Compare the available memory with what regions need."""
    available_bytes = exam.facts.get("memory_available_bytes")
    if available_bytes is None:
        return None
    value = f"{available_bytes / GIB:.1f} GiB available"
    remedy = "Stop other programs, or raise the memory limit of the container."
    if available_bytes < TOO_LITTLE_MEMORY_BYTES:
        return Finding("memory", value, "blocker", "Less than 256 MiB are too few for a measurement.", remedy)
    if available_bytes < LITTLE_MEMORY_BYTES:
        means = "Below 1 GiB the larger sizes are skipped, and reclaim may disturb the rest."
        return Finding("memory", value, "warning", means, remedy)
    return Finding("memory", value, "ok", "Regions up to a good part of this fit without reclaim.")


# --- checks: CPUs --------------------------------------------------------------------------------------


def check_cpus(exam: Examination) -> Finding | None:
    """Compare the affinity mask with the CPUs that are online."""
    affinity, online = exam.facts.get("affinity"), exam.facts.get("threads")
    if not affinity or not online:
        return None
    value = f"{len(affinity)} of {online}"
    if len(affinity) == 1:
        remedy = (
            f"Start with `taskset -c 0-{online - 1} ktask ...`." if online > 1 else "Use a larger machine."
        )
        return Finding(
            "cpus", value, "warning", "With one CPU the threads take turns: there can be no speedup.", remedy
        )
    if len(affinity) < online:
        means = f"The affinity mask allows CPUs {format_cpu_list(affinity)}; the others are not used."
        return Finding("cpus", value, "note", means, "Start from a shell without `taskset` or a cpuset.")
    return Finding("cpus", value, "ok", "The process may use every CPU that is online.")


def check_quota(exam: Examination) -> Finding:
    """Look for a CPU quota: it stops threads during their work."""
    quota, online = exam.facts.get("quota_cpus"), exam.facts.get("threads")
    if quota is None:
        return Finding("quota", "none", "ok", "No control group limits the CPU time.")
    if online and quota >= online:
        return Finding("quota", f"{quota:g} CPUs", "ok", "The quota is no smaller than the machine.")
    means = "Once the quota of a period is used up all threads stop; more helpers reach that point sooner."
    remedy = "Start the container without a CPU limit (`--cpus`), or set cpu.max of the control group to max."
    return Finding("quota", f"{quota:g} CPUs", "warning", means, remedy)


def check_smt(exam: Examination) -> Finding | None:
    """Look for CPUs that share a core, its execution units and its caches."""
    affinity = set(exam.facts.get("affinity", ()))
    cores = {tuple(sorted(affinity.intersection(cpus))) for cpus in exam.siblings.values()} - {()}
    if not cores:
        return None
    if all(len(core) == 1 for core in cores):
        return Finding("smt", "one CPU per core", "ok", "No two allowed CPUs share a core.")
    value = f"{len(affinity)} CPUs, {len(cores)} cores"
    means = "Two helpers on one core share its units, so scaling flattens once every core has a helper."
    first = format_cpu_list(core[0] for core in cores)
    return Finding(
        "smt", value, "note", means, f"For one CPU per core start with `taskset -c {first} ktask ...`."
    )


def check_governor(exam: Examination) -> Finding | None:
    """Look for a governor that lowers the clock and makes the first chunks slow."""
    governor = exam.facts.get("governor")
    if governor is None:
        return None
    if governor == "performance":
        return Finding("governor", governor, "ok", "The CPUs do not lower their clock when idle.")
    means = "The clock follows the load, so short tasks and fresh helpers run slower than long ones."
    return Finding("governor", governor, "warning", means, "`sudo cpupower frequency-set -g performance`")


def check_turbo(exam: Examination) -> Finding | None:
    """Look for turbo, which gives one busy core a higher clock than many."""
    turbo = exam.facts.get("turbo")
    if turbo is None:
        return None
    if not turbo:
        return Finding("turbo", "off", "ok", "One thread runs at the same clock as many.")
    means = "One thread may run at a higher clock than many, which makes every speedup look smaller."
    off = {
        "intel_pstate": "`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo`",
        "cpufreq": "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost`",
    }
    return Finding("turbo", "on", "note", means, off.get(exam.facts.get("turbo_control", ""), ""))


def check_other_load(exam: Examination) -> Finding | None:
    """Look for other processes that take CPU time and memory bandwidth."""
    if exam.activity is None:
        return None
    value = f"{exam.activity.other_share:.1%} of the CPUs"
    if exam.activity.other_share <= OTHER_LOAD_LIMIT:
        return Finding("other_load", value, "ok", "Other processes leave the CPUs alone.")
    means = "Other processes take CPU time and bandwidth, and parallel runs lose more by it than serial ones."
    return Finding("other_load", value, "warning", means, "Find them with `top` and stop them.")


def check_steal(exam: Examination) -> Finding | None:
    """Look for CPU time that the host gave to somebody else."""
    if exam.activity is None:
        return None
    value = f"{exam.activity.steal_share:.1%} of the CPUs"
    if exam.activity.steal_share <= STEAL_LIMIT:
        return Finding(
            "steal", value, "ok", "The host took no CPU time just now; each repetition is checked as well."
        )
    means = "The host runs others on these CPUs; repetitions with steal are flagged."
    remedy = "Measure at another time, or on a host with CPUs of its own for this machine."
    return Finding("steal", value, "warning", means, remedy)


def check_clock(exam: Examination) -> Finding | None:
    """Look for a clock that costs more to read than an empty chunk."""
    clock = exam.facts.get("clocksource")
    if clock is None:
        return None
    if clock not in SLOW_CLOCKS:
        return Finding("clock", clock, "ok", "Reading the clock costs tens of nanoseconds.")
    means = "Reading this clock costs a microsecond or more, which shows in small chunks and in traces."
    return Finding(
        "clock", clock, "warning", means, "See the kernel log for why: `sudo dmesg | grep -i clocksource`."
    )


# --- checks: memory ------------------------------------------------------------------------------------


def check_thp(exam: Examination) -> Finding:
    """Look for transparent huge pages, one of the page kinds."""
    mode = exam.facts.get("thp_mode")
    if mode in {"always", "madvise"}:
        return Finding("thp", mode, "ok", "Regions get transparent huge pages where they ask for them.")
    means = "There are no transparent huge pages, so those cases are skipped."
    if mode is None:
        return Finding(
            "thp", "not in the kernel", "note", means, "Boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE."
        )
    remedy = "`echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled`"
    return Finding("thp", mode, "warning", means, remedy)


def check_pool_2mib(exam: Examination) -> Finding:
    """Look into the pool of 2 MiB pages."""
    return _check_pool(exam.facts, 2 * MIB)


def check_pool_1gib(exam: Examination) -> Finding:
    """Look into the pool of 1 GiB pages."""
    return _check_pool(exam.facts, GIB)


def _check_pool(facts: Facts, size_bytes: int) -> Finding:
    label = HUGE_PAGES[size_bytes]
    name = "hugetlb_" + label.replace(" ", "").lower()
    pool = {pool["page_size_bytes"]: pool for pool in facts.get("hugetlb_pools", ())}.get(size_bytes)
    if pool is None:
        return Finding(
            name, "not offered", "note", f"The kernel has no {label} pages; those cases are skipped."
        )
    value = f"{pool['free']} of {pool['total']} free"
    if pool["free"] > pool["reserved"]:
        return Finding(name, value, "ok", f"Cases with {label} pages can run if they fit into the pool.")
    means = f"No {label} page can be taken, so those cases are skipped."
    return Finding(name, value, "note", means, _pool_remedy(facts, size_bytes, pool["total"]))


def _pool_remedy(facts: Facts, size_bytes: int, total: int) -> str:
    room_bytes = min(POOL_BYTES, facts.get("memory_available_bytes", POOL_BYTES) // 4)
    pages = total + max(1, room_bytes // size_bytes)
    path = f"/sys/kernel/mm/hugepages/hugepages-{size_bytes >> 10}kB/nr_hugepages"
    command = f"`echo {pages} | sudo tee {path}`"
    at_boot = f" If memory is fragmented, boot with `hugepagesz=1G hugepages={pages}`."
    return command + (at_boot if size_bytes == GIB else "")


def check_cold_memory(exam: Examination) -> Finding | None:
    """Look for a host that takes free memory back, so that the first touch is slow."""
    facts = exam.facts
    if "balloon" not in facts:
        return None
    if not facts["balloon"]:
        return Finding("cold_memory", "no balloon", "ok", "No balloon hands free memory back to a host.")
    if facts.get("balloon_reports_free_pages", facts.get("page_reporting")):
        means = "The host takes freed pages away within seconds; touching them again is many times slower."
        remedy = (
            "None needed: the suite conditions its memory before the clock starts and flags cold repetitions."
        )
        return Finding("cold_memory", "free pages reported", "warning", means, remedy)
    means = "The host can take memory away by the balloon; pages it has to give back are slow at first touch."
    return Finding(
        "cold_memory", "balloon", "note", means, "Ask the owner of the host not to use the balloon meanwhile."
    )


def check_swap(exam: Examination) -> Finding | None:
    """Look for swapping, which turns a memory measurement into a disk measurement."""
    used_bytes = exam.facts.get("swap_used_bytes")
    if used_bytes is None:
        return None
    if used_bytes == 0:
        return Finding("swap", "unused", "ok", "Nothing has been swapped out.")
    means = "Memory was short; swapping during a run measures the disk."
    return Finding("swap", f"{used_bytes / MIB:.0f} MiB used", "warning", means, "`sudo swapoff -a`")


def check_numa_balancing(exam: Examination) -> Finding | None:
    """Look for automatic NUMA balancing, which unmaps and moves pages."""
    mode, nodes = exam.facts.get("numa_balancing"), len(exam.facts.get("nodes", ()))
    if mode is None:
        return None
    if mode == 0 or nodes < 2:
        value = "off" if mode == 0 else "on, one node"
        return Finding(
            "numa_balancing", value, "ok", "The kernel does not move pages between nodes by itself."
        )
    means = "The kernel unmaps and moves pages while they are measured, which adds faults."
    return Finding(
        "numa_balancing", "on", "warning", means, "`echo 0 | sudo tee /proc/sys/kernel/numa_balancing`"
    )


def check_damon(exam: Examination) -> Finding | None:
    """Look for DAMON, which samples memory accesses and may reclaim idle pages."""
    actions = exam.facts.get("damon")
    if not actions:
        return None
    means = (
        "The kernel (kdamond) samples which pages are in use. This takes CPU time, up to a whole CPU where "
        "one file is mapped over and over."
    )
    if "pageout" in actions:
        means += " It reclaims pages that are idle: file pages, and with swap all others."
    level = "note" if actions == ["stat"] else "warning"
    remedy = "`echo off | sudo tee /sys/kernel/mm/damon/admin/kdamonds/*/state` while measuring"
    return Finding("damon", f"on: {', '.join(actions)}", level, means, remedy)


def check_aslr(exam: Examination) -> Finding | None:
    """Look for random addresses: another page-table layout in each process."""
    mode = exam.facts.get("aslr")
    if mode is None:
        return None
    if mode == 0:
        return Finding("aslr", "off", "ok", "Every process has the same page-table layout.")
    means = "Each process has another page-table layout, which adds a little spread between cells."
    return Finding("aslr", "on", "note", means, "Start ktask by `setarch -R`.")


# --- checks: what a reader has to know -----------------------------------------------------------------


def check_mitigations(exam: Examination) -> Finding | None:
    """Look for mitigations, which make system calls and page faults slower."""
    texts = exam.facts.get("mitigations")
    if not texts:
        return None
    active = sum("mitigation" in text.lower() for text in texts.values())
    if not active:
        return Finding(
            "mitigations", "none active", "ok", "System calls and page faults carry no extra cost."
        )
    means = (
        "System calls and page faults cost more; compare only with machines that have the same mitigations."
    )
    return Finding("mitigations", f"{active} active", "note", means)


def check_virtualisation(exam: Examination) -> Finding | None:
    """Look for a hypervisor: a guest translates addresses twice and shares its CPUs."""
    virtual = exam.facts.get("virtualised")
    if virtual is None:
        return None
    if not virtual:
        return Finding("virtualisation", "none", "ok", "The kernel runs on the hardware itself.")
    means = "Page walks and first touches go through the host too; results hold for guests like this one."
    remedy = "To measure the hardware, run on the host."
    return Finding("virtualisation", exam.facts.get("hypervisor", "unknown"), "note", means, remedy)


CHECKS: tuple[Callable[[Examination], Finding | None], ...] = (
    check_populate_write,
    check_pagemap_scan,
    check_openmp,
    check_memory,
    check_cpus,
    check_quota,
    check_smt,
    check_governor,
    check_turbo,
    check_other_load,
    check_steal,
    check_clock,
    check_thp,
    check_pool_2mib,
    check_pool_1gib,
    check_cold_memory,
    check_swap,
    check_numa_balancing,
    check_damon,
    check_aslr,
    check_mitigations,
    check_virtualisation,
)


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
