"""The report as a notebook calls it: one method per place in the story, each returns a piece of the page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.common.progress import watched
from ktask.lab.records import load_run
from ktask.report import (
    advice,
    larger_machines,
    machine,
    model_sections,
    questions,
    reproduction,
    sections,
    summary,
    tables,
)
from ktask.report import (
    bottlenecks as limits,
)
from ktask.report import (
    sentences as words,
)
from ktask.report import (
    several_runs as together,
)
from ktask.report.figure import Figure
from ktask.report.larger_machines import PREDICTION_KEY
from ktask.report.markup import Html, join, paragraph, render, table, with_code
from ktask.report.model_figures import MODEL_KEY, RESIDUALS_KEY
from ktask.report.reproduction import PUBLISHED_KEY
from ktask.report.study import FIGURE_KINDS, Study, completed, data_hash, split_hosts
from ktask.report.tables import Run

BOTTLENECK = "Bottleneck"
METHODS_CAPTION = (
    "The measured paths. Bottlenecks are from reading and profiling the kernel, not from this run; section 5 "
    "shows what this run says about them."
)


@dataclass(frozen=True)
class Report:
    """All pieces of the page for one or several runs."""

    runs: list[Run]
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, paths: Sequence[str | Path]) -> "Report":
        """Return the report on the runs in these directories.

        Raises
        ------
        ValueError
            If there is no directory, or one of them is no run.
        """
        if not paths:
            raise ValueError("there is no run to report on; give at least one directory with a machine.json")
        runs = [load_run(path) for path in map(Path, paths)]
        return cls(runs, {run.name: data_hash(run.path) for run in runs})

    @cached_property
    def studies(self) -> list[Study]:
        """The studies, one per run and machine."""
        single = [completed(one) for run in self.runs for one in split_hosts(run)]
        return [Study(run, run.name if len(single) > 1 else "") for run in single]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures by key, numbered in the order of the page."""
        todo = [draw for study in self.studies for draw in study.drawings()]
        todo.append(partial(reproduction.published_figure, self.studies))
        drawn = filter(None, [draw() for draw in watched(todo, "figures")])
        return {figure.key: replace(figure, number=i) for i, figure in enumerate(_in_page_order(drawn), 1)}

    def _figure(self, key: str) -> Markup:
        figure = self.figures.get(key)
        return Markup(figure._repr_html_()) if figure else Markup("")  # noqa: S704 - made by a template

    def _link(self, key: str) -> Markup:
        figure = self.figures.get(key)
        return figure.link if figure else Markup('<a href="#all-numbers">appendix B</a>')

    def _each(self, build: Callable[[Study], str | Markup]) -> Html:
        return Html(join(build(study) for study in self.studies))

    # --- head and summary ------------------------------------------------------------------------------

    def title(self) -> Html:
        """Return title, date of the measurement and commit."""
        return Html(render("title.html.j2", runs=[sections.identity(run) for run in self.runs]))

    def summary(self) -> Html:
        """Return the claims, each with its scope and figure, and one caveat."""
        return self._each(self._summary)

    def _summary(self, study: Study) -> Markup:
        claims = summary.claims(study.scaling, machine.scope(study.run.machine))
        linked = [(claim, self._link(study.key(claim.figure))) for claim in claims]
        run = study.run
        missing = int(run.skipped["missing"].sum())
        counted = (len(run.skipped), run.machine, missing)
        caveat = summary.caveat(study.scaling, study.floors, study.findings, *counted)
        advised = advice.in_short(advice.recommendation_table(study.scaling, run.skipped))
        return render("summary.html.j2", study=study, claims=linked, advice=advised, caveat=caveat)

    # --- what and where --------------------------------------------------------------------------------

    def workloads(self) -> Html:
        """Return what each measured workload and method does, and what one operation is."""
        rows = [
            (
                f"{words.workload_label(row['workload'])}, {words.short(row['method'])}",
                row["backend"],
                ", ".join(map(words.kind_label, row["page_kinds"])),
                row["unit"],
                words.method_about(row["workload"], row["method"]) or "not described in this version",
                with_code(words.method_limit(row["workload"], row["method"])) or units.NO_VALUE,
            )
            for row in self._methods()
        ]
        columns = ("Workload and method", "Who works", "Pages", "Operation", "What it does", BOTTLENECK)
        listing = table(columns, rows, caption=METHODS_CAPTION, key="methods")
        return Html(join([self._abouts(), listing if rows else paragraph("No workload was measured.")]))

    def _abouts(self) -> Markup:
        names = dict.fromkeys(one for study in self.studies for one in study.workloads)
        items = [
            Markup("<li><b>{}.</b> {}</li>").format(words.workload_label(name), words.about(name))
            for name in names
            if words.about(name)
        ]
        return Markup("<ul>{}</ul>").format(join(items)) if items else Markup("")

    def _methods(self) -> list[dict[str, Any]]:
        scaling = pd.concat([study.scaling for study in self.studies], ignore_index=True)
        groups = scaling.groupby(["workload", "backend", "method", "unit"], sort=False)
        return [
            dict(zip(["workload", "backend", "method", "unit"], key, strict=True))
            | {"page_kinds": list(dict.fromkeys(part["page_kind"]))}
            for key, part in groups
        ]

    def machines(self) -> Html:
        """Return the machine table, one column per machine."""
        described = [dict(machine.describe(study.run.machine)) for study in self.studies]
        rows = [(label, *(facts[label] for facts in described)) for label in described[0]]
        columns = ("Property", *(study.label or "Value" for study in self.studies))
        return Html(table(columns, rows, caption="The machine before the run.", key="machine"))

    def checks(self) -> Html:
        """Return the findings of the machine check, and the warnings that repetitions carry."""
        return self._each(lambda study: join([sections.findings(study), sections.flags(study)]))

    # --- method ----------------------------------------------------------------------------------------

    def design(self) -> Html:
        """Return how often, in which order and with which seed the runs measured."""
        return self._each(sections.design)

    def noise(self) -> Html:
        """Return the A/A comparison."""
        missing = paragraph("No cell measured its baseline twice: no noise floor, verdicts compare with 1.")
        return self._each(lambda study: self._figure(study.key(words.NOISE_KEY)) or missing)

    # --- results ---------------------------------------------------------------------------------------

    def results(self) -> Html:
        """Return a subsection per workload: finding, speedup, limits, throughput, distribution."""
        sections = [(study, workload) for study in self.studies for workload in study.workloads]
        if not sections:
            return Html(paragraph("Nothing was measured; appendix B lists the cases of the grid, and why."))
        return Html(join(self._result(study, one, i) for i, (study, one) in enumerate(sections, start=1)))

    def _result(self, study: Study, workload: str, number: int) -> Markup:
        rows = study.scaling[study.scaling["workload"] == workload]
        evidence = study.limits[study.limits["workload"] == workload]
        speedup, timeline, throughput, distribution = (
            self._figure(study.key(words.figure_key(kind, workload))) for kind in FIGURE_KINDS
        )
        heading = Markup('<h3 id="{}">5.{} {}{}</h3>').format(
            study.key(words.figure_key("results", workload)),
            number,
            study.title,
            words.workload_label(workload),
        )
        return join(
            [
                heading,
                words.workload_finding(rows),
                sections.results(rows, study.key(words.figure_key("times", workload))),
                speedup,
                limits.finding(evidence),
                timeline,
                limits.table(evidence, study.key(words.figure_key("limits", workload))),
                throughput,
                distribution,
            ]
        )

    def recommendations(self) -> Html:
        """Return how many threads, from which size on, or why not."""
        return self._each(advice.recommendations)

    def model(self) -> Html:
        """Return the roof, and the law fitted to each path with its residuals."""
        return self._each(self._model)

    def _model(self, study: Study) -> Markup:
        roof = model_sections.roof_sentence(study.scaling, limits.memory_roof(study.scaling))
        drawn = [self._figure(study.key(name)) for name in (MODEL_KEY, RESIDUALS_KEY)]
        choice = model_sections.choice_sentence(study.scaling)
        return join([study.title, roof, choice, model_sections.fit_table(study), *drawn])

    def reproduction(self) -> Html:
        """Return published results beside those of the runs."""
        return Html(join([self._figure(PUBLISHED_KEY), reproduction.table(self.studies)]))

    def prediction(self) -> Html:
        """Return what laws and simulation say about larger machines, and what that rests on."""
        return self._each(self._prediction)

    def _prediction(self, study: Study) -> Markup:
        listing = model_sections.prediction_table(study)
        if not study.fits:
            return listing
        figure = self._figure(study.key(PREDICTION_KEY))
        return join([study.title, larger_machines.rests_on(study.larger), figure, listing])

    def degradations(self) -> Html:
        """Return where threads make it worse, and from which size on they pay."""
        return self._each(self._degradations)

    def _degradations(self, study: Study) -> Markup:
        crossover = tables.crossover_table(study.scaling)
        if crossover.empty:
            return paragraph(study.title, "No thread count above one was measured, so there is no crossover.")
        return join([self._figure(study.key(words.CROSSOVER_KEY)), sections.crossover(study, crossover)])

    def questions(self) -> Html:
        """Return open questions for the audience: those the data raise, and those reviewers left open."""
        found = pd.concat([study.limits for study in self.studies], ignore_index=True)
        return Html(questions.open_questions(found.drop_duplicates([*tables.PATH, "limit"])))

    def side_by_side(self) -> Html:
        """Return several runs beside each other, speedups and changes of times; nothing for one."""
        return Html(together.section(self.studies, self.runs))

    # --- appendix --------------------------------------------------------------------------------------

    def reproduce(self) -> Html:
        """Return the commands, and which data each figure was made from."""
        rows = [
            (one.link, f"{one.key}.csv", len(one.data), _source(one.key)) for one in self.figures.values()
        ]
        columns = ("Figure", "Data beside the caption", "Rows", "Made from, and by which notebook")
        caption = "From figure to data; report.ipynb draws them all and measures nothing."
        figures_table = table(columns, rows, caption=caption, key="figure-data", numeric=["Rows"])
        commands = render("reproduce.html.j2", runs=[sections.identity(run) for run in self.runs])
        return Html(join([commands, figures_table if rows else ""]))

    def all_numbers(self) -> Html:
        """Return every case and thread count, and everything that was skipped."""
        return self._each(sections.all_numbers)

    def all_facts(self) -> Html:
        """Return every fact of `machine.json`."""
        return self._each(
            lambda study: table(
                ("Fact", "Value"),
                machine.other_facts(study.run.machine),
                caption=Markup("{}All recorded facts.").format(study.title),
                key=study.key("facts"),
            )
        )

    def footer(self) -> Html:
        """Return commit, data hash and lock hash."""
        unknown = machine.UNKNOWN
        runs = [sections.identity(run) | {"data": self.hashes.get(run.name, unknown)} for run in self.runs]
        return Html(render("footer.html.j2", runs=runs))


CELL = "cell.ipynb"


def _source(key: str) -> str:
    kind, _, workload = key.partition("-")
    if kind == PUBLISHED_KEY:
        return "data/published, by reproduction.ipynb, and records/*.parquet"
    if kind == PREDICTION_KEY:
        return f"records/*.parquet and traces/*.parquet, measured by {CELL}"
    folder = "traces" if kind == "timeline" else "records"
    return f"{folder}/{workload.replace('-', '_') or '*'}-*.parquet, measured by {CELL}"


def _in_page_order(drawn: Iterable[Figure]) -> list[Figure]:
    """Return the figures as the page shows them: noise of all runs, results, then crossovers."""
    last = (MODEL_KEY, RESIDUALS_KEY, words.CROSSOVER_KEY, PUBLISHED_KEY, PREDICTION_KEY)

    def place(figure: Figure) -> int:
        kind = figure.key.split("-")[0]
        return 0 if kind == words.NOISE_KEY else 2 + last.index(kind) if kind in last else 1

    return sorted(drawn, key=place)
