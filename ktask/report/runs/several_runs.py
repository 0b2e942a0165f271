"""Several runs in one report: speedups beside each other, and what changed since the first."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.compare import Comparison, Difference, compare
from ktask.lab.compare import Row as ChangeRow
from ktask.lab.records import Run
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.study import Study
from ktask.report.tables import CASE, PATH, at_best, parallel, sort_cases

MOST_DIFFERENCES = 12


def section(studies: Sequence[Study], runs: Sequence[Run]) -> Markup:
    """Return the comparison of several studies; nothing for a single one."""
    if len(studies) < 2:
        return Markup("")
    heading = Markup('<h2 id="side-by-side">These runs side by side</h2>')
    changes = [_changes(runs[0], other, f"changes-{i}") for i, other in enumerate(runs[1:], start=1)]
    return markup.join([heading, finding(studies), speedups(studies), *changes])


def speedups(studies: Sequence[Study]) -> Markup:
    """Return the speedups of all studies, one column each."""
    parts = []
    for study in studies:
        rows = parallel(study.scaling)
        texts = words.each(rows, lambda row: f"{words.speedup(row)} {row['verdict']}")
        parts.append(pd.Series(texts, pd.MultiIndex.from_frame(rows[[*CASE, "threads"]]), dtype=object))
    joined = pd.concat(parts, axis=1, keys=range(len(parts))).fillna("not measured").reset_index()
    labels: dict[str, markup.Cell] = {study.label: i for i, study in enumerate(studies)}
    columns = {"Path": words.full_label, "Size": words.size_label, "Threads": "threads", **labels}
    caption = "Speedup over the serial call of the same run; middle [95 % interval] and verdict."
    return markup.table(columns, sort_cases(joined), caption=caption, key="several-runs", text=labels)


def finding(studies: Sequence[Study]) -> Markup:
    """Return for how many paths the studies agree whether threads pay."""
    verdicts = [_verdicts(study) for study in studies]
    common = set.intersection(*map(set, verdicts))
    if not common:
        return markup.paragraph("The runs have no path in common that is decided in each.")
    agree = sum(len({one[path] for one in verdicts}) == 1 for path in common)
    return markup.paragraph(
        f"Of {words.count(len(common), 'path')} decided in every run, {agree} "
        f"{'has' if agree == 1 else 'have'} the same verdict everywhere."
    )


def _verdicts(study: Study) -> dict[tuple[str, ...], str]:
    best = at_best(study.scaling)
    known = best[best["verdict"] != "undecided"] if len(best) else best
    return {tuple(row[name] for name in PATH): row["verdict"] for _, row in known.iterrows()}


# --- from one run to another --------------------------------------------------------------------------------


def _changes(old: Run, new: Run, key: str) -> Markup:
    try:
        found = compare(old, new)
    except ValueError as error:  # no case in common
        return markup.paragraph(Markup("{} against {}: {}").format(new.name, old.name, str(error)))
    return markup.join([differences(found.differences), change_table(found, key)])


def change_table(found: Comparison, key: str) -> Markup:
    """Return each time against that of the older run, the largest effect first within a workload."""
    columns: dict[str, markup.Cell] = {
        "Path": _path,
        "Size": lambda row: units.fmt_size(row.size_bytes),
        "Threads": lambda row: words.threads_label({"baseline": row.baseline, "threads": row.threads}),
        found.old.name: lambda row: units.fmt_time(row.old.median),
        found.new.name: lambda row: units.fmt_time(row.new.median),
        "New over old": lambda row: units.fmt_estimate(row.ratio),
        "Verdict": lambda row: row.verdict,
    }
    counts = Counter(row.verdict for row in found.rows)
    verdicts = [f"{counts[name]} {name}" for name in ("better", "worse", "same", "undecided")]
    caption = (
        f"{found.new.name} against {found.old.name}: of {words.count(len(found.rows), 'time')}, "
        f"{words.listed(verdicts)}. Ratio [95 % interval] by the spread between the processes of both runs, "
        "below 1 is better; a run of one pass has no interval."
    )
    return markup.table(columns, found.rows, caption=caption, key=key, text=["Verdict"])


def _path(row: ChangeRow) -> str:
    inner = ", ".join(filter(None, [words.kind_label(row.page_kind), row.options]))
    return f"{words.workload_label(row.workload)}: {words.short(f'{row.method} ({inner})')}"


def differences(found: Sequence[Difference]) -> Markup:
    """Return in which facts the machines or the ways of measuring differ, in a sentence."""
    if not found:
        return markup.paragraph("Machine, software and protocol are the same.")
    texts = [f"{one.fact} ({words.short(str(one.old))}, then {words.short(str(one.new))})" for one in found]
    more = len(texts) - MOST_DIFFERENCES
    rest = [words.count(more, "other fact")] if more > 0 else []
    return markup.paragraph(f"They differ in {words.listed([*texts[:MOST_DIFFERENCES], *rest])}.")
