"""What it costs others: neighbours, CPU time for wall time, rules for the number of threads, caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.studies.total_cost import energy_table
from ktask.models import thread_counts
from ktask.models.thread_counts import Curve, Known
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours, quota
from ktask.report.paths.bottlenecks import memory_roof
from ktask.report.sentences import Row
from ktask.report.tables import PATH, as_estimate, at_largest_size, compared

if TYPE_CHECKING:
    from ktask.report.study import Study


# --- CPU time for wall time ----------------------------------------------------------------------------


def total_section(study: Study) -> Markup:
    """Return what a second of wall time is paid with, per path at its largest size."""
    found = study.total_costs
    if found.empty:
        return markup.paragraph(study.title, "CPU time with several threads is not known in this run.")
    columns: dict[str, markup.Cell] = {
        "Path": words.full_label,
        "Size": words.size_label,
        "Threads": lambda row: int(row["threads"]),
        "CPU time, serial": lambda row: _per_gib(row, "serial_cpu_s"),
        "CPU time, threads": lambda row: _per_gib(row, "cpu_s"),
        "CPU seconds for a second saved": price,
    }
    last = at_largest_size(found)
    caption = Markup(
        "{}Total cost at the largest size. CPU time is per GiB. The last column is what threads take more, "
        "over the wall time that they save [95 % interval over processes]; undecided where it is open "
        "whether they save any."
    ).format(study.title)
    table = markup.table(columns, last, caption=caption, key=study.key("total-cost"))
    folded = markup.details("CPU time of every path", table)
    return markup.join([markup.paragraph(total_finding(last)), folded, _energy(study)])


def _per_gib(row: Row, name: str) -> str:
    one = as_estimate(row, name)
    gib = row["size_bytes"] / (1 << 30)
    per = one._replace(median=one.median / gib, low=one.low / gib, high=one.high / gib)
    return units.fmt_estimate(per, units.time_scale(per.median))


def price(row: Row) -> str:
    """Return the price of a saved second; or that nothing is saved, or that this is not decided."""
    if not np.isfinite(row["price"]):
        return "saves none"
    if row["saved_s_low"] <= 0:
        return "undecided"
    return units.fmt_estimate(as_estimate(row, "price"), units.RATIO)


def total_finding(last: pd.DataFrame) -> str:
    """Return the highest and the lowest price of a kernel path, a sentence each."""
    saves = last["price"].notna() & ~(last["saved_s_low"] <= 0)
    known = last[saves & (last["backend"] == "kernel")].sort_values("price")
    if known.empty:
        return ""
    low, high = known.iloc[0], known.iloc[-1]
    least = f"Least: {price(low)} ({words.name_of(low)})." if len(known) > 1 else ""
    return (
        f"A saved second costs {price(high)} CPU seconds with {words.name_of(high)}, the most of all paths. "
        f"{least} "
        "Where a second is worth more, threads pay."
    )


def _energy(study: Study) -> Markup:
    found = energy_table(study.run.evidence)
    if found.empty:
        return markup.paragraph(
            "Energy could not be read on this machine (RAPL), so there are no joules here."
        )
    columns: dict[str, markup.Cell] = {
        "Path": words.full_label,
        "Size": words.size_label,
        "Threads": lambda row: int(row["threads"]),
        "Serial": lambda row: f"{row['serial_j'] / row['size_bytes'] * (1 << 30):.3g} J/GiB",
        "Threads, energy": lambda row: f"{row['threads_j'] / row['size_bytes'] * (1 << 30):.3g} J/GiB",
        "Over serial": lambda row: words.value(row, "ratio"),
    }
    caption = (
        "Energy of the whole package, from repetitions that were looked at [95 % interval over processes]."
    )
    return markup.table(columns, found, caption=caption, key=study.key("energy"))


# --- how many threads ----------------------------------------------------------------------------------


def own_curves(study: Study) -> list[Curve]:
    """Return the times of the kernel paths of a run, at their largest size, with what rules may know."""
    rows = compared(study.scaling[(study.scaling["backend"] == "kernel") & (study.scaling["n"] > 0)])
    roof, facts = memory_roof(study.scaling), study.run.machine
    cpus, nodes = _count(facts.get("threads")), _nodes(facts)
    found = []
    for _, part in at_largest_size(rows).groupby(PATH, sort=False):
        serial = part[part["baseline"].astype(bool)]
        times = {int(n): float(wall) for n, wall in zip(part["threads"], part["wall"], strict=True)}
        if len(times) > 1 and len(serial):
            of_one = float(serial["bandwidth"].iloc[0])
            clears = part["workload"].iloc[0] == "zeroing" and roof
            bandwidth = (roof.bytes_per_s / nodes, of_one) if roof and clears else (np.nan, np.nan)
            known = Known(cpus or max(times), nodes, *bandwidth)
            found.append(Curve(words.full_label(part.iloc[0]), "here", times, known))
    return found


def _nodes(facts: dict[str, Any]) -> int:
    return max(1, sum(bool(node.get("cpus")) for node in facts.get("nodes", ())))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def rules_table(study: Study) -> pd.DataFrame:
    """Return per rule how much slower than the fastest it is, on this run and on published tables.

    Columns: `rule`, and for `here` and `published`: `<which>_paths`, `<which>` (the geometric mean, 1 is the
    fastest), `<which>_worst` and `<which>_threads` (fewest and most that the rule gives).
    """
    parts = {
        "here": thread_counts.scores(own_curves(study)),
        "published": thread_counts.scores(thread_counts.published_curves()),
    }
    rows: list[dict[str, Any]] = [{"rule": rule} for rule in thread_counts.RULES]
    for row in rows:
        for which, table in parts.items():
            mine = table[(table["rule"] == row["rule"]) & table["slower"].notna()]
            logs = np.log(mine["slower"].astype(float))
            row |= {f"{which}_paths": len(mine), which: float(np.exp(logs.mean())) if len(mine) else np.nan}
            row |= {
                f"{which}_worst": mine["slower"].max(),
                f"{which}_threads": words.span(mine["threads"]) if len(mine) else "",
            }
    return pd.DataFrame(rows)


def rules_section(study: Study) -> Markup:
    """Return the rules that versions of ktask and padata guessed threads by, scored."""
    found = study.rules
    columns: dict[str, markup.Cell] = {
        "Rule": "rule",
        "Threads here": "here_threads",
        "Time over the fastest, here": lambda row: _score(row, "here"),
        "Published: threads": "published_threads",
        "Time over the fastest, published": lambda row: _score(row, "published"),
    }
    caption = Markup(
        "{}Rules for the number of threads: time over that of the fastest number measured, geometric mean "
        "and (worst). "
        "Between measured numbers it is interpolated; beyond them it is not known. The last rule needs a "
        "measured "
        "bandwidth, and is for clearing."
    ).format(study.title)
    return markup.table(columns, found, caption=caption, key=study.key("rules"))


def _score(row: Row, which: str) -> str:
    if not row[f"{which}_paths"]:
        return units.NO_VALUE
    paths = words.count(int(row[f"{which}_paths"]), "curve")
    return f"{units.fmt_number(row[which])} ({units.fmt_number(row[f'{which}_worst'])}), {paths}"


# --- the section ---------------------------------------------------------------------------------------

Part: TypeAlias = tuple[str, Callable[["Study"], Markup]]
PARTS: dict[str, Part] = {
    "neighbours-wait": ("What neighbours wait for", neighbours.section),
    "busy-load": (
        "On a busy machine",
        lambda study: busy.section(study.all_cells, study.key(busy.TABLE_KEY)),
    ),
    "in-a-group": (
        "Under a CPU quota",
        lambda study: quota.section(study.all_cells, study.key(quota.TABLE_KEY)),
    ),
    "cpu-for-wall": ("CPU time for wall time", total_section),
}
MORE: dict[str, Part] = {
    "how-many": ("How many threads", rules_section),
    "cached": ("The caches of a neighbour", neighbours.cache_section),
}


def section(study: Study, figures: Mapping[str, Markup], number: int) -> Markup:
    """Return the section on what threads cost others; a part has the figure of its name at its head."""
    return _parts(study, PARTS, figures, f"{number}.")


def more(study: Study) -> Markup:
    """Return what the appendix has on costs: rules for the number of threads, and caches."""
    return _parts(study, MORE, {}, "E.")


def _parts(study: Study, wanted: Mapping[str, Part], figures: Mapping[str, Markup], number: str) -> Markup:
    parts = [(key, title, build(study)) for key, (title, build) in wanted.items()]
    pieces = []
    for k, (key, title, body) in enumerate((part for part in parts if part[2]), 1):
        head = Markup('<h3 id="{}">{}{} {}{}</h3>').format(study.key(key), number, k, study.title, title)
        pieces += [head, figures.get(key, ""), body]
    return markup.join(pieces)
