"""How near the kernel comes to the rate at which user code zeroes memory, and `auto` to the best store."""

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.paths.bottlenecks import Roof
from ktask.report.tables import at_best, compared


def roof_sentence(scaling: pd.DataFrame, roof: Roof | None) -> Markup:
    """Return how near kernel zeroing comes to the highest user-space rate of the run."""
    if roof is None:
        return markup.paragraph(
            "No rate of user code that zeroes memory is known of this run, and so no roof of the memory."
        )
    rate = units.fmt_rate(roof.bytes_per_s, "byte")
    head = f"The roof, the highest rate at which user code zeroes memory, is {rate}"
    best = at_best(scaling)
    kernel = best[(best["workload"] == "zeroing") & (best["backend"] == "kernel")]
    if kernel.empty:
        return markup.paragraph(f"{head} ({roof.label}).")
    near = kernel.sort_values("bandwidth").iloc[-1]
    above = near["bandwidth"] > roof.bytes_per_s
    why = ": its memory lay on more nodes, so this is no roof of the whole machine" if above else ""
    return markup.paragraph(
        f"{head} ({roof.label}). The highest median rate of the kernel is "
        f"{words.value(near, 'bandwidth', units.rate_scale(near['bandwidth'], 'byte'))} with "
        f"{words.path_label(near)}, {words.percent(near['bandwidth'] / roof.bytes_per_s)} of it{why}."
    )


def choice_sentence(scaling: pd.DataFrame) -> Markup:
    """Return how far `auto` is from the best single kind; nothing without both.

    Compared are rates at the same size, pages and number of threads.
    """
    user = scaling[(scaling["workload"] == "zeroing") & (scaling["backend"] == "user") & (scaling["n"] > 0)]
    parts = []
    for (size_bytes, _, threads), rows in compared(user).groupby(["size_bytes", "page_kind", "threads"]):
        ours, others = rows[rows["method"] == "auto"], rows[rows["method"] != "auto"]
        if len(ours) and len(others):
            best = others.loc[others["bandwidth"].idxmax()]
            share = words.percent(ours["bandwidth"].iloc[0] / best["bandwidth"])
            where = f"{words.count(int(threads), 'thread')}, {units.fmt_size(size_bytes)}"
            rate = units.fmt_rate(best["bandwidth"], "byte")
            parts.append(f"{share} of {best['method']} ({rate}; {where})")
    reached = f"Of the best single kind of store, auto reaches {words.listed(parts)}." if parts else ""
    return markup.paragraph(reached)
