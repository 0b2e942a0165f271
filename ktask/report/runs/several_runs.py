"""Several runs in one report: speedups beside each other, and what changed since the first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from markupsafe import Markup

from ktask.lab.records import Run
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.runs import changes
from ktask.report.study import Study
from ktask.report.tables import CASE, PATH, parallel, sort_cases


def with_own_names(runs: Sequence[Run]) -> list[Run]:
    """Return runs whose names, and the anchors made of them, differ.

    Runs in folders of one name are called by the folders above as well; the same run again gets a number.
    """
    names = {run.path: run.name for run in runs}
    for depth in range(2, max((len(path.parts) for path in names), default=0)):
        often = Counter(map(_anchor, names.values()))
        for path, name in names.items():
            if often[_anchor(name)] > 1:
                names[path] = "/".join(path.parts[-depth:])
    seen: Counter[str] = Counter()
    found = []
    for run in runs:
        name = names[run.path]
        seen[_anchor(name)] += 1
        times = seen[_anchor(name)]
        found.append(replace(run, name=f"{name} ({times})" if times > 1 else name))
    return found


def _anchor(name: str) -> str:
    return words.figure_key("run", name)


def section(studies: Sequence[Study], runs: Sequence[Run], drawn: Markup) -> Markup:
    """Return the comparison of several studies, with the figure `drawn` of them; nothing for a single one."""
    if len(studies) < 2:
        return Markup("")
    heading = Markup('<h2 id="side-by-side">These runs side by side</h2>')
    every = markup.details("All speedups", speedups(studies))
    later = [
        changes.section(runs[0], other, f"changes-{i}", only_two=len(runs) == 2)
        for i, other in enumerate(runs[1:], start=1)
    ]
    return markup.join([heading, finding(studies), drawn, every, *later])


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
    if agree == len(common) > 1:
        return markup.paragraph(f"All {agree} paths decided in every run have the same verdict everywhere.")
    return markup.paragraph(
        f"Of {words.count(len(common), 'path')} decided in every run, {agree} "
        f"{'has' if agree == 1 else 'have'} the same verdict everywhere."
    )


def _verdicts(study: Study) -> dict[tuple[str, ...], str]:
    best = study.best
    known = best[best["verdict"] != "undecided"] if len(best) else best
    return {tuple(row[name] for name in PATH): row["verdict"] for _, row in known.iterrows()}
