"""The contents of the report: one method per section, which a notebook calls for a piece of the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.common.progress import watched
from ktask.lab.records import Run, load_run, unconditioned
from ktask.report import machine, sections, summary, tables
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours, questions
from ktask.report.costs import section as costs
from ktask.report.figure import Figure
from ktask.report.markup import Cell, Html, items, join, paragraph, render, table, with_code
from ktask.report.paths import advice, bottlenecks, evidence_tables, numa, states
from ktask.report.paths import evidence as causes
from ktask.report.runs import kernels, several_runs
from ktask.report.scaling import larger_machines, model_sections, reproduction
from ktask.report.scaling.larger_machines import PREDICTION_KEY
from ktask.report.scaling.model_figures import MODEL_KEY, RESIDUALS_KEY
from ktask.report.scaling.reproduction import PUBLISHED_KEY
from ktask.report.study import FIGURE_KINDS, Study, completed, data_hash, split_hosts

# Figures in the order of the page; "" stands for those of the workloads.
LAST = (
    *(numa.NUMA_KEY, states.FIGURE_KEY, kernels.KERNELS_KEY, MODEL_KEY, RESIDUALS_KEY, words.CROSSOVER_KEY),
    *(PUBLISHED_KEY, PREDICTION_KEY, neighbours.BYSTANDERS_KEY, busy.BUSY_KEY, words.CHUNKS_KEY),
)
PAGE_ORDER = (words.NOISE_KEY, "", *LAST)
CELL = "cell.ipynb"
COSTS = 10  # the number of the section on costs


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
        return [Study(unconditioned(run), run.name if len(single) > 1 else "", run) for run in single]

    @property
    def plain_runs(self) -> list[Run]:
        """The runs without the cells under a condition."""
        return [unconditioned(run) for run in self.runs]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """All figures by key, numbered in the order of the page."""
        todo = [draw for study in self.studies for draw in study.drawings()]
        todo.append(partial(kernels.kernels_figure, self.plain_runs))
        todo.append(partial(reproduction.published_figure, self.studies))
        drawn = filter(None, [draw() for draw in watched(todo, "figures")])
        ordered = sorted(drawn, key=_place)
        return {figure.key: replace(figure, number=i) for i, figure in enumerate(ordered, 1)}

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
        """Return what is known of processes, the claims, each with scope and figure, and one caveat."""
        return self._each(self._summary)

    def _summary(self, study: Study) -> Markup:
        run = study.run
        claims = summary.claims(study.scaling, machine.scope(run.machine))
        linked = [(claim, self._link(study.key(claim.figure))) for claim in claims]
        first, details = ([pair for pair in linked if pair[0].is_detail == one] for one in (False, True))
        pieces = {
            "claims": first,
            "details": details,
            "advice": advice.in_short(study.advice),
            "caveat": self.caveat(study),
        }
        pieces["notes"] = [with_code(note) for note in summary.passes_known(run, study.scaling) if note]
        return render("summary.html.j2", study=study, footnote=words.above_note(study.scaling), **pieces)

    @staticmethod
    def caveat(study: Study) -> str:
        """Return the caveat that matters most for the claims of a study."""
        run = study.run
        skipped = int((tables.skipped_table(run)["passes_with"] == 0).sum())
        missing = int(run.skipped["missing"].sum())
        return summary.caveat(study.scaling, study.aa, study.findings, skipped, run.machine, missing)

    # --- what and where --------------------------------------------------------------------------------

    def workloads(self) -> Html:
        """Return what each measured workload and method does, and what one operation is."""
        names = dict.fromkeys(one for study in self.studies for one in study.workloads)
        scaling = pd.concat([study.scaling for study in self.studies], ignore_index=True)
        groups = scaling.groupby(["workload", "backend", "method", "unit"], sort=False)
        methods = [rows.iloc[0].to_dict() | {"kinds": rows["page_kind"].unique()} for _, rows in groups]
        abouts = [
            Markup("<b>{}.</b> {}").format(words.workload_label(name), words.about(name))
            for name in names
            if words.about(name)
        ]
        caption = (
            "The measured paths. The last column follows from the source of the kernel (of this program, for "
            "models) and was not measured; section 5 shows what this run saw."
        )
        listing = table(METHODS, methods, caption=caption, key="methods", text=METHODS)
        return Html(join([items(abouts), listing if methods else paragraph("No workload was measured.")]))

    def machines(self) -> Html:
        """Return the machine table, one column per machine."""
        described = [dict(machine.describe(study.run.machine)) for study in self.studies]
        rows = [(label, *(facts[label] for facts in described)) for label in described[0]]
        names = ("Property", *(study.label or "Value" for study in self.studies))
        columns: dict[str, Cell] = {name: i for i, name in enumerate(names)}
        return Html(table(columns, rows, caption="The machine before the run.", key="machine", text=columns))

    def checks(self) -> Html:
        """Return the findings of the machine check, and the warnings that repetitions carry."""
        return self._each(lambda study: join([sections.findings(study), sections.flags(study)]))

    # --- method ----------------------------------------------------------------------------------------

    def design(self) -> Html:
        """Return how often, in which order and with which seed the runs measured."""
        return self._each(sections.design)

    def noise(self) -> Html:
        """Return the A/A comparison."""
        missing = paragraph("No cell measured its baseline twice, so there is no A/A check.")
        return self._each(lambda study: self._figure(study.key(words.NOISE_KEY)) or missing)

    # --- results ---------------------------------------------------------------------------------------

    def results(self) -> Html:
        """Return what could not be looked at, a subsection per workload, and one on what medians hide."""
        found = [(study, workload) for study in self.studies for workload in study.workloads]
        if not found:
            return Html(paragraph("Nothing was measured; appendix B lists the cases of the grid, and why."))
        parts = [*map(self._not_looked_at, self.studies)]
        parts += [self._result(study, one, i) for i, (study, one) in enumerate(found, start=1)]
        far = [study for study in self.studies if len(study.numa)]
        titles = [("far", "Near and far memory")] * bool(far) + [("hidden", "What medians hide")]
        heads = [
            Markup('<h3 id="{}">5.{} {}</h3>').format(anchor, number, title)
            for number, (anchor, title) in enumerate(titles, start=len(found) + 1)
        ]
        parts += [*heads[:-1], *map(self._far, far), heads[-1]]
        return Html(join([*parts, *map(self._hidden, self.studies)]))

    def _not_looked_at(self, study: Study) -> Markup:
        """Return which paths this run has no evidence on, and how to allow it."""
        kernel = study.bottlenecks[study.bottlenecks["backend"] == "kernel"]
        note = causes.not_looked_at(kernel, study.run.evidence, study.findings)
        return join([study.title, note]) if note else note

    def _far(self, study: Study) -> Markup:
        """Return what it costs that memory is far from the threads."""
        return join([self._figure(study.key(numa.NUMA_KEY)), numa.section(study)])

    def _hidden(self, study: Study) -> Markup:
        """Return two states, drift and settling at every size, and results with cold repetitions."""
        figure = self._figure(study.key(states.FIGURE_KEY))
        return join([states.states_section(study), figure, states.cold_section(study)])

    def _result(self, study: Study, workload: str, number: int) -> Markup:
        """Return finding, speedup, bottlenecks, throughput and distribution of a workload."""

        def key(kind: str) -> str:
            return study.key(words.figure_key(kind, workload))

        rows = study.scaling[study.scaling["workload"] == workload]
        evidence = study.bottlenecks[study.bottlenecks["workload"] == workload]
        drawn = (self._figure(key(kind)) for kind in FIGURE_KINDS)
        speedup, stack, timeline, throughput, distribution = drawn
        heading = Markup('<h3 id="{}">5.{} {}{}</h3>').format(
            key("results"), number, study.title, words.workload_label(workload)
        )
        numbers = sections.results(rows, key("times"))
        losses = bottlenecks.table(evidence, key("bottlenecks"))
        folded = evidence_tables.folded(evidence, study.key, timeline)
        why = (bottlenecks.finding(evidence), stack, losses, *folded)
        return join([heading, words.workload_finding(rows), numbers, speedup, *why, throughput, distribution])

    def costs(self) -> Html:
        """Return what threads cost others: neighbours, CPU time, caches; and rules for their number."""
        return self._each(self._costs)

    def _costs(self, study: Study) -> Markup:
        keys = {"neighbours-wait": neighbours.BYSTANDERS_KEY, "busy-load": busy.BUSY_KEY}
        drawn = {part: self._figure(study.key(key)) for part, key in keys.items()}
        return costs.section(study, drawn, COSTS)

    def recommendations(self) -> Html:
        """Return how many threads, from which size on, in which chunks, or why not."""
        return self._each(
            lambda study: join([advice.recommendations(study), self._figure(study.key(words.CHUNKS_KEY))])
        )

    def model(self) -> Html:
        """Return the roof, and the law fitted to each path with its residuals."""
        return self._each(self._model)

    def _model(self, study: Study) -> Markup:
        roof = model_sections.roof_sentence(study.scaling, bottlenecks.memory_roof(study.scaling))
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
        listing = sections.crossover(study, crossover)
        blame = bottlenecks.slower_by_chunks(study.scaling)
        return join([self._figure(study.key(words.CROSSOVER_KEY)), listing, blame])

    def questions(self) -> Html:
        """Return the questions of reviewers: who asked, and what this run answers."""
        return self._each(questions.section)

    def side_by_side(self) -> Html:
        """Return several runs beside each other, speedups and changes of times; nothing for one."""
        side = several_runs.section(self.studies, self.plain_runs)
        return Html(join([side, self._figure(kernels.KERNELS_KEY)]))

    # --- appendix --------------------------------------------------------------------------------------

    def reproduce(self) -> Html:
        """Return the commands, and which data each figure was made from."""
        columns: dict[str, Cell] = {
            "Figure": lambda one: one.link,
            "Data beside the caption": lambda one: f"{one.key}.csv",
            "Rows": lambda one: len(one.data),
            "Made from, and by which notebook": lambda one: _source(one.key),
        }
        caption = "From figure to data; report.ipynb draws them all and measures nothing."
        text = ["Data beside the caption", "Made from, and by which notebook"]
        drawn = self.figures.values()
        listing = table(columns, drawn, caption=caption, key="figure-data", text=text) if drawn else ""
        commands = render("reproduce.html.j2", runs=[sections.identity(run) for run in self.runs])
        return Html(join([commands, listing]))

    def all_numbers(self) -> Html:
        """Return every case and thread count, and everything that was skipped."""
        return self._each(sections.all_numbers)

    def all_facts(self) -> Html:
        """Return every fact of `machine.json`."""
        return self._each(self._facts)

    def _facts(self, study: Study) -> Markup:
        columns: dict[str, Cell] = {"Fact": 0, "Value": 1}
        caption = Markup("{}All recorded facts.").format(study.title)
        facts = machine.other_facts(study.run.machine)
        return table(columns, facts, caption=caption, key=study.key("facts"), text=columns)

    def footer(self) -> Html:
        """Return commit, data hash and lock hash."""
        unknown = machine.UNKNOWN
        runs = [sections.identity(run) | {"data": self.hashes.get(run.name, unknown)} for run in self.runs]
        return Html(render("footer.html.j2", runs=runs))


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


def _source(key: str) -> str:
    kind, _, workload = key.partition("-")
    if kind == kernels.KERNELS_KEY:
        return f"records/*.parquet of all runs, measured by {CELL}"
    if kind == PUBLISHED_KEY:
        return "data/published, by reproduction.ipynb, and records/*.parquet"
    if kind == PREDICTION_KEY:
        return f"records/*.parquet and traces/*.parquet, measured by {CELL}"
    folder = {"timeline": "traces", "stack": "evidence", neighbours.BYSTANDERS_KEY: "bystanders"}.get(
        kind, "records"
    )
    return f"{folder}/{workload.replace('-', '_') or '*'}-*.parquet, measured by {CELL}"


def _place(figure: Figure) -> int:
    kind = figure.key.split("-")[0]
    return PAGE_ORDER.index(kind if kind in PAGE_ORDER else "")
