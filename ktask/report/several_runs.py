"""Several runs in one report: speedups beside each other, and what changed since the first."""

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.compare import Comparison, Difference, compare
from ktask.lab.compare import Row as ChangeRow
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.study import Study
from ktask.report.tables import CASE, PATH, Run, at_best, sort_cases

MOST_DIFFERENCES = 12


def section(studies: Sequence[Study], runs: Sequence[Run]) -> Markup:
    """Return the comparison of several studies; nothing for a single one."""
    if len(studies) < 2:
        return Markup("")
    heading = Markup('<h3 id="side-by-side">Runs side by side</h3>')
    changes = [_changes(runs[0], other, i) for i, other in enumerate(runs[1:])]
    return markup.join([heading, finding(studies), speedups(studies), *changes])


def speedup_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Return one row per case and thread count, with the speedup of each study in a column of its own."""
    parts = []
    for i, study in enumerate(studies):
        rows = study.scaling[~study.scaling["baseline"].astype(bool) & (study.scaling["threads"] > 1)]
        texts = [f"{words.value(row, 'speedup')} {row['verdict']}" for _, row in rows.iterrows()]
        parts.append(rows[[*CASE, "threads"]].assign(**{f"study {i}": texts}).set_index([*CASE, "threads"]))
    joined = pd.concat(parts, axis=1).fillna("not measured").reset_index()
    return sort_cases(joined)


def speedups(studies: Sequence[Study]) -> Markup:
    """Return the speedups of all studies, one column each."""
    found = speedup_table(studies)
    names = [f"study {i}" for i in range(len(studies))]
    rows = [
        (
            f"{words.workload_label(row['workload'])}: {words.path_label(row)}",
            units.fmt_size(row["size_bytes"]),
            row["threads"],
            *(row[name] for name in names),
        )
        for _, row in found.iterrows()
    ]
    columns = ("Path", "Size", "Threads", *(study.label for study in studies))
    caption = "Speedup over the serial call of the same run; median [95 % interval] and verdict."
    return markup.table(columns, rows, caption=caption, key="together", numeric=columns[1:3])


def finding(studies: Sequence[Study]) -> Markup:
    """Return for how many paths the studies agree whether threads pay."""
    verdicts = [_verdicts(study) for study in studies]
    common = set.intersection(*map(set, verdicts))
    if not common:
        return markup.paragraph("The runs have no path with a verdict in common.")
    agree = [path for path in common if len({one[path] for one in verdicts}) == 1]
    return markup.paragraph(
        f"Of {words.count(len(common), 'path')} with a verdict in every run, {len(agree)} "
        f"{'has' if len(agree) == 1 else 'have'} the same one everywhere."
    )


def _verdicts(study: Study) -> dict[tuple[str, ...], str]:
    best = at_best(study.scaling)
    known = best[best["verdict"] != "unknown"] if len(best) else best
    return {tuple(row[name] for name in PATH): row["verdict"] for _, row in known.iterrows()}


# --- from one run to another --------------------------------------------------------------------------------


def _changes(old: Run, new: Run, number: int) -> Markup:
    try:
        found = compare(old, new)
    except ValueError as error:  # no case in common
        return markup.paragraph(Markup("{} against {}: {}").format(new.name, old.name, str(error)))
    return markup.join([differences(found.differences), change_table(found, f"changes-{number + 1}")])


def change_table(found: Comparison, key: str) -> Markup:
    """Return each time against that of the older run, the largest effect first within a workload."""
    columns = ("Path", "Size", "Threads", found.old, found.new, "New over old", "Verdict")
    rows = [_change_row(row) for row in found.rows]
    counts = {name: sum(row.verdict == name for row in found.rows) for name in ("better", "worse")}
    caption = (
        f"{found.new} against {found.old}: of {words.count(len(rows), 'time')}, {counts['better']} better "
        f"and {counts['worse']} worse beyond what two processes of one commit differ by "
        f"({words.percent(found.spread)}). Ratio [95 % interval], below 1 is better."
    )
    return markup.table(columns, rows, caption=caption, key=key, numeric=columns[1:6])


def _change_row(row: ChangeRow) -> tuple[object, ...]:
    inner = ", ".join(filter(None, [words.kind_label(row.page_kind), row.options]))
    return (
        f"{words.workload_label(row.workload)}: {words.short(f'{row.method} ({inner})')}",
        units.fmt_size(row.size_bytes),
        words.threads_label({"baseline": row.baseline, "threads": row.threads}),
        units.fmt_time(row.old.median),
        units.fmt_time(row.new.median),
        units.fmt_estimate(row.ratio) if row.ratio else units.NO_VALUE,
        row.verdict,
    )


def differences(found: Sequence[Difference]) -> Markup:
    """Return in which facts the machines or the ways of measuring differ, in a sentence."""
    if not found:
        return markup.paragraph("Machine, software and protocol are the same.")
    shown = [f"{one.fact} ({words.short(str(one.old))}, then {words.short(str(one.new))})" for one in found]
    more = len(shown) - MOST_DIFFERENCES
    rest = [words.count(more, "other fact")] if more > 0 else []
    return markup.paragraph(f"They differ in {words.listed([*shown[:MOST_DIFFERENCES], *rest])}.")
