"""The report as slides for a talk of 20 minutes: at most ten in one file, with the figures of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.report import first_screen, headline, markup, page, sections
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours, questions
from ktask.report.figure import Figure
from ktask.report.paths import advice, bottlenecks
from ktask.report.scaling.larger_machines import LARGER_KEY
from ktask.report.scaling.laws import LEAST_COUNTS
from ktask.report.tables import VERDICTS

if TYPE_CHECKING:
    from ktask.report.contents import Report
    from ktask.report.study import Study

MOST_SLIDES = 10
MOST_WORKLOADS = 4
MOST_POINTS = 4  # of a slide
MOST_ADVICE = 17  # rows of the table that people at the back can read
WIDE = 2.2  # times its height: such a figure has the whole width of a slide
KERNEL_ONLY = (
    "Threads of one process call the kernel, a chunk each: locks of the address space and faults are part of "
    "what is measured, and helpers inside the kernel may differ."
)


class Slide(NamedTuple):
    """One slide: its finding as the title, and a figure, a table or points below it."""

    title: str
    figure: Figure | None = None
    points: tuple[str | Markup, ...] = ()
    table: str | Markup = ""
    kind: str = ""

    @property
    def layout(self) -> str:
        """Where the points stand: beside a figure, or below one that is wide."""
        if not (self.figure and self.points):
            return ""
        width, height = self.figure.drawing.get_size_inches()
        return "below" if width > WIDE * height else "beside"


def slides(report: Report) -> str:
    """Return the deck as one self-contained HTML page: of the first run, where there are several."""
    study = report.studies[0]
    deck = deck_of(report, study)
    folder = page.TEMPLATE
    style, script = ((folder / name).read_text("utf-8") for name in ("slides.css", "slides.js"))
    pieces = {"style": Markup(style), "script": Markup(script), "policy": page.policy(script)}  # noqa: S704
    run = sections.identity(study.run)
    text = markup.render("slides.html.j2", deck=deck, run=run, answer=first_screen.answer(study), **pieces)
    return page.with_hard_spaces(str(text))


def deck_of(report: Report, study: Study) -> list[Slide]:
    """Return the slides of a study, those with nothing to show left out."""
    larger = _larger(report, study)
    last = [_costs(report, study), _advice(study), larger, _method(study), _discussion(study)]
    first = [Slide(first_screen.answer(study), kind="title"), _headline(report, study)]
    fixed = [one for one in (*first, *last) if one]
    room = min(MOST_WORKLOADS, MOST_SLIDES - len(fixed))
    middle = [_workload(report, study, name) for name in telling(study)[:room]]
    return [one for one in (*first, *middle, *last) if one]


def telling(study: Study) -> list[str]:
    """Return the workloads of kernel paths: those of the claims first, then those whose paths differ most."""
    table = study.headline
    claimed = [claim.figure for claim in first_screen.claims(study)]
    spread = table.groupby("workload")["speedup"].agg(lambda some: some.max() / some.min())
    names = [str(name) for name in spread.sort_values(ascending=False, kind="stable").index]

    def rank(name: str) -> int:
        key = words.figure_key("speedup", name)
        return claimed.index(key) if key in claimed else len(claimed)

    return sorted(names, key=rank)


def _figure(report: Report, study: Study, key: str) -> Figure | None:
    return report.figures.get(study.key(key))


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


# --- the slides ----------------------------------------------------------------------------------------


def _headline(report: Report, study: Study) -> Slide | None:
    claims = tuple(
        Markup('{}. <span class="scope">{}</span>').format(claim.text, claim.scope)
        for claim in first_screen.claims(study)
    )
    figure = _figure(report, study, headline.KEY)
    if not (claims or figure):
        return None
    table = study.headline
    title = (
        f"Kernel paths, {words.thread_range(table['threads'])}: {_tally(table)}"
        if len(table)
        else "What was measured"
    )
    return Slide(title, figure, claims)


def _tally(rows: pd.DataFrame) -> str:
    """Return "13 faster, 2 slower, 1 undecided"."""
    counts = rows["verdict"].value_counts()
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)


def _workload(report: Report, study: Study, name: str) -> Slide:
    rows = study.headline[study.headline["workload"] == name]
    evidence = study.bottlenecks
    mine = evidence[(evidence["workload"] == name) & (evidence["backend"] == "kernel")]
    points = [f"{words.path_label(row)}: {words.speedup(row)}{_why(mine, row)}" for _, row in rows.iterrows()]
    title = f"{words.workload_label(name)}: {_tally(rows)}"
    return Slide(
        title, _figure(report, study, words.figure_key("speedup", name)), tuple(points[:MOST_POINTS])
    )


def _why(evidence: pd.DataFrame, row: pd.Series) -> str:
    """Return the bottleneck of a path, empty where there is none or it is not known."""
    keys = ["method", "page_kind", "options", "policy"]
    same = evidence[(evidence[keys] == row[keys].to_list()).all(axis=1)]
    if same.empty or not (found := str(same.iloc[0]["bottleneck"])) or found in ("scales", "near"):
        return ""
    return f". Largest loss: {bottlenecks.label(found)}"


def _costs(report: Report, study: Study) -> Slide | None:
    """Return what a neighbour waits for, and the CPU time, as far as they were measured."""
    figure = _figure(report, study, neighbours.BYSTANDERS_KEY) or _figure(report, study, busy.BUSY_KEY)
    row = None if study.bystanders.empty else neighbours.worst(study.bystanders)
    points: list[str | Markup] = [neighbours.price_of(row)] if row is not None else []
    known = study.headline[study.headline["cpu_cost"].notna()].sort_values("cpu_cost")
    if len(known):
        most = known.iloc[-1]
        points.append(
            f"Most CPU time: {words.name_of(most)}, {words.value(most, 'cpu_cost')} times the serial."
        )
    return Slide("What it costs others", figure, tuple(points)) if points or figure else None


ADVICE: dict[str, markup.Cell] = {
    "Path": words.full_label,
    "Threads": lambda row: int(row["threads"]) if _pays(row) else 1,
    "Minimum chunk": lambda row: advice.minimum_chunk(row) if _pays(row) else units.NO_VALUE,
    "From size": lambda row: units.fmt_size(row["from_size_bytes"]) if _pays(row) else units.NO_VALUE,
    "Speedup if split": words.speedup,
    "CPU time": lambda row: words.value(row, "cpu_cost"),
}


def _pays(row: pd.Series) -> bool:
    return bool(row["outcome"] == "threads")


def _advice(study: Study) -> Slide | None:
    """Return the decided paths as a table, those that threads pay on first."""
    found = study.advice[(study.advice["backend"] == "kernel") & study.advice["outcome"].isin(advice.DECIDED)]
    if found.empty:
        return None
    ordered = found.assign(alone=found["outcome"] != "threads").sort_values("alone", kind="stable")
    shown = ordered.head(MOST_ADVICE)
    caption = _capital(advice.in_short(found))
    caption += f" {len(shown)} of them; all are in the report." * (len(shown) < len(found))
    table = markup.table(ADVICE, shown, caption=caption, key="advice", text=["Minimum chunk"])
    return Slide("How many threads, which chunk", table=table)


def _larger(report: Report, study: Study) -> Slide | None:
    """Return what laws and simulation say about more threads, where there are enough counts for a law."""
    figure = _figure(report, study, LARGER_KEY)
    if figure is None:
        return None
    return Slide("Larger machines: what laws and simulation say", figure, (figure.caption,))


def _method(study: Study) -> Slide:
    points = [
        f"{_capital(words.n_range(study.scaling))} per point; brackets are 95 % intervals over processes."
        if len(study.scaling)
        else "",
        "Every cell runs in a fresh process in each pass; the order is random, all repetitions are kept.",
        KERNEL_ONLY,
        _no_law(study),
        first_screen.caveat(study),
    ]
    return Slide("Method and caveats", points=tuple(one for one in points if one))


def _no_law(study: Study) -> str:
    """Return why nothing is said about larger machines; empty where something is."""
    counts = study.scaling["threads"].nunique()
    if counts >= LEAST_COUNTS:
        return ""
    return (
        f"Any law fits {words.count(counts, 'thread count')}, so nothing is said about larger machines; "
        f"a sweep with {LEAST_COUNTS} counts or more gets one."
    )


def _discussion(study: Study) -> Slide:
    """Return what the run could not answer: undecided paths, and questions of reviewers that stay open."""
    found = [*_undecided(study), *_losing(study), *_open(study)]
    return Slide("For discussion", points=tuple(found), kind="questions")


def _undecided(study: Study) -> Iterator[str]:
    table = study.headline
    rows = table[table["verdict"] == "undecided"]
    names = words.each(rows, lambda row: f"{words.name_of(row)} ({words.speedup(row)})")
    if names:
        some = words.listed(names) if len(names) <= MOST_POINTS else f"{len(names)} paths"
        yield f"Undecided here: {some}. What do larger machines say?"


def _losing(study: Study) -> Iterator[str]:
    table = study.headline
    names = words.each(table[table["verdict"] == "slower"], words.name_of)
    if names:
        some = words.listed(names) if len(names) <= MOST_POINTS else f"{len(names)} paths"
        yield f"Threads lose on {some}: would helpers inside the kernel, under the caller's lock, gain?"


def _open(study: Study) -> Iterator[str | Markup]:
    """Give the reviewers' questions that no run like this can answer, then those that this one did not."""
    kinds = (questions.NOT_HERE, questions.NOT_IN_RUN)
    found = [one for kind in kinds for one in questions.answers(study) if one[2].kind == kind]
    for number, question, answer in found[:MOST_POINTS]:
        asked = Markup('{} <span class="scope">Question {}, {}; {}.</span>')
        yield asked.format(question.title, number, question.asked, answer.kind)
    if len(found) > MOST_POINTS:
        rest = words.listed([str(number) for number, _, _ in found[MOST_POINTS:]])
        yield Markup('<span class="scope">Open too: questions {} of the report.</span>').format(rest)
