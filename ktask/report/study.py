"""One run on one machine with everything the report derives from it."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ktask.lab.records import Run
from ktask.lab.studies.total_cost import total_costs
from ktask.report import headline, machine, tables
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours
from ktask.report.costs import section as costs
from ktask.report.drawing import Draw
from ktask.report.figure import Figure
from ktask.report.paths import advice, bottlenecks, figures, gains_figure, many_cpus, numa, states, timeline
from ktask.report.scaling import larger_machines, laws

FIGURE_KINDS = ("speedup", "timeline", "distribution")


@dataclass(frozen=True)
class Study:
    """One run on one machine with all its tables."""

    run: Run  # without the cells under a condition, which are no paths of their own
    label: str = ""  # distinguishes the anchors and titles of several runs
    whole: Run | None = None  # with them, where there are any

    @cached_property
    def repetitions(self) -> pd.DataFrame:
        """All repetitions but warm-ups."""
        return tables.repetitions(self.run)

    @cached_property
    def aa(self) -> pd.DataFrame:
        """One row per cell that measured its baseline twice."""
        return tables.aa_table(self.run)

    @cached_property
    def scaling(self) -> pd.DataFrame:
        """One row per case and thread count."""
        return tables.scaling_table(self.run)

    @cached_property
    def best(self) -> pd.DataFrame:
        """The row of each path at its largest size and best number of threads."""
        return tables.at_best(self.scaling)

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """The cases that were measured with several chunk sizes."""
        return tables.chunk_table(self.run)

    @cached_property
    def advice(self) -> pd.DataFrame:
        """One row per path: how many threads, or why not."""
        return advice.recommendation_table(self.scaling, self.run.skipped, self.chunks)

    @cached_property
    def states(self) -> pd.DataFrame:
        """The samples with two states, drift or settling, at every size."""
        return states.states_table(self.run)

    @cached_property
    def numa(self) -> pd.DataFrame:
        """The work that was measured with its memory in several places; empty on one node."""
        return numa.numa_table(self.scaling, self.repetitions, self.run.machine)

    @cached_property
    def traces(self) -> pd.DataFrame:
        """One row per chunk of one traced repetition of each cell; empty if the run has none."""
        return tables.typical_traces(self.all_cells.traces, self.scaling)

    @cached_property
    def bottlenecks(self) -> pd.DataFrame:
        """The evidence, per path, on what keeps the speedup below the number of threads."""
        return bottlenecks.bottleneck_table(self.scaling, self.traces, self.repetitions, self.run.evidence)

    @cached_property
    def fits(self) -> list[laws.Fitted]:
        """The laws fitted to each path that has enough thread counts."""
        return laws.fits(self.scaling)

    @cached_property
    def larger(self) -> laws.LargerMachines:
        """Laws and simulation of more threads than were measured."""
        return laws.predict(self.run, self.fits)

    @cached_property
    def workloads(self) -> list[str]:
        """The workloads that have records, in reading order."""
        return list(dict.fromkeys(self.scaling["workload"]))

    @property
    def all_cells(self) -> Run:
        """The run with its cells under a condition."""
        return self.whole or self.run

    @cached_property
    def probed(self) -> pd.DataFrame:
        """What neighbours found in each process of this machine."""
        rows = self.run.bystanders
        return rows[rows["host_id"].isin(set(self.run.records["host_id"]))]

    @cached_property
    def bystanders(self) -> pd.DataFrame:
        """What neighbours waited for beside each path that was probed, with its speedup."""
        return neighbours.bystander_table(self.scaling, self.probed)

    @cached_property
    def caches(self) -> pd.DataFrame:
        """What clearing did to the cache of a neighbour."""
        return neighbours.cache_table(self.probed)

    @cached_property
    def total_costs(self) -> pd.DataFrame:
        """CPU seconds of each case, and what a saved second is paid with."""
        rows = self.repetitions[tables.is_of_path(self.repetitions)]
        found = total_costs(rows.assign(policy=tables.policy_labels(rows)))
        return found.assign(n=found["processes"])

    @cached_property
    def rules(self) -> pd.DataFrame:
        """The rules for the number of threads, scored on this run and on published tables."""
        return costs.rules_table(self)

    @cached_property
    def headline(self) -> pd.DataFrame:
        """One row per kernel path at its best number of threads, with what it costs."""
        return headline.headline_table(self)

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What the check of the machine found before the run."""
        found = self.run.machine.get("doctor")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def title(self) -> Markup:
        """A heading prefix where several runs are shown."""
        return Markup("{}: ").format(self.label) if self.label else Markup("")

    def key(self, name: str) -> str:
        """Return an anchor that no other run has."""
        return f"{name}-{words.figure_key('run', self.label)}" if self.label else name

    def drawings(self) -> list[Draw]:
        """Return one function per figure, in the order of the page; it gives None without data."""
        run, scaling = self.run, self.scaling
        borders = machine.thread_borders(run.machine)
        found = [partial(headline.headline_figure, self, self.key(headline.KEY))]
        found.append(partial(figures.aa_figure, self.aa, self.key(words.NOISE_KEY)))
        for one in self.workloads:
            keys = (self.key(words.figure_key(kind, one)) for kind in FIGURE_KINDS)
            gains, lanes, distribution = keys
            found += [
                partial(gains_figure.gains_figure, scaling, self.bottlenecks, one, gains, borders),
                partial(timeline.timeline_figure, self.bottlenecks, self.traces, one, lanes),
                partial(figures.distribution_figure, run, one, distribution),
            ]
        found += [
            partial(larger_machines.residuals_figure, self.fits, self.key(larger_machines.RESIDUALS_KEY)),
            partial(many_cpus.efficiency_figure, scaling, self.key(many_cpus.EFFICIENCY_KEY), borders),
            partial(numa.numa_figure, self.numa, self.key(numa.NUMA_KEY)),
            partial(states.states_figure, run, self.states, self.key(states.FIGURE_KEY)),
            partial(busy.busy_figure, self.all_cells, self.key(busy.BUSY_KEY)),
            partial(neighbours.bystander_figure, self.bystanders, self.key(neighbours.BYSTANDERS_KEY)),
            partial(figures.crossover_figure, scaling, self.key(words.CROSSOVER_KEY)),
            partial(figures.chunks_figure, self.chunks, self.key(words.CHUNKS_KEY)),
            partial(larger_machines.larger_figure, self.larger, self.key(larger_machines.LARGER_KEY)),
        ]
        return [partial(_named, self.label, draw) for draw in found]


