"""What was measured: each workload, its methods, and what one operation is."""

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import sentences as words
from ktask.report.markup import Cell, items, join, paragraph, table, with_code
from ktask.report.study import Study


def _by_source(row: dict[str, str]) -> str | Markup:
    method = words.method_of(row["workload"], row["method"])
    return with_code(method.by_source) if method and method.by_source else units.NO_VALUE


def _what_it_does(row: dict[str, str]) -> str:
    method = words.method_of(row["workload"], row["method"])
    return method.about if method and method.about else "not described in this version"


METHODS: dict[str, Cell] = {
    "Workload and method": lambda row: (
        f"{words.workload_label(row['workload'])}, {words.short(row['method'])}"
    ),
    "Who works": "backend",
    "Pages": lambda row: ", ".join(map(words.kind_label, row["kinds"])),
    "Operation": "unit",
    "What it does": _what_it_does,
    "By its source": _by_source,
}


def workloads(studies: Sequence[Study]) -> Markup:
    """Return what each measured workload and method does, and what one operation is."""
    names = dict.fromkeys(one for study in studies for one in study.workloads)
    scaling = pd.concat([study.scaling for study in studies], ignore_index=True)
    groups = scaling.groupby(["workload", "backend", "method", "unit"], sort=False)
    methods = [rows.iloc[0].to_dict() | {"kinds": rows["page_kind"].unique()} for _, rows in groups]
    abouts = [
        Markup("<b>{}.</b> {}").format(words.workload_label(name), words.about(name))
        for name in names
        if words.about(name)
    ]
    caption = (
        "The measured paths. The last column follows from the source of the kernel (of this program, for "
        "models) and was not measured; section 1 shows what this run saw."
    )
    listing = table(METHODS, methods, caption=caption, key="methods", text=METHODS)
    return join([items(abouts), listing if methods else paragraph("No workload was measured.")])
