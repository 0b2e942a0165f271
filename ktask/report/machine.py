"""The machine table: from the facts of `machine.json` to labelled lines."""

import re
from collections.abc import Callable
from typing import Any

from ktask.common.units import fmt_number, fmt_size, fmt_time
from ktask.lab.records import SYNTHETIC
from ktask.models import published

Facts = dict[str, Any]
UNKNOWN = "not known"


def describe(machine: Facts) -> list[tuple[str, str]]:
    """Return (label, text) for each line of the machine table; what is missing or odd is "not known"."""
    return [(label, _safely(build, machine)) for label, build in LINES]


def scope(machine: Facts) -> str:
    """Return the machine in a few words, for the scope of a claim."""
    if machine.get("synthetic"):
        return f"synthetic machine with {_safely(_cpu_count, machine)}, {SYNTHETIC}"
    model = plain_model(str(machine.get("cpu_model") or "CPU of unknown model"))
    virtual = "virtual machine, " if machine.get("virtualised") else ""
    return f"{virtual}{model}, {_safely(_cpu_count, machine)}"


def plain_model(name: str) -> str:
    """Return the name of a processor without what its maker adds: "Intel Xeon E7-8895 v3"."""
    return " ".join(re.sub(r"\((?:R|TM)\)|\bCPU\b(?! of)|@.*", " ", name).split())


