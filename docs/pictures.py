"""The pictures of README and docs, drawn from the sample run and from a trace taken now."""

from pathlib import Path

import matplotlib as mpl

from ktask import workloads
from ktask.engine import run as engine
from ktask.engine import trace
from ktask.lab.records import load_run
from ktask.memory.region import GIB
from ktask.report.figures import speedup_figure
from ktask.report.study import Study
from ktask.report.tables import floor_of
from ktask.workloads import Case

DOCS = Path(__file__).parent
INK = "#24292f"


def speedup(run: Path) -> str:
    """Return the first speedup figure of a run's report, readable on any background."""
    study = Study(load_run(run))
    figure = speedup_figure(study.scaling, "zeroing", "speedup", floor_of(study.floors, "zeroing"))
    head, tail = figure.svg.split(">", 1)
    head += ' xmlns="http://www.w3.org/2000/svg" font-family="Helvetica, Arial, sans-serif"'
    return f'{head}><rect width="100%" height="100%" fill="white"/>{tail}'.replace("currentColor", INK)


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
    axes = trace.plot(result)
    axes.set_title(f"1 GiB of huge pages: {result.n_chunks} chunks on {result.threads} threads", loc="left")
    axes.figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ktask"
    (DOCS / "speedup.svg").write_text(speedup(DOCS.parent / "data" / "sample"), encoding="utf-8")
    timeline(DOCS / "trace.svg")
