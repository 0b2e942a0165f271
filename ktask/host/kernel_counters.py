"""What a repetition makes grow: memory events, waiting for a CPU, pressure, steal, energy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ktask.host import energy
from ktask.host.counters import TICKS_PER_S, machine_ticks
from ktask.host.kernel_files import ROOT, read_text

# Of /proc/vmstat, by what they tell: faults, TLB flushes, huge pages, compaction, reclaim, nodes.
VMSTAT = re.compile(
    r"^(pgfault|pgmajfault|nr_tlb_\w+|thp_fault_\w+|thp_split_\w+|thp_collapse_\w+|compact_stall|compact_success|"
    r"allocstall\w*|pgsteal_\w+|pgmigrate_\w+|numa_\w+|pswpin|pswpout) ([0-9]{1,19})$",
    re.MULTILINE,
)
PRESSURE = ("cpu", "memory", "io")
STEAL, RUN_QUEUE, SLEEPS = "steal_s", "run_queue_s", "switches_voluntary"


def sample(root: Path = ROOT) -> dict[str, float]:
    """Return the counters of this moment by name, as far as the machine has them.

    Returns
    -------
    dict
        Lines of ``/proc/vmstat``; `run_queue_s`, how long threads of this process waited for a CPU;
        `switches_voluntary` and `switches_involuntary` of its threads; `pressure_cpu_s` and so on, how long
        anybody on the machine waited (PSI); `steal_s`, CPU time that the host gave to others;
        `energy_package-0_j` and so on (RAPL).
    """
    found = {name: float(value) for name, value in VMSTAT.findall(read_text(root / "proc/vmstat") or "")}
    for kind in PRESSURE:
        if match := re.search(r"^some .*total=(\d{1,19})", read_text(root / "proc/pressure" / kind) or ""):
            found[f"pressure_{kind}_s"] = int(match[1]) / 1e6
    found[STEAL] = machine_ticks(read_text(root / "proc/stat") or "")[1] / TICKS_PER_S
    return found | energy.sample(root) | _of_threads(root / "proc/self/task")


def growth(before: Mapping[str, float], after: Mapping[str, float], root: Path = ROOT) -> dict[str, float]:
    """Return by how much each counter of two samples grew."""
    found = {name: after[name] - before[name] for name in before.keys() & after.keys()}
    found |= {
        name: energy.used_j(name, before, after, root) for name in found if name.startswith(energy.PREFIX)
    }
    return dict(sorted(found.items()))


def _of_threads(folder: Path) -> dict[str, float]:
    """Return what the scheduler counted of the threads of this process, added up."""
    found = {"run_queue_s": 0.0, "switches_voluntary": 0.0, "switches_involuntary": 0.0}
    for thread in folder.iterdir() if folder.is_dir() else ():
        times = (read_text(thread / "schedstat") or "").split()
        found["run_queue_s"] += int(times[1]) / 1e9 if len(times) == 3 else 0.0
        status = read_text(thread / "status") or ""
        for kind, count in re.findall(r"^(non)?voluntary_ctxt_switches:\s+(\d{1,19})$", status, re.MULTILINE):
            found[f"switches_{'in' if kind else ''}voluntary"] += int(count)
    return found