def _named(label: str, draw: Draw) -> Figure | None:
    """Return the figure, in whose words the run has its name where there are several."""
    figure = draw()
    return figure.of(label) if figure and label else figure


def split_hosts(run: Run) -> list[Run]:
    """Return one run per machine that its records come from; the run itself if there is only one."""
    hosts = list(dict.fromkeys(run.records["host_id"]))
    if len(hosts) < 2:
        return [run]
    mine = run.machine.get("host_id")
    return [
        replace(
            run,  # a dataclass, as Run is in practice
            name=f"{run.name} on {host}",
            records=run.records[run.records["host_id"] == host].reset_index(drop=True),
            machine=run.machine if host == mine else {"host_id": host},
        )
        for host in hosts
    ]


def completed(run: Run) -> Run:
    """Return the run, the cells of its grid that it knows nothing of among the skipped ones (`missing`)."""
    cells = run.grid.get("cells")
    known = {*run.records["cell_id"], *run.skipped["cell_id"]}
    missing = [
        _missing(cell)
        for cell in (cells if isinstance(cells, list) else [])
        if isinstance(cell, dict) and "cell_id" in cell and cell["cell_id"] not in known
    ]
    skipped = run.skipped.assign(missing=False).to_dict("records") + missing
    columns = [*run.skipped.columns, "missing"]
    return replace(run, skipped=pd.DataFrame(skipped, columns=columns))


def _missing(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell of the grid as the row of a case that was not measured."""
    method = words.method_of(cell.get("workload", ""), cell.get("method", ""))
    options = cell.get("options")
    pairs = options.items() if isinstance(options, dict) else ()
    names = ("cell_id", "workload", "method", "page_kind", "size_bytes")
    return {name: cell.get(name, "") for name in names} | {
        "backend": method.backend if method else "",
        "options": ",".join(f"{name}={value}" for name, value in pairs),
        **{"reason": "the run ended before it", "failed": False, "missing": True},
    }


def data_hash(path: Path) -> str:
    """Return the SHA-256 over the record files of a run, names and contents, in order."""
    digest = hashlib.sha256()
    for file in sorted((path / "records").glob("*.parquet")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()
