"""The contents of the report: one method per section, which a notebook calls for a piece of the page."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from markupsafe import Markup

from ktask.lab.records import Run, load_run, unconditioned
from ktask.report import drawing, first_screen, headline, machine, measured, numbering, sections, tables
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours, questions
from ktask.report.costs import section as costs
from ktask.report.figure import Figure
from ktask.report.markup import Cell, Html, details, join, paragraph, render, table, with_code
from ktask.report.paths import advice, bottlenecks, evidence_tables, gains, many_cpus, numa, states
from ktask.report.paths import evidence as causes
from ktask.report.runs import beside, kernels, several_runs
from ktask.report.scaling import larger_machines, reproduction, roof
from ktask.report.scaling.larger_machines import LARGER_KEY, RESIDUALS_KEY
from ktask.report.scaling.reproduction import PUBLISHED_KEY
from ktask.report.study import FIGURE_KINDS, Study, completed, data_hash, split_hosts

RESULTS, COSTS = 1, 2  # the numbers of the sections that have subsections


@dataclass(frozen=True)
class Report:
    """All pieces of the page for one or several runs."""

    runs: list[Run]
    hashes: dict[str, str] = field(default_factory=dict)
    second: Executor | None = None  # a process that draws half of the figures

    @classmethod
    def open(cls, paths: Sequence[str | Path], processes: int = 1) -> "Report":
        """Return the report on the runs in these directories; with two `processes`, one only draws.

        Raises
        ------
        ValueError
            If there is no directory, or one of them is no run.
        """
        if not paths:
            raise ValueError("there is no run to report on; give at least one directory with a machine.json")
        runs = several_runs.with_own_names([load_run(path) for path in map(Path, paths)])
        second = drawing.second_process() if processes > 1 else None  # later than two threads that read
        return cls(runs, {run.name: data_hash(run.path) for run in runs}, second)

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
        todo.append(partial(beside.beside_figure, self.studies))
        todo.append(partial(kernels.kernels_figure, self.plain_runs))
        todo.append(partial(reproduction.published_figure, self.studies))
        return {figure.key: figure for figure in numbering.numbered(drawing.drawn(todo, self.second))}

    def _figure(self, key: str) -> Markup:
        figure = self.figures.get(key)
        return Markup(figure._repr_html_()) if figure else Markup("")  # noqa: S704 - made by a template

    def _link(self, key: str) -> Markup:
        figure = self.figures.get(key)
        return figure.link if figure else Markup('<a href="#all-numbers">appendix B</a>')

    def _each(self, build: Callable[[Study], str | Markup]) -> Html:
        return Html(join(build(study) for study in self.studies))

    # --- first screen ----------------------------------------------------------------------------------

    def title(self) -> Html:
        """Return title and, in a line for each run, machine, date and commit."""
        return Html(render("title.html.j2", runs=[sections.identity(run) for run in self.runs]))

    def first_screen(self) -> Html:
        """Return for each run the answer, its figure, the claims and the caveat."""
        return self._each(self._first_screen)

    def _first_screen(self, study: Study) -> Markup:
        claims = [(claim, self._link(study.key(claim.figure))) for claim in first_screen.claims(study)]
        known = first_screen.passes_known(study.run, study.scaling)
        of_kernel = study.advice[study.advice["backend"] == "kernel"]
        pieces = {
            "answer": first_screen.answer(study),
            "figure": self._figure(study.key(headline.KEY)),
            "table": headline.as_table(study.headline, study.key("headline-table")),
            "claims": claims,
            "advice": advice.in_short(of_kernel),
            "caveat": first_screen.caveat(study),
            "notes": [with_code(note) for note in known],
            "footnote": words.above_note(study.headline) if len(study.headline) else "",
        }
        return render("first_screen.html.j2", study=study, **pieces)

    def side_by_side(self) -> Html:
        """Return several runs beside each other, speedups and changes of times; nothing for one."""
        drawn = self._figure(beside.BESIDE_KEY)
        side = several_runs.section(self.studies, self.plain_runs, drawn)
        return Html(join([side, self._figure(kernels.KERNELS_KEY)]))

    # --- results ---------------------------------------------------------------------------------------

    def results(self) -> Html:
        """Return what could not be looked at, a subsection per workload, maps of threads, and far memory."""
        found = [(study, workload) for study in self.studies for workload in study.workloads]
        if not found:
            return Html(paragraph("Nothing was measured; appendix B lists the cases of the grid, and why."))
        parts = [*map(self._not_looked_at, self.studies)]
        parts += [self._result(study, one, i) for i, (study, one) in enumerate(found, start=1)]
        maps = join(self._figure(study.key(many_cpus.EFFICIENCY_KEY)) for study in self.studies)
        far = join(self._far(study) for study in self.studies if len(study.numa))
        more = (("maps", "Threads by size", maps), ("far", "Near and far memory", far))
        for number, (anchor, title, part) in enumerate((one for one in more if one[2]), len(found) + 1):
            parts.append(Markup('<h3 id="{}">{}.{} {}</h3>').format(anchor, RESULTS, number, title) + part)
        return Html(join(parts))

    def _not_looked_at(self, study: Study) -> Markup:
        """Return which paths this run has no evidence on, and how to allow it."""
        kernel = study.bottlenecks[study.bottlenecks["backend"] == "kernel"]
        note = causes.not_looked_at(kernel, study.run.evidence, study.findings)
        return note.replace(Markup("<p>"), Markup("<p>") + study.title, 1)

    def _far(self, study: Study) -> Markup:
        """Return what it costs that memory is far from the threads."""
        return join([self._figure(study.key(numa.NUMA_KEY)), numa.section(study)])

    def _result(self, study: Study, workload: str, number: int) -> Markup:
        """Return what a workload gains, why not more, and the evidence, folded."""

        def key(kind: str) -> str:
            return study.key(words.figure_key(kind, workload))

        rows = study.scaling[study.scaling["workload"] == workload]
        evidence = study.bottlenecks[study.bottlenecks["workload"] == workload]
        drawn, *others = (self._figure(key(kind)) for kind in FIGURE_KINDS)
        heading = Markup('<h3 id="{}">{}.{} {}{}</h3>').format(
            key("results"), RESULTS, number, study.title, words.workload_label(workload)
        )
        folded = [
            bottlenecks.table(evidence, key("bottlenecks")),
            *evidence_tables.folded(evidence, study.key),
            sections.results(rows, key("times")),
            *others,
        ]
        more = details(f"Evidence of {words.workload_label(workload)}", join(folded))
        why = bottlenecks.finding(evidence)
        return join([heading, gains.finding(rows), drawn, why, more])

    def costs(self) -> Html:
        """Return what threads cost others: neighbours, a busy machine, a quota, CPU time."""
        return self._each(self._costs)

    def _costs(self, study: Study) -> Markup:
        keys = {"neighbours-wait": neighbours.BYSTANDERS_KEY, "busy-load": busy.BUSY_KEY}
        drawn = {part: self._figure(study.key(key)) for part, key in keys.items()}
        return costs.section(study, drawn, COSTS)

    def recommendations(self) -> Html:
        """Return how many threads, from which size on, in which chunks, or why not."""
        return self._each(advice.recommendations)

    def reproduction(self) -> Html:
        """Return published results beside those of the runs."""
        figure, listing = self._figure(PUBLISHED_KEY), reproduction.table(self.studies)
        return Html(join([figure, details("Published and own speedups", listing) if figure else listing]))

    def larger_machines(self) -> Html:
        """Return the law of each path, and what laws and simulation say about larger machines."""
        return self._each(self._larger_machines)

    def _larger_machines(self, study: Study) -> Markup:
        near = roof.roof_sentence(study.scaling, bottlenecks.memory_roof(study.scaling))
        figure = self._figure(study.key(LARGER_KEY))
        choice = roof.choice_sentence(study.scaling)
        return join([study.title, near, choice, larger_machines.section(study, figure)])

    def questions(self) -> Html:
        """Return the questions of reviewers: who asked, and what this run answers."""
        return self._each(questions.section)

    # --- method and machine ----------------------------------------------------------------------------

    def design(self) -> Html:
        """Return how often, in which order and with which seed the runs measured."""
        return self._each(sections.design)

    def machine_state(self) -> Html:
        """Return the facts of the machine that matter most, and what disturbs a measurement on it."""
        return Html(join([sections.machines(self.studies), *map(sections.severe_findings, self.studies)]))

    def reproduce(self) -> Html:
        """Return the commands that measure these runs again, and make this page."""
        return Html(render("reproduce.html.j2", runs=[sections.identity(run) for run in self.runs]))

    # --- appendix --------------------------------------------------------------------------------------

    def workloads(self) -> Html:
        """Return what each measured workload and method does, and what one operation is."""
        return Html(measured.workloads(self.studies))

    def all_numbers(self) -> Html:
        """Return every case and thread count, and everything that was skipped."""
        return self._each(sections.all_numbers)

    def all_facts(self) -> Html:
        """Return every finding, every warning of a repetition and every fact of `machine.json`."""
        every = sections.machines(self.studies, all_lines=True)
        return Html(join([every, *map(sections.all_facts, self.studies)]))

    def checks(self) -> Html:
        """Return the A/A comparison, what medians hide, the crossover, chunk sizes and residuals."""
        return self._each(self._checks)

    def _checks(self, study: Study) -> Markup:
        def figure(key: str) -> Markup:
            return self._figure(study.key(key))

        noise = figure(words.NOISE_KEY) or paragraph(
            "No cell measured its baseline twice, so there is no A/A check."
        )
        hidden = [states.states_section(study), figure(states.FIGURE_KEY), states.cold_section(study)]
        last = [figure(words.CHUNKS_KEY), figure(RESIDUALS_KEY)]
        return join([study.title, noise, *hidden, *self._degradations(study), *last])

    def _degradations(self, study: Study) -> list[Markup]:
        """Return where threads make it worse, and from which size on they pay."""
        crossover = tables.crossover_table(study.scaling)
        if crossover.empty:
            return [paragraph("No thread count above one was measured, so there is no crossover.")]
        listing = sections.crossover(study, crossover)
        blame = bottlenecks.slower_by_chunks(study.scaling)
        return [self._figure(study.key(words.CROSSOVER_KEY)), listing, blame]

    def more_evidence(self) -> Html:
        """Return what else is known of costs, and which data each figure was made from."""
        return Html(join([*map(costs.more, self.studies), self._figure_data()]))

    def _figure_data(self) -> Markup:
        columns: dict[str, Cell] = {
            "Figure": lambda one: one.link,
            "Data beside the caption": lambda one: f"{one.key}.csv",
            "Rows": lambda one: len(one.data),
            "Made from, and by which notebook": lambda one: numbering.source(one.key),
        }
        if not self.figures:
            return Markup("")
        caption = "From figure to data; report.ipynb draws them all and measures nothing."
        text = ["Data beside the caption", "Made from, and by which notebook"]
        return table(columns, self.figures.values(), caption=caption, key="figure-data", text=text)

    def footer(self) -> Html:
        """Return commit, data hash and lock hash."""
        unknown = machine.UNKNOWN
        runs = [sections.identity(run) | {"data": self.hashes.get(run.name, unknown)} for run in self.runs]
        return Html(render("footer.html.j2", runs=runs))
