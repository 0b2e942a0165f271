"""The pictures of README and docs, drawn from the sample run and from a trace taken now."""

from pathlib import Path

from ktask import workloads
from ktask.common import figures
from ktask.engine import run as engine
from ktask.engine import trace
from ktask.lab.records import load_run
from ktask.memory.region import GIB
from ktask.report.figures import speedup_figure
from ktask.report.study import Study
from ktask.report.tables import floor_of
from ktask.workloads import Case

DOCS = Path(__file__).parent


def speedup(run: Path, path: Path) -> None:
    """Draw the first speedup figure of a run's report."""
    study = Study(load_run(run))
    figure = speedup_figure(study.scaling, "zeroing", "speedup", floor_of(study.floors, "zeroing"))
    figures.save(figure.drawing, path)


def timeline(path: Path) -> None:
    """Draw the chunks of clearing 1 GiB of huge pages on all CPUs."""
    case = Case("zeroing", "populate", "THP", GIB)
    state = workloads.get(case.workload).setup(case)
    try:
        for _ in range(3):  # the last one on memory that is warm
            state.before()
            result = engine.run(0, state.size, state.ctl, trace=True)
            state.check()
    finally:
        state.close()
    title = f"1 GiB of huge pages: {result.n_chunks} chunks on {result.threads} threads"
    figures.save(trace.plot(result, title), path)


if __name__ == "__main__":
    speedup(DOCS.parent / "data" / "sample", DOCS / "speedup.svg")
    timeline(DOCS / "trace.svg")