def thread_borders(machine: Facts) -> dict[int, str]:
    """Return up to which thread counts threads are in one cache, node or socket, or on cores of their own.

    By the function that places threads. Runs that do not have them get those of nodes, sockets and cores.
    """
    if isinstance(known := machine.get("thread_borders"), dict):
        return {count: name for name, count in known.items() if isinstance(count, int)}
    try:
        sockets, cores, threads = (int(machine[name]) for name in ("sockets", "cores", "threads"))
        nodes = sum(bool(node.get("cpus")) for node in machine.get("nodes", ()))
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    found = {cores // nodes: "one node"} if nodes > 1 else {}
    found |= {cores // sockets: "one socket"} if sockets > 1 else {}
    return found | ({cores: "one thread per core"} if 0 < cores < threads else {})


def other_facts(machine: Facts) -> list[tuple[str, str]]:
    """Return every fact that is a plain value, by name; nested ones with dots. Findings are left out."""
    return sorted(_flat({name: fact for name, fact in machine.items() if name != "doctor"}))


def _flat(fact: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(fact, dict):
        return [line for name, part in fact.items() for line in _flat(part, f"{prefix}.{name}".lstrip("."))]
    if isinstance(fact, list) and any(isinstance(part, dict | list) for part in fact):
        return [line for i, part in enumerate(fact) for line in _flat(part, f"{prefix}.{i}")]
    if isinstance(fact, list):
        return [(prefix, ", ".join(map(str, fact)))]
    return [(prefix, str(fact))]


def _safely(build: Callable[[Facts], str], machine: Facts) -> str:
    # The file may come from another version or another hand: an odd fact costs its line, not the report.
    try:
        return build(machine).strip(" ,") or UNKNOWN
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):
        return UNKNOWN


def _cpu_count(machine: Facts) -> str:
    allowed = machine.get("affinity")
    number = len(allowed) if isinstance(allowed, list) and allowed else int(machine["threads"])
    return f"{number} CPU{'s' * (number != 1)}"


def _topology(machine: Facts) -> str:
    names = (("sockets", "socket"), ("cores", "core"), ("threads", "hardware thread"))
    parts = [f"{machine[key]} {noun}{'s' * (machine[key] != 1)}" for key, noun in names if key in machine]
    if "smt" in machine:
        parts.append("SMT in use" if machine["smt"] else "no SMT")
    return ", ".join(parts)


def _caches(machine: Facts) -> str:
    return ", ".join(
        f"{cache['count']} × L{cache['level']} {str(cache['type']).lower()} {fmt_size(cache['size_bytes'])}"
        for cache in machine["caches"]
    )


def _processor(machine: Facts) -> str:
    names = {"family": "cpu_family", "model": "cpu_model_number", "stepping": "cpu_stepping"}
    names |= {"part": "cpu_part", "revision": "cpu_revision"}  # of Arm
    known = [f"{label} {machine[name]}" for label, name in names.items() if name in machine]
    return ", ".join([str(machine["cpu_model"]), *known])


def _nodes(machine: Facts) -> str:
    return "; ".join(f"node {node['nid']}: {_node(node)}" for node in machine["nodes"])


def _node(node: Facts) -> str:
    """Return what a node has: memory alone (CXL, HBM), or CPUs alone, is a node as well."""
    number, size_bytes = len(node.get("cpus", ())), node.get("memory_bytes")
    cpus = f"{number or 'no'} CPU{'s' * (number != 1)}"
    return f"{cpus}, {'no memory' if size_bytes == 0 else _size(size_bytes)}"


def _size(size_bytes: Any) -> str:
    # Memory sizes are never round, three digits say enough.
    return UNKNOWN if size_bytes is None else f"{fmt_number(size_bytes / 2**30)} GiB"


def _memory(machine: Facts) -> str:
    available = machine.get("memory_available_bytes")
    total = _size(machine["memory_total_bytes"])
    return total if available is None else f"{total}, {_size(available)} available at the start"


def _swap(machine: Facts) -> str:
    total = machine["swap_total_bytes"]
    return f"{_size(machine.get('swap_used_bytes'))} used of {_size(total)}" if total else "none"


def _hugetlb(machine: Facts) -> str:
    def text(page_size_bytes: int, **pool: Any) -> str:
        return f"{fmt_size(page_size_bytes)}: {', '.join(f'{name} {count}' for name, count in pool.items())}"

    return "; ".join(text(**pool) for pool in machine["hugetlb_pools"])


TURBO = {"True": "turbo on", "False": "turbo off"}


def _clock(machine: Facts) -> str:
    turbo = TURBO.get(str(machine.get("turbo")), "")
    return ", ".join(filter(None, [machine.get("governor"), machine.get("cpufreq_driver"), turbo]))


def _virtual(machine: Facts) -> str:
    kind = f"yes, {machine.get('hypervisor', 'unknown')}" if machine["virtualised"] else "no"
    return f"{kind}, in a container ({machine['container']})" if machine.get("container") else kind


def _balloon(machine: Facts) -> str:
    """Return whether a host takes memory: a balloon must be there; the module alone does nothing."""
    if not machine["balloon"]:
        return "no"
    if machine.get("balloon_reports_free_pages", machine.get("page_reporting")):
        return "yes, free pages are reported to the host"
    return "it can, by a balloon; free pages are not reported"


def _mitigations(machine: Facts) -> str:
    states = [str(text) for text in machine["mitigations"].values()]
    vulnerable = sum(text.startswith("Vulnerable") for text in states)
    active = sum(text.startswith("Mitigation") for text in states)
    return f"{active} active, {vulnerable} vulnerable, {len(states) - active - vulnerable} not affected"


def _limits(machine: Facts) -> str:
    quota = machine.get("quota_cpus")
    return f"{_cpu_count(machine)} allowed, {f'quota of {quota} CPUs' if quota else 'no quota'}"


BOOT_TASKS = {"hugetlb_pages": "hugetlb pages", "deferred_init": "deferred page init"}
# Published times of the same, as the kernel or the authors give them: file and metrics.
PUBLISHED = {
    "hugetlb_pages": ("hugetlb_parallel_boot_init", ("hugetlb init time", "allocation time (kernel log)")),
    "deferred_init": ("padata_deferred_init_2020", ("deferred init (slowest node)",)),
}


def _boot(machine: Facts) -> str:
    """Return what was done in parallel at boot, with the range of what was published of other machines."""
    said = [_boot_task(**task) for task in machine.get("parallel_boot", ())]
    ours = ", ".join(said) or "no line about it in the kernel's log, or that may not be read"
    return f"{ours}; published: {', '.join(map(_published_times, BOOT_TASKS))}"


def _boot_task(task: str, time_ms: int, threads: int | None = None, nid: int | None = None) -> str:
    where = f" of node {nid:d}" if nid is not None else ""
    by = f" by {threads:d} threads" if threads is not None else ""
    return f"{BOOT_TASKS[task]}{where} in {time_ms:d} ms{by}"


def _published_times(task: str) -> str:
    name, metrics = PUBLISHED[task]
    table = published.load()
    table = table[(table["file"] == name) & table["metric"].isin(metrics) & (table["time_s"] > 0)]
    low, high = (fmt_time(table["time_s"].agg(which)) for which in ("min", "max"))
    return f"{BOOT_TASKS[task]} {low} to {high} ({table['machine'].nunique()} machines)"


def _packages(machine: Facts) -> str:
    names = ("numba", "numpy", "pandas", "scipy")
    packages = machine.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in names if name in packages]
    return ", ".join([f"Python {machine['python_version']}", *versions])


LINES: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    ("Host", lambda m: str(m["host_name"])),
    ("Processor", _processor),
    ("Topology", _topology),
    ("Caches", _caches),
    ("NUMA nodes", _nodes),
    ("Memory", _memory),
    ("Swap", _swap),
    ("Kernel", lambda m: f"Linux {m['kernel_release']}, {m.get('architecture', '')}"),
    ("Distribution", lambda m: str(m["operating_system"])),
    ("Transparent huge pages", lambda m: f"enabled: {m['thp_mode']}, defrag: {m.get('thp_defrag', UNKNOWN)}"),
    ("hugetlb pools", _hugetlb),
    ("In parallel at boot (padata)", _boot),
    ("Clock governor", _clock),
    ("Virtual machine", _virtual),
    ("Host takes free memory", _balloon),
    ("Mitigations", _mitigations),
    ("NUMA balancing", lambda m: {0: "off"}.get(m["numa_balancing"], "on")),
    ("ASLR", lambda m: {0: "off"}.get(m["aslr"], "on")),
    ("Load average at the start", lambda m: ", ".join(str(part) for part in m["load_average"])),
    ("CPUs of the process", _limits),
    ("Software", _packages),
)
# What a reader needs to judge the results; the others are in the appendix.
IMPORTANT = (
    *("Processor", "Topology", "NUMA nodes", "Memory", "Kernel", "Transparent huge pages", "hugetlb pools"),
    *("Virtual machine", "Host takes free memory", "CPUs of the process"),
)
